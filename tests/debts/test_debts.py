"""What a debt is made of: the newest charges, up to the debt; by subscription and by age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.clients.merging import merge_clients
from crm.db import db, transaction
from crm.debts.operations import accrue_debt, write_off_bad_debt
from crm.debts.queries import (
    Ageing,
    CityBalance,
    ageing_of,
    balances_by_city,
    debts_of_subscriptions,
    forgiven_by,
    forgiven_of,
    forgiven_of_subscription,
    in_debt,
    total_ageing,
    unpaid_charges,
)
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import Cause, Line, base_account, house_account, post, reverse
from tests.factories import Network, make_client, make_payment, make_plan, make_subscription

NOON = datetime(2026, 11, 22, 9, tzinfo=UTC)  # noon in Moscow


def move(account: Account, amount: Decimal | int, *, at: datetime | None = None, **cause: int) -> Transaction:
    """A charge when negative, a payment when positive."""
    amount = Decimal(amount)
    with transaction():
        house = house_account(AccountKind.REVENUE, account.branch_id)
        return post(
            TransactionKind.SALE if amount < 0 else TransactionKind.TOP_UP,
            [Line(account, amount), Line(house, -amount)],
            branch_id=account.branch_id,
            by=SYSTEM,
            happened_at=at,
            cause=Cause(**cause),
        )


def base(network: Network, branch: str = "lesnoy") -> Account:
    place = getattr(network, branch)
    with transaction():
        return base_account(make_client(place).id, place.id)


def unpaid(account: Account) -> list[Decimal]:
    return [charge.unpaid for charge in unpaid_charges([account.id]).get(account.id, [])]


def test_payments_cover_the_oldest_charges_first(network: Network) -> None:
    account = base(network)
    move(account, -100)
    second, third = move(account, -200), move(account, -300)
    move(account, 150)
    charges = unpaid_charges([account.id])[account.id]
    assert [(charge.transaction_id, charge.amount, charge.unpaid) for charge in charges] == [
        (second.id, 200, 150),
        (third.id, 300, 300),
    ]


def test_money_paid_ahead_covers_what_comes_later(network: Network) -> None:
    account = base(network)
    move(account, 250)
    move(account, -200)
    move(account, Decimal("-100.10"))
    assert unpaid(account) == [Decimal("50.10")]


def test_an_account_without_debt_has_nothing_unpaid(network: Network) -> None:
    account = base(network)
    move(account, -100)
    move(account, 100)
    assert unpaid_charges([account.id]) == {} == ageing_of([account.id])


def test_what_was_reversed_is_neither_a_charge_nor_a_payment(network: Network) -> None:
    account = base(network)
    mistaken = move(account, -500)
    kept = move(account, -70)
    paid = move(account, 30)
    for mistake in (mistaken, paid):
        with transaction():
            reverse(mistake, by=SYSTEM, comment="Ошибка")
    assert [(c.transaction_id, c.unpaid) for c in unpaid_charges([account.id])[account.id]] == [(kept.id, 70)]


def test_a_charge_of_the_past_is_paid_before_the_later_ones(network: Network) -> None:
    account = base(network)
    move(account, -100, at=NOON)
    move(account, -60, at=NOON - timedelta(days=40))  # imported afterwards
    move(account, 60)
    assert unpaid(account) == [100]


@pytest.mark.spec("C153")
def test_a_debt_is_of_the_subscription_it_was_charged_for(network: Network) -> None:
    client = make_client(network.lesnoy)
    paid, owed = (make_subscription(client, make_plan(price=Decimal(1000))) for _ in range(2))
    account = base_account(client.id, network.lesnoy.id)
    make_payment(account, 1300)
    assert account.balance == -700
    assert debts_of_subscriptions([paid.id, owed.id]) == {owed.id: 700}


@pytest.mark.spec("C114")
def test_writing_off_the_bad_debt_clears_the_debt_of_the_subscription(network: Network) -> None:
    client = make_client(network.lesnoy)
    sold = make_subscription(client, make_plan(price=Decimal("999.99")))
    account = base_account(client.id, network.lesnoy.id)
    assert debts_of_subscriptions([sold.id]) == {sold.id: Decimal("999.99")}
    with transaction():
        write_off_bad_debt(account, by=SYSTEM)
    assert debts_of_subscriptions([sold.id]) == {}
    assert account.balance == 0


def test_a_debt_is_told_by_the_branch_s_own_days(network: Network) -> None:
    """Samara is an hour ahead of Moscow: in the last hour of Moscow's day it is a day later there."""
    late = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)  # 23:30 in Moscow, 00:30 of the 23rd in Samara
    charged = datetime(2026, 10, 23, 12, tzinfo=ZoneInfo("Europe/Moscow"))
    here, there = base(network), base(network, "mira")
    for account in (here, there):
        move(account, -100, at=charged)
    with clock.frozen(late):
        ages = ageing_of([here.id, there.id])
    assert ages[here.id] == Ageing(days_30=Decimal(100), oldest_at=charged)  # thirty days ago
    assert ages[there.id] == Ageing(days_60=Decimal(100), oldest_at=charged)  # thirty-one


