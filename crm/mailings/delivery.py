"""Delivery of the outbox: take, hand over, note. At most once: what may have left is never sent again by itself.

A worker takes some dozens of messages at once (TAKEN), and hands them over one by one: a single statement notes the
former as sent and marks the next as being sent, and is committed before a server hears of it. So a worker that is
killed leaves one message in doubt (SENDING) and the rest for others. A lane, the messages of one company over one
channel, waits for no other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from decimal import Decimal
from functools import cache
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import structlog
from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import Connection, and_, bindparam, case, exists, literal, null, or_, select, update
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.models import Branch, Company
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client
from crm.config import SMS_BODY, SMSRU_URL, SmsSettings
from crm.contacts.models import Channel, Contact, MessageChoice, MessageKind
from crm.contacts.operations import contact_urls, note_returned
from crm.contacts.queries import ContactWay, refusals
from crm.db import db, is_in_transaction, transaction
from crm.debts.queries import in_debt
from crm.ledger.models import Account
from crm.mail_sink import folder_of
from crm.mailings.channels.base import ChannelNotSet, Fate, Letter, Outcome, Sender, storable
from crm.mailings.channels.demo import DemoSmsSender
from crm.mailings.channels.email import EmailSender, letter_id
from crm.mailings.channels.sms import SmsSender, sms_length
from crm.mailings.models import (
    CODE_KEY,
    HIDDEN,
    MESSAGE_MOVES,
    PASSWORD_KEY,
    Message,
    MessageCharge,
    MessageStatus,
    Provider,
    ProviderKind,
    message_bill,
)
from crm.mailings.queries import bills_told
from crm.payments.confirmation import LIFE as CODE_LIVES
from crm.phones import is_landline

# Longer than any conversation with a server can take, its timeouts included.
LEASE = timedelta(minutes=10)
# Of a message that was only taken. Nothing of it has left, so that another may have it soon; a worker whose server is
# slow gives the rest of its handful up by then.
TAKEN_LEASE = timedelta(minutes=2)
# Waits of 1, 2, 4 … 32 minutes, then of an hour: about a day in all.
MAX_ATTEMPTS = 30
LONGEST_WAIT = timedelta(hours=1)
# Messages, and seconds, of a batch: a job, which has a connection to open and its statements to put together anew.
BATCH = 2000
BATCH_SECONDS = 20
# Messages a worker takes at once.
HANDFUL = 50
# A message that has failed later than that after it left is not told over the next way any more.
NEXT_WAY_WITHIN = timedelta(hours=1)

log = structlog.get_logger()

# A company and a channel: what has one provider, one limit, and is away or not.
Lane = tuple[int, Channel]

# Told of a message that definitely was not sent, in the transaction that notes it.
AFTER_FAILURE: list[Callable[[Message], Any]] = []
# Told of a message of a mailing that was not sent because a bill it tells of is not to be paid any more, likewise.
AFTER_SKIP: list[Callable[[Message], Any]] = []


@dataclass(frozen=True)
class Claim:
    """A message in this worker's hands. lease_until: the proof that it is; attempt: which handing over it is, counted
    anew when a person has it sent once more. quiet_hours: None where it minds none. price: of a message, or of a part
    of an SMS, where the provider has one. is_limited: no more than so many a minute may leave.
    """

    message_id: int
    lane: Lane
    quiet_hours: QuietHours | None
    attempt: int
    lease_until: datetime
    letter: Letter
    price: Decimal | None
    is_limited: bool = False

    @property
    def channel(self) -> Channel:
        return self.lane[1]


@dataclass
class Delivered:
    """Counts of a batch by fate; is_more: letters that were due are left."""

    fates: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    is_more: bool = False


def move_message(message_id: int, old: MessageStatus, new: MessageStatus, *conditions: Any, **values: Any) -> bool:
    """Move a message if it still has the status `old` and meets `conditions`. With begin_sending(), which moves two at
    once, and the moves of many in this file, the one writer of a message's status.

    False: somebody else moved it first. The caller commits.
    """
    _check_move(old, new)
    result = db.session.execute(
        update(Message)
        .where(Message.id == message_id, Message.status == old, *conditions)
        .values(status=new, **values)
        .execution_options(synchronize_session=False)
    )
    return result.rowcount == 1  # type: ignore[attr-defined]


def _check_move(old: MessageStatus, new: MessageStatus) -> None:
    if new not in MESSAGE_MOVES.get(old, frozenset()):
        raise ValueError(f"a message does not move from {old} to {new}")


# --- quiet hours -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuietHours:
    """When mailings of a branch wait: from `begins` to `ends` of its clock, over midnight where they are the other way
    round; None: never.
    """

    begins: time | None
    ends: time | None
    time_zone: str

    @classmethod
    def of(cls, branch: Branch) -> QuietHours:
        return cls(branch.company.quiet_from, branch.company.quiet_to, branch.time_zone)

    def end(self, now: datetime) -> datetime | None:
        """When those that last `now` end; None when it is not quiet."""
        if self.begins is None or self.ends is None or self.begins == self.ends:
            return None
        today = clock.local(now, self).date()
        for day in (today - timedelta(days=1), today):
            last = day if self.begins < self.ends else day + timedelta(days=1)
            end = clock.at(last, self.ends, self)
            if clock.at(day, self.begins, self) <= now < end:
                return end
        return None


# What is not written by hand, nor a code somebody waits for.
_OF_MAILING = or_(Message.run_id.is_not(None), Message.line_id.is_not(None), Message.kind == MessageKind.THANKS)


def _put_off_while_quiet(now: datetime) -> None:
    """Due messages of mailings wait where it is quiet. The caller commits."""
    with_hours = select(Branch).join(Branch.company).where(Company.quiet_from.is_not(None)).order_by(Branch.id)
    for branch in db.session.scalars(with_hours).all():
        end = QuietHours.of(branch).end(now)
        if end is not None:
            waiting = (Message.status == MessageStatus.PENDING, Message.next_try_at <= now, _OF_MAILING)
            db.session.execute(
                update(Message)
                .where(Message.branch_id == branch.id, *waiting)
                .values(next_try_at=end)
                .execution_options(synchronize_session=False)
            )


# --- taking ----------------------------------------------------------------------------------------------------------


def take_messages(*, limit: int = HANDFUL, without: Collection[Lane] = ()) -> list[Claim]:
    """Take up to `limit` due messages into this worker's hands, oldest first, none of the lanes `without`. Commits by
    itself.
    """
    now = clock.now()
    lease = now + TAKEN_LEASE
    with transaction():
        _put_off_while_quiet(now)
        due = _due(now, without).order_by(Message.next_try_at, Message.id).limit(limit)
        ids = list(db.session.scalars(due.with_for_update(skip_locked=True, of=Message)))
        if not ids:
            return []
        db.session.execute(
            update(Message)
            .where(Message.id.in_(ids), Message.status == MessageStatus.PENDING)
            .values(status=MessageStatus.TAKEN, lease_until=lease)
            .execution_options(synchronize_session=False)
        )
        taken = select(Message).where(Message.id.in_(ids), Message.status == MessageStatus.TAKEN)
        taken = taken.options(joinedload(Message.client)).order_by(Message.next_try_at, Message.id)
        messages = db.session.scalars(taken.execution_options(populate_existing=True)).all()
        pages = _pages(messages)
        terms = _terms()
        return [_claim(message, pages.get(message.client_id), terms, lease) for message in messages]


def _pages(messages: Sequence[Message]) -> dict[int, str]:
    """Where those who get letters of mailings may refuse them, by client id."""
    clients = {one.client_id: one.client for one in messages if _may_be_refused(one)}
    return contact_urls(list(clients.values())) if clients else {}


def _may_be_refused(message: Message) -> bool:
    """A letter that is neither written to him alone nor asked for."""
    return message.channel is Channel.EMAIL and message.kind not in {MessageKind.PERSONAL, MessageKind.SERVICE}


def _due(now: datetime, without: Collection[Lane] = ()) -> Any:
    """Ids of the messages whose turn it is."""
    query = select(Message.id).where(Message.status == MessageStatus.PENDING, Message.next_try_at <= now)
    companies: dict[Channel, list[int]] = {}
    for company_id, channel in without:
        companies.setdefault(channel, []).append(company_id)
    for channel, ids in companies.items():
        branches = select(Branch.id).where(Branch.company_id.in_(sorted(ids)))
        query = query.where(or_(Message.channel != channel, Message.branch_id.not_in(branches)))
    return query


def _terms() -> dict[Lane, tuple[Decimal | None, bool]]:
    """Price, and whether there is a limit a minute, where a lane has a provider of its own."""
    query = select(Provider.company_id, Provider.channel, Provider.price, Provider.per_minute)
    rows = db.session.execute(query.where(Provider.is_active))
    return {(company_id, channel): (price, limit is not None) for company_id, channel, price, limit in rows}


def _claim(
    message: Message, page: str | None, terms: dict[Lane, tuple[Decimal | None, bool]], lease: datetime
) -> Claim:
    branch = db.session.get_one(Branch, message.branch_id)
    lane = (branch.company_id, message.channel)
    price, is_limited = terms.get(lane, (None, False))
    is_of_mailing = message.run_id is not None or message.line_id is not None or message.kind is MessageKind.THANKS
    return Claim(
        message_id=message.id,
        lane=lane,
        quiet_hours=QuietHours.of(branch) if is_of_mailing else None,
        attempt=message.attempts,
        lease_until=lease,
        letter=_letter(message, branch, page),
        price=price,
        is_limited=is_limited,
    )


def sender_of(company: Company | None) -> tuple[str, str]:
    """Name and address letters of a company come from; None: of the installation itself."""
    host = urlsplit(current_app.config["SETTINGS"].public_url).hostname or "localhost"
    nobody = f"no-reply@{host if any(c.isalpha() for c in host) else 'localhost'}"
    return (company.name, company.email or nobody) if company is not None else ("Kontora", nobody)


def _letter(message: Message, branch: Branch, page: str | None) -> Letter:
    name, address = sender_of(branch.company)
    return Letter(
        key=message.dedupe_key,
        sender_name=name,
        sender=address,
        recipient_name=message.client.name,
        recipient=message.recipient,
        subject=message.subject,
        text=message.body if message.secret is None else message.body.replace(HIDDEN, message.secret),
        unsubscribe=f"{page}/unsubscribe/{message.kind.value}" if page and _may_be_refused(message) else "",
    )


def put_back(claims: Iterable[Claim], **values: Any) -> None:
    """Give up messages taken and not handed over; they lose no try. The caller commits."""
    for claim in claims:
        move_message(
            claim.message_id,
            MessageStatus.TAKEN,
            MessageStatus.PENDING,
            Message.lease_until == claim.lease_until,
            lease_until=None,
            **values,
        )


# --- handing over ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A message that was handed over, and what became of it; not noted yet."""

    claim: Claim
    outcome: Outcome


