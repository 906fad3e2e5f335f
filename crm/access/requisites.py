"""A company's requisites: what its clients read on the page of a bill, and type into their bank.

A wrong digit sends money to a stranger, so every number with a check digit is checked. Rules: the tax service (INN,
OGRN), the Bank of Russia (account keys, weights 7-1-3).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from flask_babel import gettext as _

from crm.access.actors import Actor, require
from crm.access.models import Company
from crm.access.operations import normalise_email
from crm.db import db
from crm.errors import DomainError
from crm.phones import parse_phone


def create_company(*, by: Actor, **fields: str) -> Company:
    """Add a legal entity; fields and errors as of set_requisites(), and a name is a must. The caller commits."""
    require(by, "company.create")
    company = Company(name="")
    _fill(company, {"name": "", **fields})
    db.session.add(company)
    db.session.flush()
    return company


def set_requisites(company: Company, *, by: Actor, **fields: str) -> Company:
    """Change the given fields of `company` (texts; empty clears one, save the name). The caller commits.

    Fields: name, legal_name, inn, kpp, ogrn, address, bank_name, bic, settlement_account, correspondent_account, phone,
    email, offer_url. Spaces within numbers are dropped. Raises DomainError beside the field.
    """
    require(by, "company.edit")
    _fill(company, fields)
    db.session.flush()
    return company


PAYMENT_RULES = ("takes_part_payments", "takes_overpayments", "takes_deposits")


def set_payment_rules(company: Company, *, by: Actor, **rules: bool) -> Company:
    """Say how the company's bills may be paid: some of PAYMENT_RULES; `by` needs the right to what differs only. The
    caller commits.
    """
    if unknown := rules.keys() - set(PAYMENT_RULES):
        raise TypeError(f"no such rules: {', '.join(sorted(unknown))}")
    for name, is_on in rules.items():
        if getattr(company, name) is not is_on:
            require(by, "company.edit")
            setattr(company, name, is_on)
    db.session.flush()
    return company


def _fill(company: Company, fields: dict[str, str]) -> None:
    if unknown := fields.keys() - _CLEANERS.keys():
        raise TypeError(f"no such requisites: {', '.join(sorted(unknown))}")
    values = {name: _CLEANERS[name](text.strip(), name) for name, text in fields.items()}
    banking = {name: values.get(name, getattr(company, name)) or "" for name in _BANKING}
    if any(banking[name] != (getattr(company, name) or "") for name in _BANKING):
        _check_keys(banking["bic"], banking["settlement_account"], banking["correspondent_account"])
    for name, value in values.items():
        setattr(company, name, value)


# --- one field at a time: (text, field) -> value --------------------------------------------------------------------


def _name(text: str, field: str) -> str:
    if not text:
        raise DomainError("name_empty", _("Enter the name."), field)
    return _short(200)(text, field)


def _short(length: int) -> Callable[[str, str], str]:
    def clean(text: str, field: str) -> str:
        if len(text) > length:
            raise DomainError("too_long", _("No more than %(count)s characters.", count=length), field)
        return text

    return clean


def _email(text: str, field: str) -> str:
    return normalise_email(text, field=field) if text else ""


def _phone(text: str, field: str) -> str | None:
    return parse_phone(text, field=field)


def _inn(text: str, field: str) -> str:
    digits = _compact(text)
    if digits and not _is_inn(digits):
        raise DomainError(
            "inn_invalid",
            _("The INN has 10 or 12 digits, and its check digit must agree. Look for a typing error."),
            field,
        )
    return digits


def _kpp(text: str, field: str) -> str:
    code = _compact(text).upper()
    if code and not re.fullmatch(r"[0-9]{4}[0-9A-Z]{2}[0-9]{3}", code):
        raise DomainError("kpp_invalid", _("The KPP has 9 characters, all or nearly all of them digits."), field)
    return code


def _ogrn(text: str, field: str) -> str:
    digits = _compact(text)
    if digits and not _is_ogrn(digits):
        raise DomainError(
            "ogrn_invalid",
            _("The OGRN has 13 digits (15 for a sole proprietor), and its check digit must agree."),
            field,
        )
    return digits


def _bic(text: str, field: str) -> str:
    digits = _compact(text)
    if digits and not re.fullmatch(r"0[0-9]{8}", digits):
        raise DomainError("bic_invalid", _("The BIC has 9 digits and begins with 0."), field)
    return digits


def _account(text: str, field: str) -> str:
    digits = _compact(text)
    if digits and not re.fullmatch(r"[0-9]{20}", digits):
        raise DomainError("account_invalid", _("The account number has 20 digits."), field)
    return digits


def _offer_url(text: str, field: str) -> str | None:
    """Only http and https with a host: the address becomes a link on a page strangers open."""
    if not text:
        return None
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
    except ValueError:
        is_good = False
    if not is_good or len(text) > 500 or re.search(r"[\s\x00-\x1f\"<>\\]", text):
        raise DomainError("url_invalid", _("Enter a web address that begins with https:// or http://."), field)
    return text


_CLEANERS: dict[str, Callable[[str, str], str | None]] = {
    "name": _name,
    "legal_name": _short(200),
    "inn": _inn,
    "kpp": _kpp,
    "ogrn": _ogrn,
    "address": _short(1000),
    "bank_name": _short(200),
    "bic": _bic,
    "settlement_account": _account,
    "correspondent_account": _account,
    "phone": _phone,
    "email": _email,
    "offer_url": _offer_url,
}


_BANKING = ("bic", "settlement_account", "correspondent_account")


# --- check digits ---------------------------------------------------------------------------------------------------


def _compact(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _is_inn(inn: str) -> bool:
    if re.fullmatch(r"[0-9]{10}", inn):
        return _inn_digit(inn, (2, 4, 10, 3, 5, 9, 4, 6, 8)) == inn[9]
    if re.fullmatch(r"[0-9]{12}", inn):
        eleventh = _inn_digit(inn, (7, 2, 4, 10, 3, 5, 9, 4, 6, 8))
        return eleventh == inn[10] and _inn_digit(inn, (3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)) == inn[11]
    return False


def _inn_digit(inn: str, weights: tuple[int, ...]) -> str:
    total = sum(weight * int(digit) for weight, digit in zip(weights, inn, strict=False))
    return str(total % 11 % 10)


def _is_ogrn(ogrn: str) -> bool:
    if not re.fullmatch(r"[0-9]{13}|[0-9]{15}", ogrn):
        return False
    return str(int(ogrn[:-1]) % (len(ogrn) - 2) % 10) == ogrn[-1]


def _check_keys(bic: str, settlement: str, correspondent: str) -> None:
    """The accounts' keys, which hold for one bank only: a typing error in either number breaks them."""
    if (settlement or correspondent) and not bic:
        raise DomainError("bic_missing", _("Enter the BIC as well: accounts are checked against it."), "bic")
    # Accounts kept at the Bank of Russia itself use the branch's code; those at a bank, the bank's.
    own, at_centre = bic[6:9], "0" + bic[4:6]
    if settlement and not _has_key(settlement, at_centre if own in {"000", "001", "002"} else own):
        raise DomainError(
            "account_key",
            _("This account does not belong to the bank with this BIC. Look for a typing error in either."),
            "settlement_account",
        )
    if correspondent and not _has_key(correspondent, at_centre):
        raise DomainError(
            "account_key",
            _("This account does not belong to the bank with this BIC. Look for a typing error in either."),
            "correspondent_account",
        )


def _has_key(account: str, prefix: str) -> bool:
    return sum(int(digit) * (7, 1, 3)[i % 3] for i, digit in enumerate(prefix + account)) % 10 == 0
