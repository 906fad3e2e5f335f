"""Receipts by 54-FZ: what a shop has to say of a payment so that its service prints one. One line per payment: the
sum, paid in advance as a rule, for lessons are held later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp

from crm.db import LabelEnum
from crm.payments.gateways.base import Customer, GatewayRefused

MAX_ITEM_NAME = 128


class TaxSystem(LabelEnum):
    """By T-Bank's names; `code` is YooKassa's."""

    OSN = "osn", _l("General (OSN)")
    USN_INCOME = "usn_income", _l("Simplified, income")
    USN_INCOME_OUTCOME = "usn_income_outcome", _l("Simplified, income less expenses")
    ENVD = "envd", _l("Imputed income (ENVD)")
    ESN = "esn", _l("Agricultural (ESHN)")
    PATENT = "patent", _l("Patent")

    @property
    def code(self) -> int:
        return list(TaxSystem).index(self) + 1


class Vat(LabelEnum):
    """By T-Bank's names; `code` is YooKassa's."""

    NONE = "none", _l("Without VAT")
    VAT0 = "vat0", _l("VAT 0 %")
    VAT10 = "vat10", _l("VAT 10 %")
    VAT20 = "vat20", _l("VAT 20 %")
    VAT110 = "vat110", _l("VAT 10/110")
    VAT120 = "vat120", _l("VAT 20/120")
    VAT5 = "vat5", _l("VAT 5 %")
    VAT7 = "vat7", _l("VAT 7 %")
    VAT105 = "vat105", _l("VAT 5/105")
    VAT107 = "vat107", _l("VAT 7/107")
    VAT22 = "vat22", _l("VAT 22 %")
    VAT122 = "vat122", _l("VAT 22/122")

    @property
    def code(self) -> int:
        return list(Vat).index(self) + 1


class PaymentMode(LabelEnum):
    """How it is paid; both services use the same words for these."""

    ADVANCE = "advance", _lp("receipt", "Advance")
    FULL_PREPAYMENT = "full_prepayment", _lp("receipt", "Full prepayment")
    FULL_PAYMENT = "full_payment", _lp("receipt", "Full payment")


class PaymentSubject(LabelEnum):
    """What is paid for; both services use the same words for these."""

    PAYMENT = "payment", _lp("receipt", "Payment")
    SERVICE = "service", _lp("receipt", "Service")


E = TypeVar("E", bound=LabelEnum)


def _member(cls: type[E], value: str) -> E:
    return next(member for member in cls if member.value == value)


@dataclass(frozen=True)
class Receipts:
    """How a shop's receipts are made out. email: where they go when the payer has neither e-mail nor phone."""

    tax_system: TaxSystem
    vat: Vat
    mode: PaymentMode = PaymentMode.ADVANCE
    subject: PaymentSubject = PaymentSubject.PAYMENT
    email: str = ""

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Self | None:
        """Of a shop's options; None when it sends none."""
        if "tax_system" not in options:
            return None
        return cls(
            _member(TaxSystem, options["tax_system"]),
            _member(Vat, options["vat"]),
            _member(PaymentMode, options["payment_mode"]),
            _member(PaymentSubject, options["payment_subject"]),
            options["receipt_email"],
        )

    def options(self) -> dict[str, Any]:
        """The shop's options that read() reads."""
        return {
            "tax_system": self.tax_system.value,
            "vat": self.vat.value,
            "payment_mode": self.mode.value,
            "payment_subject": self.subject.value,
            "receipt_email": self.email,
        }

    def receiver(self, customer: Customer | None) -> Customer:
        """To whom a receipt goes: one address, the e-mail before the phone. Raises GatewayRefused."""
        customer = customer or Customer()
        if customer.email or customer.phone:
            return Customer(customer.email, "" if customer.email else customer.phone)
        if self.email:
            return Customer(self.email)
        raise GatewayRefused(_("A receipt goes with the payment, and the client has neither e-mail nor phone for it."))
