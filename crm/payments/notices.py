"""Notices of payment gateways: stored first, answered at once, acted upon after.

A notice is only a nudge: what is true is asked of the gateway itself (outcomes.py).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import structlog
from flask_babel import gettext as _
from sqlalchemy import and_, bindparam, case, delete, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from crm import clock
from crm.access.actors import Actor, require
from crm.bell import ring
from crm.db import db, end_reading, statement_engine, transaction
from crm.errors import Conflict, DomainError, NotFound, report_exception
from crm.payments.gateways import TYPES, open_gateway
from crm.payments.gateways.base import Gateway, GatewayError, GatewayRefused, Notice, NoticeRefused
from crm.payments.models import GatewayKind, GatewayNotice, NoticeStatus, Payment, PaymentEvent, Shop
from crm.payments.outcomes import (
    Answer,
    apply_remote,
    credit_plain,
    payment_at,
    payment_by_reference,
    payments_at,
    shop_id_of,
)
from crm.payments.shops import gateway_of, open_shop

# The task that reads what is stored (jobs/tasks.py).
READ_NOTICES = "payments.notices"

# Longer than a gateway may take to answer.
LEASE = timedelta(minutes=2)
# Pauses after a try that failed; with the last of them it is given up and shown.
PAUSES = tuple(timedelta(minutes=minutes) for minutes in (0.25, 1, 5, 15, 60, 3 * 60, 6 * 60, 12 * 60, 24 * 60))
BATCH = 50
# Seconds for which answers of gateways are gathered before they are acted upon together.
ASKING = 1.0
# A notice that comes again so much later may mean something new by the same words: it is read once more.
ANEW_AFTER = timedelta(hours=1)
# Bytes kept of a notice that proves nothing of its sender; a real one is a tenth of that.
UNSIGNED_KEPT = 16 * 2**10
KEPT = timedelta(days=180)
STRANGERS_KEPT = timedelta(days=30)

log = structlog.get_logger()


# --- taking ---------------------------------------------------------------------------------------------------------


def take_notice(name: str, headers: Mapping[str, str], body: bytes) -> None:
    """Store what came to the webhook of the gateways called `name`, in one statement, and ring for who reads it.

    headers: by lower-case names. Commits by itself. Raises LookupError when there is no such gateway here,
    NoticeRefused when it is not the gateway's or cannot be read.
    """
    said = TYPES[name].read_notice(headers, body)
    for text in (said.external_id, said.shop_id):
        if len(text) > 100 or not (text.isascii() and text.isprintable()):
            raise NoticeRefused("the payment's or the shop's id cannot be one")
    _check_signature(name, said, headers, body)
    now = clock.now()
    kept = body if TYPES[name].is_signed else body[:UNSIGNED_KEPT]  # whoever sends it
    values = {
        "gateway": name,
        "external_id": said.external_id,
        "event": "".join(filter(str.isprintable, said.event.encode("ascii", "replace").decode()))[:60],
        "body": _written(kept),
        "digest": hashlib.sha256(name.encode() + b"\x00" + body).hexdigest(),
        "status": NoticeStatus.NEW,
        "received_at": now,
        "repeats": 0,
        "attempts": 0,
        "next_try_at": now,
        "result": "",
    }
    end_reading()
    values |= {"anew_before": now - ANEW_AFTER, "now": now}
    with statement_engine().begin() as connection:
        status = connection.execute(_store(connection.dialect.name), values).scalar_one()
    if status is NoticeStatus.NEW:
        with transaction():
            ring(READ_NOTICES)


def _written(body: bytes) -> str:
    """The body as text, no longer in UTF-8 than it came."""
    text = body.decode(errors="replace").replace("\x00", "\ufffd")
    return text.encode()[: len(body)].decode(errors="ignore")


@cache
def _store(dialect: str) -> Any:
    """INSERT, or one more repeat of the same notice; the status it has then."""
    table: Any = GatewayNotice.__table__
    columns = table.c
    insert_ = postgresql.insert if dialect == "postgresql" else sqlite.insert
    is_anew = and_(
        columns.received_at < bindparam("anew_before", type_=columns.received_at.type),
        columns.status.not_in([NoticeStatus.NEW, NoticeStatus.WORKING]),
    )
    now = bindparam("now", type_=columns.next_try_at.type)
    own = ("gateway", "external_id", "event", "body", "digest", "status", "received_at", "repeats", "attempts")
    values = {name: bindparam(name, type_=columns[name].type) for name in (*own, "next_try_at", "result")}
    return (
        insert_(table)
        .values(values)
        .on_conflict_do_update(
            index_elements=["digest"],
            set_={
                "repeats": columns.repeats + 1,
                "status": case((is_anew, NoticeStatus.NEW), else_=columns.status),
                "next_try_at": case((is_anew, now), else_=columns.next_try_at),
                "attempts": case((is_anew, 0), else_=columns.attempts),
            },
        )
        .returning(columns.status)
    )


def _check_signature(name: str, said: Notice, headers: Mapping[str, str], body: bytes) -> None:
    """By the keys of the shop it names; a service that names none does not sign, and is asked what is true."""
    if not said.shop_id:
        try:
            gateway = open_gateway(name)
        except LookupError:
            if not _shops(name):
                raise
            return
        gateway.check_notice(headers, body)
        return
    shops = _shops(name, said.shop_id)
    if not shops:
        raise NoticeRefused(f"no shop {said.shop_id!r}")
    refused: NoticeRefused | None = None
    for shop in shops:  # the same shop entered twice has other keys now
        try:
            return open_shop(shop).check_notice(headers, body)
        except NoticeRefused as error:
            refused = error
    assert refused is not None
    raise refused


def _shops(name: str, shop_id: str | None = None) -> list[Shop]:
    kind = next((kind for kind in GatewayKind if kind.value == name), None)
    if kind is None:
        return []
    query = select(Shop).where(Shop.gateway == kind, *([Shop.shop_id == shop_id] if shop_id is not None else []))
    return list(db.session.scalars(query.order_by(Shop.is_active.desc(), Shop.id.desc()).limit(20)))


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A notice in this worker's hands. attempt: the proof, since every claim raises it."""

    id: int
    gateway: str
    external_id: str
    body: str
    attempt: int


