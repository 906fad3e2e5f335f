"""Tabs of a client's card: a tab is a line of TABS, a function that loads it, templates/admin/card/<key>.html."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from flask import request
from flask_babel import LazyString
from flask_babel import lazy_gettext as _l
from flask_login import current_user

from crm import clock
from crm.access.models import User
from crm.admin.base import KontoraView
from crm.admin.views.attending import trial_line, visits_history
from crm.admin.views.bill_links import due_of, is_payable
from crm.admin.views.card_history import account_history, family_of, finance_history
from crm.admin.views.debts import debts_of_card, unpaid_subscriptions
from crm.admin.views.groups import join_form
from crm.admin.views.messages import message_list
from crm.admin.views.operations import OperationView
from crm.admin.views.sales import options_of_card
from crm.admin.views.waiting import place_form
from crm.bills.bundles import bundle_url, bundles_of
from crm.bills.links import bill_url
from crm.bills.queries import bills_of
from crm.clients.models import Client, ClientStatus
from crm.clients.queries import payer_of
from crm.db import db
from crm.ledger.history import AccountOperation
from crm.ledger.queries import accounts_of
from crm.mailings.queries import messages_of
from crm.payments.queries import payments_of
from crm.schedule.planned import planned_of
from crm.schedule.queries import groups_of, has_nobody_to_come
from crm.schedule.waiting import has_waiting_list, waiting_of
from crm.schedule.wishes import wishes_of
from crm.subscriptions.queries import cabinet_access, subscriptions_of
from crm.subscriptions.remainders import remainders_of
from crm.tasks.queries import tasks_of_client
from crm.visits.models import Visit
from crm.visits.queries import visits_of


@dataclass(frozen=True)
class Card:
    """Whose card is shown, and by which view."""

    client: Client
    view: KontoraView

    @property
    def payer(self) -> Client:
        return payer_of(self.client)


@dataclass(frozen=True)
class Tab:
    """permission: what shows it, None for all who see the card. load: the variables its template adds to the card's."""

    key: str
    label: LazyString
    permission: str | None
    load: Callable[[Card], dict[str, Any]]


def _main(card: Card) -> dict[str, Any]:
    return {
        "accounts": accounts_of(card.payer.id) if current_user.may("account.view") else [],
        "remainders": remainders_of(card.client),
        "trial": trial_line(card.client),
        "debts": debts_of_card(card.payer),
        "cabinet": cabinet_access(card.payer) if current_user.may("subscription.view") else None,
        **_plans(card.client),
        "history_lines": card.view.history(card.client, limit=10),
    }


def _plans(client: Client) -> dict[str, Any]:
    """Who is to be called, who waits, what is wished for; whether the card invites to add who will come to lessons."""
    is_listed = current_user.may("waiting.view") and has_waiting_list(client.branch)
    may_list = is_listed and current_user.may("waiting.edit") and client.status is ClientStatus.ACTIVE
    return {
        "tasks": tasks_of_client(client, current_user) if current_user.may("task.view") else [],
        "whence": "card",
        "waiting": waiting_of(client) if is_listed else None,
        "place": place_form(client) if may_list else None,
        "wishes": wishes_of(client),
        "needs_student": has_nobody_to_come(client),
    }


def _accounts(card: Card) -> dict[str, Any]:
    accounts = accounts_of(*(person.id for person in family_of(card.payer)))
    authors = {account.author_id for account in accounts} - {None}
    names = db.session.execute(sa.select(User.id, User.name).where(User.id.in_(authors)))
    return {
        "accounts": [account for account in accounts if not account.is_closed],
        "closed": [account for account in accounts if account.is_closed],
        "opened_by": {row.id: row.name for row in names},
        **account_history(_operations(card), card.payer, accounts),
    }


# The sub-categories of the history, by what the address calls them; finance is shown unless told otherwise.
HISTORIES = {
    "visits": _l("History of visits"),
    "finance": _l("History of finances"),
    "events": _l("History of events"),
}


def _history(card: Card) -> dict[str, Any]:
    part = request.args.get("part", "")
    if part == "visits":
        found: dict[str, Any] = {"visits": visits_history(card.client)}
    elif part == "events":
        found = {"events": card.view.history(card.client, limit=100)}
    else:
        part, found = "finance", finance_history(_operations(card), card.payer)
    return {"parts": HISTORIES, "part": part, **found}


def _planned(card: Card) -> dict[str, Any]:
    return {"planned": planned_of(card.client, by=current_user), "now": clock.now()}


def _operations(card: Card) -> OperationView:
    view = card.view.view_of(AccountOperation)
    assert isinstance(view, OperationView)
    return view


def _bills(card: Card) -> dict[str, Any]:
    bills = bills_of(card.payer.id)[:100]
    return {
        "bills": bills,
        "bill_url": bill_url,
        "payable": {bill.id for bill in bills if is_payable(bill)},
        "bundles": bundles_of(card.payer.id),
        "bundle_url": bundle_url,
        "due_of": due_of,
    }


def _subscriptions(card: Card) -> dict[str, Any]:
    found = subscriptions_of(card.client.id)
    return {
        "subscriptions": found,
        "unpaid": unpaid_subscriptions([sold.id for sold in found]),
        "today": clock.today(card.client.branch),
    }


def _visits(card: Card) -> dict[str, Any]:
    visits, view = visits_of(card.client), card.view.view_of(Visit)
    assert view is not None
    column = view.column("paid_at")
    is_family = any(visit.client_id != card.client.id for visit in visits)
    return {"visits": visits, "family": is_family, "paid": lambda visit: view.cell(visit, column)}


def _payments(card: Card) -> dict[str, Any]:
    return {"payments": payments_of(card.payer.id)}


def _messages(card: Card) -> dict[str, Any]:
    return message_list(messages_of(*{card.client.id, card.payer.id}))


def _options(card: Card) -> dict[str, Any]:
    return options_of_card(card.client, card.payer)


def _groups(card: Card) -> dict[str, Any]:
    today = clock.today(card.client.branch)
    may_join = current_user.may("clientgroup.enrol") and card.client.status is ClientStatus.ACTIVE
    return {
        "groups": groups_of(card.client, day=today),
        "today": today,
        "form": join_form(card.client)() if may_join else None,
    }


TABS = (
    Tab("main", _l("Card"), None, _main),
    Tab("accounts", _l("Client's accounts"), "account.view", _accounts),
    Tab("bills", _l("Bills to pay"), "bill.view", _bills),
    Tab("subscriptions", _l("Subscriptions"), "subscription.view", _subscriptions),
    Tab("visits", _l("Visits"), "visit.view", _visits),
    Tab("groups", _l("Groups"), "clientgroup.view", _groups),
    Tab("planned", _l("Planned lessons"), "lesson.view", _planned),
    Tab("history", _l("History"), "entry.view", _history),
    Tab("payments", _l("Payments"), "payment.view", _payments),
    Tab("messages", _l("Messages"), "message.view", _messages),
    Tab("options", _l("Additional options"), "subscription.view", _options),
)


def tabs_shown() -> dict[str, Tab]:
    """The tabs this person may see, by key, in their order."""
    return {tab.key: tab for tab in TABS if tab.permission is None or current_user.may(tab.permission)}
