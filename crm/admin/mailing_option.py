"""What the panel says where a company may send no messages: why, and who turns it on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flask_login import current_user

from crm.access.mailing_option import company_mailings_off, mailings_off
from crm.access.models import Branch, Company, User
from crm.access.queries import support_contacts


@dataclass(frozen=True)
class OptionNotice:
    """The text and the ways on. may_try: whether this person may begin the free trial; support: whom to ask."""

    company: Company
    reason: str
    may_try: bool
    support: list[User]


def option_notice(branch: Branch) -> OptionNotice | None:
    """Of the branch's company on the branch's day; None where messages are sent."""
    return _notice(branch.company, mailings_off(branch))


def company_notice(company: Company) -> OptionNotice | None:
    """Of all the branches of the company together."""
    return _notice(company, company_mailings_off(company))


def option_notices(branches: Iterable[Branch]) -> list[OptionNotice]:
    """One for each company of the branches that sends nothing."""
    found: dict[int, OptionNotice] = {}
    for branch in branches:
        if branch.company_id not in found and (notice := option_notice(branch)) is not None:
            found[branch.company_id] = notice
    return list(found.values())


def _notice(company: Company, reason: str) -> OptionNotice | None:
    if not reason:
        return None
    may_try = company.mailings_tried_at is None and current_user.may("company.edit")
    return OptionNotice(company, reason, may_try, support_contacts())
