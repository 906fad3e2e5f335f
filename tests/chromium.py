"""Finding a Chromium. `python -m tests.chromium` brings one where it can, else says how (`make test` runs it)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

DEBIAN = "apt-get update && apt-get install -y --no-install-recommends chromium"
MISSING = (
    "Chromium is needed for the browser tests and none was found. Install it (Debian, as root: "
    f"{DEBIAN}), or set CHROMIUM_PATH, or leave these tests out knowingly with NO_BROWSER=1"
)


def find() -> str | None:
    """Path of a Chromium: CHROMIUM_PATH, then PATH, then the one Playwright brought."""
    if given := os.environ.get("CHROMIUM_PATH"):
        return given
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def main() -> int:
    if os.environ.get("NO_BROWSER") == "1" or find():
        return 0
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("No Chromium here; installing it with apt-get…", flush=True)
        done = subprocess.run(["sh", "-c", DEBIAN], stdout=subprocess.DEVNULL, check=False)
        if done.returncode == 0 and find():
            return 0
    print(MISSING, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
