"""The one free trial lesson of a payer's family: planned from his card, or the first visit of a group's new member."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, require
from crm.clients.models import Client
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.i18n import day
from crm.schedule.enrolment import enrol, hold_cards, lock_lesson, take_off
from crm.schedule.models import Attendance, Lesson, Mark, Trial
from crm.subscriptions.models import Subscription, SubscriptionStatus


def family_id(client: Client) -> int:
    """The payer a client's trial lesson counts for."""
    return client.payer_id or client.id


def trial_of(client: Client) -> Trial | None:
    """The trial lesson of the client's family, planned or held."""
    query = select(Trial).where(Trial.payer_id == family_id(client))
    return db.session.scalar(
        query.options(
            joinedload(Trial.attendance).joinedload(Attendance.lesson),
            joinedload(Trial.attendance).joinedload(Attendance.client),
        )
    )


def plan_trial(student: Client, lesson: Lesson, *, by: Actor) -> Attendance:
    """Expect the student at a lesson, free of charge, without making him a member of its group. The caller commits.

    A trial lesson of his own that is still expected is moved to this one. Raises Conflict "trial_used" when his family
    has had its trial lesson, or somebody else of it is to have it; and as enrol() does.
    """
    require(by, "lesson.enrol", lesson)
    hold_cards([student.id])
    trial = trial_of(student)
    if trial is not None:
        if trial.attendance is None or trial.attendance.client_id != student.id or not is_movable(trial):
            raise _used(trial)
        for one in sorted({trial.attendance.lesson, lesson}, key=lambda one: one.id):
            lock_lesson(one)
        take_off(trial.attendance, by=by)
    attendance = enrol(lesson, student, by=by, is_trial=True)
    if not _claim([attendance], by=by):
        raise _used(trial_of(student))
    return attendance


def is_movable(trial: Trial) -> bool:
    """Whether the lesson is still to come: nobody has marked it."""
    return trial.attendance is not None and trial.attendance.mark is Mark.PLANNED


def _used(trial: Trial | None) -> DomainError:
    if trial is None or trial.attendance is None or trial.attendance.client is None:  # out of sight
        return Conflict("trial_used", _("The family has its free trial lesson already: there is one per payer."))
    attendance = trial.attendance
    return Conflict(
        "trial_used",
        _(
            "The family has its free trial lesson already: %(name)s, %(day)s. There is one per payer.",
            name=attendance.client.shown_name,
            day=day(clock.local(attendance.lesson.starts_at, attendance.lesson.branch).date()),
        ),
    )


def settle_trials(changes: Mapping[Attendance, Mark], *, by: Actor) -> set[int]:
    """Which of the attendances are a trial lesson once they are marked so: their ids.

    A trial that is excused is given back to the family; whoever was expected for a trial and comes after all has it
    again, unless the family has used it meanwhile. A member of the group comes to a trial at his first visit, when
    nobody of his family has had one, come anywhere, or bought a subscription.
    """
    standing = {
        trial.attendance_id: trial
        for trial in db.session.scalars(select(Trial).where(Trial.attendance_id.in_([one.id for one in changes])))
    }
    trials, wanted, visits = set[int](), list[Attendance](), list[Attendance]()
    for attendance, mark in changes.items():
        is_excused = mark is Mark.EXCUSED
        if (trial := standing.get(attendance.id)) and (is_excused or (mark is Mark.PLANNED and attendance.by_group)):
            db.session.delete(trial)
        elif trial:
            trials.add(attendance.id)
        elif attendance.is_trial and not is_excused and attendance.client is not None:
            wanted.append(attendance)
        elif attendance.by_group and mark is Mark.PRESENT and attendance.client is not None:
            visits.append(attendance)
        if is_excused and attendance.is_trial and not attendance.by_group:
            trials.add(attendance.id)  # it is what he would come to
    db.session.flush()  # those given back are free to be taken
    wanted += newcomers(visits, but={one.id for one in changes})
    return trials | (_claim(wanted, by=by) if wanted else set())


def newcomers(visits: list[Attendance], *, but: Collection[int]) -> list[Attendance]:
    """Those of families without a trial lesson that have not come before (other than at `but`) and bought nothing."""
    families = {family_id(one.client) for one in visits}
    if not families:
        return []
    of_families = or_(Client.id.in_(families), Client.payer_id.in_(families))
    person: Any = select(Client).where(of_families)
    bought = person.join(Subscription, Subscription.client_id == Client.id).where(
        Subscription.status != SubscriptionStatus.CANCELED
    )
    came = person.join(Attendance, Attendance.client_id == Client.id).where(
        Attendance.mark == Mark.PRESENT, Attendance.id.not_in(but)
    )
    known = {
        payer_id or id
        for query in (bought, came)
        for id, payer_id in db.session.execute(query.with_only_columns(Client.id, Client.payer_id).distinct())
    }
    known |= set(db.session.scalars(select(Trial.payer_id).where(Trial.payer_id.in_(families))))
    return [one for one in visits if family_id(one.client) not in known]


def _claim(attendances: list[Attendance], *, by: Actor) -> set[int]:
    """Take the trial lesson of each family for one of these; ids of those that got it. Of two at once one wins."""
    first: dict[int, Attendance] = {}
    for attendance in sorted(attendances, key=lambda one: one.id):
        first.setdefault(family_id(attendance.client), attendance)
    taken = set(db.session.scalars(select(Trial.payer_id).where(Trial.payer_id.in_(first))))
    free = {payer_id: first[payer_id] for payer_id in sorted(first) if payer_id not in taken}
    if _add(free, by=by):
        return {attendance.id for attendance in free.values()}
    # Somebody has taken one of them just now: each by itself.
    return {attendance.id for payer_id, attendance in free.items() if _add({payer_id: attendance}, by=by)}


def _add(trials: Mapping[int, Attendance], *, by: Actor) -> bool:
    """Write the trials of families ({payer id: attendance}); False when one of these families has one."""
    try:
        with db.session.begin_nested():
            db.session.add_all(
                Trial(branch_id=one.branch_id, payer_id=payer_id, attendance_id=one.id, author_id=by.id)
                for payer_id, one in trials.items()
            )
            db.session.flush()
    except IntegrityError:
        return False
    return True
