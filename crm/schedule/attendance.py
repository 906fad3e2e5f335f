"""Marking who came, and what is written off for it; closing a lesson."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import joinedload, selectinload

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import User
from crm.audit.models import AuditAction
from crm.audit.operations import plain, record_all, transition
from crm.db import db
from crm.debts.operations import forgiveness_taken_back
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.ledger.batch import own_accounts
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import AFTER_REVERSAL, Cause, Line, Posting, house_account, reversal_of, write
from crm.schedule.enrolment import lock_lesson
from crm.schedule.models import LESSON_MOVES, Attendance, Lesson, LessonStatus, Mark
from crm.schedule.trials import family_id, settle_trials
from crm.subscriptions.coverage import (
    IN_USE,
    Coverage,
    LessonCharge,
    LessonFacts,
    find_coverage,
    lock_coverage,
    next_charges,
)
from crm.subscriptions.models import SubscriptionStatus


def mark_attendance(
    lesson: Lesson, marks: Mapping[int, Mark], *, by: Actor, seen: Mapping[int, int] | None = None
) -> list[Attendance]:
    """Mark who came to a lesson, by attendance id; those whose mark has changed. The caller commits.

    PRESENT and ABSENT write a lesson off: from the subscription that covers it, else its single-visit price from the
    payer's base account, into debt if need be; a trial lesson is free. PLANNED and EXCUSED write nothing off, and give
    back what was: to a subscription while it is in use, money as far as its debt was not forgiven. Between PRESENT and
    ABSENT what was written off stays. A held lesson is opened again by a change.

    seen: the version of each attendance as it was shown; Conflict "marked_meanwhile" names those that are others by
    now. Raises Forbidden "not_your_lesson", DomainError "lesson_ahead", "lesson_canceled", "not_enrolled",
    "subscription_over", and those of ledger.reversal_of() and write().
    """
    check_may_mark(lesson, by=by)
    lock_lesson(lesson)
    check_markable(lesson)
    attendances = _locked(lesson, marks)
    _check_unchanged(attendances, seen or {}, lesson)
    changes = {one: marks[one.id] for one in attendances if one.mark is not marks[one.id]}
    if Mark.CANCELED in changes.values() or any(one.mark is Mark.CANCELED for one in changes):
        raise DomainError("not_enrolled", _("Who is not enrolled cannot be marked; enrolments are canceled apart."))
    if not changes:
        return []
    if lesson.status is LessonStatus.HELD:
        transition(lesson, LESSON_MOVES, LessonStatus.PLANNED, by=by)
    was_off = {one.id for one in changes if one.mark.is_written_off and not one.is_trial}
    trials = settle_trials(changes, by=by)
    is_off = {one.id for one, mark in changes.items() if mark.is_written_off and one.id not in trials}
    write_offs = {one.id: WriteOff.of(one) for one in changes if one.id in was_off & is_off} | _write(
        lesson,
        back=[one for one in changes if one.id in was_off - is_off],
        off=[one for one in changes if one.id in is_off - was_off],
        by=by,
    )
    now = clock.now()
    values = {
        one: {
            "mark": mark,
            "is_trial": one.id in trials,
            **vars(write_offs.get(one.id, NOTHING)),
            "marked_at": now,
            "marked_by_id": by.id,
        }
        for one, mark in changes.items()
    }
    _save(values, by=by)
    db.session.expire(lesson, ["attendances"])
    return list(changes)


def hold_lesson(lesson: Lesson, *, by: Actor) -> Lesson:
    """Close a lesson everybody at which is marked («Провести занятие»). The caller commits.

    Raises DomainError "not_all_marked" with the names of those who are not, and as mark_attendance() does; Conflict
    when it is held already.
    """
    check_may_mark(lesson, by=by)
    lock_lesson(lesson)
    check_markable(lesson)
    query = select(Attendance).where(Attendance.lesson_id == lesson.id, Attendance.mark == Mark.PLANNED)
    if expected := db.session.scalars(query.options(joinedload(Attendance.client)).order_by(Attendance.id)).all():
        names = ", ".join(name_of(one) for one in expected)
        raise DomainError("not_all_marked", _("Not everybody is marked yet: %(names)s.", names=names))
    return transition(lesson, LESSON_MOVES, LessonStatus.HELD, by=by)


def reopen_lesson(lesson: Lesson, *, by: Actor) -> Lesson:
    """Open a held lesson again: marks stay, people may be enrolled. Raises Conflict unless it is held."""
    check_may_mark(lesson, by=by)
    lock_lesson(lesson)
    if lesson.status is not LessonStatus.HELD:
        raise Conflict("not_held", _("The lesson is not held: there is nothing to open again."))
    return transition(lesson, LESSON_MOVES, LessonStatus.PLANNED, by=by)


def check_may_mark(lesson: Lesson, *, by: Actor) -> None:
    """Raise Forbidden unless `by` marks lessons: those of which he is the instructor, others' with `lesson.all`."""
    require(by, "lesson.mark", lesson)
    is_own = lesson.instructor is not None and by.id is not None and lesson.instructor.user_id == by.id
    if not is_own and not by.may("lesson.all"):
        raise Forbidden("not_your_lesson", _("You mark the lessons you hold yourself, not those of others."))