@pytest.mark.parametrize(
    ("days", "field"),
    [
        *((0, "days_30"), (30, "days_30"), (31, "days_60"), (60, "days_60")),
        *((61, "days_90"), (90, "days_90"), (91, "older"), (1000, "older")),
    ],
)
def test_both_ends_of_an_age_count(network: Network, days: int, field: str) -> None:
    account = base(network)
    with clock.frozen(NOON):
        move(account, -100, at=NOON - timedelta(days=days))
        assert getattr(ageing_of([account.id])[account.id], field) == 100


def test_ages_of_many_add_up_in_the_database(network: Network) -> None:
    accounts = [base(network) for _ in range(3)]
    with clock.frozen(NOON):
        for place, account in enumerate(accounts):
            for days in (1, 40, 70, 200):
                move(account, -10 * (place + 1), at=NOON - timedelta(days=days))
            move(account, 5)
        each = ageing_of([account.id for account in accounts])
        total = total_ageing(select(Account.id).where(in_debt()))
    assert total.total == sum(one.total for one in each.values()) == sum(-account.balance for account in accounts)
    assert (total.days_30, total.older) == (60, 45)
    assert total.oldest_at == NOON - timedelta(days=200)


def test_nobody_s_debts_add_up_to_nothing(network: Network) -> None:
    assert total_ageing(select(Account.id).where(in_debt())) == Ageing()


def test_debts_of_other_branches_are_out_of_sight(network: Network) -> None:
    account = base(network, "mira")
    sold = make_subscription(make_client(network.mira))
    move(account, -100)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        assert unpaid_charges([account.id]) == {} == ageing_of([account.id])
        assert debts_of_subscriptions([sold.id]) == {}
        assert total_ageing(select(Account.id).where(in_debt())).total == 0


def test_a_charge_from_another_branch_s_operation_is_seen(network: Network) -> None:
    """The transaction is of Rechnoy, the account it charged of Lesnoy: who sees the account sees its charge."""
    account = base(network)
    other = base(network, "rechnoy")
    with transaction():
        lines = [Line(account, Decimal(-80)), Line(other, Decimal(80))]
        post(TransactionKind.TRANSFER, lines, branch_id=network.rechnoy.id, by=SYSTEM)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        assert unpaid(account) == [80]


def test_many_accounts_are_asked_in_one_query(network: Network) -> None:
    accounts = [base(network) for _ in range(4)]
    for account in accounts:
        move(account, -10)
    seen: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    found = unpaid_charges([account.id for account in accounts])
    assert len(found) == 4
    assert len([statement for statement in seen if "ledger_entry" in statement]) == 1


