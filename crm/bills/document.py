"""A bill as a document: what templates/pdf/bill.typ prints, for the payer and his bank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from flask_babel import get_locale, pgettext
from flask_babel import gettext as _
from num2words import num2words

from crm import clock
from crm.access.models import Company
from crm.bills.links import bill_url
from crm.bills.models import Bill, BillLine, BillLineKind, BillStatus
from crm.bills.requisites_qr import qr_svg
from crm.clients.names import discreet_name
from crm.i18n import day, money
from crm.ledger.models import AccountKind
from crm.pdf import render_pdf
from crm.phones import format_phone


def bill_pdf(bill: Bill) -> bytes:
    """The bill on A4, in the language of the request, with no more about the payer than its public page tells."""
    return render_pdf("bill", bill_data(bill))


def bill_data(bill: Bill) -> dict[str, Any]:
    """What templates/pdf/bill.typ prints: texts alone, empty ones are left out there."""
    branch, company = bill.branch, bill.branch.company
    currency = company.currency
    lines = _numbered(bill.lines, currency) or [["1", "", _purpose(bill), "", money(bill.amount, currency)]]
    totals = [(_("Total"), money(bill.amount, currency))]
    if bill.status is BillStatus.PENDING and bill.paid_amount:
        totals += [(_("Paid already"), money(bill.paid_amount, currency)), (_("To pay"), money(bill.due, currency))]
    qr = qr_svg(bill)
    is_open = bill.status is not BillStatus.ARCHIVED and bill.link_revoked_at is None
    return {
        "lang": _language(),
        "title": _("Bill No. %(number)s", number=bill.title),
        "date": _("of %(day)s", day=day(clock.local(bill.issued_at, branch).date())),
        "bank": _bank(company),
        "payee": company.legal_name or company.name,
        "marks": _marks(bill),
        "facts": [
            (name, value)
            for name, value in (
                (_("Provider"), _provider(bill)),
                # The card may have been merged into one of a branch out of sight: the bill stays here.
                (_("Payer"), discreet_name(bill.client.name) if bill.client is not None else ""),
                (_("Purpose"), _purpose(bill)),
                (_("For the period"), f"{day(bill.period_from)} – {day(bill.period_to)}"),
                (_("Payment term"), _term(bill)),
            )
            if value
        ],
        "head": [_("Date"), _("For what"), _("Who attends"), _("Sum")],
        "lines": lines,
        "has_days": any(line[1] for line in lines),
        "has_students": any(line[3] for line in lines),
        "totals": totals,
        "words": amount_in_words(bill.due, currency),
        "qr": _drawing(qr) if qr else "",
        "link": bill_url(bill) if is_open else "",
        "labels": {
            "words": _("To pay in words:"),
            "qr": _("Pay by the QR code in the app of your bank: the requisites and the sum are in it."),
            "link": _("Pay online:"),
            "payee": _("Payee"),
            "inn": _("INN"),
            "kpp": _("KPP"),
            "bic": _("BIC"),
            "bank": _("Bank of the payee"),
            "account": _("Acc. No."),
        },
    }


def amount_in_words(amount: Decimal, currency: str) -> str:
    """`Одна тысяча двести рублей 50 копеек`; nothing for a currency whose name is not known in the language."""
    try:
        words: str = num2words(
            amount.quantize(Decimal("0.01")),
            lang=_language(),
            to="currency",
            currency=currency,
            cents=False,
            separator="",
        )
    except NotImplementedError:
        return ""
    return words[:1].upper() + words[1:]


def _drawing(qr: str) -> str:
    """What is drawn into a page of HTML as a picture of its own."""
    return qr.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def _language() -> str:
    return str(get_locale() or "ru")[:2]


def _bank(company: Company) -> dict[str, str]:
    """The table on top, as banks print it on payment orders."""
    return {
        "name": company.bank_name,
        "bic": company.bic,
        "correspondent": company.correspondent_account,
        "settlement": company.settlement_account,
        "inn": company.inn,
        "kpp": company.kpp,
    }


def _provider(bill: Bill) -> str:
    company = bill.branch.company
    phone = bill.branch.phone or company.phone
    facts = (
        company.legal_name or company.name,
        _("INN %(inn)s", inn=company.inn) if company.inn else "",
        _("KPP %(kpp)s", kpp=company.kpp) if company.kpp else "",
        _("OGRN %(ogrn)s", ogrn=company.ogrn) if company.ogrn else "",
        company.address,
        format_phone(phone) if phone else "",
        company.email,
    )
    return ", ".join(fact for fact in facts if fact)


def purpose_of(purpose: str, kind: AccountKind, account: Callable[[], str]) -> str:
    """What a bill is for, as its payer reads it. kind, account: of the account it tops up, and what that is called."""
    if purpose or kind is not AccountKind.BASE:
        return purpose or _("Top-up of the account “%(account)s”", account=account())
    return _("Payment for lessons")


def _purpose(bill: Bill) -> str:
    return purpose_of(bill.purpose, bill.account.kind, lambda: bill.account.title)


def _term(bill: Bill) -> str:
    if bill.payable_until is None:
        return pgettext("term", "not set")
    return _("from %(first)s to %(last)s", first=day(bill.payable_from), last=day(bill.payable_until))


def _marks(bill: Bill) -> list[str]:
    """What a reader must not miss: a bill that is not to be paid."""
    if bill.status is BillStatus.PAID:
        return [_("This bill is paid.")]
    if bill.status is BillStatus.ARCHIVED:
        return [_("This bill is no longer valid. Please ask the administrator for a new one.")]
    return [_("Payment term expired")] if bill.is_overdue else []


def _numbered(lines: Iterable[BillLine], currency: str) -> list[list[str]]:
    """Rows of the table, what is on the account already without a number: it is nothing that is sold."""
    rows, number = [], 0
    for line in lines:
        is_sold = line.kind is not BillLineKind.BALANCE
        number += is_sold
        rows.append([str(number) if is_sold else "", *_line(line, currency)])
    return rows


def _line(line: BillLine, currency: str) -> list[str]:
    """Day, what, who, sum."""
    what = line.title or str(line.kind.label)
    return [day(line.day), f"{what} ({line.note})" if line.note else what, line.student, money(line.amount, currency)]