@dataclass(frozen=True)
class Begun:
    """claim: the message that is being sent now; None: it is not needed any more, or has to wait. is_full: its lane
    may send no more in this minute.
    """

    claim: Claim | None
    is_full: bool = False


def begin_sending(claim: Claim, *, after: Done | None = None) -> Begun:
    """Mark a message that was taken as being sent and, in the same statement, note the one sent before it (`after`),
    which is noted whatever becomes of this one. Commits by itself.

    It is not sent when a bill it tells of was paid a moment ago, when its code has expired, when it is quiet by now,
    when its lane is full, or when its lease is over and another worker may have it.
    """
    now = clock.now()
    quiet_end = claim.quiet_hours.end(now) if claim.quiet_hours else None
    begun = replace(claim, attempt=claim.attempt + 1, lease_until=now + LEASE)
    is_free = after is None or (after.outcome.fate is Fate.SENT and cost_of(after) is None)
    if quiet_end is None and not claim.is_limited and is_free:  # a letter: one statement is all there is to it
        with _one_statement() as connection:
            has_begun = _note_and_begin(connection, claim, after, now)
        if not has_begun:
            with transaction():
                _skip_idle(claim)
        return Begun(begun if has_begun else None)
    with transaction():
        if after is not None and after.outcome.fate is not Fate.SENT:
            _settle(after, now)
            after = None
        is_full = quiet_end is None and claim.is_limited and not _count_in(claim.lane, now)
        if quiet_end is None and not is_full:
            if _note_and_begin(db.session.connection(), claim, after, now):
                return Begun(begun)
            _skip_idle(claim)
            return Begun(None)
        if after is not None:
            _settle(after, now)
        put_back([claim], next_try_at=quiet_end or _minute(now) + timedelta(minutes=1))
    return Begun(None, is_full)


