"""What a rule would bill its payers for, account by account, and why not: a run issues by it, a dry run shows it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import or_, select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.models import Branch
from crm.bills.forecast import Forecast, forecasts
from crm.bills.issuing import Draft, Wanted, account_to_be, cost_lines, owed_of
from crm.bills.models import Bill, BillMethod
from crm.bills.queries import Generations, awaited_bills_of, generations_under, without_billed
from crm.clients.models import Client
from crm.db import db
from crm.i18n import day as shown_day
from crm.ledger.models import Account, AccountKind, Unit
from crm.mailings.models import BilledAccounts, BillingMethod, MailingRule, MailingRun
from crm.mailings.recipients import billed_subscriptions, period_of
from crm.mailings.schedule import last_payable_day
from crm.subscriptions.models import PlanAccount, Subscription
from crm.subscriptions.queries import without_paid


@dataclass(frozen=True)
class Planned:
    """A rule at a moment of its own. day: of the moment at the branch, whenever it is carried out: a run resumed after
    midnight bills what it began to bill. begin, end: of the period billed.
    """

    rule: MailingRule
    day: date
    begin: date
    end: date

    @classmethod
    def at(cls, rule: MailingRule, moment: datetime) -> Planned:
        day = clock.local(moment, rule.branch).date()
        return cls(rule, day, *period_of(rule, day))

    @classmethod
    def of_run(cls, run: MailingRun) -> Planned:
        return cls.at(run.rule, run.planned_at)


@dataclass(frozen=True)
class Part:
    """One bill of a payer, or why there is none. draft: what it asks for, None where it does not come so far; key: its
    dedupe_key; reason: empty where it is to be issued.
    """

    account: Account
    draft: Draft | None
    reason: str
    key: str = ""


@dataclass(frozen=True)
class Outlook:
    """What a payer is to be billed for. reason: why nothing at all is looked at; parts are empty then."""

    client: Client
    parts: tuple[Part, ...] = ()
    reason: str = ""

    @property
    def due(self) -> list[Part]:
        return [part for part in self.parts if not part.reason]

    @property
    def why_nothing(self) -> str:
        """In words; empty where something is due."""
        if self.due:
            return ""
        return self.reason or next((part.reason for part in self.parts), "")


def outlook(planned: Planned, client_ids: Collection[int]) -> list[Outlook]:
    """What the rule would bill each of these payers for, in the order of their ids. Only a look, in as many statements
    for one as for hundreds; a run has held the cards and the families, and so sees what stays true.
    """
    cards = list(db.session.scalars(select(Client).where(Client.id.in_(client_ids)).order_by(Client.id)))
    rule = planned.rule
    refused = {card.id: reason for card in cards if (reason := _refusal(rule, card))}
    payers = {card.id: card for card in cards if card.id not in refused}
    scopes = _scopes(planned, payers)
    facts = _facts(planned, payers, scopes)
    found = []
    for card in cards:
        own = scopes.get(card.id, [])
        reason = refused.get(card.id) or ("" if own else _nothing_here(rule))
        found.append(Outlook(card, tuple(_part(planned, facts, card, scope) for scope in own), reason))
    return found


def wanted(planned: Planned, part: Part) -> Wanted:
    """The bill of a part that is due, as bills/issuing.py writes it: payable from today of the branch on."""
    assert part.draft is not None
    rule = planned.rule
    until = last_payable_day(rule.term, clock.today(rule.branch), days=rule.term_days)
    method = BillMethod[rule.method.name]
    return Wanted(part.draft, method, until, is_repeatable=rule.is_repeatable, dedupe_key=part.key)


def _refusal(rule: MailingRule, card: Client) -> str:
    """Why a card is no longer one of the rule's: it was when the lines were written."""
    if card.merged_into_id is not None:
        return _("The card has been merged into another.")
    if card.payer_id is not None:
        return _("Another client pays for this one by now.")
    if rule.statuses and card.status.value not in rule.statuses:
        return _("The client's status is another by now.")
    if rule.client_kinds and card.kind.value not in rule.client_kinds:
        return _("The client's type is another by now.")
    return ""


def _nothing_here(rule: MailingRule) -> str:
    if rule.method is BillingMethod.FORECAST and rule.accounts is BilledAccounts.SUBSCRIPTION:
        return _("No active subscription with an account of its own in this period.")
    return _("No active subscription in this period.")


