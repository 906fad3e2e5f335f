"""Some months of a small network, event by event, each at its own moment and through the domains' operations."""

from __future__ import annotations

import random
from datetime import date, timedelta
from decimal import Decimal
from itertools import cycle, islice

from crm import clock
from crm.bills.issuing import draft_bill, issue_draft
from crm.bills.models import Bill, BillMethod
from crm.bills.operations import archive_bill, issue_bill
from crm.bills.terms import Term, month_end
from crm.clients.operations import create_client
from crm.demo.desk import live_at_desks, merge_twin
from crm.demo.events import Family, Story
from crm.demo.lessons import live_lessons
from crm.demo.mailings import live_mailings, switch_mailings_on
from crm.demo.names import child_of, grown_up, phone_of
from crm.demo.network import DemoNetwork
from crm.ledger.operations import base_account
from crm.payments.models import PaymentMethod
from crm.payments.operations import open_account_paid, top_up
from crm.subscriptions.models import Plan
from crm.subscriptions.operations import sell_subscription

FIRST_DAYS_AGO, LAST_DAYS_AGO = 150, 40  # when families join
ENOUGH_FOR_TWINS = 40  # cards, of which one is to be merged into another
ENOUGH_TO_LOSE_TWO = 10  # families, of which two have stopped coming without having paid
MOST_FORESEEN = 5  # bills by the forecast, each with its lines
_COMMENTS = ("", "", "", "Звонить после 18:00", "Приводит бабушка", "Просит присылать счета заранее")
_FATES = ("paid", "pending", "overdue", "archived", "repeatable")
_WEIGHTS = (50, 25, 12, 10, 3)


