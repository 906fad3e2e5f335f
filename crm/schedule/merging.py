"""Two cards of one person at lessons: where both stand in a list that takes each once, one of them is left."""

from __future__ import annotations

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import aliased

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.clients.merging import BEFORE_MERGE
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError
from crm.schedule.models import Attendance, GroupMember, Trial, Waiting


def join_lessons(kept: Client, gone: Client, by: Actor) -> None:
    """Leave `gone` nothing that `kept` has too. Raises DomainError "both_marked" when both were marked at one lesson:
    which of the two is true a person has to say.
    """
    own, other = aliased(Attendance), aliased(Attendance)
    pairs = select(own, other).join(other, other.lesson_id == own.lesson_id)
    both = pairs.where(own.client_id == kept.id, other.client_id == gone.id)
    for kept_one, gone_one in db.session.execute(both).all():
        _leave_one(kept_one, gone_one, kept)
    _leave_groups(kept, gone)
    for model, key in ((Trial, Trial.payer_id), (Waiting, Waiting.client_id)):
        mine = db.session.scalar(select(model).where(key == kept.id))
        theirs = db.session.scalar(select(model).where(key == gone.id))
        if mine is not None and theirs is not None:
            db.session.delete(theirs)
    db.session.flush()


def _leave_one(kept_one: Attendance, gone_one: Attendance, kept: Client) -> None:
    if kept_one.mark.is_written_off and gone_one.mark.is_written_off:
        raise DomainError(
            "both_marked",
            _(
                "Both cards are marked at one lesson, “%(lesson)s”. Correct a mark first.",
                lesson=kept_one.lesson,
            ),
        )
    idle = gone_one if kept_one.mark.is_written_off or not gone_one.mark.is_written_off else kept_one
    trials = select(Trial).where(Trial.attendance_id == idle.id)
    for trial in db.session.scalars(trials):
        db.session.delete(trial)
    db.session.flush()
    db.session.delete(idle)
    db.session.flush()


def _leave_groups(kept: Client, gone: Client) -> None:
    """Of two memberships that last, the one of `gone` ends today."""
    lasting = select(GroupMember).where(GroupMember.left_on.is_(None))
    groups = {member.group_id for member in db.session.scalars(lasting.where(GroupMember.client_id == kept.id))}
    for member in db.session.scalars(lasting.where(GroupMember.client_id == gone.id)):
        if member.group_id in groups:
            member.left_on = clock.today(db.session.get_one(Branch, member.branch_id))
    db.session.flush()


BEFORE_MERGE.append(join_lessons)
