"""Two cards of one person at lessons: where both stand in a list that takes each once, one of them is left."""

from __future__ import annotations

from datetime import date

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import aliased

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.access.scope import EVERYWHERE, scoped_to
from crm.clients.merging import BEFORE_MERGE
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError
from crm.schedule.models import Attendance, GroupMember, Mark, Trial, Waiting
from crm.schedule.trials import family_id

# Of two rows at one lesson that write nothing off, the one that says more is left.
_SAYS = {Mark.CANCELED: 0, Mark.PLANNED: 1, Mark.EXCUSED: 2, Mark.ABSENT: 3, Mark.PRESENT: 3}


def join_lessons(kept: Client, gone: Client, by: Actor) -> None:
    """Leave `gone` nothing that `kept` has too. Raises DomainError "both_marked" when a lesson was written off for both
    at one time: which of the two is true a person has to say.
    """
    _join_trials(kept, gone)
    own, other = aliased(Attendance), aliased(Attendance)
    pairs = select(own, other).join(other, other.lesson_id == own.lesson_id)
    both = pairs.where(own.client_id == kept.id, other.client_id == gone.id).order_by(own.lesson_id)
    for kept_one, gone_one in db.session.execute(both.with_for_update(nowait=True, key_share=True, of=own)).all():
        _join_attendances(kept_one, gone_one)
    _join_groups(kept, gone)
    _join_waiting(kept, gone)
    db.session.flush()


def _join_attendances(kept_one: Attendance, gone_one: Attendance) -> None:
    if kept_one.mark.is_written_off and gone_one.mark.is_written_off:
        raise DomainError(
            "both_marked",
            _(
                "Both cards are marked at one lesson, “%(lesson)s”. Correct a mark first.",
                lesson=kept_one.lesson,
            ),
        )
    idle, left = (kept_one, gone_one) if _weight(gone_one) > _weight(kept_one) else (gone_one, kept_one)
    if idle.mark is not Mark.CANCELED:
        left.by_group = left.by_group or idle.by_group
    for trial in db.session.scalars(select(Trial).where(Trial.attendance_id == idle.id)):
        db.session.delete(trial)
    db.session.flush()
    db.session.delete(idle)
    db.session.flush()
    db.session.expire(left.lesson, ["attendances"])


def _weight(attendance: Attendance) -> tuple[int, bool]:
    return _SAYS[attendance.mark], attendance.is_trial


def _join_trials(kept: Client, gone: Client) -> None:
    """A family has one free lesson, in whatever branch: of several one that has been held is left, and those still
    planned are charged. What `gone` came to is of the family of `kept` from now on, whoever paid for it.
    """
    of_gone = Trial.attendance_id.in_(select(Attendance.id).where(Attendance.client_id == gone.id))
    found = select(Trial).where(Trial.payer_id.in_([family_id(kept), gone.id]) | of_gone).order_by(Trial.id)
    with scoped_to(EVERYWHERE):
        trials = list(db.session.scalars(found))
        trials.sort(key=lambda trial: (trial.attendance.mark is Mark.PLANNED, trial.payer_id != family_id(kept)))
        for trial in trials[1:]:
            if trial.attendance.mark is Mark.PLANNED:
                trial.attendance.is_trial = False
            db.session.delete(trial)
        db.session.flush()
        for trial in trials[:1]:
            trial.payer_id = family_id(kept)
        db.session.flush()


def _join_groups(kept: Client, gone: Client) -> None:
    """Of two memberships that last, the one of `gone` ends today, and the other lasts as long as either."""
    lasting = {member.group_id: member for member in _lasting(kept)}
    for theirs in _lasting(gone):
        mine = lasting.get(theirs.group_id)
        if mine is not None:
            until = max(mine.left_on, theirs.left_on) if mine.left_on and theirs.left_on else None
            theirs.left_on = max(_today(theirs), theirs.joined_on)
            db.session.flush()
            mine.left_on = until


def _lasting(client: Client) -> list[GroupMember]:
    members = select(GroupMember).where(GroupMember.client_id == client.id).order_by(GroupMember.id)
    return [one for one in db.session.scalars(members) if one.left_on is None or one.left_on > _today(one)]


def _today(member: GroupMember) -> date:
    return clock.today(db.session.get_one(Branch, member.branch_id))


def _join_waiting(kept: Client, gone: Client) -> None:
    """One place in the list, where the card that stays is; what only the other one says is taken over."""
    mine, theirs = (db.session.scalar(select(Waiting).where(Waiting.client_id == client.id)) for client in (kept, gone))
    if theirs is None:
        return
    if mine is None:
        theirs.branch_id = kept.branch_id
        return
    mine.instructor_id = mine.instructor_id or theirs.instructor_id
    mine.comment = mine.comment or theirs.comment
    db.session.delete(theirs)


BEFORE_MERGE.append(join_lessons)