def check_markable(lesson: Lesson) -> None:
    """Raise DomainError when nothing can be marked at the lesson: "lesson_canceled", "lesson_ahead"."""
    if lesson.status is LessonStatus.CANCELED:
        raise DomainError("lesson_canceled", _("The lesson is canceled: there is nobody to mark."))
    if clock.local(lesson.starts_at, lesson.branch).date() > clock.today(lesson.branch):
        raise DomainError("lesson_ahead", _("The lesson is still to come: it is marked on its day, not before."))


def name_of(attendance: Attendance) -> str:
    """Who it is; a card out of sight by its number."""
    return attendance.client.shown_name if attendance.client is not None else f"#{attendance.client_id}"


def facts_of(lesson: Lesson) -> LessonFacts:
    """What decides which subscriptions are good for the lesson."""
    day = clock.local(lesson.starts_at, lesson.branch).date()
    return LessonFacts(lesson.lesson_type_id, lesson.subject_id, day)


# --- what was seen ---------------------------------------------------------------------------------------------------


def _locked(lesson: Lesson, ids: Collection[int]) -> Sequence[Attendance]:
    query = (
        select(Attendance)
        .where(Attendance.lesson_id == lesson.id, Attendance.id.in_(ids))
        .order_by(Attendance.id)
        .options(selectinload(Attendance.client))
        .with_for_update(key_share=True, of=Attendance)
        .execution_options(populate_existing=True)
    )
    found = db.session.scalars(query).all()
    if len(found) < len(ids):
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))
    return found


def _check_unchanged(attendances: Sequence[Attendance], seen: Mapping[int, int], lesson: Lesson) -> None:
    others = [one for one in attendances if one.id in seen and one.version != seen[one.id]]
    if not others:
        return
    ids = {one.marked_by_id for one in others} - {None}
    names = {user.id: user.name for user in db.session.scalars(select(User).where(User.id.in_(ids)))}
    said = "; ".join(
        f"{name_of(one)} — {one.mark.label}"
        + (f" ({names[one.marked_by_id]}, {_hour(one, lesson)})" if one.marked_by_id in names else "")
        for one in others
    )
    raise Conflict("marked_meanwhile", _("Somebody has marked meanwhile, nothing was saved: %(what)s.", what=said))


def _hour(attendance: Attendance, lesson: Lesson) -> str:
    return f"{clock.local(attendance.marked_at, lesson.branch):%H:%M}" if attendance.marked_at is not None else ""


