"""What happens at the desks of the small network: visits, all that is done with accounts, debts, shifts, a merge."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time, timedelta
from decimal import Decimal

from crm import clock
from crm.access.models import Branch, User
from crm.clients.merging import merge_clients
from crm.clients.models import Client
from crm.clients.operations import create_client
from crm.debts.operations import accrue_debt, write_off_bad_debt, write_off_debt
from crm.demo.events import Family, Story
from crm.ledger.models import Account
from crm.ledger.operations import base_account, transaction_by_key
from crm.payments.desk import close_account, refund, reverse_operation, transfer, write_off
from crm.payments.models import PaymentMethod
from crm.payments.operations import open_account_paid, top_up
from crm.subscriptions.operations import sell_subscription
from crm.tills.models import Till, TillKind
from crm.tills.moves import move_money, spend_other, take_other
from crm.tills.operations import create_till
from crm.tills.queries import current_shift, money_in
from crm.tills.shifts import close_shift, open_shift
from crm.visits.models import Visit, VisitStatus, WayToPay
from crm.visits.operations import book_visit, move_visit, pay_visit
from crm.visits.queries import accounts_to_pay_from

# Name and price; a consultation costs nothing.
_SERVICES = (
    ("Индивидуальное занятие", Decimal("1200.00")),
    ("Пробное занятие", Decimal("350.50")),
    ("Мастер-класс", Decimal("800.00")),
    ("Консультация", Decimal("0.00")),
    ("Диагностика", Decimal("1500.00")),
)
_WAYS = (WayToPay.ACCOUNT, WayToPay.CASH, WayToPay.CARD, WayToPay.DEBT, None)
SHIFT_DAYS = 5
CHANGE = Decimal("2000.00")  # in the desk with shifts on its first day


def live_at_desks(story: Story, families: list[Family]) -> None:
    """Note the events of all this; each finds for itself what there is by then."""
    desk = _Desk(story)
    _shifts(desk)
    _visits(desk, families)
    for number, family in enumerate(families):
        _accounts(desk, family, number)
        _debts(desk, family, number)
    _other_money(desk)


class _Desk:
    """Where events are noted, and the cash desk with shifts of the first branch, once it is there."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.branch = story.network.branches[0]
        self.till: Till | None = None
        self.past = self.ahead = 0  # visits so far that have been, and that are to come

    def till_for(self, branch: Branch) -> Till | None:
        """The desk with shifts while one is open; else the branch's first till."""
        is_open = branch is self.branch and self.till is not None and current_shift(self.till) is not None
        return self.till if is_open else None


# --- shifts ---------------------------------------------------------------------------------------------------------


def _shifts(desk: _Desk) -> None:
    """A cash desk that works by shifts; one evening some change is missing. Today's shift is open."""
    story, branch = desk.story, desk.branch
    clerk = story.clerk(branch)

    def begin() -> None:
        desk.till = create_till(
            kind=TillKind.CASH,
            branch=branch,
            name="Касса у входа",
            uses_shifts=True,
            position=1,
            by=story.head(branch),
        )

    def open_it(is_first: bool) -> None:
        assert desk.till is not None
        if is_first:
            open_shift(desk.till, counted=CHANGE, comment="Размен на начало работы", by=clerk)
        else:
            open_shift(desk.till, counted=money_in(desk.till), by=clerk)

    def close_it(is_short: bool) -> None:
        assert desk.till is not None
        shift = current_shift(desk.till)
        assert shift is not None
        there = money_in(desk.till)
        missing = Decimal(50) if is_short and there >= 50 else Decimal(0)
        comment = "Ошибка при выдаче сдачи" if missing else ""
        close_shift(shift, counted=there - missing, comment=comment, by=clerk)

    story.note_at(_moment(branch, SHIFT_DAYS + 1, time(12)), story.head(branch), begin)
    for days_ago in range(SHIFT_DAYS, -1, -1):
        first = days_ago == SHIFT_DAYS
        story.note_at(_moment(branch, days_ago, time(8, 30)), clerk, lambda first=first: open_it(first))  # type: ignore[misc]
        if days_ago:
            short = days_ago == 2
            story.note_at(_moment(branch, days_ago, time(21, 30)), clerk, lambda short=short: close_it(short))  # type: ignore[misc]


