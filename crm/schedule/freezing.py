"""What a freeze asks the schedule: whether the subscription was used in that time."""

from __future__ import annotations

from datetime import date

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.db import db
from crm.errors import DomainError
from crm.i18n import day
from crm.schedule.models import Attendance, Lesson, Mark
from crm.subscriptions.freezing import BEFORE_FREEZE
from crm.subscriptions.models import Subscription

_WRITTEN_OFF = [mark for mark in Mark if mark.is_written_off]


def refuse_used_days(subscription: Subscription, from_on: date, until_on: date | None) -> None:
    """Raise DomainError "freeze_attended" beside `from_on` when a lesson of these days was written off from the
    (locked) subscription: what rests is not used.
    """
    lessons = (
        select(Lesson)
        .join(Attendance, Attendance.lesson_id == Lesson.id)
        .where(Attendance.subscription_id == subscription.id, Attendance.mark.in_(_WRITTEN_OFF))
        .options(joinedload(Lesson.branch))
        .order_by(Lesson.starts_at, Lesson.id)
    )
    for lesson in db.session.scalars(lessons):
        on = clock.local(lesson.starts_at, lesson.branch).date()
        if from_on <= on and (until_on is None or on <= until_on):
            raise DomainError(
                "freeze_attended",
                _("A lesson of %(day)s was written off from it: choose other days.", day=day(on)),
                "from_on",
            )


BEFORE_FREEZE.append(refuse_used_days)