def _minute(now: datetime) -> datetime:
    return now.replace(second=0, microsecond=0)


def _count_in(lane: Lane, now: datetime) -> bool:
    """Take a place in this minute of the lane's provider; False when all are taken. The caller commits: until then
    other workers wait for the row.
    """
    minute = _minute(now)
    of_lane = (Provider.company_id == lane[0], Provider.channel == lane[1], Provider.is_active)
    limit = db.session.scalar(select(Provider.per_minute).where(*of_lane))
    if limit is None:
        return True
    # A worker that waited for the row over the end of a minute, or whose clock is slow, finds the next one begun.
    is_same = Provider.counted_minute.in_([minute, minute + timedelta(minutes=1)])
    counted = db.session.execute(
        update(Provider)
        .where(*of_lane, or_(Provider.counted_minute.is_(None), ~is_same, Provider.counted < Provider.per_minute))
        .values(
            counted_minute=case((is_same, Provider.counted_minute), else_=minute),
            counted=case((is_same, Provider.counted + 1), else_=1),
        )
        .execution_options(synchronize_session=False)
    )
    return counted.rowcount == 1  # type: ignore[attr-defined]


@contextmanager
def _one_statement() -> Iterator[Connection]:
    """For a statement that is a transaction by itself: PostgreSQL is asked once instead of three times. Within a
    transaction() it joins that, as every operation does: only there is what it has written to be seen.
    """
    if db.engine.dialect.name == "sqlite" or is_in_transaction():
        with transaction():
            yield db.session.connection()
    else:
        with db.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")


