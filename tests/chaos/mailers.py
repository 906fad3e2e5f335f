"""Workers and schedulers of a mailing, as a server runs them, whose time goes faster: leases, waits and the sweep of
each minute come after seconds.

`python -m tests.chaos.mailers worker|scheduler`, with the settings of Kontora and CHAOS_CLOCK in the environment.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flask.cli import ScriptInfo

from crm import clock, create_app


@dataclass(frozen=True)
class FastClock:
    """Time that was `start` at the real second `since`, and goes `speed` times as fast."""

    start: datetime
    since: float
    speed: float

    def now(self) -> datetime:
        return self.start + timedelta(seconds=(time.time() - self.since) * self.speed)

    def __str__(self) -> str:
        return f"{self.start.isoformat()} {self.since} {self.speed}"

    @classmethod
    def read(cls, text: str) -> FastClock:
        start, since, speed = text.split()
        return cls(datetime.fromisoformat(start).astimezone(UTC), float(since), float(speed))


def main(part: str) -> None:
    with clock.driven_by(FastClock.read(os.environ["CHAOS_CLOCK"]).now):
        app = create_app()
        app.cli.main([part], obj=ScriptInfo(create_app=lambda: app))


if __name__ == "__main__":
    main(sys.argv[1])