def _is_due(now: datetime) -> Any:
    return or_(
        and_(GatewayNotice.status == NoticeStatus.NEW, GatewayNotice.next_try_at <= now),
        and_(GatewayNotice.status == NoticeStatus.WORKING, GatewayNotice.lease_until < now),
    )


def claim_notices(*, limit: int = BATCH) -> list[Claim]:
    """Take the notices that are due until the lease ends: first those of payments whose number we know, so that nobody
    holds them back with made-up ones; oldest first. Commits by itself.
    """
    now = clock.now()
    is_known = exists().where(
        Payment.gateway == GatewayNotice.gateway, Payment.external_id == GatewayNotice.external_id
    )
    due = select(GatewayNotice.id).where(_is_due(now)).order_by(GatewayNotice.next_try_at, GatewayNotice.id)
    due = due.with_for_update(skip_locked=True, of=GatewayNotice)
    with transaction():
        # Not as a subquery of the UPDATE: PostgreSQL may run that anew for every row, and takes more than the limit.
        ids = list(db.session.scalars(due.where(is_known).limit(limit)))
        if len(ids) < limit:
            ids += db.session.scalars(due.where(~is_known).limit(limit - len(ids)))
        rows = db.session.execute(
            update(GatewayNotice)
            .where(GatewayNotice.id.in_(ids), _is_due(now))
            .values(status=NoticeStatus.WORKING, lease_until=now + LEASE, attempts=GatewayNotice.attempts + 1)
            .returning(
                *(GatewayNotice.id, GatewayNotice.gateway, GatewayNotice.external_id),
                *(GatewayNotice.body, GatewayNotice.attempts),
            )
            .execution_options(synchronize_session=False)
        ).all()
    return sorted((Claim(*row) for row in rows), key=lambda claim: claim.id)


def read_notices(*, limit: int = BATCH) -> bool:
    """Act upon the notices that are due; True when there may be more. Commits by itself, several notices at once."""
    claims = claim_notices(limit=limit)
    for some in _asked(claims):
        _act(some)
    return len(claims) == limit


def read_notice(claim: Claim) -> None:
    """Ask the gateway what is true, act on that and note the result: the last two in one transaction.

    A gateway that does not answer, and a fault of ours, are tried again, less and less often.
    """
    with _retried(claim):
        if (answer := _ask(claim, _gateway_for(claim))) is not None:
            _act_upon(claim, answer)


@contextmanager
def _retried(claim: Claim) -> Iterator[None]:
    """Whatever goes wrong with one notice is noted with it, and does not take the others' turn."""
    try:
        yield
    except GatewayRefused as refused:
        _settle(claim, NoticeStatus.FAILED, str(refused))
    except GatewayError as silent:
        _again(claim, str(silent))
    except (DomainError, LookupError) as error:
        _again(claim, str(error))
    except Exception as error:
        db.session.rollback()
        _again(claim, _("An error of ours, id %(id)s.", id=report_exception(error)))