def _note_and_begin(connection: Connection, claim: Claim, after: Done | None, now: datetime) -> bool:
    """One statement: `after`, which was sent, becomes SENT and `claim` SENDING. Whether the latter did."""
    facts: dict[str, Any] = {"this": claim.message_id, "taken_until": claim.lease_until, "now": now}
    facts |= {"until": now + LEASE, "codes_since": now - CODE_LIVES, "former": 0, "former_attempt": 0}
    facts |= {"former_until": now, "sent_at": now, "external_id": "", "cost": None}
    if after is not None:
        cost = cost_of(after)
        facts |= {"former": after.claim.message_id, "former_attempt": after.claim.attempt, "cost": cost}
        facts |= {"former_until": after.claim.lease_until, "external_id": storable(after.outcome.external_id)}
    moved = set(connection.execute(_begin_statement(), facts).scalars())
    if after is not None:
        if after.claim.message_id in moved:
            _charge(after, cost, now)
        else:
            log.warning("message_lease_lost", message_id=after.claim.message_id, fate=after.outcome.fate.value)
    return claim.message_id in moved


@cache
def _begin_statement() -> Any:
    """The statement of _note_and_begin(), made once: it takes longer to put together than to carry out. former: id of
    the message that was sent, 0 where there is none.
    """
    _check_move(MessageStatus.TAKEN, MessageStatus.SENDING)
    _check_move(MessageStatus.SENDING, MessageStatus.SENT)
    table: Any = Message.__table__
    columns = table.c

    def given(name: str, like: str) -> Any:
        return bindparam(name, type_=columns[like].type)

    former = given("former", "id")
    now = given("now", "sent_at")
    this = and_(
        columns.id == given("this", "id"),
        columns.status == MessageStatus.TAKEN,
        columns.lease_until == given("taken_until", "lease_until"),
        columns.lease_until > now,
        *_is_needed(given("codes_since", "created_at")),
    )
    is_former = columns.id == former
    was_sent = and_(
        is_former,
        columns.status == MessageStatus.SENDING,
        columns.attempts == bindparam("former_attempt"),
        columns.lease_until == given("former_until", "lease_until"),
    )
    # As _noted() says of a message that was sent, and what begins the other one.
    noted: dict[str, Any] = {
        "status": (
            literal(MessageStatus.SENT, columns.status.type),
            literal(MessageStatus.SENDING, columns.status.type),
        ),
        "lease_until": (null(), given("until", "lease_until")),
        "attempts": (columns.attempts, columns.attempts + 1),
        "error": ("", columns.error),
        "secret": (null(), columns.secret),
        "sent_at": (given("sent_at", "sent_at"), columns.sent_at),
        "external_id": (given("external_id", "external_id"), columns.external_id),
        "cost": (given("cost", "cost"), columns.cost),
    }
    values = {name: case((is_former, of_former), else_=of_this) for name, (of_former, of_this) in noted.items()}
    which = and_(columns.id.in_([given("this", "id"), former]), or_(this, was_sent))
    return update(table).where(which).values(values).returning(columns.id)