def _other_money(desk: _Desk) -> None:
    """Change brought and paper bought, and a sum carried to the bank."""
    story, branch = desk.story, desk.branch
    head = story.head(branch)

    def change() -> None:
        assert desk.till is not None
        take_other(desk.till, amount=Decimal(1500), comment="Размен из банка", by=head)

    def paper() -> None:
        assert desk.till is not None
        spend_other(desk.till, amount=Decimal("349.90"), comment="Бумага и ручки", by=head)

    def to_the_bank() -> None:
        assert desk.till is not None
        bank = create_till(kind=TillKind.BANK, branch=branch, name="Счёт в «Северном»", by=head)
        move_money(desk.till, bank, amount=Decimal(1000), comment="Инкассация", by=head)

    for days_ago, hour, event in ((4, 9, change), (3, 11, paper), (1, 20, to_the_bank)):
        story.note_at(_moment(branch, days_ago, time(hour, 15)), head, event)


# --- visits ---------------------------------------------------------------------------------------------------------


def _visits(desk: _Desk, families: list[Family]) -> None:
    """Single services, most of them in the first branch: today, during the shifts before, in the days to come."""
    number, chance = 0, desk.story.chance
    for index, family in enumerate(families):
        days = [0, chance.randrange(1, SHIFT_DAYS + 1), -chance.randrange(1, 9)]
        if family.branch is not desk.branch:
            days = [chance.randrange(-8, 16)] if index % 3 == 0 else []
        for days_ago in days:
            _visit(desk, family, days_ago, number)
            number += 1


def _visit(desk: _Desk, family: Family, days_ago: int, number: int) -> None:
    story, chance, branch = desk.story, desk.story.chance, family.branch
    service, price = _SERVICES[number % len(_SERVICES)]
    employee = chance.choice(story.network.employees[branch.id])
    starts_at = _moment(branch, days_ago, time(chance.randrange(9, 20), chance.choice((0, 30))))
    booked_at = _moment(branch, max(days_ago, 0) + chance.randrange(1, 4), time(chance.randrange(9, 20)))
    is_past, clerk = starts_at < story.now - timedelta(minutes=5), story.clerk(branch)
    way, is_missed, is_canceled = _WAYS[desk.past % len(_WAYS)], desk.past % 6 == 5, desk.ahead % 5 == 4
    desk.past, desk.ahead = desk.past + is_past, desk.ahead + (not is_past)
    made: list[Visit] = []

    def book() -> None:
        who = family.children[number % len(family.children)] if family.children else family.card
        made.append(
            book_visit(who, service=service, starts_at=starts_at, price=price, employee=employee, comment="", by=clerk)
        )

    def come() -> None:
        [visit] = made
        move_visit(visit, VisitStatus.MISSED if is_missed else VisitStatus.CAME, by=clerk)
        if is_missed or way is None or not price:
            return
        accounts = accounts_to_pay_from(visit)
        if way is WayToPay.ACCOUNT and not accounts:
            pay_visit(visit, WayToPay.CARD, by=clerk)
        elif way is WayToPay.ACCOUNT:
            pay_visit(visit, way, account=accounts[-1], by=clerk)  # a deposit rather than the base account
        else:
            pay_visit(visit, way, till=desk.till_for(branch) if way is WayToPay.CASH else None, by=clerk)

    def cancel() -> None:
        move_visit(made[0], VisitStatus.CANCELED, by=clerk)

    story.note_at(booked_at, clerk, book)
    if is_past:
        story.note_at(starts_at, clerk, come)
    elif is_canceled:
        story.note_at(story.now, clerk, cancel)


# --- accounts -------------------------------------------------------------------------------------------------------


