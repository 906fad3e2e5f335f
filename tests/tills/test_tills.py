"""Tills: made, changed, archived, and held while money goes through them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.ledger.models import AccountKind
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from crm.tills.models import Till, TillKind
from crm.tills.moves import spend_other
from crm.tills.operations import change_till, create_till, hold_till
from crm.tills.queries import money_in, tills_in
from tests.factories import (
    house_balance,
    make_account,
    make_client,
    make_payment,
    make_shift,
    make_till,
)


def change(till: Till, *, by: Any = SYSTEM, **changes: Any) -> Till:
    facts = {
        "name": till.name,
        "uses_shifts": till.uses_shifts,
        "position": till.position,
        "is_archived": till.is_archived,
        **changes,
    }
    with transaction():
        return change_till(till, **facts, by=by)


@pytest.mark.spec("C146")
@pytest.mark.parametrize("kind", TillKind)
def test_a_branch_has_accounts_for_cash_and_for_cashless_money(network: Any, kind: TillKind) -> None:
    with transaction():
        till = create_till(kind=kind, branch=network.lesnoy, name="  Первая   касса ", by=network.owner)
    assert (till.name, till.branch_id, till.account.kind.value) == ("Первая касса", network.lesnoy.id, kind.value)
    assert money_in(till) == 0


@pytest.mark.spec("A27")
@pytest.mark.parametrize(
    ("method", "kind"), [(PaymentMethod.CASH, TillKind.CASH), (PaymentMethod.CARD, TillKind.TERMINAL)]
)
def test_what_a_client_pays_is_in_the_till_of_that_kind(network: Any, method: PaymentMethod, kind: TillKind) -> None:
    make_account(make_client(network.lesnoy), balance=Decimal("1234.56"), method=method)
    (till,) = tills_in(network.lesnoy.id, kind)
    assert money_in(till) == Decimal("1234.56")
    assert str(till.kind.label) == till.title


def test_of_several_tills_the_one_chosen_takes_the_money(network: Any) -> None:
    first, second = make_till(network.lesnoy, position=1), make_till(network.lesnoy, position=2)
    account = make_account(make_client(network.lesnoy))
    make_payment(account, 100)
    make_payment(account, 30, till=second)
    assert (money_in(first), money_in(second)) == (100, 30)


def test_a_till_of_another_branch_or_kind_takes_nothing(network: Any) -> None:
    account = make_account(make_client(network.lesnoy))
    for till in (make_till(network.mira), make_till(network.lesnoy, kind=TillKind.BANK)):
        with pytest.raises(DomainError) as refused:
            make_payment(account, 100, till=till)
        assert (refused.value.code, refused.value.field) == ("till_foreign", "till")


def test_names_are_unique_within_the_branch_and_the_kind(network: Any) -> None:
    till = make_till(network.lesnoy, name="Главная")
    for branch, kind in ((network.rechnoy, TillKind.CASH), (network.lesnoy, TillKind.BANK)):
        make_till(branch, kind=kind, name="Главная")
    with pytest.raises(DomainError) as refused:
        make_till(network.lesnoy, name=" Главная ")
    assert (refused.value.code, refused.value.field) == ("name_taken", "name")
    other = make_till(network.lesnoy)
    with pytest.raises(DomainError):
        change(other, name="Главная")
    assert change(till, name="Главная", position=5).position == 5


def test_a_till_that_had_no_name_may_stay_without_and_others_may_not(network: Any) -> None:
    make_account(make_client(network.lesnoy), balance=10)
    (first,) = tills_in(network.lesnoy.id, TillKind.CASH)
    assert change(first, position=3).name == ""
    for name in ("", "  "):
        with pytest.raises(DomainError) as refused:
            make_till(network.lesnoy, name=name)
        assert refused.value.code == "name_empty"
    named = make_till(network.lesnoy)
    with pytest.raises(DomainError) as refused:
        change(named, name=" ")
    assert refused.value.code == "name_empty"


def test_only_cash_desks_work_by_shifts(network: Any) -> None:
    terminal = make_till(network.lesnoy, kind=TillKind.TERMINAL)
    with pytest.raises(DomainError) as refused:
        change(terminal, uses_shifts=True)
    assert (refused.value.code, refused.value.field) == ("shifts_of_cash", "uses_shifts")
    with pytest.raises(DomainError), transaction():
        create_till(kind=TillKind.BANK, branch=network.lesnoy, name="Банк", uses_shifts=True, by=SYSTEM)


def test_a_till_with_money_is_not_archived(network: Any) -> None:
    till = make_till(network.lesnoy, money=100)
    with pytest.raises(DomainError) as refused:
        change(till, is_archived=True)
    assert (refused.value.code, refused.value.field) == ("till_not_empty", "is_archived")
    with transaction():
        spend_other(till, amount=Decimal(100), comment="Сдано", by=SYSTEM)
    assert change(till, is_archived=True).is_archived


def test_a_till_with_an_open_shift_is_neither_archived_nor_taken_off_shifts(network: Any) -> None:
    till = make_till(network.lesnoy, uses_shifts=True)
    make_shift(till)
    for changes, field in (({"is_archived": True}, "is_archived"), ({"uses_shifts": False}, "uses_shifts")):
        with pytest.raises(DomainError) as refused:
            change(till, **changes)
        assert (refused.value.code, refused.value.field) == ("shift_open", field)


def test_an_archived_till_takes_nothing_and_is_not_the_first(network: Any) -> None:
    old, new = make_till(network.lesnoy), make_till(network.lesnoy)
    change(old, is_archived=True)
    account = make_account(make_client(network.lesnoy))
    with pytest.raises(DomainError) as refused:
        make_payment(account, 100, till=old)
    assert refused.value.code == "till_archived"
    make_payment(account, 100)
    assert money_in(new) == 100


def test_who_may_not_and_who_sees_another_branch_changes_nothing(network: Any) -> None:
    till, foreign = make_till(network.lesnoy), make_till(network.mira)
    with pytest.raises(Forbidden):
        change(till, by=network.administrator)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        with pytest.raises(NotFound):
            change(foreign, by=network.director)
        with pytest.raises(Forbidden), transaction():
            create_till(kind=TillKind.CASH, branch=network.mira, name="Чужая", by=network.director)
    with pytest.raises(Forbidden), transaction():
        create_till(kind=TillKind.CASH, branch=network.lesnoy, name="Новая", by=network.administrator)


def test_of_two_who_make_the_first_till_one_does(network: Any, in_parallel: Any) -> None:
    branch_id = network.lesnoy.id

    def pay(_index: int) -> int:
        with transaction():
            return hold_till(TillKind.CASH, branch_id).id

    assert len(set(in_parallel(pay, 6))) == 1


def test_cash_that_is_not_there_does_not_leave(network: Any) -> None:
    till = make_till(network.lesnoy, money=100)
    with transaction():
        assert hold_till(TillKind.CASH, network.lesnoy.id, till, pays_out=Decimal(100)) is till.account
    with pytest.raises(DomainError) as refused, transaction():
        hold_till(TillKind.CASH, network.lesnoy.id, till, pays_out=Decimal("100.01"))
    assert (refused.value.code, refused.value.field) == ("till_short", "till")


def test_only_cash_must_be_there(network: Any) -> None:
    """The bank knows what is on the account: it refuses by itself."""
    bank = make_till(network.lesnoy, kind=TillKind.BANK)
    with transaction():
        spend_other(bank, amount=Decimal(50), comment="Комиссия банка", by=SYSTEM)
    assert money_in(bank) == -50


def test_many_take_the_last_of_the_cash_and_one_gets_it(network: Any, in_parallel: Any) -> None:
    till = make_till(network.lesnoy, money=100)
    till_id = till.id

    def spend(_index: int) -> bool:
        with transaction():
            found = db.session.get_one(Till, till_id)
            spend_other(found, amount=Decimal(70), comment="Канцтовары", by=SYSTEM)
        return True

    results = in_parallel(spend, 6)
    assert [result for result in results if result is True] == [True]
    assert all(getattr(result, "code", "") == "till_short" for result in results if result is not True)
    assert money_in(till) == 30
    assert house_balance(AccountKind.CASH, network.lesnoy) == 30


def test_an_archiving_that_waits_for_a_payment_sees_its_money(network: Any, in_parallel: Any) -> None:
    """Either the payment comes first and the till stays, or the till goes and the payment is refused."""
    till, account = make_till(network.lesnoy), make_account(make_client(network.lesnoy))
    till_id, account_id = till.id, account.id

    def act(index: int) -> str:
        with transaction():
            found = db.session.get_one(Till, till_id)
            if index == 0:
                change_till(found, name=found.name, is_archived=True, by=SYSTEM)
                return "archived"
            target = db.session.get_one(type(account), account_id)
            top_up(target, amount=Decimal(10), method=PaymentMethod.CASH, till=found, by=SYSTEM)
            return "paid"

    archived, *paid = in_parallel(act, 4)
    db.session.expire_all()
    if archived == "archived":
        assert all(getattr(one, "code", "") == "till_archived" for one in paid)
        assert money_in(till) == 0
    else:
        assert archived.code == "till_not_empty" or isinstance(archived, Conflict)
        assert money_in(till) == 10 * paid.count("paid") > 0
