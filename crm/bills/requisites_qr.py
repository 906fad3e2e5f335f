"""The payment QR of a bill, by GOST R 56042-2014: a bank's app reads the requisites and the sum out of it.

The payload is `ST00012|Name=…|PersonalAcc=…|BankName=…|BIC=…|CorrespAcc=…|Sum=…`: UTF-8, the five first keys in this
order and within 300 bytes, the sum in whole kopecks, a separator that stands in no value.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache

import segno
from flask_babel import force_locale, pgettext
from flask_babel import gettext as _
from markupsafe import escape

from crm.access.models import Company
from crm.bills.models import Bill, BillLineKind
from crm.bills.operations import check_payable
from crm.clients.names import discreet_name
from crm.errors import DomainError

HEAD = "ST00012"  # version 1, characters in UTF-8
SEPARATORS = "|#;:^_~{}!$%&()*+,/@"  # those the standard allows, the usual one first
BLOCK_BYTES = 300  # the head and the five required keys
CURRENCY = "RUB"  # the standard counts in kopecks

_NAME, _BANK_NAME, _PURPOSE = 160, 45, 160  # characters
_BANK_BYTES = 60  # of its name, when there is no room: the bank is known by its BIC
_ACCOUNT = re.compile(r"[1-9][0-9]{4}[0-9ABCEHKMPTX][0-9]{14}")
# Of the Bank of Russia itself: such an account has no correspondent one.
_STATE_BANK = re.compile(r"[0-9]{6}00[012]")
# Names as registered are long, and banks know these letters.
_FORMS = (
    ("общество с ограниченной ответственностью", "ООО"),
    ("публичное акционерное общество", "ПАО"),
    ("акционерное общество", "АО"),
    ("автономная некоммерческая организация", "АНО"),
    ("индивидуальный предприниматель", "ИП"),
)


def missing_requisites(company: Company) -> list[str]:
    """What keeps a company from having a payment QR, in the words of its requisites form; nothing: there is one."""
    found = {
        _("Company name"): bool(_payee(company)),
        _("INN"): bool(re.fullmatch(r"[0-9]{10}|[0-9]{12}", company.inn)),
        _("Bank"): bool(_plain(company.bank_name)),
        _("BIC"): bool(re.fullmatch(r"[0-9]{9}", company.bic)),
        _("Settlement account"): bool(_ACCOUNT.fullmatch(company.settlement_account)),
        _("Correspondent account"): _correspondent(company) is not None,
    }
    missing = [name for name, is_there in found.items() if not is_there]
    return missing if company.currency == CURRENCY else [*missing, _("Bills in roubles")]


def qr_svg(bill: Bill) -> str | None:
    """The QR as an inline `<svg>` with a title; None when the requisites do not suffice or the bill is not payable."""
    payload = qr_payload(bill)
    return None if payload is None else qr_picture(payload, title=_("QR code for payment in the app of your bank"))


def qr_payload(bill: Bill) -> str | None:
    """What the QR of `bill` says. In Russian whoever looks: a bank reads it, and the payee's statement shows it."""
    try:
        check_payable(bill)
    except DomainError:
        return None
    with force_locale("ru"):
        purpose = pgettext("QR", "Bill No. %(number)s", number=bill.title)
        facts = {
            "Purpose": f"{purpose}. {bill.purpose}" if bill.purpose else purpose,
            "ChildFio": _student(bill),
            "PaymPeriod": _period(bill),
            "ServiceName": _service(bill),
        }
    return company_payload(bill.branch.company, bill.due, facts)


def company_payload(company: Company, amount: Decimal, facts: Mapping[str, str]) -> str | None:
    """A payment of `amount` to `company`. facts: further keys of the standard; empty ones are left out."""
    if missing_requisites(company):
        return None
    required = _required(company)
    further = {
        "Sum": str(int(amount * 100)),
        **{key: _plain(value) for key, value in facts.items()},
        "PayeeINN": company.inn,
        "KPP": company.kpp,
    }
    further["Purpose"] = further.get("Purpose", "")[:_PURPOSE].strip()
    pairs = [*required.items(), *((key, value) for key, value in further.items() if value)]
    separator = _separator([value for _key, value in pairs])
    if separator is None:  # somebody has written them all
        separator = SEPARATORS[0]
        pairs = [(key, value.replace(separator, " ")) for key, value in pairs]
    return separator.join([HEAD, *(f"{key}={value}" for key, value in pairs)])