def _accounts(desk: _Desk, family: Family, number: int) -> None:
    """Something of its own with every family's accounts."""
    story, branch = desk.story, family.branch
    head, clerk = story.head(branch), story.clerk(branch)
    deposits = [kind for kind in story.network.account_types if branch in kind.branches]
    second = deposits[-1]

    def use_deposit(by: User, change: Callable[[Account, User], object]) -> Callable[[], object]:
        def event() -> object:
            deposit = family.deposit
            return change(deposit, by) if deposit is not None and deposit.balance >= 500 else None

        return event

    def buy_water(deposit: Account, by: User) -> object:
        return write_off(deposit, amount=Decimal("149.50"), reason="Вода и батончик в буфете", by=by)

    def give_back(deposit: Account, by: User) -> object:
        return refund(deposit, amount=Decimal(300), method=PaymentMethod.CARD, comment="По просьбе клиента", by=by)

    def to_base(deposit: Account, by: User) -> object:
        base = base_account(family.card.id, branch.id)
        return transfer(deposit, base, amount=Decimal(400), comment="В счёт абонемента", by=by)

    def mistake() -> None:
        account = base_account(family.card.id, branch.id)
        payment = top_up(account, amount=Decimal(5000), method=PaymentMethod.CARD, by=clerk)
        posted = transaction_by_key(f"payment:{payment.id}")
        assert posted is not None
        reverse_operation(posted, comment="Ошибка кассира: другая фамилия", by=head)

    def second_account() -> None:
        account = open_account_paid(
            family.card,
            second,
            branch=branch,
            initial_balance=Decimal(2500),
            method=PaymentMethod.CARD,
            employee=story.network.employees[branch.id][-1],
            by=clerk,
        )
        if number % 2:
            base = base_account(family.card.id, branch.id)
            close_account(account, transfer_to=base, comment="Клиент передумал", by=head)

    if number % 2 == 0:
        story.note(branch, 12, use_deposit(clerk, buy_water))
    if number % 3 == 0:
        story.note(branch, 9, use_deposit(head, give_back), by=head)
    if number % 3 == 1:
        story.note(branch, 7, use_deposit(clerk, to_base))
    if number % 8 == 2:
        story.note(branch, 6, mistake)
    if number % 5 == 3:
        story.note(branch, 20, second_account)


# --- debts ----------------------------------------------------------------------------------------------------------


def _debts(desk: _Desk, family: Family, number: int) -> None:
    """Debts of every age; some forgiven, some given up; and a plan sold with a discount."""
    story, branch = desk.story, family.branch
    head = story.head(branch)

    def accrue(amount: Decimal) -> None:
        accrue_debt(base_account(family.card.id, branch.id), amount=amount, reason="Испорченный инвентарь", by=head)

    def forgive() -> None:
        base = base_account(family.card.id, branch.id)
        if base.balance <= -500:
            write_off_debt(base, amount=Decimal(500), reason="Скидка за ожидание", by=head)

    def give_up() -> None:
        base = base_account(family.card.id, branch.id)
        if base.balance < 0:
            write_off_bad_debt(base, comment="Клиент переехал, на звонки не отвечает", by=head)

    def sell() -> None:
        plan = story.network.plans[2]
        attending = family.children[0] if family.children else family.card
        sell_subscription(
            attending, plan, starts_on=clock.today(branch), discount=plan.price / 10, by=story.clerk(branch)
        )

    old = min(family.joined_days_ago - 2, 120)
    for remainder, days_ago in ((1, old), (4, min(old, 75)), (7, min(old, 45))):
        if number % 10 == remainder:
            amount = Decimal(1000 + 150 * remainder)
            story.note(branch, days_ago, lambda amount=amount: accrue(amount), by=head)  # type: ignore[misc]
    if number % 10 == 4:
        story.note(branch, 3, forgive, by=head)
    if number % 10 == 6:
        story.note(branch, 2, give_up, by=head)
    if number % 4 == 0:
        story.note(branch, 10, sell)


def merge_twin(story: Story, family: Family, *, number: int, phone: str) -> None:
    """The family's payer has been served in another city under a second card, in debt there too; then the cards are
    made one, and he owes two cities.
    """
    home = family.branch
    there = next(branch for branch in story.network.branches if branch.city_id != home.city_id)
    twin: list[Client] = []

    def join() -> None:
        email = f"client{number}@example.org"
        twin.append(create_client(branch=there, name=family.card.name, phone=phone, email=email, by=story.clerk(there)))

    def buy() -> None:
        plan = story.network.plans[0]
        sell_subscription(twin[0], plan, starts_on=clock.today(there), by=story.clerk(there))

    def owe() -> None:
        base = base_account(family.card.id, home.id)
        due = max(base.balance, Decimal(0)) + 900
        accrue_debt(base, amount=due, reason="Аренда инвентаря", by=story.head(home))

    def merge() -> None:
        merge_clients(family.card, twin[0], by=story.network.owner)

    first = min(family.joined_days_ago, 35)
    story.note(there, first - 1, join)
    story.note(there, first - 3, buy)
    story.note(home, 8, owe, by=story.head(home))
    story.note(home, 5, merge, by=story.network.owner)


def _moment(branch: Branch, days_ago: int, at: time) -> datetime:
    return clock.at(clock.today(branch) - timedelta(days=days_ago), at, branch)
