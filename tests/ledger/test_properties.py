"""Any sequence of valid and invalid operations, against a model that only adds and compares (Hypothesis, stateful).

The model keeps what each client account holds and what each branch's own accounts came to, and says beforehand what an
operation will do or how it will be refused. After each step the caches are the model's; at the end of each sequence
every transaction balances, per unit and per branch, every sum is the sum of its entries, and the ledger check is empty.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import issue_bill
from crm.clients.merging import merge_clients
from crm.clients.models import Client
from crm.db import MAX_AMOUNT, db, transaction
from crm.debts.operations import accrue_debt, write_off_bad_debt, write_off_debt
from crm.debts.queries import forgiven_of, key_of_carried, unpaid_charges
from crm.errors import DomainError
from crm.ledger.batch import Posting, post_all
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import Line, base_account, house_account, lessons_account, post
from crm.ledger.queries import check_ledger
from crm.ledger.turnover import keep_turnover, totals_of_clients
from crm.payments import desk
from crm.payments.models import DESK_METHODS, Payment, PaymentMethod
from crm.payments.operations import open_account_paid, pay_bill_from_account, top_up
from crm.subscriptions.operations import lessons_of, sell_subscription
from crm.tills.models import Till, TillKind
from crm.tills.operations import new_till
from crm.tills.queries import current_shift, tills_in
from crm.tills.shifts import close_shift, open_shift
from crm.visits.models import WayToPay
from crm.visits.operations import book_visit, pay_visit
from tests.factories import Network, make_account_type, make_client, make_plan

IS_LONG = os.environ.get("CHAOS") == "1"
T = TypeVar("T")

# --- the model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class House:
    """A branch's own account, as the model names it: a branch has one of each but tills, of which it has one here."""

    kind: AccountKind
    branch_id: int
    unit: Unit = Unit.MONEY


Place = int | House  # a client account's id, or a branch's own account
Moves = list[tuple[Place, Decimal]]


@dataclass
class Held:
    """A client account in the model."""

    kind: AccountKind
    branch_id: int
    client_id: int
    subscription_id: int | None = None
    credited: Decimal = Decimal(0)
    debited: Decimal = Decimal(0)
    is_closed: bool = False

    @property
    def balance(self) -> Decimal:
        return self.credited - self.debited


@dataclass
class Posted:
    """A transaction in the model, with the settlements between branches. was_undone: reversed, or a reversal."""

    id: int
    kind: TransactionKind
    moves: Moves
    was_undone: bool = False


@dataclass
class Model:
    """shifts: of the cash desks that work by them, whether one is open. heirs: of accounts emptied by a merge."""

    shifts: dict[int, bool] = field(default_factory=dict)
    heirs: dict[int, int] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    house: Counter[House] = field(default_factory=Counter)
    posted: list[Posted] = field(default_factory=list)

    def branch_of(self, place: Place) -> int:
        return place.branch_id if isinstance(place, House) else self.held[place].branch_id

    def refusal(self, moves: Moves) -> str | None:
        """How the ledger refuses these moves, taken in their order."""
        if any(not isinstance(place, House) and self.held[place].is_closed for place, _ in moves):
            return "account_closed"
        left = {place: self.held[place].balance for place, _ in moves if not isinstance(place, House)}
        for place, amount in moves:
            if isinstance(place, House):
                continue
            left[place] += amount
            if self.held[place].kind is AccountKind.DEPOSIT and amount < 0 and left[place] < 0:
                return "not_enough"
        return None

    def settled(self, moves: Moves) -> Moves:
        """With what the branches owe each other for it."""
        sums: dict[int, Decimal] = defaultdict(Decimal)
        for place, amount in moves:
            sums[self.branch_of(place)] += amount
        over = [
            (House(AccountKind.SETTLEMENT, branch_id), -total) for branch_id, total in sorted(sums.items()) if total
        ]
        return [*moves, *over]

    def heir_of(self, place: Place) -> Place:
        while isinstance(place, int) and place in self.heirs:
            place = self.heirs[place]
        return place

    def till_refusal(self, method: PaymentMethod, branch_id: int, pays_out: Decimal = Decimal(0)) -> str | None:
        """How the branch's cash desk refuses to give or take."""
        if method is not PaymentMethod.CASH:
            return None
        if self.shifts.get(branch_id) is False:
            return "shift_closed"
        return "till_short" if pays_out and self.cash(branch_id) < pays_out else None

    def cash(self, branch_id: int) -> Decimal:
        return -Decimal(self.house[House(AccountKind.CASH, branch_id)])

    def note(self, posted: Transaction, moves: Moves) -> None:
        moves = self.settled(moves)
        self.posted.append(Posted(posted.id, posted.kind, moves))
        for place, amount in moves:
            if isinstance(place, House):
                self.house[place] += amount  # type: ignore[assignment]
            elif amount > 0:
                self.held[place].credited += amount
            else:
                self.held[place].debited -= amount