def _is_needed(codes_since: Any) -> tuple[Any, ...]:
    """What a letter of a mailing still asks for, and one with a code is still good for. By hand it is sent all the
    same, but whoever has forbidden such messages meanwhile, or switched off the way, gets none. codes_since: the
    moment since which codes are good.
    """
    gone = or_(Bill.status.in_([BillStatus.PAID, BillStatus.ARCHIVED]), Bill.link_revoked_at.is_not(None))
    further = message_bill.c
    is_gone = or_(
        exists().where(Bill.id == Message.bill_id, gone),
        exists().where(further.message_id == Message.id, Bill.id == further.bill_id, gone),
    )
    is_good = and_(Message.secret.is_not(None), Message.created_at > codes_since)
    is_forbidden = exists().where(
        MessageChoice.client_id == Message.client_id, MessageChoice.kind == Message.kind, ~MessageChoice.is_allowed
    )
    owes = exists().where(Account.client_id == Message.client_id, Account.branch_id == Message.branch_id, in_debt())
    return (
        ~is_forbidden,
        or_(Message.kind == MessageKind.SERVICE, ~_is_switched_off()),
        or_(Message.run_id.is_(None), ~is_gone),
        or_(Message.run_id.is_(None), Message.kind != MessageKind.DEBT, owes),
        or_(~Message.dedupe_key.startswith(CODE_KEY, autoescape=True), is_good),
        or_(~Message.dedupe_key.startswith(PASSWORD_KEY, autoescape=True), Message.secret.is_not(None)),
    )


def _is_switched_off() -> Any:
    """The client has switched off what the message goes to. At his payer's address a child is written to all the same;
    of an address letters came back from it is that one alone.
    """
    own = or_(
        Message.channel.in_([Channel.PUSH, Channel.CABINET]),
        Message.recipient.in_([Client.email, Client.phone, Client.extra_phone]),
    )
    return exists().where(
        Contact.client_id == Message.client_id,
        Contact.channel == Message.channel,
        ~Contact.is_on,
        Client.id == Message.client_id,
        or_(Contact.address == Message.recipient, and_(Contact.address == "", own)),
    )


def _skip_idle(claim: Claim) -> None:
    """Note why a message that was not begun is not needed; one in another worker's hands is left alone. The caller
    commits.
    """
    message = db.session.get_one(Message, claim.message_id, populate_existing=True)
    gone = ""
    if reason := _idle_reason(message) or (gone := _gone_reason(message)):
        values = {"lease_until": None, "error": reason, "secret": None}
        is_mine = Message.lease_until == claim.lease_until
        if move_message(message.id, MessageStatus.TAKEN, MessageStatus.SKIPPED, is_mine, **values) and gone:
            for hook in AFTER_SKIP:
                hook(message)


def _idle_reason(message: Message) -> str:
    """_is_needed() in words, but for the bills; empty for one that is."""
    if message.dedupe_key.startswith(CODE_KEY) and (
        message.secret is None or clock.now() >= message.created_at + CODE_LIVES
    ):
        return _("The code is not good any more: the payer asks for a new one.")
    if message.dedupe_key.startswith(PASSWORD_KEY) and message.secret is None:
        return _("The password is not kept once it has left: send a new one.")
    if refusal := refusals([message.client], message.kind).get(message.client_id):
        return f"{refusal[:1].upper()}{refusal[1:]}."
    is_off = select(Message.id).where(Message.id == message.id, _is_switched_off())
    if message.kind is not MessageKind.SERVICE and db.session.scalar(is_off) is not None:
        return f"{ContactWay(message.channel, message.recipient, False).refusal}."
    if message.run_id is not None and message.kind is MessageKind.DEBT and not _owes(message):
        return _("There is nothing to write about any more.")
    return ""


def _gone_reason(message: Message) -> str:
    """Which of the bills a message of a mailing tells of is not to be paid any more, the first of them; empty when
    all of them are.
    """
    if message.run_id is None:
        return ""
    return next((reason for bill in bills_told(message) if (reason := why_gone(bill))), "")


def why_gone(bill: Bill) -> str:
    """Why a mailing does not ask for a bill any more; empty when it does."""
    if bill.status is BillStatus.PAID:
        return _("Bill %(number)s has been paid meanwhile.", number=bill.title)
    if bill.status is BillStatus.ARCHIVED or bill.link_revoked_at is not None:
        return _("Bill %(number)s cannot be paid any more.", number=bill.title)
    return ""