# --- writing off -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WriteOff:
    """What an attendance was written off from."""

    subscription_id: int | None = None
    transaction_id: int | None = None
    price: Decimal | None = None

    @classmethod
    def of(cls, attendance: Attendance) -> WriteOff:
        return cls(attendance.subscription_id, attendance.transaction_id, attendance.price)


NOTHING = WriteOff()


def _save(values: Mapping[Attendance, dict[str, Any]], *, by: Actor) -> None:
    """New values of (locked) attendances in one statement, each audited: the session would send one for each."""
    table: Any = Attendance.__table__
    names = list(next(iter(values.values())))
    statement = update(table).where(table.c.id == bindparam("at"))
    statement = statement.values({name: bindparam(f"new_{name}") for name in names} | {"version": table.c.version + 1})
    rows = [{"at": one.id} | {f"new_{name}": value for name, value in new.items()} for one, new in values.items()]
    db.session.connection().execute(statement, rows)
    changed = {
        one: {name: [plain(old), plain(value)] for name, value in new.items() if (old := getattr(one, name)) != value}
        for one, new in values.items()
    }
    record_all(AuditAction.UPDATE, changed, by=by)
    query = select(Attendance).where(Attendance.id.in_([one.id for one in values]))
    db.session.scalars(query.execution_options(populate_existing=True)).all()


def _write(lesson: Lesson, *, back: Sequence[Attendance], off: Sequence[Attendance], by: Actor) -> dict[int, WriteOff]:
    """Give back what stands of `back` and write `off` off, all at once; by attendance id."""
    if unseen := [one for one in off if one.client is None]:
        raise NotFound(
            "client_not_found", _("The card of %(name)s was not found in this branch.", name=name_of(unseen[0]))
        )
    undone = [reversal_of(one, comment=_("The mark was changed")) for one in _transactions(back)]
    payers = {one.client_id: family_id(one.client) for one in off}
    if back or off:
        statuses = lock_coverage(
            payers,
            subscription_ids={one.subscription_id for one in back if one.subscription_id is not None},
            accounts=[line.account for posting in undone for line in posting.lines],
        )
        _check_given_back(back, statuses)
        undone += forgiveness_taken_back(undone)
    covered = find_coverage(payers, facts_of(lesson)) if off else {}
    charges = _Charges(lesson, off, payers, covered)
    lines = {one.id: charges.lines(one) for one in off}
    tries = _tries(lesson) if off else {}
    postings = list(undone)
    posted = [one for one in off if lines[one.id]]
    for one in posted:
        coverage = covered.get(one.client_id)
        postings.append(
            Posting(
                TransactionKind.LESSON,
                lines[one.id],
                lesson.branch_id,
                f"attendance:{one.id}:{tries.get(one.id, 0) + 1}",
                Cause(
                    client_id=one.client_id,
                    lesson_id=lesson.id,
                    subscription_id=_subscription_id(coverage),
                    employee_id=lesson.instructor_id,
                ),
                lesson.title,
            )
        )
    written = write(postings, by=by)[len(undone) :] if postings else []
    transactions = {one.id: transaction.id for one, transaction in zip(posted, written, strict=True)}
    return {
        one.id: WriteOff(
            _subscription_id(covered.get(one.client_id)),
            transactions.get(one.id),
            -sum((line.amount for line in lines[one.id] if _is_clients_money(line)), Decimal(0)) or None,
        )
        for one in off
    }


def _check_given_back(back: Sequence[Attendance], statuses: Mapping[int, SubscriptionStatus]) -> None:
    """Raise DomainError "subscription_over" when a lesson would go back where nobody can use it any more."""
    for one in back:
        status = statuses.get(one.subscription_id) if one.subscription_id is not None else None
        if status is not None and status not in IN_USE:
            raise DomainError(
                "subscription_over",
                _(
                    "%(name)s: the status of the subscription the mark rests on is now “%(status)s”. Its lesson cannot "
                    "be given back: the mark stays. Add a lesson by hand if one is due.",
                    name=name_of(one),
                    status=status.label,
                ),
            )


