"""Tags of templates: `{customer.name}`, `{bill.url}`… Declared once; the panel's list, the checks and the letters use
this registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask_babel import force_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp

from crm.bills.links import bill_url
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.errors import DomainError
from crm.i18n import day, money

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
        Tag("bill.url", _lp("tag", "Link"), True, bill_url),
        Tag("bill.amount", _lp("tag", "Amount"), True, _bill_amount),
        Tag("bill.type", _lp("tag", "Type"), True, _bill_type),
        Tag("bill.begin_date", _lp("tag", "Beginning of the period"), True, _bill_begin),
        Tag("bill.end_date", _lp("tag", "End of the period"), True, _bill_end),
    )
}


def check_tags(text: str, *, field: str) -> None:
    """Raise DomainError "tag_unknown" beside `field` when `text` holds a tag that does not exist."""
    for name in _TAG.findall(text):
        if name not in TAGS:
            raise DomainError(
                "tag_unknown",
                _("There is no tag {%(name)s}. The tags there are: %(tags)s.", name=name, tags=_listing()),
                field,
            )


def render(text: str, *, client: Client, bill: Bill | None, field: str = "body") -> str:
    """`text` with its tags replaced, in one pass: braces within a client's name stay what they are.

    Raises DomainError beside `field`: "tag_unknown", or "bill_required" when there is no bill for a bill's tag.
    """
    check_tags(text, field=field)

    def replace(match: re.Match[str]) -> str:
        tag = TAGS[match[1]]
        if not tag.needs_bill:
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


def _listing() -> str:
    return ", ".join(str(tag) for tag in TAGS.values())
