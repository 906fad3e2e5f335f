"""Tags of templates: `{customer.name}`, `{bill.url}`… Declared once; the panel's list, the checks and the letters use
this registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
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
from crm.phones import format_phone

# Letters go to the clients of Russian businesses, whatever language the clerk reads the panel in.
LETTER_LANGUAGE = "ru"

_TAG = re.compile(r"\{([^{}\n]*)\}")


@dataclass(frozen=True)
class Tag:
    """A name between braces, what it stands for, and its text for a Client or (needs_bill) for a Bill."""

    name: str
    label: Any
    needs_bill: bool
    text_of: Callable[[Any], str]

    def __str__(self) -> str:
        return f"{{{self.name}}}"


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
        Tag("customer.name", _l("Client's name"), False, _client_name),
        Tag("customer.surname", _lp("tag", "Surname"), False, lambda client: client.surname),
        Tag("customer.patronymic", _lp("tag", "Patronymic"), False, lambda client: client.patronymic),
        Tag("customer.phone", _lp("tag", "Phone"), False, lambda client: format_phone(client.phone)),
        Tag("customer.email", _lp("tag", "E-mail"), False, lambda client: client.email or ""),
        Tag("customer.birth_date", _lp("tag", "Date of birth"), False, lambda client: day(client.birth_date)),
        Tag("bill.url", _lp("tag", "Link"), True, bill_url),
        Tag("bill.amount", _lp("tag", "Amount"), True, _bill_amount),
        Tag("bill.type", _lp("tag", "Type"), True, _bill_type),
        Tag("bill.begin_date", _lp("tag", "Beginning of the period"), True, _bill_begin),
        Tag("bill.end_date", _lp("tag", "End of the period"), True, _bill_end),
    )
}


# Fields staff have added are tags of whom they describe: `{customer.custom.class}`.
_CUSTOMISED = (("customer", "client", False), ("bill", "bill", True))


def all_tags(*, deleted: bool = False) -> dict[str, Tag]:
    """The tags of the registry and of the fields staff have added; deleted: also of those they deleted since."""
    tags = dict(TAGS)
    for prefix, entity, needs_bill in _CUSTOMISED:
        by_key: dict[str, list[CustomField]] = {}
        for field in all_fields(entity):
            if deleted or not field.is_archived:
                by_key.setdefault(field.key, []).append(field)
        for key, fields in by_key.items():
            name = f"{prefix}.custom.{key}"
            tags[name] = Tag(name, fields[0].label, needs_bill, partial(custom_text, key=key, fields=fields))
    return tags


def check_tags(text: str, *, field: str) -> None:
    """Raise DomainError "tag_unknown" beside `field` when `text` holds a tag that does not exist."""
    _check(text, all_tags(), field)


def _check(text: str, tags: dict[str, Tag], field: str) -> None:
    for name in _TAG.findall(text):
        if name not in tags:
            listing = ", ".join(str(tag) for tag in tags.values())
            raise DomainError(
                "tag_unknown",
                _("There is no tag {%(name)s}. The tags there are: %(tags)s.", name=name, tags=listing),
                field,
            )


def render(text: str, *, client: Client, bill: Bill | None, field: str = "body") -> str:
    """`text` with its tags replaced, in one pass: braces within a client's name stay what they are.

    Raises DomainError beside `field`: "tag_unknown", or "bill_required" when there is no bill for a bill's tag.
    """
    # A template outlives a field: what it was filled with still is.
    tags = all_tags(deleted=True) if ".custom." in text else TAGS
    _check(text, tags, field)

    def replace(match: re.Match[str]) -> str:
        tag = tags[match[1]]
        if not tag.needs_bill:
            with force_locale(LETTER_LANGUAGE):
                return tag.text_of(client)
        if bill is None:
            raise DomainError(
                "bill_required",
                _("The tag %(tag)s needs a bill. Choose a bill or remove the tag.", tag=str(tag)),
                field,
            )
        with force_locale(LETTER_LANGUAGE):
            return tag.text_of(bill)

    return _TAG.sub(replace, text)
