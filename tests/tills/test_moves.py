"""Moves between tills, and money of the business's own that comes and goes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import Branch, Company
from crm.access.scope import Scope, scoped_to
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from crm.ledger.models import Account, AccountKind, Entry, TransactionKind
from crm.ledger.operations import reverse
from crm.tills.models import Till, TillKind
from crm.tills.moves import move_money, spend_other, take_other
from crm.tills.queries import money_in
from tests.factories import house_balance, make_till


def move(source: Till, target: Till, amount: Decimal | int, **facts: Any) -> Any:
    with transaction():
        return move_money(source, target, amount=Decimal(amount), **{"by": SYSTEM, **facts})


def test_the_cash_of_the_day_goes_to_the_bank(network: Any) -> None:
    desk, bank = make_till(network.lesnoy, money=1000), make_till(network.lesnoy, kind=TillKind.BANK)
    posted = move(desk, bank, Decimal("999.99"), by=network.director, employee=network.employee, comment="Инкассация")
    assert (money_in(desk), money_in(bank)) == (Decimal("0.01"), Decimal("999.99"))
    assert (posted.kind, posted.author_id, posted.employee_id, posted.comment) == (
        TransactionKind.CASH_MOVE,
        network.director.id,
        network.employee.id,
        "Инкассация",
    )
    assert len(posted.entries) == 2


def test_between_branches_each_ones_books_balance_by_themselves(network: Any) -> None:
    desk, bank = make_till(network.lesnoy, money=100), make_till(network.mira, kind=TillKind.BANK)
    move(desk, bank, 100)
    rows = db.session.execute(select(Account.branch_id, Entry.amount).join(Entry.account)).all()
    for branch in (network.lesnoy, network.mira):
        assert sum(row.amount for row in rows if row.branch_id == branch.id) == 0
    assert house_balance(AccountKind.SETTLEMENT, network.mira) == -100


def test_a_desk_never_gives_more_than_it_has(network: Any) -> None:
    desk, bank = make_till(network.lesnoy, money=100), make_till(network.lesnoy, kind=TillKind.BANK)
    with pytest.raises(DomainError) as refused:
        move(desk, bank, Decimal("100.01"))
    assert (refused.value.code, refused.value.field) == ("till_short", "source")
    move(bank, desk, 50)  # the bank's own affair
    assert (money_in(desk), money_in(bank)) == (150, -50)


@pytest.mark.parametrize("amount", [Decimal(0), Decimal(-1), Decimal("100000000.01")])
def test_only_a_sum_above_zero_moves(network: Any, amount: Decimal) -> None:
    desk, bank = make_till(network.lesnoy, money=100), make_till(network.lesnoy, kind=TillKind.BANK)
    for attempt in (
        lambda: move(desk, bank, amount),
        lambda: take_other(desk, amount=amount, comment="?", by=SYSTEM),
        lambda: spend_other(desk, amount=amount, comment="?", by=SYSTEM),
    ):
        with pytest.raises(DomainError) as refused:
            attempt()
        assert (refused.value.code, refused.value.field) == ("amount_invalid", "amount")


def test_a_till_does_not_give_to_itself_nor_to_another_company(network: Any) -> None:
    desk = make_till(network.lesnoy, money=100)
    with transaction():
        company = Company(name="Другая школа", legal_name="ООО «Другая»", inn="7700000017")
        db.session.add(company)
        db.session.flush()
        foreign = Branch(company_id=company.id, city_id=network.moscow.id, name="Чужой", time_zone="Europe/Moscow")
        db.session.add(foreign)
    for target, code in ((desk, "till_same"), (make_till(foreign), "company_foreign")):
        with pytest.raises(DomainError) as refused:
            move(desk, target, 10)
        assert (refused.value.code, refused.value.field) == (code, "target")


def test_both_desks_must_be_able_to_take_part(network: Any) -> None:
    desk, closed = make_till(network.lesnoy, money=100), make_till(network.lesnoy, uses_shifts=True)
    with pytest.raises(DomainError) as refused:
        move(desk, closed, 10)
    assert refused.value.code == "shift_closed"
    assert money_in(desk) == 100


def test_other_money_wants_a_reason(network: Any) -> None:
    desk = make_till(network.lesnoy, money=100)
    for act in (take_other, spend_other):
        with pytest.raises(DomainError) as refused, transaction():
            act(desk, amount=Decimal(5), comment="  ", by=SYSTEM)
        assert (refused.value.code, refused.value.field) == ("comment_empty", "comment")
    with transaction():
        posted = spend_other(desk, amount=Decimal(30), comment=" Бумага ", by=network.director)
    assert (posted.kind, posted.comment) == (TransactionKind.CASH_OTHER, "Бумага")
    assert (money_in(desk), house_balance(AccountKind.OTHER, network.lesnoy)) == (70, -70)


def test_who_may_not_and_who_sees_another_branch_moves_nothing(network: Any) -> None:
    desk, foreign = make_till(network.lesnoy, money=100), make_till(network.mira)
    with pytest.raises(Forbidden):
        move(desk, make_till(network.lesnoy), 1, by=network.administrator)
    with pytest.raises(Forbidden):
        spend_other(desk, amount=Decimal(1), comment="?", by=network.administrator)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), pytest.raises(NotFound):
        move(desk, foreign, 1, by=network.director)


def test_a_move_is_undone_by_its_mirror_image(network: Any) -> None:
    desk, bank = make_till(network.lesnoy, money=100), make_till(network.lesnoy, kind=TillKind.BANK)
    posted = move(desk, bank, 60)
    with transaction():
        reverse(posted, by=SYSTEM, comment="Ошибка")
    assert (money_in(desk), money_in(bank)) == (100, 0)


def test_two_who_move_money_both_ways_do_not_block_each_other(network: Any, in_parallel: Any) -> None:
    first, second = make_till(network.lesnoy, money=1000), make_till(network.lesnoy, money=1000)
    ids = (first.id, second.id)

    def act(index: int) -> bool:
        for _ in range(10):
            with transaction():
                source, target = (db.session.get_one(Till, ids[(index + step) % 2]) for step in (0, 1))
                move_money(source, target, amount=Decimal(1 + index), by=SYSTEM)
        return True

    assert in_parallel(act, 6) == [True] * 6
    assert money_in(first) + money_in(second) == 2000