def _asked(claims: Sequence[Claim]) -> Iterator[list[tuple[Claim, Answer]]]:
    """The claims with what the gateways say, as many at a time as were answered within ASKING: a credit does not wait
    for the slow answer about another.
    """
    gateways = _known_gateways(claims)
    answered: list[tuple[Claim, Answer]] = []
    since = time.monotonic()
    for claim in claims:
        with _retried(claim):
            gateway = gateways.get((claim.gateway, claim.external_id)) or _gateway_for(claim)
            if (answer := _ask(claim, gateway)) is not None:
                answered.append((claim, answer))
        if answered and time.monotonic() - since > ASKING:
            yield answered
            answered, since = [], time.monotonic()
    if answered:
        yield answered


def _known_gateways(claims: Sequence[Claim]) -> dict[tuple[str, str], Gateway]:
    """Whom to ask about payments whose number we know, found in one statement for each service; one for each shop."""
    found: dict[tuple[str, str], Gateway] = {}
    of_shops: dict[tuple[str, int | None], Gateway] = {}
    for name in {claim.gateway for claim in claims}:
        for payment in payments_at(name, [claim.external_id for claim in claims if claim.gateway == name]):
            place = (name, payment.shop_id)
            with suppress(LookupError, GatewayError):  # _gateway_for() says of each claim what is wrong
                of_shops[place] = gateway = of_shops.get(place) or gateway_of(payment)
                found[name, payment.external_id or ""] = gateway
    return found


def _ask(claim: Claim, gateway: Gateway | None) -> Answer | None:
    """What is true; None, and noted so, when nobody can be asked."""
    if gateway is None:
        _settle(claim, NoticeStatus.UNKNOWN, _("No payment of ours is called so."))
        return None
    end_reading()
    return Answer(gateway, gateway.fetch(claim.external_id), claim.id)


def _act(answered: Sequence[tuple[Claim, Answer]]) -> None:
    """Payments of a service that came as they were waited for are credited together, in one transaction with their
    notices; all else is acted upon one by one. So is everything when the transaction fails: one of them must not stop
    the others.
    """
    done: set[int] = set()
    for name in dict.fromkeys(claim.gateway for claim, _answer in answered):
        some = [(claim, answer) for claim, answer in answered if claim.gateway == name]
        if len(some) < 2:
            continue
        try:
            done |= _credit_together(name, some)
        except Exception as error:
            db.session.rollback()
            log.warning("notices_one_by_one", count=len(some), reason=repr(error))
    for claim, answer in answered:
        if claim.id not in done:
            with _retried(claim):
                _act_upon(claim, answer)


def _credit_together(name: str, answered: Sequence[tuple[Claim, Answer]]) -> set[int]:
    """The ids of the notices that were acted upon; all of them of the service called so."""
    with transaction():
        credited = credit_plain(name, [answer for _claim, answer in answered])
        moves = [
            _Outcome(claim, *_outcome(credited[claim.id]), credited[claim.id].id)
            for claim, _answer in answered
            if claim.id in credited
        ]
        if not _move_all(moves):
            raise Conflict("taken_over", _("Another worker has taken this notice over."))
    return set(credited)


def _act_upon(claim: Claim, answer: Answer) -> None:
    try:
        with transaction():
            notice = db.session.scalar(select(GatewayNotice).where(GatewayNotice.id == claim.id))
            assert notice is not None
            payment = apply_remote(answer.gateway, answer.remote, notice=notice)
            status, text = _outcome(payment)
            if not _move(claim, status, text, payment_id=payment.id):
                raise Conflict("taken_over", _("Another worker has taken this notice over."))
    except NotFound:
        _settle(claim, NoticeStatus.UNKNOWN, _("No payment of ours is called so."))
    except Conflict as lost:
        if lost.code != "taken_over":
            raise


def _outcome(payment: Payment) -> tuple[NoticeStatus, str]:
    """What a notice that was acted upon is from now on, and what came of it."""
    if payment.attention is not None and payment.attention_closed_at is None:
        return NoticeStatus.HELD, str(payment.attention.label)
    return NoticeStatus.DONE, str(payment.status.label)


def _gateway_for(claim: Claim) -> Gateway | None:
    """Whom to ask: where the payment was begun. One whose id was never noted is found by what we called it, unless the
    notice names another shop.
    """
    payment = payment_at(claim.gateway, claim.external_id)
    if payment is None:
        try:
            said = TYPES[claim.gateway].read_notice({}, claim.body.encode())
        except (LookupError, NoticeRefused):
            return None
        payment = payment_by_reference(claim.gateway, said.reference)
        if payment is not None and said.shop_id not in {"", shop_id_of(payment)}:
            payment = None
        if payment is None and said.shop_id:
            return next(map(open_shop, _shops(claim.gateway, said.shop_id)), None)
    if payment is not None:
        return gateway_of(payment)
    try:
        return open_gateway(claim.gateway)
    except LookupError:
        return None