def _owes(message: Message) -> bool:
    owed = (Account.client_id == message.client_id, Account.branch_id == message.branch_id, in_debt())
    return db.session.scalar(select(Account.id).where(*owed).limit(1)) is not None


# --- noting ----------------------------------------------------------------------------------------------------------


def settle_message(claim: Claim, outcome: Outcome) -> None:
    """Note what became of a message that was being sent. Commits by itself."""
    with transaction():
        _settle(Done(claim, outcome), clock.now())


def _settle(done: Done, now: datetime) -> None:
    claim, outcome = done.claim, done.outcome
    status: MessageStatus
    if outcome.fate is Fate.SENT:
        status = MessageStatus.SENT
    elif outcome.fate is Fate.UNKNOWN:
        status = MessageStatus.UNKNOWN
    elif outcome.fate is Fate.REFUSED or claim.attempt >= MAX_ATTEMPTS:
        status = MessageStatus.FAILED
    else:
        status = MessageStatus.PENDING
    values = _noted(done, status, now)
    is_mine = and_(Message.attempts == claim.attempt, Message.lease_until == claim.lease_until)
    if not move_message(claim.message_id, MessageStatus.SENDING, status, is_mine, **values):
        # The lease ran out: the sweep has called it unknown, and so it stays.
        log.warning("message_lease_lost", message_id=claim.message_id, fate=outcome.fate.value)
        return
    if status is MessageStatus.SENT:
        _charge(done, cost_of(done), now)
        return
    log.warning("message_not_sent", message_id=claim.message_id, status=status.value, reason=outcome.reason)
    if status is MessageStatus.FAILED:
        message = db.session.get_one(Message, claim.message_id, populate_existing=True)
        _follow_failure(message, is_gone=outcome.is_gone)


def fail_later(message: Message, error: str, *, is_gone: bool = False, goes_on: bool = True) -> bool:
    """Note what a provider tells of a message that has left, or may have: it was not delivered after all. is_gone: the
    recipient cannot be reached there at all. goes_on: it is told over the next way, where that is not too late. False
    where it is of no such message. The caller commits.
    """
    if message.status not in {MessageStatus.SENT, MessageStatus.UNKNOWN}:
        return False
    if not move_message(message.id, message.status, MessageStatus.FAILED, error=storable(error)[:500]):
        return False
    db.session.refresh(message)
    log.warning("message_bounced", message_id=message.id, reason=error)
    turn = message.next_try_at  # of one whose fate was unknown, when it was handed over
    left_at = max(turn, message.sent_at or turn)
    _follow_failure(message, is_gone=is_gone, goes_on=goes_on and clock.now() - left_at < NEXT_WAY_WITHIN)
    return True


def _follow_failure(message: Message, *, is_gone: bool, goes_on: bool = True) -> None:
    """What follows a message that definitely was not sent. The caller commits."""
    if is_gone and message.channel is Channel.EMAIL:
        for client in (message.client, message.client.payer):  # a child is written to at his payer's
            if client is not None:
                note_returned(client, message.recipient)
    if goes_on:
        for hook in AFTER_FAILURE:
            hook(message)


def _noted(done: Done, status: MessageStatus, now: datetime) -> dict[str, Any]:
    """The columns of a message that was handed over, beside its status."""
    outcome = done.outcome
    values: dict[str, Any] = {"lease_until": None, "error": storable(outcome.reason)[:500], "secret": None}
    if status is MessageStatus.SENT:
        values |= {"sent_at": now, "external_id": storable(outcome.external_id), "cost": cost_of(done)}
    elif status is MessageStatus.PENDING:
        values["next_try_at"] = now + max(wait_after(done.claim.attempt), timedelta(seconds=outcome.retry_after))
        del values["secret"]  # it goes out again
    elif status is MessageStatus.UNKNOWN:
        values |= {"external_id": storable(outcome.external_id), "next_try_at": done.claim.lease_until - LEASE}
    return values


def cost_of(done: Done) -> Decimal | None:
    """What the provider has told, or its price; None where it is free, as e-mail is."""
    claim = done.claim
    if claim.channel is Channel.EMAIL:
        return None
    if done.outcome.cost is not None:
        return done.outcome.cost or None
    if not claim.price:
        return None
    return claim.price * (sms_length(claim.letter.text).parts if claim.channel is Channel.SMS else 1)