# --- the machine ----------------------------------------------------------------------------------------------------

SUMS = st.decimals(Decimal("0.01"), Decimal("3000"), places=2) | st.sampled_from([Decimal("0.01"), Decimal(1000)])
BAD_SUMS = st.sampled_from([Decimal(0), Decimal("-1"), MAX_AMOUNT + 1, Decimal("0.004")])
NUMBERS = st.integers(0, 50)
SAID = st.sampled_from(["", "Сдача"])
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)  # no midnight passes meanwhile
TODAY = NOON.date()
IRREVERSIBLE = {TransactionKind.SALE, TransactionKind.DISCOUNT, TransactionKind.CASH_COUNT, TransactionKind.REVERSAL}
_DESK = {WayToPay.CASH: PaymentMethod.CASH, WayToPay.CARD: PaymentMethod.CARD}


class Business(RuleBasedStateMachine):
    """Four clients in two branches of one company, two of whom turn out to be one person, and all the ways their money
    moves. network: set before a run; the branches are new each time, so that they begin with nothing.
    """

    network: Network

    @initialize()
    def begin(self) -> None:
        self.model = Model()
        self.branches = [_new_branch(self.network) for _ in range(2)]
        self.account_type = make_account_type(*self.branches)
        self.clients = [make_client(branch) for branch in self.branches * 2]
        for client in self.clients:
            with transaction():
                self.hold(base_account(client.id, client.branch_id))
                self.hold(lessons_account(client.id, client.branch_id))
                self.hold(self.opened(client, None, None))

    # Short ways to say things.

    def hold(self, account: Account) -> Account:
        assert account.client_id is not None
        self.model.held[account.id] = Held(account.kind, account.branch_id, account.client_id, account.subscription_id)
        return account

    def opened(self, client: Client, initial: Decimal | None, method: PaymentMethod | None) -> Account:
        branch = next(branch for branch in self.branches if branch.id == client.branch_id)
        return open_account_paid(
            client, self.account_type, branch=branch, initial_balance=initial, method=method, by=SYSTEM
        )

    def client(self, number: int) -> Client:
        return self.clients[number % len(self.clients)]

    def money(self, number: int) -> Account:
        """One of the clients' money accounts, closed ones too."""
        ids = [at for at, held in self.model.held.items() if held.kind is not AccountKind.LESSONS]
        return db.session.get_one(Account, ids[number % len(ids)])

    def held(self, account: Account) -> Held:
        return self.model.held[account.id]

    def own(self, client: Client, kind: AccountKind) -> int:
        """Id of the client's open account of a kind he has one of in his branch."""
        return next(
            at
            for at, held in self.model.held.items()
            if (held.kind, held.client_id, held.branch_id) == (kind, client.id, client.branch_id) and not held.is_closed
        )

    def tried(self, operation: Callable[[], T], refused: str | None) -> T | None:
        """Carry it out as the panel does. It must be refused with that code, or, for None, not at all."""
        code, done = None, None
        try:
            with transaction():
                done = operation()
        except DomainError as error:
            code = error.code
        assert code == refused
        return done

    def posts(self, operation: Callable[[], Transaction], moves: Moves, refused: str | None = None) -> bool:
        """An operation that writes one transaction of these moves, unless it is refused before it comes to it."""
        done = self.tried(operation, refused or self.model.refusal(moves))
        if done is not None:
            self.model.note(done, moves)
        return done is not None

    def funds(self, account: Account, amount: Decimal) -> str | None:
        """How handing out more than there is on an account is refused."""
        if self.held(account).is_closed:
            return "account_closed"
        return "not_enough" if self.held(account).balance < amount else None

    # What people do.

    @rule(number=NUMBERS, initial=st.none() | SUMS | BAD_SUMS, method=st.sampled_from([*DESK_METHODS, None]))
    def open(self, number: int, initial: Decimal | None, method: PaymentMethod | None) -> None:
        client, refused = self.client(number), None
        if initial:
            refused = _unless_valid(initial) or (
                self.model.till_refusal(method, client.branch_id) if method else "method_required"
            )
        account = self.tried(lambda: self.opened(client, initial, method), refused)
        if account is None:
            return
        self.hold(account)
        if initial and method:
            paid = select(Transaction).join(Entry).where(Entry.account_id == account.id)
            self.model.note(db.session.scalars(paid).one(), _taken(account, initial, method))

    @rule(number=NUMBERS, amount=SUMS | BAD_SUMS, method=st.sampled_from([*DESK_METHODS, PaymentMethod.ONLINE]))
    def top_up(self, number: int, amount: Decimal, method: PaymentMethod) -> None:
        account = self.money(number)
        if method not in DESK_METHODS:
            refused: str | None = "method_required"
        else:
            refused = _unless_valid(amount) or self.model.till_refusal(method, account.branch_id)
        self.posts(
            lambda: _posted(top_up(account, amount=amount, method=method, by=SYSTEM)),
            [] if refused else _taken(account, amount, method),
            refused,
        )

    @rule(number=NUMBERS, amount=SUMS, method=st.sampled_from(desk.REFUND_METHODS))
    def refund(self, number: int, amount: Decimal, method: PaymentMethod) -> None:
        account = self.money(number)
        refused = self.model.till_refusal(method, account.branch_id, amount) or self.funds(account, amount)
        moves = [(place, -sum_) for place, sum_ in _taken(account, amount, method)]
        self.posts(lambda: desk.refund(account, amount=amount, method=method, by=SYSTEM), moves, refused)

    @rule(source=NUMBERS, to=NUMBERS, amount=SUMS)
    def transfer(self, source: int, to: int, amount: Decimal) -> None:
        one, other = self.money(source), self.money(to)
        if one.id == other.id:
            refused: str | None = "account_same"
        else:
            refused = "account_closed" if self.held(other).is_closed else self.funds(one, amount)
        moves: Moves = [(one.id, -amount), (other.id, amount)]
        self.posts(lambda: desk.transfer(one, other, amount=amount, by=SYSTEM), moves, refused)

    @rule(number=NUMBERS, amount=SUMS)
    def write_off(self, number: int, amount: Decimal) -> None:
        account = self.money(number)
        self.posts(
            lambda: desk.write_off(account, amount=amount, reason="Прокат", by=SYSTEM),
            [(account.id, -amount), (House(AccountKind.REVENUE, account.branch_id), amount)],
            self.funds(account, amount),
        )

    @rule(number=NUMBERS, amount=SUMS)
    def charge(self, number: int, amount: Decimal) -> None:
        """By the ledger itself: a base account goes below zero, a deposit never."""
        account = self.money(number)
        lines = [Line(account, -amount), Line(house_account(AccountKind.REVENUE, account.branch_id), amount)]
        self.posts(
            lambda: post(TransactionKind.WRITE_OFF, lines, branch_id=account.branch_id, by=SYSTEM),
            [(account.id, -amount), (House(AccountKind.REVENUE, account.branch_id), amount)],
        )

    @rule(to=NUMBERS, source=NUMBERS, amount=SUMS)
    def pay_bill_from_account(self, to: int, source: int, amount: Decimal) -> None:
        account, other = self.money(to), self.money(source)
        client = next(client for client in self.clients if client.id == account.client_id)
        facts = {"amount": amount, "period_from": TODAY, "period_to": TODAY, "account": account, "by": SYSTEM}
        bill = self.tried(
            lambda: issue_bill(client, **facts), "account_closed" if self.held(account).is_closed else None
        )
        if bill is None:
            return
        refused = "account_foreign"
        if other.client_id == client.id:
            refused = "account_same" if other.id == account.id else self.funds(other, amount)  # type: ignore[assignment]
        moves: Moves = [(account.id, amount), (other.id, -amount)]
        if self.posts(lambda: _posted(pay_bill_from_account(bill, other, by=SYSTEM)), moves, refused):
            self.tried(lambda: pay_bill_from_account(bill, other, by=SYSTEM), "paid")  # a bill is paid once

    @rule(
        number=NUMBERS,
        price=st.just(Decimal(0)) | SUMS,
        percent=st.sampled_from([0, 0, 10, 100, 101]),
        lessons=st.integers(0, 9),
        source=st.none() | NUMBERS,
    )
    def sell(self, number: int, price: Decimal, percent: int, lessons: int, source: int | None) -> None:
        client = self.client(number)
        account = None if source is None else self.money(source)
        plan, discount = make_plan(price=price, lessons=lessons), round(price * percent / 100, 2)
        charged = self.own(client, AccountKind.BASE) if account is None else account.id
        refused = None
        if discount > price:
            refused = "discount_invalid"
        elif account is not None and account.client_id != client.id:
            refused = "account_foreign"
        elif price and self.model.held[charged].is_closed:
            refused = "account_closed"
        elif price and self.model.held[charged].kind is AccountKind.DEPOSIT:
            refused = "not_enough" if self.model.held[charged].balance < price - discount else None
        sold = self.tried(
            lambda: sell_subscription(client, plan, starts_on=TODAY, discount=discount, account=account, by=SYSTEM),
            refused,
        )
        if sold is None:
            return
        sale: Moves = []
        if discount:
            given = House(AccountKind.DISCOUNTS, client.branch_id)
            self.model.note(_by_key(f"subscription:{sold.id}:discount"), [(charged, discount), (given, -discount)])
        if price:
            sale += [(charged, -price), (House(AccountKind.REVENUE, client.branch_id), price)]
        if lessons:
            granted = House(AccountKind.SERVICE, client.branch_id, Unit.LESSON)
            sale += [(self.hold(lessons_of(sold)).id, Decimal(lessons)), (granted, Decimal(-lessons))]
        if sale:
            self.model.note(_by_key(f"subscription:{sold.id}:sale"), sale)

    @rule(number=NUMBERS, source=NUMBERS, price=SUMS, way=st.sampled_from(WayToPay))
    def visit(self, number: int, source: int, price: Decimal, way: WayToPay) -> None:
        client, account = self.client(number), self.money(source)
        with transaction():
            visit = book_visit(client, service="Занятие", starts_at=clock.now(), price=price, by=SYSTEM)
        charged, method = self.own(client, AccountKind.BASE), _DESK.get(way)
        if method is not None:
            refused = self.model.till_refusal(method, client.branch_id)
        elif way is WayToPay.ACCOUNT:
            charged = account.id
            refused = "account_foreign" if account.client_id != client.id else self.funds(account, price)
        else:
            refused = None
        first = db.session.scalar(select(func.max(Transaction.id))) or 0
        paid = self.tried(lambda: pay_visit(visit, way, account=account, by=SYSTEM), refused)
        if paid is None:
            return
        if method is not None:
            taken = select(Transaction).where(Transaction.id > first, Transaction.kind == TransactionKind.TOP_UP)
            base = db.session.get_one(Account, charged)
            self.model.note(db.session.scalars(taken).one(), _taken(base, price, method))
        self.model.note(paid, [(charged, -price), (House(AccountKind.REVENUE, client.branch_id), price)])

    @rule(number=NUMBERS, amount=SUMS | BAD_SUMS)
    def accrue_debt(self, number: int, amount: Decimal) -> None:
        account = self.money(number)
        refused = "not_base" if account.kind is not AccountKind.BASE else _unless_valid(amount)
        moves: Moves = [(account.id, -amount), (House(AccountKind.REVENUE, account.branch_id), amount)]
        self.posts(
            lambda: accrue_debt(account, amount=amount, reason="Порча", by=SYSTEM), [] if refused else moves, refused
        )

    @rule(number=NUMBERS, amount=SUMS, is_bad=st.booleans())
    def forgive_debt(self, number: int, amount: Decimal, is_bad: bool) -> None:
        account = self.money(number)
        debt = -self.held(account).balance
        refused = None
        if account.kind is not AccountKind.BASE:
            refused = "not_base"
        elif self.held(account).is_closed:
            refused = "account_closed"
        elif debt <= 0:
            refused = "no_debt"
        elif amount > debt:
            refused = "above_debt"
        against = House(AccountKind.BAD_DEBT if is_bad else AccountKind.REVENUE, account.branch_id)
        self.posts(
            lambda: (
                write_off_bad_debt(account, amount=amount, by=SYSTEM)
                if is_bad
                else write_off_debt(account, amount=amount, reason="Ошибка", by=SYSTEM)
            ),
            [(account.id, amount), (against, -amount)],
            refused,
        )

    @precondition(lambda self: self.model.posted)
    @rule(number=NUMBERS)
    def reverse(self, number: int) -> None:
        wrong = self.model.posted[number % len(self.model.posted)]
        refused = None
        if wrong.kind in IRREVERSIBLE:
            refused = "irreversible"
        elif wrong.was_undone:
            refused = "already_reversed"
        elif forgiven_of([wrong.id]):
            refused = "forgiven"
        elif any(
            isinstance(place, House)
            and place.kind is AccountKind.CASH
            and self.model.shifts.get(place.branch_id) is False
            for place, _ in wrong.moves
        ):
            refused = "shift_closed"
        moves: Moves = [(self.model.heir_of(place), -amount) for place, amount in wrong.moves]
        if refused is None and len({place for place, _ in moves}) < 2:
            refused = "one_account"
        wrong.was_undone |= self.posts(
            lambda: desk.reverse_operation(db.session.get_one(Transaction, wrong.id), by=SYSTEM, comment="Ошибка"),
            moves,
            refused,
        )

    @rule(number=NUMBERS, to=st.none() | NUMBERS)
    def close(self, number: int, to: int | None) -> None:
        account, other = self.money(number), None if to is None else self.money(to)
        left = self.held(account).balance
        awaits = select(Bill.id).where(Bill.account_id == account.id, Bill.status == BillStatus.PENDING).limit(1)
        refused = None
        if account.kind is not AccountKind.DEPOSIT:
            refused = "not_a_deposit"
        elif other is not None and other.client_id != account.client_id:
            refused = "account_foreign"
        elif self.held(account).is_closed or (other is not None and self.held(other).is_closed):
            refused = "account_closed"
        elif db.session.scalar(awaits) is not None:
            refused = "bill_awaits"
        elif left and other is None:
            refused = "balance_left"
        elif left and other is account:
            refused = "account_same"
        first = db.session.scalar(select(func.max(Transaction.id))) or 0
        if self.tried(lambda: desk.close_account(account, transfer_to=other, by=SYSTEM), refused) is None:
            return
        if left and other is not None:
            moved = db.session.scalars(select(Transaction).where(Transaction.id > first)).one()
            self.model.note(moved, [(account.id, -left), (other.id, left)])
        self.held(account).is_closed = True

    @rule(number=NUMBERS)
    def reopen(self, number: int) -> None:
        account = self.money(number)
        refused = "not_a_deposit" if account.kind is not AccountKind.DEPOSIT else None
        if not self.held(account).is_closed:
            refused = "account_open"
        if self.tried(lambda: desk.reopen_account(account, by=SYSTEM), refused) is not None:
            self.held(account).is_closed = False

    @precondition(lambda self: len(self.clients) > 2)
    @rule(number=NUMBERS)
    def merge(self, number: int) -> None:
        """One of the first two turns out to be one of the last two, who may live in the other branch."""
        kept, gone = self.clients[number % 2], self.clients.pop()
        emptied: list[tuple[int, int]] = []
        for at, held in self.model.held.items():
            is_single = held.kind is not AccountKind.DEPOSIT and held.subscription_id is None
            if held.client_id == gone.id and is_single and not held.is_closed:
                own = [
                    own_at
                    for own_at, mine in self.model.held.items()
                    if (mine.client_id, mine.kind, mine.branch_id, mine.subscription_id, mine.is_closed)
                    == (kept.id, held.kind, held.branch_id, None, False)
                ]
                emptied += [(at, into) for into in own]
        unpaid = unpaid_charges([at for at, _into in emptied])
        assert self.tried(lambda: merge_clients(kept, gone, by=SYSTEM), None) is not None
        for at, into in emptied:
            for charge in unpaid.get(at, []):
                moved = _by_key(key_of_carried(at, charge.transaction_id))
                self.model.note(moved, [(at, charge.unpaid), (into, -charge.unpaid)])
            if left := self.model.held[at].balance:
                self.model.note(_by_key(f"merge:{at}:{into}"), [(at, -left), (into, left)])
            self.model.held[at].is_closed = True
            self.model.heirs[at] = into
        for held in self.model.held.values():
            held.client_id = kept.id if held.client_id == gone.id else held.client_id

    @rule(
        number=NUMBERS,
        off=st.sampled_from([Decimal(0), Decimal("-0.5"), Decimal(10)]),
        comment=st.sampled_from(["", "Сдача"]),
    )
    def count_cash(self, number: int, off: Decimal, comment: str) -> None:
        """The cash desk begins to work by shifts, then a shift is opened, closed, opened…"""
        branch_id = self.branches[number % 2].id
        there = self.model.cash(branch_id)
        counted = there + off
        refused = None
        if counted < 0:
            refused = "amount_invalid"
        elif off and not comment:
            refused = "difference_unexplained"
        with transaction():
            till = _cash_till(branch_id)
            till.uses_shifts = True
        is_open = self.model.shifts.setdefault(branch_id, False)
        first = db.session.scalar(select(func.max(Transaction.id))) or 0
        if is_open:
            shift = current_shift(till)
            assert shift is not None
            done = self.tried(lambda: close_shift(shift, counted=counted, comment=comment, by=SYSTEM), refused)
        else:
            done = self.tried(lambda: open_shift(till, counted=counted, comment=comment, by=SYSTEM), refused)
        if done is None:
            return
        self.model.shifts[branch_id] = not is_open
        if off:
            found = db.session.scalars(select(Transaction).where(Transaction.id > first)).one()
            difference = House(AccountKind.CASH_DIFFERENCE, branch_id)
            self.model.note(found, [(House(AccountKind.CASH, branch_id), -off), (difference, off)])

    @rule()
    def scheduler_sums_up(self) -> None:
        keep_turnover(tail=0)

    @rule(numbers=st.lists(st.tuples(NUMBERS, SUMS), min_size=1, max_size=4), is_repeated=st.booleans())
    def import_many(self, numbers: Sequence[tuple[int, Decimal]], is_repeated: bool) -> None:
        """As an import posts: all or none, and each key once."""
        postings, moves = [], list[Moves]()
        for at, (number, amount) in enumerate(numbers):
            account = self.money(number)
            opening = house_account(AccountKind.OPENING, account.branch_id)
            lines = [Line(account, amount), Line(opening, -amount)]
            key = f"import:{self.branches[0].id}:{len(self.model.posted)}:{at}"
            postings.append(Posting(TransactionKind.OPENING, lines, account.branch_id, key))
            moves.append([(account.id, amount), (House(AccountKind.OPENING, account.branch_id), -amount)])
        refused = next((code for move in moves if (code := self.model.refusal(move))), None)
        count = self.tried(lambda: post_all(postings, by=SYSTEM), refused)
        if count is None:
            return
        assert count == len(postings)
        for posting, move in zip(postings, moves, strict=True):
            self.model.note(_by_key(posting.key), move)
        if is_repeated:
            assert self.tried(lambda: post_all(postings, by=SYSTEM), None) == 0

    @precondition(lambda self: self.model.posted)
    @rule(number=NUMBERS, amount=SUMS)
    def send_twice(self, number: int, amount: Decimal) -> None:
        """The same key again changes nothing, whatever comes with it."""
        first = db.session.get_one(Transaction, self.model.posted[number % len(self.model.posted)].id)
        account = self.money(number)
        lines = [Line(account, amount), Line(house_account(AccountKind.REVENUE, account.branch_id), -amount)]
        again = self.tried(
            lambda: post(
                TransactionKind.TOP_UP, lines, branch_id=account.branch_id, by=SYSTEM, key=first.idempotency_key
            ),
            None,
        )
        assert again is not None
        assert again.id == first.id

    @rule(number=NUMBERS, amount=SUMS, off=st.sampled_from([Decimal("0.01"), Decimal(-1), Decimal("0.001")]))
    def unbalanced(self, number: int, amount: Decimal, off: Decimal) -> None:
        account = self.money(number)
        lines = [Line(account, amount), Line(house_account(AccountKind.REVENUE, account.branch_id), -amount - off)]
        with pytest.raises(ValueError, match="sum to zero|two decimals"), transaction():
            post(TransactionKind.TOP_UP, lines, branch_id=account.branch_id, by=SYSTEM)

    # What holds whatever they do.

    @invariant()
    def caches_are_the_models(self) -> None:
        if not hasattr(self, "model"):
            return
        query = select(Account.id, Account.balance, Account.credited, Account.debited)
        found = {row.id: row for row in db.session.execute(query.where(Account.id.in_(self.model.held)))}
        for account_id, held in self.model.held.items():
            row = found[account_id]
            assert (row.credited, row.debited, row.balance) == (held.credited, held.debited, held.balance)
            assert row.balance >= 0 or held.kind is not AccountKind.DEPOSIT

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.prove()
        db.session.commit()

    def prove(self) -> None:
        assert check_ledger() == []
        self.entries_are_the_models()
        _every_branch_balances(posted.id for posted in self.model.posted)
        client_ids = {held.client_id for held in self.model.held.values()}
        of_clients = select(func.sum(Account.balance)).where(Account.client_id.in_(client_ids))
        assert db.session.scalar(of_clients) == sum(held.balance for held in self.model.held.values())
        self.list_totals_are_sums_of_its_rows()
        debts = {at: -held.balance for at, held in self.model.held.items() if held.balance < 0}
        debts = {at: debt for at, debt in debts.items() if self.model.held[at].kind is not AccountKind.LESSONS}
        unpaid = unpaid_charges(list(self.model.held))
        assert {at: sum(charge.unpaid for charge in charges) for at, charges in unpaid.items()} == debts

    def list_totals_are_sums_of_its_rows(self) -> None:
        """W7: top-ups less write-offs are the balance, per row and in total, now and as of a day."""
        rows = [held for held in self.model.held.values() if held.kind is not AccountKind.LESSONS]
        ids = [branch.id for branch in self.branches]
        today = clock.today(self.branches[0])
        for day in (None, today, today - timedelta(days=1)):
            totals = totals_of_clients(lambda branch_id, _type: [branch_id.in_(ids)], as_of=day)
            shown = rows if day in {None, today} else []
            assert totals.credited == sum(held.credited for held in shown)
            assert totals.debited == sum(held.debited for held in shown)
            assert totals.balance == totals.credited - totals.debited

    def entries_are_the_models(self) -> None:
        """Per account, of clients and of branches, over this sequence's transactions."""
        total: Any = func.sum(Entry.amount)
        ids = [posted.id for posted in self.model.posted]
        query = (
            select(Account.id, Account.client_id, Account.kind, Account.branch_id, Account.unit, total.label("total"))
            .join(Entry.account)
            .where(Entry.transaction_id.in_(ids))
            .group_by(Account.id, Account.client_id, Account.kind, Account.branch_id, Account.unit)
        )
        clients, house = {}, {}
        for row in db.session.execute(query):
            if row.client_id is not None:
                clients[row.id] = row.total
            else:
                house[House(row.kind, row.branch_id, row.unit)] = row.total
        assert clients == {at: held.balance for at, held in self.model.held.items() if at in clients}
        assert all(held.balance == 0 for at, held in self.model.held.items() if at not in clients)
        assert {place: total for place, total in house.items() if total} == {
            place: total for place, total in self.model.house.items() if total
        }


