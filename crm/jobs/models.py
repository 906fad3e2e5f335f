"""Which scheduled ticks have been taken: UNIQUE makes a second scheduler harmless."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from crm.db import Model


class CronTick(Model):
    """Task `task` has been started for the moment `tick`."""

    __audited__ = False

    task: Mapped[str] = mapped_column(String(60), primary_key=True)
    tick: Mapped[datetime] = mapped_column(primary_key=True)
    taken_at: Mapped[datetime]
