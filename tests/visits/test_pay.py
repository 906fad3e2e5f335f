"""Paying a visit: with what lies on an account, with money at the desk, or later; once, and again after a reversal."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.clients.merging import merge_clients
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, NotFound
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account, reverse
from crm.payments.models import Payment, PaymentMethod
from crm.payments.operations import top_up
from crm.visits.models import Visit, VisitStatus, WayToPay
from crm.visits.operations import move_visit, pay_visit
from crm.visits.queries import accounts_to_pay_from, payer_of_visit, payment_of
from tests.factories import house_balance, make_account, make_child, make_client, make_visit


@pytest.fixture
def payer(network: Any) -> Any:
    return make_client(network.lesnoy)


@pytest.fixture
def pay(network: Any) -> Callable[..., Transaction]:
    def pay(visit: Visit, way: WayToPay, account: Account | None = None) -> Transaction:
        with transaction():
            return pay_visit(visit, way, account=account, by=network.administrator)

    return pay


def base_of(client: Any) -> Decimal:
    return base_account(client.id, client.branch_id).balance


@pytest.mark.spec("A1", "A2", "D63")
def test_money_put_on_a_deposit_pays_the_next_visit(network: Any, payer: Any, pay: Any) -> None:
    deposit = make_account(payer, balance=1000)
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == 0  # nothing is sold yet
    visit = make_visit(payer, price=Decimal("699.99"), employee=network.employee)
    paid = pay(visit, WayToPay.ACCOUNT, deposit)
    assert deposit.balance == Decimal("300.01")
    assert -house_balance(AccountKind.REVENUE, network.lesnoy) == Decimal("699.99")
    assert visit.paid_at == paid.happened_at
    assert (paid.kind, paid.visit_id, paid.client_id) == (TransactionKind.VISIT, visit.id, payer.id)
    assert (paid.author_id, paid.employee_id) == (network.administrator.id, network.employee.id)
    assert payment_of(visit) == paid
    assert db.session.scalar(select(func.count()).select_from(Payment)) == 1  # no new money


@pytest.mark.spec("A3", "D63")
def test_a_parents_account_pays_the_childs_visit(network: Any, payer: Any, pay: Any) -> None:
    deposit, child = make_account(payer, balance=1000), make_child(payer)
    visit = make_visit(child)
    assert accounts_to_pay_from(visit) == [deposit]
    paid = pay(visit, WayToPay.ACCOUNT, deposit)
    assert (deposit.balance, paid.client_id, visit.client_id) == (Decimal(300), payer.id, child.id)
    assert db.session.scalars(select(Account.id).where(Account.client_id == child.id)).all() == []


@pytest.mark.parametrize(
    ("way", "method", "till"),
    [
        (WayToPay.CASH, PaymentMethod.CASH, AccountKind.CASH),
        (WayToPay.CARD, PaymentMethod.CARD, AccountKind.TERMINAL),
    ],
)
def test_money_at_the_desk_goes_through_the_base_account(
    network: Any, payer: Any, pay: Any, way: WayToPay, method: PaymentMethod, till: AccountKind
) -> None:
    deposit = make_account(payer, balance=50, method=PaymentMethod.CARD if way is WayToPay.CASH else PaymentMethod.CASH)
    visit = make_visit(payer)
    pay(visit, way)
    account = base_account(payer.id, payer.branch_id)
    assert (account.balance, account.credited, account.debited) == (Decimal(0), Decimal(700), Decimal(700))
    assert deposit.balance == 50
    assert house_balance(till, network.lesnoy) == 700
    taken = db.session.scalars(select(Payment).where(Payment.account_id == account.id)).one()
    assert (taken.method, taken.amount, taken.comment) == (method, Decimal(700), visit.service)


def test_cash_leaves_an_older_debt_as_it_is(payer: Any, pay: Any) -> None:
    pay(make_visit(payer, price=Decimal(300)), WayToPay.DEBT)
    pay(make_visit(payer), WayToPay.CASH)
    assert base_of(payer) == -300


def test_on_credit_the_base_account_goes_below_zero(network: Any, payer: Any, pay: Any) -> None:
    with transaction():
        top_up(
            base_account(payer.id, payer.branch_id),
            amount=Decimal(200),
            method=PaymentMethod.CASH,
            by=network.administrator,
        )
    visit = make_visit(payer)
    assert accounts_to_pay_from(visit) == []
    pay(visit, WayToPay.DEBT)
    assert base_of(payer) == -500
    assert visit.paid_at is not None
    assert -house_balance(AccountKind.REVENUE, network.lesnoy) == 700


def test_a_base_account_with_enough_on_it_pays(network: Any, payer: Any, pay: Any) -> None:
    with transaction():
        account = base_account(payer.id, payer.branch_id)
        top_up(account, amount=Decimal(700), method=PaymentMethod.CASH, by=network.administrator)
    visit = make_visit(payer)
    assert accounts_to_pay_from(visit) == [account]
    pay(visit, WayToPay.ACCOUNT, account)
    assert account.balance == 0


def test_an_account_that_cannot_pay_is_refused_and_nothing_moves(network: Any, payer: Any, pay: Any) -> None:
    short, base = make_account(payer, balance=Decimal("699.99")), base_account(payer.id, payer.branch_id)
    strangers = make_account(make_client(network.lesnoy), balance=5000)
    child = make_child(payer)
    visit = make_visit(child)
    till = db.session.scalars(select(Account).where(Account.kind == AccountKind.CASH)).one()
    for account, code in (
        (None, "account_required"),
        (short, "not_enough"),
        (base, "not_enough"),  # a base account is no way into debt
        (strangers, "account_foreign"),
        (till, "account_foreign"),
    ):
        with pytest.raises(DomainError) as caught:
            pay(visit, WayToPay.ACCOUNT, account)
        assert (caught.value.code, caught.value.field) == (code, "account")
    db.session.expire_all()
    assert visit.paid_at is None
    assert (short.balance, strangers.balance) == (Decimal("699.99"), Decimal(5000))
    with pytest.raises(DomainError) as caught:
        pay(visit, None)
    assert caught.value.field == "way"


def test_there_is_nothing_to_pay_for_a_free_or_canceled_visit(network: Any, payer: Any, pay: Any) -> None:
    free, canceled = make_visit(payer, price=Decimal(0)), make_visit(payer)
    with transaction():
        move_visit(canceled, VisitStatus.CANCELED, by=network.administrator)
    for visit, code in ((free, "visit_free"), (canceled, "visit_canceled")):
        with pytest.raises(DomainError) as caught:
            pay(visit, WayToPay.CASH)
        assert caught.value.code == code
    assert db.session.scalars(select(Transaction)).all() == []


def test_twice_is_refused(payer: Any, pay: Any) -> None:
    visit = make_visit(payer)
    pay(visit, WayToPay.DEBT)
    for way in (WayToPay.DEBT, WayToPay.CASH):
        with pytest.raises(Conflict):
            pay(visit, way)
    assert base_of(payer) == -700


def test_two_desks_at_once_take_it_once(network: Any, payer: Any, in_parallel: Any) -> None:
    visit = make_visit(payer)
    visit_id, by_id = visit.id, network.administrator.id

    def take(index: int) -> str:
        with transaction():
            by = db.session.get_one(type(network.administrator), by_id)
            way = (WayToPay.CASH, WayToPay.DEBT, WayToPay.CARD)[index % 3]
            pay_visit(db.session.get_one(Visit, visit_id), way, by=by)
        return "paid"

    results = in_parallel(take, times=6)
    assert results.count("paid") == 1, results
    assert all(isinstance(result, Conflict) for result in results if result != "paid")
    db.session.expire_all()
    assert -house_balance(AccountKind.REVENUE, network.lesnoy) == 700


@pytest.mark.parametrize("way", [WayToPay.ACCOUNT, WayToPay.CASH, WayToPay.DEBT])
def test_reversed_it_is_unpaid_and_can_be_paid_again(network: Any, payer: Any, pay: Any, way: WayToPay) -> None:
    deposit = make_account(payer, balance=1000)
    visit = make_visit(payer)
    first = pay(visit, way, deposit)
    with transaction():
        reverse(first, by=network.administrator, comment="Не тот клиент")
    assert (visit.paid_at, payment_of(visit)) == (None, None)
    assert deposit.balance == 1000
    with pytest.raises(Conflict), transaction():
        reverse(first, by=network.administrator, comment="Ещё раз")
    second = pay(visit, WayToPay.ACCOUNT, deposit)
    assert payment_of(visit) == second
    assert deposit.balance == 300
    with pytest.raises(Conflict), transaction():  # the old payment's reversal does not touch the new one
        reverse(first, by=network.administrator, comment="Ещё раз")
    assert visit.paid_at is not None


def test_visits_of_an_archived_card_can_still_be_paid(network: Any, payer: Any, pay: Any) -> None:
    visit = make_visit(payer)
    with transaction():
        archive_client(payer, by=network.administrator)
    pay(visit, WayToPay.CASH)
    assert visit.paid_at is not None


def test_a_merged_cards_visits_are_paid_by_who_it_became(network: Any, payer: Any, pay: Any) -> None:
    whole, visit = make_client(network.lesnoy), make_visit(payer)
    with transaction():
        merge_clients(whole, payer, by=network.director)
    db.session.expire_all()
    assert payer_of_visit(visit) == whole
    pay(visit, WayToPay.DEBT)
    assert base_of(whole) == -700
    assert db.session.scalars(select(Account.id).where(Account.client_id == payer.id)).all() == []


def test_a_payer_out_of_sight_pays_nothing(network: Any, payer: Any) -> None:
    whole = make_client(network.mira)
    visit = make_visit(payer)
    with transaction():
        merge_clients(whole, payer, by=SYSTEM)
    visit_id, near = visit.id, Scope(frozenset({visit.branch_id}))
    db.session.expunge_all()  # a request of its own knows no card it has not read
    with scoped_to(near):
        visit = db.session.get_one(Visit, visit_id)
        with pytest.raises(NotFound), transaction():
            pay_visit(visit, WayToPay.DEBT, by=SYSTEM)
    assert visit.paid_at is None
