"""Row scope: one place keeps every read and write within the branches of whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import aliased, joinedload

from crm import clock
from crm.access.actors import SYSTEM, require
from crm.access.models import Branch
from crm.access.queries import branches_of, scope_of
from crm.access.scope import EVERYWHERE, Scope, ScopeMissing, current_scope, enter_scope, leave_scope, scoped_to
from crm.bills.models import Bill
from crm.bills.operations import archive_bills
from crm.clients.models import Client
from crm.clients.operations import create_client
from crm.clients.queries import find_clients
from crm.db import db, transaction
from crm.errors import Forbidden, NotFound
from tests.factories import Network, make_bill, make_child, make_client


def only(*branches: Branch) -> Scope:
    return Scope(frozenset(branch.id for branch in branches))


@pytest.fixture
def here(network: Network) -> Client:
    """A client of lesnoy, where the scope is."""
    return make_client(network.lesnoy, name="Анна Здешняя")


@pytest.fixture
def there(network: Network) -> Client:
    """A client of mira, outside the scope."""
    return make_client(network.mira, name="Анна Чужая")


@pytest.fixture
def in_lesnoy(network: Network, here: Client, there: Client) -> Iterator[None]:
    """The session forgets what it has seen, so that every row is asked for within the scope."""
    scope = only(network.lesnoy)
    db.session.commit()
    db.session.expunge_all()
    with scoped_to(scope):
        yield
    db.session.rollback()


# --- reads ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_lesnoy")
def test_selects_see_the_scope_alone(here: Client) -> None:
    found = db.session.scalars(select(Client)).all()
    assert [client.name for client in found] == ["Анна Здешняя"]


@pytest.mark.usefixtures("in_lesnoy")
def test_get_and_count_and_columns_too(there: Client) -> None:
    assert db.session.get(Client, _id(there)) is None
    assert db.session.scalar(select(func.count()).select_from(Client)) == 1
    assert db.session.scalar(select(func.count(Client.id))) == 1
    assert db.session.scalars(select(Client.name)).all() == ["Анна Здешняя"]
    assert db.session.scalars(select(aliased(Client).name)).all() == ["Анна Здешняя"]
    assert [client.name for client in find_clients("анна")] == ["Анна Здешняя"]


@pytest.mark.usefixtures("in_lesnoy")
def test_joins_and_subqueries_too(network: Network) -> None:
    assert db.session.scalar(select(func.count()).select_from(Branch).join(Client, Client.branch_id == Branch.id)) == 1
    by_subquery = select(Branch.name).where(Branch.id.in_(select(Client.branch_id)))
    assert db.session.scalars(by_subquery).all() == ["Лесной"]
    assert not db.session.scalar(select(select(Client).where(Client.name == "Анна Чужая").exists()))


def test_lazy_and_eager_loads_too(network: Network) -> None:
    """A child of another branch is not among the family seen from here."""
    payer = make_client(network.lesnoy)
    make_child(payer, name="Свой")
    with transaction():
        create_client(branch=network.mira, name="Чужой", by=SYSTEM).payer = payer  # as no operation lets it be
    payer_id, scope = payer.id, only(network.lesnoy)
    db.session.commit()
    db.session.expunge_all()
    with scoped_to(scope):
        assert [child.name for child in db.session.get_one(Client, payer_id).family] == ["Свой"]
        db.session.expunge_all()
        eager = select(Client).where(Client.id == payer_id).options(joinedload(Client.family))
        assert [child.name for child in db.session.scalars(eager).unique().one().family] == ["Свой"]
    db.session.expunge_all()
    assert [child.name for child in db.session.get_one(Client, payer_id).family] == ["Свой", "Чужой"]


def test_the_scope_is_asked_at_each_query(network: Network, here: Client, there: Client) -> None:
    """The compiled statement is cached; the branches in it are not."""
    seen = []
    for scope in (only(network.lesnoy), only(network.mira), only(network.lesnoy, network.mira), only(), EVERYWHERE):
        with scoped_to(scope):
            seen.append(db.session.scalar(select(func.count()).select_from(Client)))
    assert seen == [1, 1, 2, 0, 2]


# --- writes ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_lesnoy")
def test_bulk_update_and_delete_stay_within() -> None:
    changed = db.session.execute(update(Client).values(comment="проверено"))
    assert changed.rowcount == 1
    removed = db.session.execute(delete(Client))
    assert removed.rowcount == 1
    with scoped_to(EVERYWHERE):
        assert db.session.scalars(select(Client.name)).all() == ["Анна Чужая"]


@pytest.mark.usefixtures("in_lesnoy")
def test_a_row_of_another_branch_is_not_inserted(network: Network) -> None:
    db.session.add(Client(branch_id=_id(network.mira), name="Подброшенный", created_at=clock.now()))
    with pytest.raises(Forbidden):
        db.session.flush()


@pytest.mark.usefixtures("in_lesnoy")
def test_nor_by_way_of_the_relationship() -> None:
    mira = db.session.scalars(select(Branch).where(Branch.name == "Мира")).one()
    db.session.add(Client(branch=mira, name="Подброшенный", created_at=clock.now()))
    with pytest.raises(Forbidden):
        db.session.flush()


@pytest.mark.usefixtures("in_lesnoy")
def test_a_row_is_not_moved_away(network: Network) -> None:
    client = db.session.scalars(select(Client)).one()
    client.branch_id = _id(network.mira)
    with pytest.raises(Forbidden):
        db.session.flush()


@pytest.mark.usefixtures("in_lesnoy")
def test_nor_moved_away_by_way_of_the_relationship() -> None:
    client = db.session.scalars(select(Client)).one()
    client.branch = db.session.scalars(select(Branch).where(Branch.name == "Мира")).one()
    with pytest.raises(Forbidden):
        db.session.flush()


def test_a_row_seen_before_the_scope_narrowed_is_not_changed(network: Network, there: Client) -> None:
    """It is still in the session's memory: the flush looks once more."""
    assert there.name
    scope = only(network.lesnoy)
    with scoped_to(scope):
        there.comment = "чужая рука"
        with pytest.raises(Forbidden):
            db.session.flush()
    db.session.rollback()
    scope = only(network.lesnoy)
    with scoped_to(scope):
        db.session.delete(there)
        with pytest.raises(Forbidden):
            db.session.flush()
    db.session.rollback()