def _charge(done: Done, cost: Decimal | None, now: datetime) -> None:
    """A row of what the company pays for the message; one sent again by a person has its first row raised."""
    if cost is None:
        return
    again = db.session.execute(
        update(MessageCharge)
        .where(MessageCharge.message_id == done.claim.message_id)
        .values(amount=MessageCharge.amount + cost, at=now)
        .execution_options(synchronize_session=False)
    )
    if not again.rowcount:  # type: ignore[attr-defined]
        charge = MessageCharge(company_id=done.claim.lane[0], message_id=done.claim.message_id, amount=cost, at=now)
        db.session.add(charge)
        db.session.flush()


def wait_after(attempt: int) -> timedelta:
    """How long to wait after the given attempt, counted from 1."""
    return min(timedelta(minutes=2 ** min(attempt - 1, 10)), LONGEST_WAIT)


def give_up_lost_claims(*, now: datetime) -> int:
    """What dead workers had in their hands: messages being sent become "unknown", for a person to decide, and those
    only taken are queued again. How many became unknown. The caller commits.
    """
    is_over = Message.lease_until < now
    db.session.execute(
        update(Message)
        .where(Message.status == MessageStatus.TAKEN, is_over)
        .values(status=MessageStatus.PENDING, lease_until=None)
        .execution_options(synchronize_session=False)
    )
    reason = _("The sending was interrupted; the letter may have left.")
    lost = select(Message.id, Message.channel, Message.dedupe_key, Message.lease_until).where(
        Message.status == MessageStatus.SENDING, is_over
    )
    unknown = 0
    for message_id, channel, key, lease_until in db.session.execute(lost.order_by(Message.id)).all():
        assert lease_until is not None
        values = {"lease_until": None, "error": reason, "secret": None, "next_try_at": lease_until - LEASE}
        if channel is Channel.EMAIL:
            values["external_id"] = letter_id(key)  # it may yet come back
        unknown += move_message(message_id, MessageStatus.SENDING, MessageStatus.UNKNOWN, is_over, **values)
    return unknown


# --- a batch ---------------------------------------------------------------------------------------------------------


def deliver_batch(*, limit: int = BATCH) -> Delivered:
    """Send up to `limit` due messages, oldest first, for BATCH_SECONDS and what is in hand then. Commits by itself,
    message by message; no transaction is open while a server is spoken to. When a server cannot be reached, or its
    limit a minute is reached, the rest of its lane keeps its turn until the sweep rings again; the others go on.
    Messages of a lane nothing provides for stay where they are, with the reason beside them.
    """
    batch = _Batch()
    left, until = limit, monotonic() + BATCH_SECONDS
    try:
        while left > 0 and monotonic() < until:
            claims = take_messages(limit=min(left, HANDFUL), without=batch.shut)
            if not claims:
                break
            left -= batch.send(claims)
        else:
            with transaction():
                batch.delivered.is_more = db.session.scalar(_due(clock.now(), batch.shut).limit(1)) is not None
    finally:
        batch.close()
    return batch.delivered


class _Batch:
    """One round of a worker: the senders it has opened, and the lanes that send no more in it."""

    def __init__(self) -> None:
        self.delivered = Delivered()
        self.shut = set[Lane]()
        self._senders: dict[Lane, Sender] = {}
        # Companies without a provider of their own share a connection.
        self._shared: dict[Channel, Sender] = {}

    def close(self) -> None:
        for sender in {id(one): one for one in self._senders.values()}.values():
            sender.close()

    def send(self, claims: list[Claim]) -> int:
        """Send what was taken; how many were tried or found idle. What the claims end for meanwhile, the server being
        slow, is put back for whoever comes first.
        """
        done: Done | None = None
        waiting = list(claims)
        tried = 0
        while waiting:
            if clock.now() >= waiting[0].lease_until:
                with transaction():
                    put_back(waiting)
                break
            claim = waiting.pop(0)
            sender = self._sender(claim.lane)
            if sender is None:
                back = [claim, *(one for one in waiting if one.lane == claim.lane)]
                waiting = [one for one in waiting if one.lane != claim.lane]
                with transaction():
                    put_back(back)
                continue
            begun = begin_sending(claim, after=done)
            done = None
            if begun.is_full:
                waiting = self._shut(claim.lane, waiting)
            tried += 1
            if begun.claim is None:
                continue
            outcome = _refused(begun.claim) or sender.send(begun.claim.letter)
            self.delivered.fates[outcome.fate] += 1
            done = Done(begun.claim, outcome)
            if outcome.fate is Fate.UNREACHABLE:
                waiting = self._shut(claim.lane, waiting)
        if done is not None:
            settle_message(done.claim, done.outcome)
        return tried

    def _shut(self, lane: Lane, waiting: list[Claim]) -> list[Claim]:
        """Send no more of a lane, and of those that share its server; what is left to be sent."""
        sender = self._senders[lane]
        self.shut |= {other for other, its in self._senders.items() if its is sender}
        with transaction():
            put_back(claim for claim in waiting if claim.lane in self.shut)
        return [claim for claim in waiting if claim.lane not in self.shut]

    def _sender(self, lane: Lane) -> Sender | None:
        """What sends the messages of a lane; nobody is spoken to yet. None: nothing does, which is noted."""
        if lane not in self._senders:
            try:
                self._senders[lane] = self._open(lane)
            except ChannelNotSet as lack:
                self.shut.add(lane)
                with transaction():
                    _note_waiting(lane, str(lack))
                return None
        return self._senders[lane]

    def _open(self, lane: Lane) -> Sender:
        company_id, channel = lane
        with transaction():
            own = select(Provider).where(Provider.company_id == company_id, Provider.channel == channel)
            provider = db.session.scalar(own.where(Provider.is_active))
            if provider is not None:
                return BY_PROVIDER[provider.kind](provider)
        if channel not in self._shared:
            if channel not in SENDERS:
                raise ChannelNotSet(_("No provider of this channel is set for the company."))
            self._shared[channel] = SENDERS[channel]()
        return self._shared[channel]


