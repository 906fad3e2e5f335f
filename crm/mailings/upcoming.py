"""What a rule is about to do: when it runs next, and what it lacks to send anything."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.models import Branch
from crm.contacts.models import Channel
from crm.db import db
from crm.mailings.models import MailingRule, Provider
from crm.mailings.schedule import falls_on
from crm.mailings.selection import planned_run

# Any two months hold a planned day of every rule.
_LOOK_AHEAD_DAYS = 63


def next_run(rule: MailingRule, *, now: datetime) -> datetime | None:
    """The first moment after `now` the rule is planned for (UTC); None when it is off or its only day is over. Of a
    message to a selection: of its run, while that has not begun.
    """
    if rule.is_selected:
        return _moment_of_selection(rule, now)
    if not rule.is_active:
        return None
    today = clock.local(now, rule.branch).date()
    days = [today + timedelta(days=ahead) for ahead in range(_LOOK_AHEAD_DAYS)]
    for day in days if rule.once_on is None else [rule.once_on]:
        if falls_on(rule, day) and (moment := clock.at(day, rule.send_time, rule.branch)) > now:
            return moment
    return None


def _moment_of_selection(rule: MailingRule, now: datetime) -> datetime | None:
    assert rule.once_on is not None
    if clock.at(rule.once_on, rule.send_time, rule.branch) <= now:  # as most are: nothing to be asked
        return None
    run = planned_run(rule)
    return run.planned_at if run is not None and run.planned_at > now else None


def lacks_of(branch: Branch, ways: Iterable[tuple[Channel | None, bool]]) -> list[str]:
    """What keeps messages from going out over these ways for the branch's company, besides its mailing option: a
    sentence each, none when nothing is missing. ways: the channels, and whether each has a text to send.
    """
    chosen = [(channel, has_text) for channel, has_text in ways if channel is not None]
    if not chosen:
        return [_("No way of sending is chosen.")]
    query = select(Provider.channel).where(Provider.company_id == branch.company_id, Provider.is_active)
    connected = {*db.session.scalars(query), *_of_installation()}
    if Channel.WHATSAPP in connected:  # stands in for SMS
        connected.add(Channel.SMS)
    said = []
    for channel, has_text in chosen:
        if not has_text:
            said.append(_("No template is given for “%(way)s”.", way=channel.label))
        if channel not in connected:
            said.append(_("The provider of “%(way)s” is not connected.", way=channel.label))
    return said


def _of_installation() -> set[Channel]:
    """Channels that work without a provider of the company's own."""
    settings = current_app.config["SETTINGS"]
    found = {Channel.CABINET}
    if settings.smtp_url is not None:
        found.add(Channel.EMAIL)
    if settings.sms is not None or settings.is_demo:
        found.add(Channel.SMS)
    return found
