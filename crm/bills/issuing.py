"""Issuing bills by the three methods («Тип расчета»): what a bill would ask for, then the bill; one, or hundreds.

What the screen fixes is fixed here too: the sum and the beginning of a bill by the forecast are nobody's to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import or_, select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.bills.forecast import ForecastLine, forecast_of
from crm.bills.models import Bill, BillLine, BillLineKind, BillMethod
from crm.bills.operations import issue_bill
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import db
from crm.debts.queries import debts_of_subscriptions
from crm.errors import DomainError
from crm.i18n import day, money
from crm.ledger.models import Account, AccountKind, Unit
from crm.ledger.operations import base_account
from crm.ledger.queries import accounts_of
from crm.schedule.enrolment import hold_cards
from crm.subscriptions.coverage import lock_coverage
from crm.subscriptions.models import PlanAccount, Subscription, SubscriptionState, SubscriptionStatus


@dataclass(frozen=True)
class Draft:
    """What a bill would ask for. amount: 0 where nothing is to be paid, or where it is for the person to say (by hand);
    reason: why nothing, in words. lines: how it is found. account: id None when it is made with its first bill.
    """

    amount: Decimal
    lines: tuple[ForecastLine, ...]
    subscriptions: tuple[Subscription, ...]
    period_from: date
    reason: str
    period_to: date
    account: Account


def accounts_to_bill(payer: Client, branch: Branch) -> list[Account]:
    """The payer's accounts in the branch a bill may be for («Клиентский счет»): the base account, one for each
    subscription that has its own, named after it, and his deposits. A base account that is not made yet is there
    without an id: account=None means it everywhere below.
    """
    here = [one for one in accounts_of(payer.id) if one.branch_id == branch.id and not one.is_closed]
    base = [one for one in here if one.kind is AccountKind.BASE] or [_base_to_be(payer, branch)]
    separate = [one for one in here if one.kind is AccountKind.SUBSCRIPTION]
    known = {one.id: one for one in _paid_by([payer.id], [one.subscription_id or 0 for one in separate])}
    in_use = [
        one
        for one in separate
        if one.balance or (one.subscription_id in known and known[one.subscription_id].status in _BILLED)
    ]
    return [*base, *in_use, *(one for one in here if one.kind is AccountKind.DEPOSIT)]


_BILLED = (SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN)


def _base_to_be(payer: Client, branch: Branch) -> Account:
    """A base account nobody has needed yet; not in the session, since looking makes none."""
    zero = Decimal(0)
    return Account(
        kind=AccountKind.BASE,
        unit=Unit.MONEY,
        client_id=payer.id,
        branch_id=branch.id,
        balance=zero,
        credited=zero,
        debited=zero,
    )


def draft_bill(
    payer: Client,
    *,
    branch: Branch,
    method: BillMethod,
    account: Account | None = None,
    period_to: date | None = None,
    subscriptions: Sequence[Subscription] = (),
) -> Draft:
    """What a bill to the payer would ask for onto `account`, by default his base account in the branch. Only a look.

    By the forecast: from today of the branch until period_to (the end of this month by default). By subscriptions: the
    cost of those given, whatever the balance, else of those active on the account; for their days.
    Raises DomainError "period_invalid" beside `period_to`, "subscription_foreign" beside `subscriptions`,
    "account_foreign" beside `account`.
    """
    payer = payer_of(payer)
    if account is None:
        account = next(one for one in accounts_to_bill(payer, branch) if one.kind is AccountKind.BASE)
    if account.client_id != payer.id or account.unit is not Unit.MONEY:
        raise DomainError("account_foreign", _("This account belongs to another client."), "account")
    branch = db.session.get_one(Branch, account.branch_id)
    today = clock.today(branch)
    if method is BillMethod.SUBSCRIPTION:
        chosen = _chosen(payer, subscriptions) if subscriptions else _active_on([account], {branch.id: today})
        lines = _cost_lines(chosen)
        begins = min((one.starts_on for one in chosen), default=today)
        ends = period_to or max((one.ends_on for one in chosen), default=_month_end(today))
        amount = sum((line.amount for line in lines), Decimal(0))
        return Draft(
            amount, lines, tuple(chosen), min(begins, ends), "" if amount else _nothing_for(chosen), ends, account
        )
    until = period_to or _month_end(today)
    if method is BillMethod.MANUAL:
        return Draft(Decimal(0), (), tuple(subscriptions), min(today, until), "", until, account)
    if until < today:
        raise _period_over()
    (found,) = forecast_of([account], period_to=until).values()
    return Draft(found.total, found.lines, (), today, found.reason, until, account)


def _month_end(today: date) -> date:
    return (today.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)


def _period_over() -> DomainError:
    return DomainError("period_invalid", _("The forecast begins today: enter no earlier day for its end."), "period_to")


def issue_draft(
    client: Client,
    *,
    method: BillMethod,
    by: Actor,
    branch: Branch | None = None,
    account: Account | None = None,
    subscriptions: Sequence[Subscription] = (),
    amount: Decimal | None = None,
    period_from: date | None = None,
    period_to: date | None = None,
    payable_from: date | None = None,
    payable_until: date | None = None,
    is_repeatable: bool = False,
    purpose: str = "",
    custom: Mapping[str, Any] | None = None,
) -> Bill:
    """Issue what draft_bill() shows, to the client's payer. The caller commits, soon.

    amount, period_from: as they were shown, or typed by the person; None: as they are found now. The sum of a forecast
    is found anew while nobody marks lessons or takes money of the family: when it is another than was shown, nothing is
    issued. Raises as draft_bill() and operations.issue_bill() do, and beside `amount` "forecast_changed",
    "nothing_to_pay", "required"; beside `period_from` "period_from_fixed".
    """
    require(by, "bill.issue", client)
    payer = payer_of(client)
    branch = branch or db.session.get_one(Branch, client.branch_id)
    hold_cards([payer.id])
    if account is None or account.id is None:
        account = base_account(payer.id, account.branch_id if account is not None else branch.id)
    if method is BillMethod.FORECAST:
        _hold_family([payer.id], [account])
    draft = draft_bill(
        payer, branch=branch, method=method, account=account, period_to=period_to, subscriptions=subscriptions
    )
    if method is BillMethod.FORECAST:
        _check_fixed(draft, amount, period_from)
    elif method is BillMethod.SUBSCRIPTION and not draft.amount and (amount is None or not draft.subscriptions):
        raise DomainError("nothing_to_pay", draft.reason, "amount")
    elif method is BillMethod.MANUAL and amount is None:
        raise DomainError("required", _("Enter the sum."), "amount")
    asked = draft.amount if amount is None else amount
    return issue_bill(
        client,
        amount=asked,
        period_from=period_from or draft.period_from,
        period_to=draft.period_to,
        account=account,
        method=method,
        payable_from=payable_from,
        payable_until=payable_until,
        is_repeatable=is_repeatable,
        subscriptions=draft.subscriptions,
        # A sum typed over the one found has no lines: they would not add up to it.
        lines=bill_lines(draft.lines) if asked == draft.amount else (),
        purpose=purpose,
        custom=custom,
        by=by,
    )


def _check_fixed(draft: Draft, amount: Decimal | None, period_from: date | None) -> None:
    """Raise DomainError when a forecast is to be issued otherwise than it is."""
    if period_from is not None and period_from != draft.period_from:
        raise DomainError(
            "period_from_fixed",
            _("A bill by the forecast begins today, %(day)s.", day=day(draft.period_from)),
            "period_from",
        )
    if not draft.amount:
        raise DomainError("nothing_to_pay", draft.reason, "amount")
    if amount is not None and amount != draft.amount:
        raise DomainError(
            "forecast_changed",
            _("The forecast is %(sum)s now: look at it and issue the bill again.", sum=money(draft.amount)),
            "amount",
        )


def _hold_family(payer_ids: Sequence[int], accounts: Sequence[Account]) -> None:
    """Let nobody mark lessons of these families or move their money until the transaction ends: what is read from now
    on belongs together. Their cards are held.
    """
    query = select(Client.id, Client.payer_id).where(or_(Client.id.in_(payer_ids), Client.payer_id.in_(payer_ids)))
    lock_coverage({id: payer_id or id for id, payer_id in db.session.execute(query)}, accounts=accounts)


def bill_lines(lines: Sequence[ForecastLine]) -> list[BillLine]:
    """The steps of a sum as a bill keeps them."""
    return [BillLine(position=position, **vars(line)) for position, line in enumerate(lines)]


# --- by the cost of subscriptions ------------------------------------------------------------------------------------


def _paid_by(payer_ids: Sequence[int], ids: Sequence[int] | None = None) -> list[Subscription]:
    """Subscriptions of these payers and of those they pay for, oldest first; of these ids."""
    query = (
        select(Subscription)
        .join(Subscription.client)
        .where(or_(Client.id.in_(payer_ids), Client.payer_id.in_(payer_ids)))
        .options(joinedload(Subscription.plan), joinedload(Subscription.client))
        .order_by(Subscription.starts_on, Subscription.id)
    )
    if ids is not None:
        query = query.where(Subscription.id.in_(ids))
    return list(db.session.scalars(query))


def _chosen(payer: Client, subscriptions: Sequence[Subscription]) -> list[Subscription]:
    known = _paid_by([payer.id], [one.id for one in subscriptions])
    if len(known) < len({one.id for one in subscriptions}):
        raise DomainError(
            "subscription_foreign", _("This subscription is paid for by another client."), "subscriptions"
        )
    if dead := next((one for one in known if not one.is_payable), None):
        raise DomainError(
            "subscription_foreign", _("There is nothing to pay for “%(name)s”.", name=str(dead)), "subscriptions"
        )
    return known


def _active_on(accounts: Sequence[Account], todays: Mapping[int, date]) -> list[Subscription]:
    """The subscriptions kept on these accounts of one or many payers that are good or will be; todays: by branch."""
    bases = {(one.client_id, one.branch_id) for one in accounts if one.kind is AccountKind.BASE}
    own = {one.subscription_id for one in accounts if one.kind is AccountKind.SUBSCRIPTION}
    payer_ids = sorted({one.client_id for one in accounts if one.client_id is not None})
    good = (SubscriptionState.NOT_BEGUN, SubscriptionState.ACTIVE)
    return [
        one
        for one in _paid_by(payer_ids)
        if one.is_payable
        and one.branch_id in todays
        and one.state(todays[one.branch_id]) in good
        and (
            one.id in own
            if one.account is PlanAccount.SEPARATE
            else (one.client.payer_id or one.client_id, one.branch_id) in bases
        )
    ]


def _cost_lines(subscriptions: Sequence[Subscription]) -> tuple[ForecastLine, ...]:
    """A line for each, as queries.sum_to_ask() counts: its cost; of one recalculated from another what is owed."""
    owed = debts_of_subscriptions([one.id for one in subscriptions if one.replaces_id is not None])
    return tuple(
        ForecastLine(
            BillLineKind.SUBSCRIPTION,
            one.cost if one.replaces_id is None else owed.get(one.id, Decimal(0)),
            student=one.client.name[:200],
            title=one.plan.name[:300],
            note=f"{day(one.starts_on)} – {day(one.ends_on)}",
        )
        for one in subscriptions
    )


def _nothing_for(subscriptions: Sequence[Subscription]) -> str:
    if not subscriptions:
        return _("Nothing to pay: no subscription is active on this account.")
    return _("Nothing to pay: the subscriptions cost nothing, or are paid for.")
