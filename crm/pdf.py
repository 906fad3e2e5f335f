"""PDF out of templates/pdf/*.typ, by Typst."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typst

TEMPLATES = Path(__file__).parent.parent / "templates" / "pdf"


def render_pdf(template: str, data: Mapping[str, Any]) -> bytes:
    """The PDF of templates/pdf/<template>.typ, which reads `data` as JSON: nothing in it is taken for markup.

    The fonts are those inside the typst package, so a page looks the same on every machine.
    """
    made = typst.compile(
        str(TEMPLATES / f"{template}.typ"),
        root=str(TEMPLATES),
        sys_inputs={"data": json.dumps(data, ensure_ascii=False)},
        ignore_system_fonts=True,
    )
    assert isinstance(made, bytes)
    return made