def test_operations_refuse_the_foreign_branch(network: Network, there: Client) -> None:
    bill = make_bill(there)
    bill_id, scope, mira = bill.id, only(network.lesnoy), network.mira
    assert mira.id
    with scoped_to(scope), pytest.raises(Forbidden):
        create_client(branch=mira, name="Кто-то", by=network.owner)
    with scoped_to(scope), pytest.raises(NotFound):
        require(SYSTEM, "bill.archive", bill)
    db.session.commit()
    db.session.expunge_all()
    with scoped_to(scope), transaction():
        lines = archive_bills([bill_id], by=SYSTEM)
    assert lines[0].reason is not None
    db.session.expunge_all()
    assert db.session.get_one(Bill, bill_id).status.value == "pending"


# --- no scope -------------------------------------------------------------------------------------------------------


def test_without_a_scope_scoped_tables_are_closed(network: Network, here: Client) -> None:
    client_id = here.id
    db.session.commit()
    db.session.expunge_all()
    token = enter_scope(None)
    try:
        with pytest.raises(ScopeMissing):
            current_scope()
        for statement in (select(Client), select(func.count()).select_from(Client), update(Client).values(comment="x")):
            with pytest.raises(ScopeMissing):
                db.session.execute(statement)
        with pytest.raises(ScopeMissing):
            db.session.get(Client, client_id)
        db.session.add(Client(branch_id=1, name="Никто", created_at=datetime(2026, 1, 1, tzinfo=UTC)))
        with pytest.raises(ScopeMissing):
            db.session.flush()
        db.session.rollback()
        assert db.session.scalars(select(Branch.name)).first(), "network tables stay open"
    finally:
        leave_scope(token)


# --- whose scope ----------------------------------------------------------------------------------------------------


def test_branches_by_role(network: Network) -> None:
    seen = {user.role.value: [branch.name for branch in branches_of(user)] for user in network.users}
    assert seen == {
        "owner": ["Лесной", "Мира", "Речной"],
        "support": ["Лесной", "Мира", "Речной"],
        "regional_director": ["Лесной", "Речной"],
        "director": ["Лесной"],
        "administrator": ["Лесной"],
        "manager": ["Лесной"],
        "instructor": ["Лесной"],
    }


def test_the_chosen_branch_narrows_and_a_foreign_one_is_ignored(network: Network) -> None:
    lesnoy, rechnoy, mira = network.lesnoy.id, network.rechnoy.id, network.mira.id
    own = branches_of(network.regional)
    assert scope_of(network.regional, own, lesnoy) == Scope(frozenset({lesnoy}), lesnoy)
    assert scope_of(network.regional, own, mira) == Scope(frozenset({lesnoy, rechnoy}))
    assert scope_of(network.regional, own, None) == Scope(frozenset({lesnoy, rechnoy}))
    assert scope_of(network.owner, branches_of(network.owner), None) == EVERYWHERE
    assert scope_of(network.owner, branches_of(network.owner), 999_999) == EVERYWHERE


def _id(row: Client | Branch) -> int:
    """The id of a row the session has let go of."""
    from sqlalchemy import inspect

    identity = inspect(row).identity
    assert identity is not None
    return int(identity[0])