# --- accounts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scope:
    """What one bill is for: an account, and the subscriptions on it; purse: names it among the payer's, in keys."""

    account: Account
    subscriptions: tuple[Subscription, ...]
    purse: str


def _scopes(planned: Planned, payers: Mapping[int, Client]) -> dict[int, list[_Scope]]:
    """By payer id, the base account first, then subscriptions as they began."""
    rule, branch = planned.rule, planned.rule.branch
    sold: dict[int, list[Subscription]] = {}
    for one in _subscriptions(planned, payers):
        sold.setdefault(one.client.payer_id or one.client_id, []).append(one)
    every = [one for own in sold.values() for one in own]
    bases, separate = _accounts(payers, branch, every)
    found: dict[int, list[_Scope]] = {}
    for payer_id, payer in payers.items():
        on_base = [one for one in sold.get(payer_id, ()) if one.account is not PlanAccount.SEPARATE]
        apart = [one for one in sold.get(payer_id, ()) if one.account is PlanAccount.SEPARATE]
        base = bases.get(payer_id) or account_to_be(payer, branch)
        own = list[_Scope]()
        if rule.accounts is BilledAccounts.SUBSCRIPTION:
            # Kept on the base account, each is billed by itself all the same: several directions, a bill for each.
            own += [_Scope(base, (one,), f"s{one.id}") for one in on_base]
        elif on_base or rule.method is BillingMethod.FORECAST:
            own.append(_Scope(base, tuple(on_base), f"b{branch.id}"))
        if rule.accounts is not BilledAccounts.BASE:
            own += [
                _Scope(separate.get(one.id) or account_to_be(payer, branch, one.id), (one,), f"s{one.id}")
                for one in apart
            ]
        found[payer_id] = own
    return found


def _subscriptions(planned: Planned, payer_ids: Iterable[int]) -> list[Subscription]:
    ids = list(payer_ids)
    query = (
        select(Subscription)
        .join(Subscription.client)
        .where(
            or_(Client.id.in_(ids), Client.payer_id.in_(ids)),
            *billed_subscriptions(planned.rule, planned.begin, planned.end),
        )
        .options(joinedload(Subscription.plan), joinedload(Subscription.client))
        .order_by(Subscription.starts_on, Subscription.id)
    )
    return list(db.session.scalars(query.execution_options(populate_existing=True)))


def _accounts(
    payers: Collection[int], branch: Branch, subscriptions: Sequence[Subscription]
) -> tuple[dict[int, Account], dict[int, Account]]:
    """Base accounts by payer, and subscriptions' own by subscription, of those there are."""
    apart = [one.id for one in subscriptions if one.account is PlanAccount.SEPARATE]
    of_payers = (Account.kind == AccountKind.BASE) & Account.client_id.in_(payers) & Account.closed_at.is_(None)
    of_sold = (Account.kind == AccountKind.SUBSCRIPTION) & Account.subscription_id.in_(apart)
    query = select(Account).where(
        or_(of_payers & (Account.branch_id == branch.id), of_sold), Account.unit == Unit.MONEY
    )
    bases, own = dict[int, Account](), dict[int, Account]()
    for account in db.session.scalars(query.execution_options(populate_existing=True)):
        if account.kind is AccountKind.BASE:
            bases[account.client_id or 0] = account
        else:
            own[account.subscription_id or 0] = account
    return bases, own


