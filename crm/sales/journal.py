"""«Дополнительные опции»: what has been done with a client's lessons, the latest first. Nothing of it is stored: it is
read from the books, the enrolments and the audit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import or_, select
from sqlalchemy.orm import joinedload

from crm.access.actors import Actor, author_shown
from crm.access.models import User
from crm.audit.models import AuditEntry
from crm.clients.models import Client
from crm.db import db
from crm.ledger.models import Account, AccountKind, Entry, Transaction
from crm.sales.worth import WRITTEN_OFF
from crm.schedule.models import Attendance, Lesson, Mark
from crm.schedule.queries import lessons_in_sight
from crm.subscriptions.models import Subscription

# Of each sort of line, and of all together.
LINES = 100


@dataclass(frozen=True)
class JournalLine:
    """One thing done with lessons. count: how many the client got (+) or lost (-), None where none were moved; lesson:
    the one it was for; service: the type of lessons; other: who gave or got them; transaction: it stands in the
    books.
    """

    at: datetime
    what: Any
    who: str
    count: int | None = None
    service: Any = None
    lesson: Lesson | None = None
    subscription: Subscription | None = None
    other: Client | None = None
    comment: str = ""
    transaction: Transaction | None = None


def journal_of(client: Client, *, by: Actor) -> list[JournalLine]:
    """The last LINES lines of a client, without the lessons `by` may not see; a fixed number of queries."""
    lines = [*_moved(client, by), *_enrolled(client, by)]
    return sorted(lines, key=lambda line: line.at, reverse=True)[:LINES]


# --- lessons given and taken -----------------------------------------------------------------------------------------


def _moved(client: Client, by: Actor) -> list[JournalLine]:
    """A line for each account of the client's lessons an operation touched."""
    in_sight = lessons_in_sight(by)
    of_lessons = (
        [or_(Transaction.lesson_id.is_(None), Transaction.lesson_id.in_(select(Lesson.id).where(*in_sight)))]
        if in_sight
        else []
    )
    query = (
        select(Transaction, Account, Entry.amount)
        .select_from(Entry)
        .join(Entry.transaction)
        .join(Entry.account)
        .where(Account.client_id == client.id, Account.kind == AccountKind.LESSONS, *of_lessons)
        .options(joinedload(Account.lesson_type), joinedload(Account.subscription).joinedload(Subscription.plan))
        .order_by(Entry.id.desc())
        .limit(LINES)
    )
    rows = db.session.execute(query).all()
    ids = {transaction.id for transaction, _account, _amount in rows}
    lessons = _lessons({one.lesson_id for one, _account, _amount in rows if one.lesson_id is not None})
    others, undone = _others(ids, client), _undone(ids)
    lines = []
    for transaction, account, amount in rows:
        lesson = lessons.get(transaction.lesson_id)
        lines.append(
            JournalLine(
                at=transaction.happened_at,
                what=transaction.kind.label,
                who=_name(transaction),
                count=int(amount),
                service=account.lesson_type or (lesson.lesson_type if lesson is not None else None),
                lesson=lesson,
                subscription=account.subscription,
                other=others.get(transaction.id),
                comment=transaction.comment,
                transaction=None if transaction.id in undone else transaction,
            )
        )
    return lines


def _name(transaction: Transaction) -> str:
    return author_shown(transaction.author_name) if transaction.author_id is None else transaction.author_name


def _lessons(ids: Collection[int]) -> dict[int | None, Lesson]:
    query = select(Lesson).where(Lesson.id.in_(ids)).options(*_of_lesson())
    return {lesson.id: lesson for lesson in db.session.scalars(query)} if ids else {}


def _of_lesson(*path: Any) -> list[Any]:
    start = joinedload(*path) if path else None
    names = (Lesson.lesson_type, Lesson.subject, Lesson.group)
    return [start.joinedload(name) if start is not None else joinedload(name) for name in names]


def _others(ids: Collection[int], client: Client) -> dict[int, Client]:
    """Whose lessons besides the client's own each operation moved."""
    query = (
        select(Entry.transaction_id, Client)
        .select_from(Entry)
        .join(Entry.account)
        .join(Client, Client.id == Account.client_id)
        .where(Entry.transaction_id.in_(ids), Account.kind == AccountKind.LESSONS, Account.client_id != client.id)
    )
    return {row.transaction_id: row.Client for row in db.session.execute(query)} if ids else {}


def _undone(ids: Collection[int]) -> set[int | None]:
    """Those of the operations that have been reversed."""
    return set(db.session.scalars(select(Transaction.reverses_id).where(Transaction.reverses_id.in_(ids))))


# --- lessons assigned and deleted -------------------------------------------------------------------------------------


def _enrolled(client: Client, by: Actor) -> list[JournalLine]:
    query = (
        select(Attendance)
        .join(Attendance.lesson)
        .where(Attendance.client_id == client.id, *lessons_in_sight(by))
        .options(*_of_lesson(Attendance.lesson), joinedload(Attendance.subscription).joinedload(Subscription.plan))
        .order_by(Attendance.id.desc())
        .limit(LINES)
    )
    attendances = {one.id: one for one in db.session.scalars(query)}
    names = _names({id for one in attendances.values() for id in (one.author_id, one.marked_by_id)})
    lines = []
    for one in attendances.values():
        line = JournalLine(
            one.created_at,
            _("Lesson assigned"),
            names.get(one.author_id, _("System")),
            service=one.lesson.lesson_type,
            lesson=one.lesson,
        )
        lines.append(line)
        if one.mark in WRITTEN_OFF and one.subscription is not None and one.transaction_id is None and one.marked_at:
            who = names.get(one.marked_by_id, _("System"))  # without a limit: nothing is counted in the books
            lines.append(
                replace(line, at=one.marked_at, what=_("Lesson attended"), who=who, subscription=one.subscription)
            )
    return [*lines, *_taken_off(attendances)]


def _taken_off(attendances: dict[int, Attendance]) -> list[JournalLine]:
    """Enrolments canceled, and taken up again, by the audit."""
    query = (
        select(AuditEntry)
        .where(AuditEntry.entity == Attendance.__tablename__, AuditEntry.entity_id.in_(attendances))
        .order_by(AuditEntry.id.desc())
    )
    lines = []
    for entry in db.session.scalars(query):
        was, now = _marks(entry.changes)
        if Mark.CANCELED.value not in {was, now} or entry.entity_id is None or was is None:
            continue
        what = _("Lesson deleted") if now == Mark.CANCELED.value else _("Lesson assigned")
        lesson = attendances[entry.entity_id].lesson
        lines.append(JournalLine(entry.at, what, entry.who, service=lesson.lesson_type, lesson=lesson))
    return lines


def _marks(changes: dict[str, Any]) -> Sequence[str | None]:
    found = changes.get("mark") or (None, None)
    return found if len(found) == 2 else (None, None)


def _names(ids: Collection[int | None]) -> dict[int | None, str]:
    query = select(User.id, User.name).where(User.id.in_(set(ids) - {None}))
    return {row.id: row.name for row in db.session.execute(query)}