def live_story(network: DemoNetwork, *, clients: int, bills: int, chance: random.Random) -> None:
    """Families join, open deposits, buy subscriptions, get bills and pay them. The caller commits."""
    story = Story(network, chance)
    families: list[Family] = []
    cards = 0
    twins = 1 if clients >= ENOUGH_FOR_TWINS else 0
    while cards < clients - twins:
        children = min(chance.choice((0, 1, 1, 2)), clients - twins - cards - 1)
        families.append(_join(story, number=len(families) + 1, children=children))
        cards += 1 + children
    gone = (
        sorted(families, key=lambda family: -family.joined_days_ago)[:2] if len(families) >= ENOUGH_TO_LOSE_TWO else []
    )
    families = [family for family in families if family not in gone]
    for family in gone:
        _leave_owing(story, family)
    for family in families:
        _buy(story, family)
    foreseen = min(MOST_FORESEEN, bills // 10)
    for number in range(bills - foreseen if families else 0):
        # One of each kind first, so that a small network has them all.
        fate = _FATES[number] if number < len(_FATES) else chance.choices(_FATES, _WEIGHTS)[0]
        # Every other family owes nothing unpaid, so that a mailing finds somebody to bill.
        eligible = families[::2] if fate in {"pending", "overdue"} else families
        _bill(story, chance.choice(eligible), fate)
    live_at_desks(story, families)
    live_lessons(story, families)
    if twins:
        number = len(families) + len(gone) + 1
        merge_twin(story, families[0], number=number, phone=phone_of(number))
    live_mailings(story, families)
    story.tell()
    switch_mailings_on()
    if families:
        _bill_ahead(story, families[::2], foreseen)


def _join(story: Story, *, number: int, children: int) -> Family:
    chance = story.chance
    branch = chance.choice(story.network.branches)
    family = Family(branch, chance.randint(LAST_DAYS_AGO, FIRST_DAYS_AGO))
    parent = grown_up(chance)
    born = [(child_of(parent, chance), chance.randrange(4 * 365, 15 * 365)) for _ in range(children)]
    has_email, comment = chance.random() < 0.9, chance.choice(_COMMENTS)
    by = story.clerk(branch)

    def join() -> None:
        family.payer = create_client(
            branch=branch,
            name=parent.name,
            phone=phone_of(number),
            email=f"client{number}@example.org" if has_email else "",
            comment=comment,
            by=by,
        )
        for child, days in born:
            birth_date = clock.today(branch) - timedelta(days=days)
            card = create_client(branch=branch, name=child.name, birth_date=birth_date, payer=family.payer, by=by)
            family.children.append(card)

    story.note(branch, family.joined_days_ago, join)
    if chance.random() < 0.4:
        _open_deposit(story, family)
    return family


def _open_deposit(story: Story, family: Family) -> None:
    chance, branch = story.chance, family.branch
    offered = [kind for kind in story.network.account_types if branch in kind.branches]
    account_type, employee = chance.choice(offered), chance.choice([None, *story.network.employees[branch.id]])
    sums = [Decimal(chance.randrange(10, 100) * 100) for _ in range(chance.randint(1, 3))]
    method = chance.choice((PaymentMethod.CASH, PaymentMethod.CASH, PaymentMethod.CARD))
    by = story.clerk(branch)
    opened = family.joined_days_ago - 1

    def open_it() -> None:
        family.deposit = open_account_paid(
            family.card, account_type, branch=branch, initial_balance=sums[0], method=method, employee=employee, by=by
        )

    def pay_in(amount: Decimal) -> None:
        assert family.deposit is not None
        top_up(family.deposit, amount=amount, method=PaymentMethod.CASH, employee=employee, by=by)

    story.note(branch, opened, open_it)
    for amount in sums[1:]:
        story.note(branch, chance.randrange(opened), lambda amount=amount: pay_in(amount))  # type: ignore[misc]


def _buy(story: Story, family: Family) -> None:
    """A subscription for each who attends: one that has run out, and one for these days."""
    chance, branch, by = story.chance, family.branch, story.clerk(family.branch)
    plans = story.network.plans[:3]

    def sell(plan: Plan, index: int) -> None:
        attending = family.children[index] if family.children else family.card
        sell_subscription(attending, plan, starts_on=clock.today(branch), by=by)

    def pay(plan: Plan) -> None:
        account = base_account(family.card.id, branch.id)
        top_up(account, amount=plan.price, method=chance.choice((PaymentMethod.CASH, PaymentMethod.CARD)), by=by)

    for index in range(2):
        plan = chance.choice(plans)

        def for_child(plan: Plan = plan, index: int = index) -> None:
            if index < max(1, len(family.children)):
                sell(plan, index)

        story.note(branch, chance.randrange(31, LAST_DAYS_AGO), for_child)
        story.note(branch, chance.randrange(1, 15), for_child)
    for days_ago in (30, 14):
        if chance.random() < 0.5:
            plan = chance.choice(plans)
            story.note(branch, chance.randrange(1, days_ago), lambda plan=plan: pay(plan))  # type: ignore[misc]


def _leave_owing(story: Story, family: Family) -> None:
    """They came for a month or two, paid nothing, and have not been seen since."""
    branch, by = family.branch, story.clerk(family.branch)

    def sell(plan: Plan) -> None:
        attending = family.children[0] if family.children else family.card
        sell_subscription(attending, plan, starts_on=clock.today(branch), by=by)

    longest_ago = family.joined_days_ago - 2
    for days_ago, plan in ((longest_ago, story.network.plans[1]), (min(longest_ago, 75), story.network.plans[0])):
        story.note(branch, days_ago, lambda plan=plan: sell(plan))  # type: ignore[misc]


def _bill(story: Story, family: Family, fate: str) -> None:
    """Issue a bill that will be paid, wait, run out, be archived, or be paid again and again."""
    chance, branch, by = story.chance, family.branch, story.clerk(family.branch)
    earliest = family.joined_days_ago - 2
    issued = {
        "pending": chance.randrange(0, 5),
        "overdue": chance.randrange(15, 35),
        "repeatable": chance.randrange(20, 35),
    }.get(fate, chance.randrange(5, earliest))
    term = {"pending": chance.choice((None, 10, 14)), "overdue": 7, "repeatable": None}.get(fate, 14)
    amount = chance.choice(story.network.plans).price
    made: list[Bill] = []

    def issue() -> None:
        day = clock.today(branch)
        begin, end = _month(day)
        bill = issue_bill(
            family.card,
            amount=amount,
            period_from=begin,
            period_to=end,
            payable_until=day + timedelta(days=term) if term else None,
            is_repeatable=fate == "repeatable",
            by=by,
        )
        made.append(bill)

    def pay() -> None:
        top_up(made[0].account, amount=amount, method=PaymentMethod.CARD, bill=made[0], by=by)

    story.note(branch, issued, issue)
    if fate in {"paid", "repeatable"}:
        story.note(branch, issued - chance.randrange(1, 5), pay)
    if fate == "repeatable":
        story.note(branch, issued - chance.randrange(6, 15), pay)
    if fate == "archived":
        story.note(branch, issued - chance.randrange(1, 5), lambda: archive_bill(made[0], by=by))


def _bill_ahead(story: Story, families: list[Family], count: int) -> None:
    """Issue so many bills today for the lessons planned until the end of next month, to those who have to pay for some;
    by hand to the others, when there are too few of these.
    """
    in_turn = sorted(families, key=lambda one: not _owes_for_lessons(one))
    for family in islice(cycle(in_turn), count):
        today = clock.today(family.branch)
        method = BillMethod.FORECAST if _owes_for_lessons(family) else BillMethod.MANUAL
        issue_draft(
            family.card,
            method=method,
            amount=None if method is BillMethod.FORECAST else story.network.plans[0].price,
            period_to=_month_after(today),
            payable_until=Term.WEEKS_2.until(today),
            by=story.clerk(family.branch),
        )


def _owes_for_lessons(family: Family) -> bool:
    until = _month_after(clock.today(family.branch))
    return draft_bill(family.card, branch=family.branch, method=BillMethod.FORECAST, period_to=until).amount > 0


def _month_after(today: date) -> date:
    return month_end(month_end(today) + timedelta(days=1))


def _month(day: date) -> tuple[date, date]:
    begin = day.replace(day=1)
    return begin, (begin + timedelta(days=32)).replace(day=1) - timedelta(days=1)
