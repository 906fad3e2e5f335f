"""Which sum a bill takes: the exact one, unless its company says otherwise."""

from __future__ import annotations

from decimal import Decimal

from flask_babel import gettext as _

from crm.bills.models import Bill
from crm.errors import DomainError
from crm.i18n import money
from crm.ledger.operations import check_amount


def takes_other_sums(bill: Bill) -> bool:
    """Whether the sum of a payment is for the payer to choose."""
    company = bill.branch.company
    return company.takes_part_payments or company.takes_overpayments


def sum_of_payment(bill: Bill, amount: Decimal | None = None) -> Decimal:
    """The sum of a payment of `bill`: `amount`, by the rules of its company; what is due when none is given.

    Raises DomainError beside "amount": "amount_exact", "amount_too_small", "amount_too_big", or as check_amount() does.
    """
    due, company = bill.due, bill.branch.company
    if amount is None or amount == due:
        return due
    amount = check_amount(amount)
    asked = money(due, company.currency)
    if not takes_other_sums(bill):
        raise DomainError("amount_exact", _("Exactly %(sum)s can be paid.", sum=asked), "amount")
    if amount < due and not company.takes_part_payments:
        raise DomainError("amount_too_small", _("No less than %(sum)s can be paid.", sum=asked), "amount")
    if amount > due and not company.takes_overpayments:
        raise DomainError("amount_too_big", _("No more than %(sum)s can be paid.", sum=asked), "amount")
    return amount