# --- what is asked for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """What the parts of all payers are judged by. unbilled, unpaid: subscriptions no bill asks for, and of them those
    not paid for at the sale; owed: of those recalculated from others; forecasts: by payer and purse.
    """

    issued: Mapping[str, Generations]
    awaited: Mapping[int, Sequence[Bill]]
    unbilled: frozenset[int]
    unpaid: frozenset[int]
    owed: Mapping[int, Decimal]
    forecasts: Mapping[tuple[int, str], Forecast]


def _facts(planned: Planned, payers: Collection[int], scopes: Mapping[int, Sequence[_Scope]]) -> _Facts:
    rule = planned.rule
    today = clock.today(rule.branch)
    issued = generations_under(payers, f"mailing:{rule.id}:", today=today)
    awaited: dict[int, list[Bill]] = {}
    for bill in awaited_bills_of(payers, rule.branch):
        awaited.setdefault(bill.client_id, []).append(bill)
    if rule.method is BillingMethod.FORECAST:
        asked = [(payer_id, scope) for payer_id, own in scopes.items() for scope in own]
        until = max(planned.end, today)
        sums = forecasts([scope.account for _payer_id, scope in asked], period_to=until)
        found = {(payer_id, scope.purse): one for (payer_id, scope), one in zip(asked, sums, strict=True)}
        return _Facts(issued, awaited, frozenset(), frozenset(), {}, found)
    sold = [one for own in scopes.values() for scope in own for one in scope.subscriptions]
    # A subscription that lasts into the next period is asked for once, not in both.
    unbilled = without_billed(sold, today=today, is_reissued=rule.issues_again)
    unpaid = without_paid(unbilled)
    ids = frozenset(one.id for one in unbilled), frozenset(one.id for one in unpaid)
    return _Facts(issued, awaited, *ids, owed_of(unpaid), {})


def _part(planned: Planned, facts: _Facts, payer: Client, scope: _Scope) -> Part:
    rule, account = planned.rule, scope.account
    if account.client_id != payer.id:
        return Part(account, None, _("This account belongs to another client."))
    if account.is_closed:
        return Part(account, None, _("This account is closed."))
    key = f"mailing:{rule.id}:{payer.id}:{scope.purse}:{planned.begin}:{planned.end}"
    before = facts.issued.get(key)
    if before is not None and before.standing is not None:
        said = _("This period has already been billed: bill %(number)s.", number=before.standing.title)
        return Part(account, None, said)
    if not rule.issues_again and (unpaid := _in_the_way(facts.awaited.get(payer.id, ()), account)):
        return Part(account, None, _("There is an earlier unpaid bill: %(number)s.", number=unpaid.title))
    if rule.method is BillingMethod.FORECAST:
        draft, reason = _by_forecast(planned, facts.forecasts[payer.id, scope.purse], account)
    else:
        draft, reason = _by_cost(planned, facts, scope)
    return Part(account, draft, reason, before.next_key if before is not None else key)


def _in_the_way(awaited: Sequence[Bill], account: Account) -> Bill | None:
    """As bills.queries.payable_bill_of(): bills for a subscription's account and others mind their own kind."""
    is_own = account.kind is AccountKind.SUBSCRIPTION
    for bill in awaited:
        if bill.account_id == account.id if is_own else bill.account.kind is not AccountKind.SUBSCRIPTION:
            return bill
    return None


def _by_forecast(planned: Planned, found: Forecast, account: Account) -> tuple[Draft | None, str]:
    """From today on, as every forecast: a run resumed later bills what is left of its period."""
    today = clock.today(planned.rule.branch)
    if planned.end < today:
        return None, _("The period of this mailing is over: it ended on %(day)s.", day=shown_day(planned.end))
    return Draft(found.total, found.lines, (), today, found.reason, planned.end, account), found.reason


def _by_cost(planned: Planned, facts: _Facts, scope: _Scope) -> tuple[Draft | None, str]:
    """The cost of what is in the period, whatever the balance."""
    if reason := _out_of_range(planned.rule, scope):
        return None, reason
    unbilled = [one for one in scope.subscriptions if one.id in facts.unbilled]
    if not unbilled:
        return None, _("Every subscription of this period has been billed already.")
    due = tuple(one for one in unbilled if one.id in facts.unpaid)
    if not due:
        return None, _("Every subscription of this period was paid for at the sale.")
    lines = cost_lines(due, facts.owed)
    total = sum((line.amount for line in lines), Decimal(0))
    reason = "" if total else _("There is nothing to pay: the subscriptions cost nothing.")
    return Draft(total, lines, due, planned.begin, reason, planned.end, scope.account), reason


def _out_of_range(rule: MailingRule, scope: _Scope) -> str:
    """Why the account billed is not within the rule's ranges of what is left on it; both ends are within. Lessons: of
    the subscriptions billed there; where none counts lessons, no range of them holds. Without the figures, which not
    everybody who reads the protocol sees.
    """
    if rule.lessons_from is not None or rule.lessons_to is not None:
        counted = [int(one.lessons_left) for one in scope.subscriptions if one.lessons]
        if not counted:
            return _("The subscription has no limit of lessons, and the mailing is for a number left.")
        if not _is_within(Decimal(sum(counted)), rule.lessons_from, rule.lessons_to):
            return _("The number of lessons left is out of the range of the mailing.")
    if not _is_within(scope.account.balance, rule.money_from, rule.money_to):
        return _("The money left is out of the range of the mailing.")
    return ""


def _is_within(value: Decimal, low: Decimal | int | None, high: Decimal | int | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)
