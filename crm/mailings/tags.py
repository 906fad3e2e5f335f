"""Tags of templates: `{customer.name}`, `{bill.url}`… Declared once; the panel's list, the checks and the letters use
this registry.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any

from flask_babel import force_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp

from crm.bills.links import bill_url
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.errors import DomainError
from crm.fields.models import CustomField
from crm.fields.queries import all_fields, custom_text
from crm.i18n import day, money
from crm.ledger.models import Account
from crm.phones import format_phone

# Letters go to the clients of Russian businesses, whatever language the clerk reads the panel in.
LETTER_LANGUAGE = "ru"

# What looks like a tag: words joined by points. Other braces are letters of the text.
_TAG = re.compile(r"\{([^\S\n]*[^\W\d][^\s{}.]*\.[^\s{}]+[^\S\n]*)\}")


class Subject(enum.Enum):
    """What a tag is about, and what there must be for it."""

    CLIENT = "client"
    BILL = "bill"
    PAYMENT = "payment"


@dataclass(frozen=True)
class Tag:
    """A name between braces, what it stands for, and its text for a Client, a Bill or a Paid."""

    name: str
    label: Any
    subject: Subject
    text_of: Callable[[Any], str]

    def __str__(self) -> str:
        return f"{{{self.name}}}"


@dataclass(frozen=True)
class Paid:
    """Money that has come: what a letter of thanks tells. day: at the branch."""

    amount: Decimal
    account: Account
    day: date


def _client_name(client: Client) -> str:
    return client.name


def _bill_amount(bill: Bill) -> str:
    return money(bill.amount)


def _bill_type(bill: Bill) -> str:
    return str(bill.method.label)


def _bill_begin(bill: Bill) -> str:
    return day(bill.period_from)


def _bill_end(bill: Bill) -> str:
    return day(bill.period_to)


TAGS: dict[str, Tag] = {
    tag.name: tag
    for tag in (
        Tag("customer.name", _l("Client's name"), Subject.CLIENT, _client_name),
        Tag("customer.surname", _lp("tag", "Surname"), Subject.CLIENT, lambda client: client.surname),
        Tag("customer.patronymic", _lp("tag", "Patronymic"), Subject.CLIENT, lambda client: client.patronymic),
        Tag("customer.phone", _lp("tag", "Phone"), Subject.CLIENT, lambda client: format_phone(client.phone)),
        Tag("customer.email", _lp("tag", "E-mail"), Subject.CLIENT, lambda client: client.email or ""),
        Tag("customer.birth_date", _lp("tag", "Date of birth"), Subject.CLIENT, lambda client: day(client.birth_date)),
        Tag("bill.url", _lp("tag", "Link"), Subject.BILL, bill_url),
        Tag("bill.amount", _lp("tag", "Amount"), Subject.BILL, _bill_amount),
        Tag("bill.type", _lp("tag", "Type"), Subject.BILL, _bill_type),
        Tag("bill.begin_date", _lp("tag", "Beginning of the period"), Subject.BILL, _bill_begin),
        Tag("bill.end_date", _lp("tag", "End of the period"), Subject.BILL, _bill_end),
        Tag("payment.amount", _lp("tag", "Sum received"), Subject.PAYMENT, lambda paid: money(paid.amount)),
        Tag("payment.account", _lp("tag", "Account the money is on"), Subject.PAYMENT, lambda paid: paid.account.title),
        Tag("payment.date", _lp("tag", "Day of the payment"), Subject.PAYMENT, lambda paid: day(paid.day)),
    )
}


# Fields staff have added are tags of whom they describe: `{customer.custom.class}`.
_CUSTOMISED = (("customer", "client", Subject.CLIENT), ("bill", "bill", Subject.BILL))


def all_tags(*, deleted: bool = False) -> dict[str, Tag]:
    """The tags of the registry and of the fields staff have added; deleted: also of those they deleted since."""
    tags = dict(TAGS)
    for prefix, entity, subject in _CUSTOMISED:
        by_key: dict[str, list[CustomField]] = {}
        for field in all_fields(entity):
            if deleted or not field.is_archived:
                by_key.setdefault(field.key, []).append(field)
        for key, fields in by_key.items():
            name = f"{prefix}.custom.{key}"
            tags[name] = Tag(name, fields[0].label, subject, partial(custom_text, key=key, fields=fields))
    return tags


def check_tags(text: str, *, field: str, is_thanks: bool = False) -> None:
    """Raise DomainError beside `field`: "tag_unknown" when `text` holds a tag that does not exist, "payment_required"
    for a payment's tag in anything but thanks.
    """
    tags = all_tags()
    _check(text, tags, field, set(Subject) if is_thanks else {Subject.CLIENT, Subject.BILL})
    for name in _TAG.findall(text):
        if tags[name].subject is Subject.PAYMENT and not is_thanks:
            raise _payment_required(tags[name], field)


def _payment_required(tag: Tag, field: str) -> DomainError:
    return DomainError(
        "payment_required",
        _("The tag %(tag)s tells of a payment: it is for thanks, which are sent after one.", tag=str(tag)),
        field,
    )


def _check(text: str, tags: dict[str, Tag], field: str, allowed: set[Subject]) -> None:
    """allowed: what the tags that are offered instead may be about."""
    for name in _TAG.findall(text):
        if name not in tags:
            listing = ", ".join(str(tag) for tag in tags.values() if tag.subject in allowed)
            raise DomainError(
                "tag_unknown",
                _("There is no tag {%(name)s}. The tags there are: %(tags)s.", name=name, tags=listing),
                field,
            )


def render(
    text: str, *, client: Client, bill: Bill | None = None, paid: Paid | None = None, field: str = "body"
) -> str:
    """`text` with its tags replaced, in one pass: braces within a client's name stay what they are.

    Raises DomainError beside `field`: "tag_unknown", or "bill_required", "payment_required" when there is no bill or no
    payment for its tag.
    """
    # A template outlives a field: what it was filled with still is.
    tags = all_tags(deleted=True) if ".custom." in text else TAGS
    facts = {Subject.CLIENT: client, Subject.BILL: bill, Subject.PAYMENT: paid}
    _check(text, tags, field, {subject for subject, told in facts.items() if told is not None})

    def replace(match: re.Match[str]) -> str:
        tag = tags[match[1]]
        told = facts[tag.subject]
        if told is None and tag.subject is Subject.PAYMENT:
            raise _payment_required(tag, field)
        if told is None:
            raise DomainError(
                "bill_required",
                _("The tag %(tag)s needs a bill. Choose a bill or remove the tag.", tag=str(tag)),
                field,
            )
        with force_locale(LETTER_LANGUAGE):
            return tag.text_of(told)

    return _TAG.sub(replace, text)