def _refused(claim: Claim) -> Outcome | None:
    """What need not be tried."""
    if claim.channel is Channel.SMS and is_landline(claim.letter.recipient):
        return Outcome(Fate.REFUSED, landline_text())
    return None


def landline_text() -> str:
    """Why no SMS is sent there. It does not name the number: not everybody sees phones."""
    return _("By its number this phone is a landline: SMS do not reach it.")


def _note_waiting(lane: Lane, reason: str) -> None:
    """Say beside the due messages of a lane why they do not leave. They lose no try and stay due."""
    company_id, channel = lane
    is_due = or_(
        Message.status == MessageStatus.TAKEN,
        and_(Message.status == MessageStatus.PENDING, Message.next_try_at <= clock.now()),
    )
    noted = db.session.execute(
        update(Message)
        .where(
            Message.channel == channel,
            Message.branch_id.in_(select(Branch.id).where(Branch.company_id == company_id)),
            is_due,
            Message.error != reason,
        )
        .values(error=reason)
        .execution_options(synchronize_session=False)
    )
    if noted.rowcount:  # type: ignore[attr-defined]
        log.warning("channel_not_set", company_id=company_id, channel=channel.value, reason=reason)


# --- what sends ------------------------------------------------------------------------------------------------------


def _email() -> Sender:
    settings = current_app.config["SETTINGS"]
    if settings.smtp_url is None:
        raise ChannelNotSet(_("SMTP_URL is not set"))
    return EmailSender(settings.smtp_url, settings.bounce_address)


def _sms() -> Sender:
    settings = current_app.config["SETTINGS"]
    if settings.sms is not None:
        return SmsSender(settings.sms)
    if settings.is_demo:
        return DemoSmsSender(folder_of(settings))
    raise ChannelNotSet(_("SMS_URL is not set"))


# By the settings of the installation.
SENDERS: dict[Channel, Callable[[], Sender]] = {Channel.EMAIL: _email, Channel.SMS: _sms}


def _sms_of(provider: Provider) -> Sender:
    told = {name: str(provider.options[name]) for name in ("body", "ok", "id") if provider.options.get(name)}
    is_smsru = provider.kind is ProviderKind.SMSRU
    url = provider.url or (SMSRU_URL if is_smsru else "")
    if not url:
        raise ChannelNotSet(_("The address of the SMS gateway is not set."))
    if not provider.secret:  # kept under another SECRET_KEY
        raise ChannelNotSet(
            _("%(channel)s: the key of the provider has to be entered anew.", channel=provider.channel.label)
        )
    facts = {"body": SMS_BODY, **told}
    return SmsSender(SmsSettings(provider.kind.value, url, provider.secret, sender=provider.sender, **facts))


# By the provider of a company.
BY_PROVIDER: dict[ProviderKind, Callable[[Provider], Sender]] = {
    ProviderKind.HTTP: _sms_of,
    ProviderKind.SMSRU: _sms_of,
}