AMOUNTS = st.integers(-500, 400).filter(bool).map(lambda kopecks: Decimal(kopecks) / 100)
STEPS = st.lists(st.tuples(AMOUNTS, st.integers(0, 120), st.booleans(), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_unpaid_parts_are_the_debt(network: Network, steps: list[tuple[Decimal, int, bool, bool]]) -> None:
    """Charges and payments in any order and on any day, some reversed, some with a discount beside them."""
    account, cheap = base(network), make_plan(price=Decimal(1), lessons=0)
    with clock.frozen(NOON):
        for number, (amount, days, is_reversed, has_discount) in enumerate(steps):
            done = move(account, amount, at=NOON - timedelta(days=days))
            if has_discount and amount < 0:
                sold = make_subscription(account.client, cheap)
                _discount(account, sold.id, Decimal("0.01") * (number + 1), 0)
            if is_reversed:
                with transaction():
                    reverse(done, by=SYSTEM, comment="Ошибка")
        debt = max(-account.balance, Decimal(0))
        charges = unpaid_charges([account.id]).get(account.id, [])
        assert sum(charge.unpaid for charge in charges) == debt
        assert all(0 < charge.unpaid <= charge.amount for charge in charges)
        # All but the oldest are unpaid whole: payments went to the oldest.
        assert all(charge.unpaid == charge.amount for charge in charges[1:])
        assert ageing_of([account.id]).get(account.id, Ageing()).total == debt


def _discount(account: Account, subscription_id: int, amount: Decimal, days: int) -> None:
    with transaction():
        house = house_account(AccountKind.DISCOUNTS, account.branch_id)
        post(
            TransactionKind.DISCOUNT,
            [Line(account, amount), Line(house, -amount)],
            branch_id=account.branch_id,
            by=SYSTEM,
            happened_at=NOON - timedelta(days=days),
            cause=Cause(subscription_id=subscription_id),
        )


def test_a_discount_makes_its_own_charge_smaller(network: Network) -> None:
    client = make_client(network.lesnoy)
    account = base_account(client.id, network.lesnoy.id)
    move(account, -1000, at=NOON - timedelta(days=300))
    with clock.frozen(NOON):
        sold = make_subscription(client, make_plan(price=Decimal(4000)))
        _discount(account, sold.id, Decimal(500), 0)
        assert debts_of_subscriptions([sold.id]) == {sold.id: 3500}
        assert ageing_of([account.id])[account.id].older == 1000


@pytest.mark.spec("C80")
def test_the_card_s_cities_are_told_beyond_the_scope(network: Network) -> None:
    client = make_client(network.lesnoy)
    here, there = base_account(client.id, network.lesnoy.id), base_account(client.id, network.mira.id)
    move(here, 300)
    move(there, -120)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        cities = balances_by_city(client.id, by=network.administrator)
        assert db.session.scalars(select(Account).where(Account.client_id == client.id)).all() == [here]
    assert cities == [
        CityBalance("Москва", debt=Decimal(0), prepaid=Decimal(300)),
        CityBalance("Самара", debt=Decimal(120), prepaid=Decimal(0)),
    ]


def test_who_does_not_see_accounts_is_told_of_no_city(network: Network) -> None:
    client = make_client(network.lesnoy)
    move(base_account(client.id, network.lesnoy.id), -300)
    assert balances_by_city(client.id, by=network.instructor) == []


def test_an_accrued_debt_is_a_charge(network: Network) -> None:
    account = base(network)
    with transaction():
        accrued = accrue_debt(account, amount=Decimal("12.50"), reason="Разбитое окно", by=SYSTEM)
    (charge,) = unpaid_charges([account.id])[account.id]
    assert (charge.transaction_id, charge.unpaid, charge.comment) == (accrued.id, Decimal("12.50"), "Разбитое окно")


# --- what was forgiven ----------------------------------------------------------------------------------------------


def forgive(account: Account, amount: int | None = None) -> Transaction:
    with transaction():
        return write_off_bad_debt(account, amount=None if amount is None else Decimal(amount), by=SYSTEM)


def forgiven(*charges: Transaction) -> list[Decimal]:
    """Of each of the charges, in all."""
    found = forgiven_of([charge.id for charge in charges])
    return [sum(found.get(charge.id, {}).values(), Decimal(0)) for charge in charges]


def merge(kept: Account, gone: Account) -> None:
    with transaction():
        merge_clients(kept.client, gone.client, by=SYSTEM)


def test_what_is_forgiven_covers_the_oldest_charges_as_money_does(network: Network) -> None:
    account = base(network)
    charges = [move(account, -100), move(account, -200), move(account, -300)]
    move(account, 150)
    assert forgiven(*charges) == [0, 0, 0]
    by = [forgive(account, 200), forgive(account)]
    assert forgiven(*charges) == [0, 150, 300]
    assert [[(one.transaction_id, one.amount) for one in forgiven_by(one)] for one in by] == [
        [(charges[1].id, 150), (charges[2].id, 50)],
        [(charges[2].id, 250)],
    ]


def test_nothing_is_forgiven_by_what_was_reversed(network: Network) -> None:
    account = base(network)
    charge = move(account, -100)
    mistake = forgive(account)
    with transaction():
        reverse(mistake, by=SYSTEM, comment="Ошибка")
    assert forgiven(charge) == [0]


def test_what_was_forgiven_of_a_sale_is_told_by_its_subscription(network: Network) -> None:
    client = make_client(network.lesnoy)
    paid, owed = (make_subscription(client, make_plan(price=Decimal(1000))) for _ in range(2))
    account = base_account(client.id, network.lesnoy.id)
    make_payment(account, 1300)
    forgive(account)
    assert [forgiven_of_subscription(one.id) for one in (paid, owed)] == [0, 700]


def test_a_merged_debt_is_still_of_its_subscription(network: Network) -> None:
    kept, client = base(network), make_client(network.lesnoy)
    sold = make_subscription(client, make_plan(price=Decimal(1000)))
    gone = base_account(client.id, client.branch_id)
    make_payment(gone, 300)
    merge(kept, gone)
    assert (kept.balance, gone.balance) == (-700, 0)
    assert debts_of_subscriptions([sold.id]) == {sold.id: 700}
    merge(base(network), base_account(kept.client_id or 0, kept.branch_id))  # and once more
    assert debts_of_subscriptions([sold.id]) == {sold.id: 700}


def test_a_merged_debt_keeps_its_age_and_what_it_is_for(network: Network) -> None:
    kept, gone = base(network), base(network)
    now = clock.now()
    move(kept, -50, at=now - timedelta(days=40))
    move(gone, -20, at=now - timedelta(days=200))  # paid
    for days, amount in ((100, -300), (1, -70)):
        move(gone, amount, at=now - timedelta(days=days))
    move(gone, 20)
    merge(kept, gone)
    ages = ageing_of([kept.id])[kept.id]
    assert (ages.days_30, ages.days_60, ages.days_90, ages.older) == (70, 50, 0, 300)
    assert ages.oldest_at == now - timedelta(days=100)


@pytest.mark.parametrize("order", ["forgiven first", "merged first"])
def test_what_was_forgiven_is_known_after_a_merge(network: Network, order: str) -> None:
    kept, client = base(network), make_client(network.lesnoy)
    move(kept, -40)
    sold = make_subscription(client, make_plan(price=Decimal(1000)))
    gone = base_account(client.id, client.branch_id)
    later = move(gone, -70)
    make_payment(gone, 100)
    if order == "forgiven first":
        forgive(gone, 930)
    merge(kept, gone)
    if order == "merged first":
        forgive(kept)
    assert forgiven_of_subscription(sold.id) == 900
    assert forgiven(later) == [30 if order == "forgiven first" else 70]


def test_what_was_forgiven_in_part_before_a_merge_and_in_part_after(network: Network) -> None:
    kept, gone = base(network), base(network)
    first, second = move(gone, -100), move(gone, -200)
    forgive(gone, 130)
    merge(kept, gone)
    forgive(kept, 50)
    assert forgiven(first, second) == [100, 80]
    third = base(network)
    merge(third, kept)
    forgive(third)
    assert forgiven(first, second) == [100, 200]


def test_what_was_taken_back_after_a_merge_is_not_what_is_forgiven_later(network: Network) -> None:
    kept, gone = base(network), base(network)
    owed = move(kept, -500, at=NOON - timedelta(days=2))
    mistaken = move(gone, -300, at=NOON - timedelta(days=1))
    merge(kept, gone)
    with transaction():
        reverse(mistaken, by=SYSTEM, comment="Ошибка")
    forgive(kept)
    assert forgiven(owed, mistaken) == [500, 0]


def test_what_was_forgiven_stays_so_when_money_is_free_again(network: Network) -> None:
    """Another charge, which the money covered, is taken back: it covers the forgiven one in nothing."""
    account = base(network)
    paid, owed = move(account, -300), move(account, -200)
    move(account, 300)
    forgive(account)
    with transaction():
        reverse(paid, by=SYSTEM, comment="Ошибка")
    assert (account.balance, forgiven(owed)) == (300, [200])


def test_what_is_a_debt_again_is_not_forgiven(network: Network) -> None:
    """The payment of an older charge is taken back: the newest charge is unpaid, whatever was forgiven of it."""
    client = make_client(network.lesnoy)
    account = base_account(client.id, client.branch_id)
    move(account, -300, at=clock.now() - timedelta(days=3))
    paid = move(account, 300)
    sold = make_subscription(client, make_plan(price=Decimal(1000)))
    forgive(account)
    with transaction():
        reverse(paid, by=SYSTEM, comment="Ошибка")
    assert (debts_of_subscriptions([sold.id]), forgiven_of_subscription(sold.id)) == ({sold.id: 300}, 700)