def _new_branch(network: Network) -> Branch:
    with transaction():
        branch = Branch(
            company_id=network.company.id, city_id=network.moscow.id, name=uuid.uuid4().hex, time_zone="Europe/Moscow"
        )
        db.session.add(branch)
    return branch


def _cash_till(branch_id: int) -> Till:
    """The branch's first cash desk, made now if nobody has paid in cash yet."""
    found = tills_in(branch_id, TillKind.CASH)
    return found[0] if found else new_till(TillKind.CASH, branch_id)


def _unless_valid(amount: Decimal) -> str | None:
    return None if 0 < round(amount, 2) <= MAX_AMOUNT else "amount_invalid"


def _taken(account: Account, amount: Decimal, method: PaymentMethod) -> Moves:
    """Money taken at the desk."""
    return [(account.id, amount), (House(method.till_kind.account_kind, account.branch_id), -amount)]


def _posted(payment: Payment) -> Transaction:
    return _by_key(f"payment:{payment.id}")


def _by_key(key: str) -> Transaction:
    return db.session.scalars(select(Transaction).where(Transaction.idempotency_key == key)).one()


def _every_branch_balances(transaction_ids: Iterable[int]) -> None:
    """Each transaction sums to zero per unit, and within each branch."""
    off = (
        select(Entry.transaction_id, Account.branch_id, Account.unit)
        .join(Entry.account)
        .where(Entry.transaction_id.in_(list(transaction_ids)))
        .group_by(Entry.transaction_id, Account.branch_id, Account.unit)
        .having(func.sum(Entry.amount) != 0)
    )
    assert db.session.execute(off).all() == []


@pytest.mark.spec("A36")
def test_any_sequence_of_operations_keeps_the_books(network: Network) -> None:
    class Here(Business):
        pass

    Here.network = network
    with clock.frozen(NOON):
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Here,
            settings=settings(
                max_examples=200 if IS_LONG else 15,
                stateful_step_count=30 if IS_LONG else 20,
                derandomize=not IS_LONG,
                phases=[Phase.generate] if IS_LONG else list(Phase),
                print_blob=True,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert db.session.scalar(select(func.count()).select_from(Bill)) > 0
