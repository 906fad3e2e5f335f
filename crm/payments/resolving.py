"""What a person does about a payment he was asked to look at."""

from __future__ import annotations

from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import Actor, require
from crm.audit.operations import transition
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.i18n import money
from crm.ledger.operations import check_amount
from crm.payments.crediting import credit_order, note
from crm.payments.models import PAYMENT_MOVES, Payment, PaymentEventKind, PaymentStatus
from crm.payments.outcomes import asked_back, lock_order
from crm.payments.refunds import check_something_came, is_held, leader_of

# What waits for a person, as arguments of the grid of payments.
NEEDS_ATTENTION = (("f.attention.empty", "0"), ("f.attention_closed_at.empty", "1"))


def accept_reported(payment: Payment, *, by: Actor, amount: Decimal | None = None) -> Payment:
    """Credit what really came instead of what was asked for; of an order of several bills, in id order of the bills.
    The caller commits.

    amount: what money in another currency is worth in the branch's; only and always then. Raises DomainError beside
    `amount`, "nothing_came" when the bank reports a sum of zero, Conflict when somebody has settled it.
    """
    require(by, "payment.resolve", payment)
    payments = lock_order(leader_of(payment))
    leader = payments[0]
    check_something_came(leader)
    if not is_held(leader) or asked_back(payments):
        raise Conflict("transition", _("This has been settled already."))
    currency = leader.branch.company.currency
    came = leader.reported_amount
    assert came is not None
    if leader.reported_currency != currency:
        if amount is None:
            text = _("Enter what it is worth in %(currency)s.", currency=currency)
            raise DomainError("amount_required", text, "amount")
        came = check_amount(amount)
    kept = _share(payments, came, by=by)
    note(leader, PaymentEventKind.RESOLVED, _("Accepted as %(sum)s.", sum=money(came, currency)), by=by)
    leader.attention_closed_at = clock.now()
    credit_order(kept, paid_at=leader.created_at, by=by)
    return leader


def _share(payments: list[Payment], came: Decimal, *, by: Actor) -> list[Payment]:
    """Give the payments of an order what came, in id order of their bills; the last gets what is over. Those there is
    nothing left for are canceled.
    """
    ordered, kept, left = sorted(payments, key=lambda payment: (payment.bill_id or 0, payment.id)), [], came
    for payment in ordered:
        if not left:
            if payment.status is PaymentStatus.PENDING:
                transition(payment, PAYMENT_MOVES, PaymentStatus.CANCELED, by=by)
                note(payment, PaymentEventKind.CANCELED, _("Nothing was left for it of what came."), by=by)
            continue
        payment.amount = min(left, payment.amount)
        left -= payment.amount
        kept.append(payment)
    kept[-1].amount += left
    db.session.flush()
    return kept


def resolve_attention(payment: Payment, text: str = "", *, by: Actor) -> Payment:
    """A person has looked and nothing is left to do. The caller commits.

    Raises DomainError "held": money that is held, its refund refused or not, waits to be accepted or given back.
    """
    require(by, "payment.resolve", payment)
    payment = next(each for each in lock_order(leader_of(payment)) if each.id == payment.id)
    if payment.attention is None or payment.attention_closed_at is not None:
        raise Conflict("transition", _("This has been settled already."))
    if is_held(payment):
        raise DomainError("held", _("The money has come: accept it or give it back."))
    payment.attention_closed_at = clock.now()
    note(payment, PaymentEventKind.RESOLVED, " ".join(text.split()), by=by)
    return payment


def count_unresolved() -> int:
    """How many payments in sight wait for a person to look at them: a short stretch of an index."""
    query = select(func.count()).where(Payment.attention.is_not(None), Payment.attention_closed_at.is_(None))
    return db.session.scalar(query.select_from(Payment)) or 0
