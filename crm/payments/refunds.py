"""Money of an online payment given back through its gateway: the whole or a part, never twice.

The money leaves the client's account in the transaction that notes the refund, before the bank is asked; it comes back
when the bank refuses. The bank is asked after that transaction, with the refund's id as its key: whoever asks again,
after a time-out or a killed process, asks for the same refund.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from flask_babel import gettext as _
from sqlalchemy import and_, case, func, literal, or_, select, update

from crm import clock
from crm.access.actors import Actor, System, require
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.operations import transition
from crm.db import UtcDateTime, after_commit, db, end_reading, transaction
from crm.errors import Conflict, DomainError, report_exception
from crm.i18n import money
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import Cause, Line, base_account, check_amount, lock_funds, post, reverse
from crm.payments.crediting import account_to_credit, flag, hold_destinations, note
from crm.payments.gateways.base import Gateway, GatewayError, GatewayRefused, RemoteRefund, RemoteStatus
from crm.payments.models import (
    PAYMENT_MOVES,
    REFUND_MOVES,
    Attention,
    Payment,
    PaymentEventKind,
    PaymentMethod,
    PaymentStatus,
    Refund,
    RefundStatus,
)
from crm.payments.outcomes import asked_back, customer_of, lock_order
from crm.payments.shops import gateway_of
from crm.tills.operations import hold_till

# (age of the refund up to which, pause between two questions); older ones once in LONGEST_PAUSE.
PAUSES = ((timedelta(hours=1), timedelta(minutes=1)), (timedelta(days=7), timedelta(hours=1)))
LONGEST_PAUSE = timedelta(days=1)
# A bank remembers a key for a day. Later it is not asked for the refund again before it has said what it gave back.
KEY_LIVES = timedelta(hours=20)

log = structlog.get_logger()


# --- asking ---------------------------------------------------------------------------------------------------------


def refund_payment(payment: Payment, amount: Decimal, reason: str, *, by: Actor) -> Refund:
    """Give `amount` of an online payment back to the payer through its gateway. The caller commits; then the bank is
    asked, and what it says is noted.

    Raises DomainError beside `amount` ("amount_too_big": more than is left of the payment; "not_enough": the money is
    not on the account any more) or `reason`; "not_refundable".
    """
    require(by, "payment.refund", payment)
    amount, reason = check_amount(amount), _reason(reason)
    payment = _lock(payment)
    _check_refundable(payment)
    left = left_of(payment)
    if amount > left:
        text = _("No more than %(sum)s is left of this payment.", sum=money(left, _currency(payment)))
        raise DomainError("amount_too_big", text, "amount")
    refund = _add(payment, amount, reason, by=by)
    refund.transaction_id = _take_off(refund, by=by).id
    db.session.flush()
    note(payment, PaymentEventKind.REFUND, _line(refund), by=by)
    after_commit(lambda: _ask_quietly(refund.id))
    return refund


def refund_reported(payment: Payment, reason: str, *, by: Actor) -> Refund:
    """Give back what came in another sum or currency than was asked for, all of it: none of it was credited. The caller
    commits; then the bank is asked.
    """
    require(by, "payment.resolve", payment)
    reason = _reason(reason)
    payments = lock_order(leader_of(payment))
    leader = payments[0]
    check_something_came(leader)
    if not is_held(leader) or asked_back(payments):
        raise Conflict("transition", _("This has been settled already."))
    assert leader.reported_amount is not None
    refund = _add(leader, leader.reported_amount, reason, by=by)
    db.session.flush()
    note(leader, PaymentEventKind.REFUND, _line(refund), by=by)
    after_commit(lambda: _ask_quietly(refund.id))
    return refund


def note_refund_elsewhere(payment: Payment, *, by: Actor, amount: Decimal | None = None) -> Refund:
    """What the bank gave back without us leaves the client's account here as well. The caller commits.

    amount: what is to leave it, in the branch's currency, where the bank reports another; only and always then.
    Raises DomainError beside `amount`; "not_enough" when the money is not there any more.
    """
    require(by, "payment.refund", payment)
    payments = lock_order(leader_of(payment))
    leader = payments[0]
    if leader.attention is not Attention.REFUNDED_ELSEWHERE or leader.attention_closed_at is not None:
        raise Conflict("transition", _("This has been settled already."))
    currency = _currency(leader)
    if leader.reported_currency in {None, currency}:
        missing = (leader.reported_amount or Decimal(0)) - asked_back(payments)
    elif amount is None:
        text = _("Enter what it is worth in %(currency)s.", currency=currency)
        raise DomainError("amount_required", text, "amount")
    else:
        missing, left = check_amount(amount), sum(map(left_of, payments), Decimal(0))
        if missing > left:
            text = _("No more than %(sum)s is left of this payment.", sum=money(left, currency))
            raise DomainError("amount_too_big", text, "amount")
    refund: Refund | None = None
    for each in payments:
        part = min(missing, left_of(each))
        if part <= 0:
            continue
        refund = _add(each, part, _("Refunded at the bank"), by=by)
        refund.transaction_id = _take_off(refund, by=by).id
        _succeed(refund, each, by=by)
        missing -= part
    if refund is None:
        raise DomainError("not_refundable", _("Nothing is left of this payment."))
    leader.attention_closed_at = clock.now()
    note(leader, PaymentEventKind.RESOLVED, by=by)
    return refund


def left_of(payment: Payment) -> Decimal:
    """What can still be given back of a payment."""
    return payment.amount - asked_back([payment]) if payment.status is PaymentStatus.SUCCEEDED else Decimal(0)


def kept_for_refund(payment: Payment) -> Decimal:
    """What is on the account a refund is taken off: below zero, what is owed. As _take_off() finds it."""
    account = payment.account
    if not account.is_closed:
        return account.balance
    balance = db.session.scalar(
        select(Account.balance).where(
            Account.client_id == account.client_id,
            Account.branch_id == account.branch_id,
            Account.kind == AccountKind.BASE,
            Account.closed_at.is_(None),
        )
    )
    return balance or Decimal(0)


def is_unasked(payment: Payment) -> bool:
    """Whether an online payment never got a number at the bank, which did not answer."""
    leader = leader_of(payment)
    is_being_asked = leader.asking_until is not None and leader.asking_until > clock.now()
    return payment.method is PaymentMethod.ONLINE and leader.external_id is None and not is_being_asked


def is_held(payment: Payment) -> bool:
    """Whether money came, was not credited, is still there and waits for a person to say what is done with it."""
    return (
        payment.status in {PaymentStatus.PENDING, PaymentStatus.CANCELED}
        and bool(payment.reported_amount)
        and payment.attention not in {None, Attention.REFUNDED_ELSEWHERE}
        and payment.attention_closed_at is None
    )


def check_something_came(payment: Payment) -> None:
    """Raise DomainError when the bank reports a sum of zero: there is nothing to credit or to give back."""
    if payment.reported_amount is not None and payment.reported_amount <= 0:
        raise DomainError("nothing_came", _("The bank reports a sum of zero: nothing has come."))


def leader_of(payment: Payment) -> Payment:
    """The first payment of the order: the one the bank knows."""
    return payment if payment.order_id is None else db.session.get_one(Payment, payment.order_id)


def refunds_of(payment: Payment) -> Sequence[Refund]:
    """The refunds of a payment, oldest first."""
    return db.session.scalars(select(Refund).where(Refund.payment_id == payment.id).order_by(Refund.id)).all()


def _lock(payment: Payment) -> Payment:
    return next(each for each in lock_order(leader_of(payment)) if each.id == payment.id)


def _check_refundable(payment: Payment) -> None:
    if payment.method is not PaymentMethod.ONLINE or payment.status is not PaymentStatus.SUCCEEDED:
        raise DomainError("not_refundable", _("Only money received online is given back through the bank."))
    if payment.reported_currency not in {None, _currency(payment)}:
        raise DomainError("not_refundable", _("It was paid in another currency: give it back at the bank."))


def _reason(text: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise DomainError("reason_required", _("Say why it is given back."), "reason")
    if len(text) > 250:
        raise DomainError("too_long", _("No more than %(count)s characters.", count=250), "reason")
    return text


def _currency(payment: Payment) -> str:
    return payment.branch.company.currency


def _add(payment: Payment, amount: Decimal, reason: str, *, by: Actor) -> Refund:
    now = clock.now()
    refund = Refund(
        branch_id=payment.branch_id,
        payment_id=payment.id,
        account_id=payment.account_id,
        amount=amount,
        reason=reason,
        created_at=now,
        next_poll_at=now + PAUSES[0][1],
        author_id=by.id,
        author_name=str(by.name),
    )
    db.session.add(refund)
    db.session.flush()
    return refund


def _take_off(refund: Refund, *, by: Actor) -> Transaction:
    """Off the client's account, out of the acquiring till. Off his base account where the one that was paid onto is
    closed: what was left on it has been moved.
    """
    payment = refund.payment
    source = hold_till(payment.method.till_kind, payment.branch_id, pays_out=refund.amount)
    hold_destinations([refund.account])
    refund.account = account_to_credit(refund.account)
    lock_funds(refund.account, refund.amount)
    return post(
        TransactionKind.REFUND,
        [Line(refund.account, -refund.amount), Line(source, refund.amount)],
        branch_id=refund.branch_id,
        by=by,
        key=f"refund:{refund.id}",
        cause=Cause(client_id=payment.client_id, payment_id=payment.id, bill_id=payment.bill_id),
        comment=refund.reason,
    )


def _line(refund: Refund) -> str:
    payment = refund.payment
    currency = payment.reported_currency if refund.transaction_id is None else None
    return f"{money(refund.amount, currency or _currency(payment))}: {refund.reason}"


# --- what the bank says ---------------------------------------------------------------------------------------------


def ask_refund(refund_id: int) -> None:
    """Ask the bank for a refund that is not finished, or what has become of it, and note that. Commits by itself.

    Safe to repeat and to run in parallel. Raises GatewayError when the bank does not answer, or not the question: the
    refund stays as it is. It fails only when the bank refuses to make it, and has not made it before: an answer to an
    earlier request may have been lost.
    """
    refund = db.session.get_one(Refund, refund_id, populate_existing=True)
    if refund.status is not RefundStatus.PENDING:
        end_reading()
        return
    payment = refund.payment
    leader = leader_of(payment)
    gateway, external_id = gateway_of(leader), leader.external_id
    assert external_id is not None
    is_old = refund.created_at < clock.now() - KEY_LIVES
    currency = payment.reported_currency if refund.transaction_id is None else None
    known, amount, reason = refund.external_id, refund.amount, refund.reason
    customer, key = customer_of(payment), f"refund-{refund_id}-{refund.nonce}"
    currency = currency or _currency(payment)
    end_reading()  # with nothing read or locked: the bank takes its time
    if known:
        settle_refund(refund_id, gateway.fetch_refund(known))  # whose refusal is of the question
        return
    if is_old and (found := _given_back(gateway, external_id, refund_id)) is not None:
        settle_refund(refund_id, found)
        return
    try:
        said = gateway.refund(
            external_id,
            amount=amount,
            currency=currency,
            idempotence_key=key,
            reason=reason,
            customer=customer,
        )
    except GatewayRefused as refused:
        try:
            found = _given_back(gateway, external_id, refund_id)
        except _Unsaid:  # T-Bank, which remembers a key for good: it has not made this one
            found = None
        said = found or RemoteRefund("", RemoteStatus.CANCELED, amount, str(refused))
    settle_refund(refund_id, said)


def settle_refund(refund_id: int, said: RemoteRefund) -> None:
    """Note what the bank says of a refund. Commits by itself."""
    with transaction():
        refund = db.session.get_one(Refund, refund_id)
        payments = lock_order(leader_of(refund.payment))
        payment = next(each for each in payments if each.id == refund.payment_id)
        db.session.refresh(refund)
        if refund.status is not RefundStatus.PENDING:
            return
        by = System(payment.gateway or "")
        if said.external_id:
            refund.external_id = said.external_id
        if said.status is RemoteStatus.SUCCEEDED:
            _succeed(refund, payment, by=by)
            if refund.transaction_id is None:
                _close_held(payments, by=by)
        elif said.status is RemoteStatus.CANCELED:
            _fail(refund, payment, said.error, by=by)


def _succeed(refund: Refund, payment: Payment, *, by: Actor) -> None:
    transition(refund, REFUND_MOVES, RefundStatus.SUCCEEDED, by=by, finished_at=clock.now())
    if refund.transaction_id is not None:
        payment.refunded += refund.amount
        db.session.flush()
    note(payment, PaymentEventKind.REFUND, f"{refund.status.label}: {_line(refund)}", by=by)


def _close_held(payments: Sequence[Payment], *, by: Actor) -> None:
    """What came is gone again, and nothing of it was credited."""
    for payment in payments:
        if payment.status is PaymentStatus.PENDING:
            transition(payment, PAYMENT_MOVES, PaymentStatus.CANCELED, by=by)
    payments[0].attention_closed_at = clock.now()
    note(payments[0], PaymentEventKind.RESOLVED, by=by)


def _fail(refund: Refund, payment: Payment, error: str, *, by: Actor) -> None:
    """The bank refused: the money comes back to where it was taken from."""
    error = error[:500] or _("The bank gave no reason.")
    transition(refund, REFUND_MOVES, RefundStatus.FAILED, by=by, finished_at=clock.now(), error=error)
    if refund.transaction_id is not None:
        _put_back(refund, error, by=by)
    flag(payment, Attention.REFUND_FAILED, f"{_line(refund)}. {error}")


def _put_back(refund: Refund, error: str, *, by: Actor) -> None:
    taken = db.session.get_one(Transaction, refund.transaction_id)
    payment = refund.payment
    till = hold_till(payment.method.till_kind, payment.branch_id)
    hold_destinations([refund.account])
    db.session.refresh(refund.account, ["closed_at"])
    if not refund.account.is_closed:
        reverse(taken, by=by, comment=error)
        return
    account = base_account(payment.client_id, payment.branch_id)
    post(
        TransactionKind.TOP_UP,
        [Line(account, refund.amount), Line(till, -refund.amount)],
        branch_id=refund.branch_id,
        by=by,
        key=f"refund:{refund.id}:back",
        cause=Cause(client_id=payment.client_id, payment_id=payment.id, bill_id=payment.bill_id),
        comment=error,
    )


class _Unsaid(GatewayError):
    """The service does not say how much of a payment it has given back."""


def _given_back(gateway: Gateway, external_id: str, refund_id: int) -> RemoteRefund | None:
    """Whether the bank has made a refund whose answer may have been lost, by what it says of the payment; None: it has
    not, and may be asked. Commits by itself.

    Raises GatewayError when that cannot be told.
    """
    with transaction():
        refund = db.session.get_one(Refund, refund_id)
        order = leader_of(refund.payment).id
        of_order = select(Payment.id).where(or_(Payment.id == order, Payment.order_id == order))
        sums = select(Refund.status, func.sum(Refund.amount, type_=Refund.amount.type).label("total")).where(
            Refund.payment_id.in_(of_order), Refund.status != RefundStatus.FAILED
        )
        by_status = {row.status: row.total for row in db.session.execute(sums.group_by(Refund.status))}
        amount = refund.amount
    remote = gateway.fetch(
        external_id
    )  # after our books are read: what is settled meanwhile must not seem missing there
    done, pending = by_status.get(RefundStatus.SUCCEEDED, Decimal(0)), by_status.get(RefundStatus.PENDING, Decimal(0))
    if remote.refunded is not None and remote.refunded < done + amount:
        return None
    if remote.is_refunded or (remote.refunded is not None and remote.refunded >= done + pending):
        return RemoteRefund("", RemoteStatus.SUCCEEDED, amount)
    told = GatewayError if remote.refunded is not None else _Unsaid
    raise told("it cannot be told whether the bank has made this refund")


def _ask_quietly(refund_id: int) -> None:
    """At once after the commit, as the clock would: the payer's card may be out of the clerk's sight. Whatever goes
    wrong, the clock asks again.
    """
    try:
        with scoped_to(EVERYWHERE):
            ask_refund(refund_id)
    except (GatewayError, LookupError, DomainError) as error:
        log.warning("refund_not_answered", refund=refund_id, reason=str(error))
    except Exception as error:
        db.session.rollback()
        report_exception(error)


# --- by the clock ---------------------------------------------------------------------------------------------------


def take_refunds(*, now: datetime) -> list[int]:
    """Ids of the refunds whose outcome is not known and whose turn it is; sets the next turn of each. The caller
    commits.
    """
    pauses = [(Refund.created_at > now - age, literal(now + pause, UtcDateTime())) for age, pause in PAUSES]
    taken = db.session.execute(
        update(Refund)
        .where(and_(Refund.status == RefundStatus.PENDING, Refund.next_poll_at <= now))
        .values(next_poll_at=case(*pauses, else_=literal(now + LONGEST_PAUSE, UtcDateTime())))
        .returning(Refund.id)
        .execution_options(synchronize_session=False)
    )
    return sorted(taken.scalars())