@lru_cache(maxsize=2000)  # drawing takes much longer than all the rest of a bill's page, and a bill is opened again
def qr_picture(payload: str, *, title: str) -> str:
    """The QR of a text, error level M, dark on light in any theme, with the quiet zone around it."""
    code = segno.make_qr(payload.encode(), error="m", boost_error=False, mode="byte")
    drawn: str = code.svg_inline(border=4, omitsize=True, svgclass="qr", lineclass=None, dark="#000", light="#fff")
    label = escape(title)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).replace(
        "><", f"><title>{label}</title><", 1
    )


def _required(company: Company) -> dict[str, str]:
    """The five keys every QR begins with, in order, within BLOCK_BYTES: names give way, the bank's first."""
    correspondent = _correspondent(company)
    assert correspondent is not None, "missing_requisites() has been asked"
    bank = _plain(company.bank_name)[:_BANK_NAME].strip()
    facts = {
        "Name": "",
        "PersonalAcc": company.settlement_account,
        "BankName": "",
        "BIC": company.bic,
        "CorrespAcc": correspondent,
    }
    taken = len(HEAD) + sum(len(f"|{key}={value}") for key, value in facts.items())
    room = BLOCK_BYTES - taken
    name = _payee(company)[:_NAME].strip()
    if len(f"{name}{bank}".encode()) > room:
        name = _with_short_form(name)
    if len(f"{name}{bank}".encode()) > room:
        bank = _within(bank, max(_BANK_BYTES, room - len(name.encode())))
        name = _within(name, room - len(bank.encode()))
    return {**facts, "Name": name, "BankName": bank}


def _payee(company: Company) -> str:
    return _plain(company.legal_name) or _plain(company.name)


def _correspondent(company: Company) -> str | None:
    """The correspondent account, "0" where the bank has none; None when it has to be entered yet."""
    if re.fullmatch(r"[0-9]{20}", company.correspondent_account):
        return company.correspondent_account
    return "0" if not company.correspondent_account and _STATE_BANK.fullmatch(company.bic) else None


def _with_short_form(name: str) -> str:
    for long, short in _FORMS:
        if name.lower().startswith(long):
            return short + name[len(long) :]
    return name


def _plain(text: str) -> str:
    """A text in one line, without characters that are not printed."""
    return " ".join("".join(" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in text).split())


def _within(text: str, count: int) -> str:
    """As much of `text` as goes into `count` bytes of UTF-8, with no character broken."""
    return text.encode()[:count].decode(errors="ignore").strip()


def _separator(values: Sequence[str]) -> str | None:
    return next((sign for sign in SEPARATORS if not any(sign in value for value in values)), None)


def _student(bill: Bill) -> str:
    """Whom the bill is for when it is one person other than the payer, as discreetly as its page names him."""
    if bill.subscriptions:
        others = {one.client_id: one.client for one in bill.subscriptions if one.client_id != bill.client_id}
        found = list(others.values())
        return discreet_name(found[0].name) if len(found) == 1 and found[0] is not None else ""
    if named := {line.student for line in bill.lines if line.student}:
        return named.pop() if len(named) == 1 else ""
    family = bill.client.family if bill.client is not None else []
    return discreet_name(family[0].name) if len(family) == 1 else ""


def _service(bill: Bill) -> str:
    """The subscription the bill is for, when it is one."""
    titles = {line.title for line in bill.lines if line.kind is BillLineKind.SUBSCRIPTION} or {
        one.plan.name for one in bill.subscriptions
    }
    return titles.pop() if len(titles) == 1 else ""


def _period(bill: Bill) -> str:
    """`11.2026` for a month or a part of it, else both days."""
    first, last = bill.period_from, bill.period_to
    if (first.year, first.month) == (last.year, last.month):
        return f"{first:%m.%Y}"
    return f"{first:%d.%m.%Y}-{last:%d.%m.%Y}"