def _move(claim: Claim, status: NoticeStatus, result: str, **values: Any) -> bool:
    """Note what came of the notice, unless another worker has taken it over."""
    moved: Any = db.session.execute(
        update(GatewayNotice)
        .where(
            GatewayNotice.id == claim.id,
            GatewayNotice.status == NoticeStatus.WORKING,
            GatewayNotice.attempts == claim.attempt,
        )
        .values(status=status, result=result[:500], lease_until=None, **values)
        .execution_options(synchronize_session=False)
    )
    return bool(moved.rowcount == 1)


@dataclass(frozen=True)
class _Outcome:
    """What came of a claimed notice."""

    claim: Claim
    status: NoticeStatus
    result: str
    payment_id: int


def _move_all(outcomes: Sequence[_Outcome]) -> bool:
    """_move() of several; whether none of them was taken over."""
    if not outcomes:
        return True
    db.session.flush()
    rows = [
        {
            "at": outcome.claim.id,
            "attempt": outcome.claim.attempt,
            "to": outcome.status,
            "said": outcome.result[:500],
            "payment": outcome.payment_id,
        }
        for outcome in outcomes
    ]
    return bool(db.session.connection().execute(_MOVE_ALL, rows).rowcount == len(rows))


_NOTICE: Any = GatewayNotice.__table__
_MOVE_ALL = (
    update(_NOTICE)
    .where(
        _NOTICE.c.id == bindparam("at"),
        _NOTICE.c.status == NoticeStatus.WORKING,
        _NOTICE.c.attempts == bindparam("attempt"),
    )
    .values(
        status=bindparam("to", type_=_NOTICE.c.status.type),
        result=bindparam("said", type_=_NOTICE.c.result.type),
        payment_id=bindparam("payment", type_=_NOTICE.c.payment_id.type),
        lease_until=None,
    )
)


def _settle(claim: Claim, status: NoticeStatus, result: str) -> None:
    with transaction():
        _move(claim, status, result)


def _again(claim: Claim, reason: str) -> None:
    log.warning("notice_not_read", notice=claim.id, gateway=claim.gateway, attempt=claim.attempt, reason=reason)
    if claim.attempt > len(PAUSES):
        _settle(claim, NoticeStatus.FAILED, reason)
        return
    with transaction():
        _move(claim, NoticeStatus.NEW, reason, next_try_at=clock.now() + PAUSES[claim.attempt - 1])


# --- what the clock and staff do ------------------------------------------------------------------------------------


def ring_for_notices(*, now: datetime) -> None:
    """What the bell missed, and what is to be tried again. Inside a transaction()."""
    if db.session.scalar(select(GatewayNotice.id).where(_is_due(now)).limit(1)) is not None:
        ring(READ_NOTICES)


def read_again(notice: GatewayNotice, *, by: Actor) -> None:
    """Have a notice read once more that could not be acted upon. The caller commits."""
    require(by, "notice.again")
    moved: Any = db.session.execute(
        update(GatewayNotice)
        .where(GatewayNotice.id == notice.id, GatewayNotice.status.in_(READABLE_AGAIN))
        .values(status=NoticeStatus.NEW, attempts=0, next_try_at=clock.now())
        .execution_options(synchronize_session=False)
    )
    db.session.refresh(notice)
    if moved.rowcount != 1:
        raise Conflict("transition", _("This notice is being read or has been acted upon."))
    ring(READ_NOTICES)


READABLE_AGAIN = (NoticeStatus.FAILED, NoticeStatus.UNKNOWN)


def forget_notices(*, now: datetime) -> None:
    """Drop what is of no use any more: what was acted upon half a year ago, strangers' after a month. No payment's
    history loses a line by it. The caller commits.
    """
    old = or_(
        and_(
            GatewayNotice.received_at < now - KEPT, GatewayNotice.status.in_([NoticeStatus.DONE, NoticeStatus.IGNORED])
        ),
        and_(GatewayNotice.received_at < now - STRANGERS_KEPT, GatewayNotice.status == NoticeStatus.UNKNOWN),
    )
    ids = list(db.session.scalars(select(GatewayNotice.id).where(old).order_by(GatewayNotice.id).limit(10_000)))
    if not ids:
        return
    quietly = {"synchronize_session": False}
    db.session.execute(
        update(PaymentEvent).where(PaymentEvent.notice_id.in_(ids)).values(notice_id=None).execution_options(**quietly)
    )
    db.session.execute(delete(GatewayNotice).where(GatewayNotice.id.in_(ids)).execution_options(**quietly))
