"""How far money goes from an account: within one city and one company, whichever operation moves it."""

from __future__ import annotations

from flask_babel import gettext as _

from crm.access.models import Branch
from crm.errors import DomainError


def check_within_reach(here: Branch, there: Branch, *, field: str) -> None:
    """Raise DomainError beside `field` when money of branch `here` is not to get to branch `there`: "city_differs",
    "company_differs". there: the one the texts name.
    """
    if here.city_id != there.city_id:
        raise DomainError(
            "city_differs",
            _("Another city: %(city)s. Money is transferred only within one city.", city=there.city.name),
            field,
        )
    if here.company_id != there.company_id:
        raise DomainError(
            "company_differs",
            _(
                "Another company: %(name)s. Money is transferred only within one company.",
                name=there.company.name,
            ),
            field,
        )


def is_within_reach(here: Branch, there: Branch) -> bool:
    return (here.city_id, here.company_id) == (there.city_id, there.company_id)
