"""Issuing bills by the three methods («Тип расчета»): what a bill would ask for, then the bill; one, or hundreds.

What the screen fixes is fixed here too: the sum and the beginning of a bill by the forecast are nobody's to choose.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from flask_babel import gettext as _
from sqlalchemy import insert, inspect, or_, select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.audit.models import AuditAction
from crm.audit.operations import plain, record_all
from crm.bills.forecast import Forecast, ForecastLine, forecasts
from crm.bills.links import new_token
from crm.bills.models import Bill, BillLine, BillLineKind, BillMethod, BillStatus, bill_subscription
from crm.bills.operations import check_purpose, check_term, issue_bill, take_numbers
from crm.bills.queries import issued_since, unpaid_bills_of, without_billed
from crm.bills.terms import farthest_end
from crm.clients.models import Client
from crm.clients.names import first_name
from crm.clients.queries import payer_of
from crm.db import MAX_AMOUNT, db, insert_rows
from crm.debts.queries import debts_of_subscriptions
from crm.errors import DomainError, NotFound, NothingToDo
from crm.i18n import day, money
from crm.ledger.batch import own_accounts
from crm.ledger.models import Account, AccountKind, Unit
from crm.ledger.operations import base_account, check_amount, lock_accounts, subscription_account
from crm.ledger.queries import accounts_of
from crm.protocol import ProtocolLine
from crm.schedule.enrolment import hold_cards
from crm.subscriptions.coverage import lock_coverage
from crm.subscriptions.models import PlanAccount, Subscription, SubscriptionState, SubscriptionStatus
from crm.subscriptions.queries import without_paid


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
    base = [one for one in here if one.kind is AccountKind.BASE] or [account_to_be(payer, branch)]
    separate = [one for one in here if one.kind is AccountKind.SUBSCRIPTION]
    known = {one.id: one for one in _paid_by([payer.id], [one.subscription_id or 0 for one in separate])}
    in_use = [
        one
        for one in separate
        if one.balance or (one.subscription_id in known and known[one.subscription_id].status in _BILLED)
    ]
    return [*base, *in_use, *(one for one in here if one.kind is AccountKind.DEPOSIT)]


_BILLED = (SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN)


def account_to_be(payer: Client, branch: Branch, subscription_id: int | None = None) -> Account:
    """A base account nobody has needed yet, or a subscription's own; not in the session, since looking makes none."""
    zero = Decimal(0)
    return Account(
        kind=AccountKind.BASE if subscription_id is None else AccountKind.SUBSCRIPTION,
        subscription_id=subscription_id,
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
    Raises DomainError "period_invalid" or "period_too_far" beside `period_to`, "subscription_foreign" beside
    `subscriptions`, "account_foreign" beside `account`.
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
        _check_end(period_to, today, known=chosen)
        return _draft_by_cost(account, chosen, owed_of(chosen), today, period_to)
    _check_end(period_to, today)
    until = period_to or _month_end(today)
    if method is BillMethod.MANUAL:
        return Draft(Decimal(0), (), tuple(subscriptions), min(today, until), "", until, account)
    if until < today:
        raise _period_over()
    (found,) = forecasts([account], period_to=until)
    return Draft(found.total, found.lines, (), today, found.reason, until, account)


def _month_end(today: date) -> date:
    return (today.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)


def _check_end(period_to: date | None, today: date, *, known: Sequence[Subscription] = ()) -> None:
    """Raise DomainError beside `period_to` when it is more than two years ahead, and none of the subscriptions that are
    billed lasts so long.
    """
    last = max([farthest_end(today), *(one.ends_on for one in known)])
    if period_to is not None and period_to > last:
        raise DomainError("period_too_far", _("Enter a day no later than %(day)s.", day=day(last)), "period_to")


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
    is_known = account is not None and account.id is not None
    if method is not BillMethod.MANUAL:
        hold_families([payer.id], [account] if account is not None and is_known else [])
    if account is None or not is_known:  # made after what is held, as by marking: or the two wait for each other
        account = base_account(payer.id, account.branch_id if account is not None else branch.id)
        lock_accounts([account])
    draft = draft_bill(
        payer, branch=branch, method=method, account=account, period_to=period_to, subscriptions=subscriptions
    )
    if method is BillMethod.FORECAST:
        _check_fixed(draft, amount, period_from)
    elif method is BillMethod.SUBSCRIPTION and not draft.amount and (amount is None or not draft.subscriptions):
        raise NothingToDo("nothing_to_pay", draft.reason, "amount")
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
        raise NothingToDo("nothing_to_pay", draft.reason, "amount")
    if amount is not None and amount != draft.amount:
        raise DomainError(
            "forecast_changed",
            _("The forecast is %(sum)s now: look at it and issue the bill again.", sum=money(draft.amount)),
            "amount",
        )


def hold_families(payer_ids: Sequence[int], accounts: Sequence[Account]) -> None:
    """Let nobody mark lessons of these families, move their money or return what they bought until the transaction
    ends: what is read from now on belongs together. The payers' cards are held.
    """
    query = select(Client.id, Client.payer_id).where(or_(Client.id.in_(payer_ids), Client.payer_id.in_(payer_ids)))
    lock_coverage({id: payer_id or id for id, payer_id in db.session.execute(query)}, accounts=accounts)


def bill_lines(lines: Sequence[ForecastLine]) -> list[BillLine]:
    """The steps of a sum as a bill keeps them."""
    return [BillLine(position=position, **vars(line)) for position, line in enumerate(lines)]


# --- many at once ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What is the same for all the bills of an action. amount: of each, by hand; the other methods find their own.
    is_reissued: also onto an account an unpaid bill stands for. since: when the action began that goes on with these.
    """

    method: BillMethod
    period_to: date
    payable_until: date | None = None
    is_repeatable: bool = False
    purpose: str = ""
    amount: Decimal | None = None
    is_reissued: bool = False
    since: datetime | None = None


@dataclass(frozen=True)
class _Asked:
    """A bill of issue_many(): asked for by a client, onto the base account his payer has in the client's branch."""

    client: Client
    payer: Client
    branch: Branch

    @property
    def key(self) -> tuple[int, int]:
        return self.payer.id, self.branch.id


_Key = tuple[int, int]  # payer id, branch id


def issue_many(client_ids: Sequence[int], terms: Terms, *, by: Actor) -> list[ProtocolLine]:
    """Issue a bill for each of the clients to his payer, onto the payer's base account in the client's branch, from
    today there; as many statements for one as for some hundreds. The caller commits, soon: the company's numbers and
    the accounts of all of them wait for it.

    One line per id, in the order given: the bill's number and sum, or why there is none; who shares an account with
    another is told of that one's bill. Who has nothing to pay is skipped. So is, unless terms.is_reissued, the account
    a bill of which waits for payment; an archived or expired one does not count. By subscriptions only those are asked
    for that no bill asks for yet and that were not paid for at the sale.
    Raises DomainError beside the field of what is the same for all: "required", "too_long", those of check_amount().
    """
    require(by, "bill.issue")
    terms = replace(terms, purpose=check_purpose(terms.purpose))
    if terms.method is BillMethod.MANUAL:
        if terms.amount is None:
            raise DomainError("required", _("Enter the sum."), "amount")
        terms = replace(terms, amount=check_amount(terms.amount))
    asked, errors = _asked_for(client_ids)
    numbers = dict[_Key, str]()
    drafts = _drafts({one.key: one for one in asked.values()}, terms, errors, numbers, by=by)
    bills = _write_bills(drafts, terms, by=by)
    return [_told(id, asked.get(id), bills, errors, numbers) for id in client_ids]


class Outlook(NamedTuple):
    """What issue_many() would come to: so many bills, of that sum in all; clients skipped and refused."""

    bills: int
    total: Decimal
    skipped: int
    failed: int


def outlook_of_many(client_ids: Sequence[int], terms: Terms, *, by: Actor) -> Outlook:
    """What issue_many() would do now. Only a look."""
    asked, errors = _asked_for(client_ids, is_held=False)
    drafts = _drafts({one.key: one for one in asked.values()}, terms, errors, {}, by=by, is_held=False)
    left = [errors[key] for key in (asked[id].key if id in asked else id for id in client_ids) if key in errors]
    skipped = sum(isinstance(error, NothingToDo) for error in left)
    total = sum((draft.amount for draft in drafts.values()), Decimal(0))
    return Outlook(len(drafts), total, skipped, len(left) - skipped)


def _told(
    id: int,
    one: _Asked | None,
    bills: Mapping[_Key, Bill],
    errors: Mapping[int | _Key, DomainError],
    numbers: dict[_Key, str],
) -> ProtocolLine:
    """What became of a client. errors: by client or account; numbers: of bills an earlier one of the same action is
    told of, by account.
    """
    if one is None:
        return ProtocolLine.after(id, f"№ {id}", errors[id])
    name = one.client.shown_name
    if number := numbers.get(one.key):
        return ProtocolLine(id, _("%(name)s: in the payer's bill %(number)s", name=name, number=number)[:200])
    if one.key in errors:
        return ProtocolLine.after(id, name, errors[one.key])
    bill = bills[one.key]
    numbers[one.key] = bill.title
    return ProtocolLine(id, f"{name}: {bill.title}, {money(bill.amount)}"[:200])


def _asked_for(
    client_ids: Sequence[int], *, is_held: bool = True
) -> tuple[dict[int, _Asked], dict[int | _Key, DomainError]]:
    """The clients and their payers, held; and what is wrong with the others, by client id."""
    rows = db.session.execute(select(Client.id, Client.payer_id).where(Client.id.in_(client_ids))).all()
    ids = {id for row in rows for id in row if id is not None}
    if is_held:
        hold_cards(ids)
    query = select(Client).where(Client.id.in_(ids))
    known = {client.id: client for client in db.session.scalars(query)}
    branches = {branch.id: branch for branch in db.session.scalars(select(Branch))}
    asked, errors = dict[int, _Asked](), dict[int | _Key, DomainError]()
    for id in client_ids:
        client = known.get(id)
        payer = known.get(client.payer_id or client.id) if client is not None else None
        if client is None:
            errors[id] = NotFound("not_found", _("Not found"))
        elif payer is None:
            errors[id] = NotFound("payer_not_found", _("The payer's card was not found in this branch."))
        else:
            asked[id] = _Asked(client, payer, branches[client.branch_id])
    return asked, errors


def _drafts(
    wanted: Mapping[_Key, _Asked],
    terms: Terms,
    errors: dict[int | _Key, DomainError],
    numbers: dict[_Key, str],
    *,
    by: Actor,
    is_held: bool = True,
) -> dict[_Key, Draft]:
    """What is asked for onto each account; why nothing is, is added to `errors`, and what the same action has issued
    already to `numbers`.
    """
    known = _known_bases(wanted)
    if is_held:
        hold_families([payer_id for payer_id, _branch_id in wanted], [])
    todays = {one.branch.id: clock.today(one.branch) for one in wanted.values()}
    accounts = dict[_Key, Account]()
    for key, one in wanted.items():
        if error := _refusal(terms, todays[one.branch.id]):
            errors[key] = error
        else:
            accounts[key] = known.get(key) or account_to_be(one.payer, one.branch)
    if terms.since is not None:
        alike = issued_since(
            terms.since,
            accounts.values(),
            by=by,
            method=terms.method,
            period_to=terms.period_to,
            purpose=terms.purpose,
        )
        numbers |= {key: alike[one.id] for key, one in accounts.items() if one.id in alike}
    if not terms.is_reissued:
        unpaid = unpaid_bills_of(accounts.values())
        errors |= {key: _unpaid(unpaid[one.id][0]) for key, one in accounts.items() if one.id in unpaid}
    fresh = {key: one for key, one in accounts.items() if key not in errors and key not in numbers}
    by_method = _drafts_by_cost if terms.method is BillMethod.SUBSCRIPTION else _drafts_by_forecast
    drafts = by_method(fresh, terms, todays)
    refused: dict[int | _Key, DomainError] = {key: why for key, draft in drafts.items() if (why := _why_none(draft))}
    errors |= refused
    return {key: draft for key, draft in drafts.items() if key not in refused}


def _why_none(draft: Draft) -> DomainError | None:
    """Why there is no bill as drafted: nothing to pay, or more than one bill may ask for."""
    if not draft.amount:
        return NothingToDo("nothing_to_pay", draft.reason)
    try:
        check_amount(draft.amount)
    except DomainError:
        text = _(
            "%(sum)s is more than one bill may ask for, %(most)s.", sum=money(draft.amount), most=money(MAX_AMOUNT)
        )
        return DomainError("amount_invalid", text, "amount")
    return None


def _unpaid(bill: Bill) -> NothingToDo:
    return NothingToDo("billed_already", _("There is an earlier unpaid bill: %(number)s.", number=bill.title))


def _refusal(terms: Terms, today: date) -> DomainError | None:
    if terms.period_to < today:
        return _period_over()
    try:
        _check_end(terms.period_to, today)
        check_term(today, terms.payable_until)
    except DomainError as error:
        return error
    return None


def _known_bases(keys: Collection[_Key]) -> dict[_Key, Account]:
    """The base accounts that are there, by payer and branch."""
    query = select(Account).where(
        Account.kind == AccountKind.BASE,
        Account.client_id.in_({payer_id for payer_id, _branch_id in keys}),
        Account.closed_at.is_(None),
    )
    return {(one.client_id or 0, one.branch_id): one for one in db.session.scalars(query)}


def _drafts_by_forecast(
    accounts: Mapping[_Key, Account], terms: Terms, todays: Mapping[int, date]
) -> dict[_Key, Draft]:
    """Also by hand: the same sum for everybody, without lines."""
    if terms.amount is not None and terms.method is BillMethod.MANUAL:
        found = [Forecast((), terms.amount)] * len(accounts)
    else:
        found = forecasts(list(accounts.values()), period_to=terms.period_to)
    return {
        key: Draft(one.total, one.lines, (), todays[account.branch_id], one.reason, terms.period_to, account)
        for (key, account), one in zip(accounts.items(), found, strict=True)
    }


def _drafts_by_cost(accounts: Mapping[_Key, Account], terms: Terms, todays: Mapping[int, date]) -> dict[_Key, Draft]:
    active = _active_on(list(accounts.values()), todays)
    due = list[Subscription]()
    for today in sorted(set(todays.values())):
        due += without_billed([one for one in active if todays[one.branch_id] == today], today=today)
    due = without_paid(due)
    owed = owed_of(due)
    sold, asked = set[_Key](), dict[_Key, list[Subscription]]()
    for one in active:
        sold.add(_key_of(one))
    for one in due:
        asked.setdefault(_key_of(one), []).append(one)
    drafts = {}
    for key, account in accounts.items():
        draft = _draft_by_cost(account, asked.get(key, []), owed, todays[account.branch_id], terms.period_to)
        if key in sold and key not in asked:
            draft = replace(draft, reason=_("Every subscription on the base account is billed or paid for already."))
        drafts[key] = draft
    return drafts


def _key_of(subscription: Subscription) -> _Key:
    return subscription.client.payer_id or subscription.client_id, subscription.branch_id


def _write_bills(drafts: Mapping[_Key, Draft], terms: Terms, *, by: Actor) -> dict[_Key, Bill]:
    wanted = [
        Wanted(draft, terms.method, terms.payable_until, terms.is_repeatable, terms.purpose)
        for draft in drafts.values()
    ]
    return dict(zip(drafts, write_bills(wanted, by=by), strict=True))


@dataclass(frozen=True)
class Wanted:
    """A bill that is to be written as drafted, to the owner of the draft's account. dedupe_key: see Bill."""

    draft: Draft
    method: BillMethod
    payable_until: date | None = None
    is_repeatable: bool = False
    purpose: str = ""
    dedupe_key: str | None = None


def write_bills(wanted: Sequence[Wanted], *, by: Actor) -> list[Bill]:
    """Write bills that are known to be in order, with their lines and their audit, in the order given; accounts that
    are not there yet are made. As many statements for one as for some hundreds. The bills are not the session's.

    The caller has held the cards, and commits, soon: the companies' numbers wait for it. Raises DomainError beside
    `amount` when a sum is too big for a bill, IntegrityError when a dedupe_key is taken.
    """
    if not wanted:
        return []
    accounts = _made(wanted)
    branches = {branch.id: branch for branch in db.session.scalars(select(Branch))}
    rows = list[dict[str, Any]]()
    now = clock.now()
    for one, account in zip(wanted, accounts, strict=True):
        branch = branches[account.branch_id]
        today = clock.today(branch)
        rows.append(
            {
                "branch_id": branch.id,
                "company_id": branch.company_id,
                "year": today.year,
                "number": 0,
                "token": new_token(),
                "client_id": account.client_id,
                "account_id": account.id,
                "status": BillStatus.PENDING,
                "method": one.method,
                "amount": check_amount(one.draft.amount),
                "paid_amount": Decimal(0),
                "purpose": one.purpose,
                "period_from": one.draft.period_from,
                "period_to": one.draft.period_to,
                "payable_from": today,
                "payable_until": one.payable_until,
                "is_repeatable": one.is_repeatable,
                "payments_count": 0,
                "issued_at": now,
                "paid_at": None,
                "link_revoked_at": None,
                "author_id": by.id,
                "dedupe_key": one.dedupe_key,
                "version": 1,
                "custom": {},
            }
        )
    _number(rows)
    insert_rows(Bill, rows)
    ids = select(Bill.token, Bill.id).where(Bill.token.in_([row["token"] for row in rows]))
    by_token: dict[str, int] = dict(db.session.execute(ids).all())
    bills = [Bill(id=by_token[row["token"]], **row) for row in rows]
    written = list(zip(bills, (one.draft for one in wanted), strict=True))
    lines = [
        {"bill_id": bill.id, "position": position, **vars(line)}
        for bill, draft in written
        for position, line in enumerate(draft.lines)
    ]
    insert_rows(BillLine, lines)
    asked = [{"bill_id": bill.id, "subscription_id": one.id} for bill, draft in written for one in draft.subscriptions]
    if asked:
        db.session.execute(insert(bill_subscription), asked)
    record_all(AuditAction.CREATE, {bill: _as_new(bill, draft) for bill, draft in written}, by=by)
    return bills


def _made(wanted: Sequence[Wanted]) -> list[Account]:
    """The accounts of the drafts, those made that are not there yet. A subscription's own is missing rarely: a sale
    makes it.
    """
    accounts = [one.draft.account for one in wanted]
    missing = [one for one in accounts if one.id is None]
    bases, own = dict[_Key, Account](), dict[int, Account]()
    for branch_id in sorted({one.branch_id for one in missing}):
        payer_ids = [one.client_id or 0 for one in missing if _is_base(one) and one.branch_id == branch_id]
        made = own_accounts(AccountKind.BASE, dict.fromkeys(payer_ids, branch_id)) if payer_ids else {}
        bases |= {(payer_id, branch_id): account for payer_id, account in made.items()}
    for one in missing:
        if not _is_base(one) and (id := one.subscription_id or 0) not in own:
            own[id] = subscription_account(AccountKind.SUBSCRIPTION, id, one.client_id or 0, one.branch_id)
    return [
        one
        if one.id is not None
        else bases[one.client_id or 0, one.branch_id]
        if _is_base(one)
        else own[one.subscription_id or 0]
        for one in accounts
    ]


def _is_base(account: Account) -> bool:
    return account.kind is AccountKind.BASE


def _number(rows: Sequence[dict[str, Any]]) -> None:
    """Give the bills their numbers, company by company, year by year: no more than there are bills."""
    of_counter: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows:
        of_counter.setdefault((row["company_id"], row["year"]), []).append(row)
    for (company_id, year), own in sorted(of_counter.items()):
        for row, number in zip(own, take_numbers(company_id, year, len(own)), strict=True):
            row["number"] = number


def _as_new(bill: Bill, draft: Draft) -> dict[str, Any]:
    """What the audit says of it, as of one the session has written: not what every new bill has."""
    columns = {column.key: getattr(bill, column.key) for column in inspect(Bill).column_attrs}
    for name in ("id", "status", "paid_amount", "payments_count", "version", "custom"):
        del columns[name]
    changes = {name: [None, plain(value)] for name, value in columns.items() if value is not None}
    changes |= {name: ["…", "…"] for name in Bill.__secret__}
    if draft.subscriptions:
        changes["subscriptions"] = [None, [str(one) for one in draft.subscriptions]]
    return changes


# --- by the cost of subscriptions ------------------------------------------------------------------------------------


def _paid_by(payer_ids: Sequence[int], ids: Sequence[int] | None = None) -> list[Subscription]:
    """Subscriptions of these payers and of those they pay for, oldest first, as they are now: of these ids, else those
    that are active.
    """
    query = (
        select(Subscription)
        .join(Subscription.client)
        .where(or_(Client.id.in_(payer_ids), Client.payer_id.in_(payer_ids)))
        .options(joinedload(Subscription.plan), joinedload(Subscription.client))
        .order_by(Subscription.starts_on, Subscription.id)
    )
    if ids is not None:
        query = query.where(Subscription.id.in_(ids))
    else:
        query = query.where(Subscription.status == SubscriptionStatus.ACTIVE)
    return list(db.session.scalars(query.execution_options(populate_existing=True)))


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


def owed_of(subscriptions: Sequence[Subscription]) -> dict[int, Decimal]:
    """What is unpaid of those that were recalculated from others, by id."""
    return debts_of_subscriptions([one.id for one in subscriptions if one.replaces_id is not None])


def cost_lines(subscriptions: Sequence[Subscription], owed: Mapping[int, Decimal]) -> tuple[ForecastLine, ...]:
    """A line for each, as queries.sum_to_ask() counts: its cost; of one recalculated from another what is owed."""
    return tuple(
        ForecastLine(
            BillLineKind.SUBSCRIPTION,
            one.cost if one.replaces_id is None else owed.get(one.id, Decimal(0)),
            student=first_name(one.client.name)[:200],
            title=one.plan.name[:300],
            note=f"{day(one.starts_on)} – {day(one.ends_on)}",
        )
        for one in subscriptions
    )


def _draft_by_cost(
    account: Account,
    subscriptions: Sequence[Subscription],
    owed: Mapping[int, Decimal],
    today: date,
    period_to: date | None,
) -> Draft:
    """For the days of the subscriptions; period_to: until that day instead."""
    lines = cost_lines(subscriptions, owed)
    ends = period_to or max((one.ends_on for one in subscriptions), default=_month_end(today))
    begins = min(ends, min((one.starts_on for one in subscriptions), default=today))
    amount = sum((line.amount for line in lines), Decimal(0))
    reason = "" if amount else _nothing_for(subscriptions)
    return Draft(amount, lines, tuple(subscriptions), begins, reason, ends, account)


def _nothing_for(subscriptions: Sequence[Subscription]) -> str:
    if not subscriptions:
        return _("Nothing to pay: no subscription is active on this account.")
    return _("Nothing to pay: the subscriptions cost nothing, or are paid for.")