def _subscription_id(coverage: Coverage | None) -> int | None:
    return coverage.subscription.id if coverage is not None and coverage.subscription is not None else None


def _is_clients_money(line: Line) -> bool:
    return line.account.unit is Unit.MONEY and not line.account.kind.is_house


class _Charges:
    """Lines of the write-offs at a lesson: lessons from what covers them, money lesson by lesson or for a visit."""

    def __init__(
        self,
        lesson: Lesson,
        off: Sequence[Attendance],
        payers: Mapping[int, int],
        covered: Mapping[int, Coverage],
    ) -> None:
        self.payers, self.covered = payers, covered
        self.price = lesson.lesson_type.single_price
        subscriptions = [found.subscription for found in covered.values() if found.subscription is not None]
        self.per_lesson: Mapping[int, LessonCharge] = next_charges(subscriptions, payers)
        visitors = {payers[one.client_id]: lesson.branch_id for one in off if one.client_id not in covered}
        self.base = own_accounts(AccountKind.BASE, visitors) if self.price and visitors else {}
        self.houses: dict[tuple[AccountKind, int], Account] = {}

    def lines(self, attendance: Attendance) -> list[Line]:
        """What is posted for one; nothing where nothing is taken."""
        coverage = self.covered.get(attendance.client_id)
        if coverage is None:
            account = self.base.get(self.payers[attendance.client_id])
            return self._money(account, self.price) if account is not None else []
        lines: list[Line] = []
        if coverage.account is not None:
            attended = self._house(AccountKind.ATTENDED, coverage.account.branch_id, Unit.LESSON)
            lines += [Line(coverage.account, Decimal(-1)), Line(attended, Decimal(1))]
        if coverage.subscription is not None and (charge := self.per_lesson.get(coverage.subscription.id)):
            lines += self._money(charge.account, charge.price)
        return lines

    def _money(self, account: Account, price: Decimal) -> list[Line]:
        return [Line(account, -price), Line(self._house(AccountKind.REVENUE, account.branch_id), price)]

    def _house(self, kind: AccountKind, branch_id: int, unit: Unit = Unit.MONEY) -> Account:
        if (kind, branch_id) not in self.houses:
            self.houses[kind, branch_id] = house_account(kind, branch_id, unit)
        return self.houses[kind, branch_id]


def _transactions(attendances: Sequence[Attendance]) -> list[Transaction]:
    """The write-offs of these that stand, with all they moved."""
    ids = [one.transaction_id for one in attendances if one.transaction_id is not None]
    if not ids:
        return []
    query = select(Transaction).where(Transaction.id.in_(ids)).order_by(Transaction.id)
    query = query.options(selectinload(Transaction.entries).joinedload(Entry.account))
    return list(db.session.scalars(query))


def _tries(lesson: Lesson) -> dict[int, int]:
    """How often each attendance of the lesson has been written off, by its id."""
    keys = select(Transaction.idempotency_key).where(
        Transaction.lesson_id == lesson.id, Transaction.kind == TransactionKind.LESSON
    )
    found: dict[int, int] = {}
    for key in db.session.scalars(keys):
        _attendance, id, number = key.split(":")
        found[int(id)] = max(found.get(int(id), 0), int(number))
    return found


def _refuse_by_hand(undone: Transaction, _by: Actor) -> None:
    """The write-off of a mark is given back by changing the mark: else the two would tell different things."""
    query = select(Attendance).where(Attendance.transaction_id == undone.id).options(joinedload(Attendance.client))
    if (attendance := db.session.scalar(query)) is not None:
        raise DomainError(
            "by_mark",
            _(
                "This was written off by a mark: change the mark of %(name)s at the lesson instead.",
                name=name_of(attendance),
            ),
        )


AFTER_REVERSAL[TransactionKind.LESSON] = _refuse_by_hand
