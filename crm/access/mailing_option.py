"""The mailing option of a company: whether messages to clients are sent in its name at all, and till when.

Switched by technical support and the owner; whoever looks after the company may try it once, for TRIAL.
"""

from __future__ import annotations

from datetime import date, time, timedelta

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch, Company
from crm.db import db
from crm.errors import DomainError
from crm.i18n import day

MAILING_OPTION = ("has_mailings", "mailings_until")
MAILING_RULES = ("quiet_from", "quiet_to", "asks_consent")
# The code of a refusal, for those who are to go on without the message.
MAILINGS_OFF = "mailings_off"
TRIAL = timedelta(days=14)


def mailings_off(branch: Branch) -> str:
    """Why no message may be sent for the branch's company on the branch's day; empty when it may."""
    return _refusal(branch.company, clock.today(branch))


def company_mailings_off(company: Company) -> str:
    """Why the company may send nothing in one of its branches at least; empty when all of them may."""
    return _refusal(company, _latest_day(company))


def check_mailings(branch_id: int) -> None:
    """Raise DomainError "mailings_off" when no message may be sent for the branch's company on the branch's day."""
    if refusal := mailings_off(db.session.get_one(Branch, branch_id)):
        raise DomainError(MAILINGS_OFF, refusal)


def _refusal(company: Company, today: date) -> str:
    if not company.has_mailings:
        return _("The SMS/E-mail mailing option is off: no messages go out for “%(company)s”.", company=company.name)
    if company.mailings_until is not None and company.mailings_until < today:
        return _(
            "The SMS/E-mail mailing option ended on %(day)s: no messages go out for “%(company)s”.",
            company=company.name,
            day=day(company.mailings_until),
        )
    return ""


def set_mailings(company: Company, *, has_mailings: bool, mailings_until: date | None, by: Actor) -> Company:
    """Switch the option, on until the end of a day (None: without an end); `by` needs the right to what differs only.
    The caller commits.
    """
    if (company.has_mailings, company.mailings_until) != (has_mailings, mailings_until):
        require(by, "company.switch")
        company.has_mailings, company.mailings_until = has_mailings, mailings_until
    db.session.flush()
    return company


def set_mailing_rules(
    company: Company, *, quiet_from: time | None, quiet_to: time | None, asks_consent: bool, by: Actor
) -> Company:
    """Say when mailings wait, from one time of a branch's day to another (over midnight where they are the other way
    round; None, None: never), and whether news go to those alone who have agreed; `by` needs the right to what differs
    only. The caller commits.

    Raises DomainError "quiet_half" and "quiet_empty" beside the field.
    """
    if (quiet_from is None) is not (quiet_to is None):
        text = _("Enter both times, or none.")
        raise DomainError("quiet_half", text, "quiet_from" if quiet_from is None else "quiet_to")
    if quiet_from is not None and quiet_from == quiet_to:
        raise DomainError("quiet_empty", _("Quiet hours end at another time than they begin."), "quiet_to")
    if (company.quiet_from, company.quiet_to, company.asks_consent) != (quiet_from, quiet_to, asks_consent):
        require(by, "company.edit")
        company.quiet_from, company.quiet_to, company.asks_consent = quiet_from, quiet_to, asks_consent
    db.session.flush()
    return company


def try_mailings(company: Company, *, by: Actor) -> Company:
    """Turn the option on for TRIAL, today included, once for a company. The caller commits.

    Raises DomainError "tried" the second time, "mailings_on" when there is nothing to try: the trial is not used up.
    """
    require(by, "company.edit")
    if company.mailings_tried_at is not None:
        raise DomainError(
            "tried", _("The free trial has been used already. To go on sending messages, ask technical support.")
        )
    if not company_mailings_off(company):
        raise DomainError("mailings_on", _("The mailing option is on: there is nothing to try."))
    last = _latest_day(company) + TRIAL - timedelta(days=1)
    company.has_mailings, company.mailings_until, company.mailings_tried_at = True, last, clock.now()
    db.session.flush()
    return company


def _latest_day(company: Company) -> date:
    """Today in the easternmost branch of the company; without branches, in UTC."""
    days = [clock.today(branch) for branch in db.session.scalars(select(Branch).where(Branch.company == company))]
    return max(days, default=clock.now().date())
