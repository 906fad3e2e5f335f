"""Column types and the unit of work, on both databases."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import StatementError
from sqlalchemy.orm.exc import StaleDataError

from crm.access.models import City
from crm.clients.models import Client, ClientStatus
from crm.db import Money, Phone, UtcDateTime, after_commit, amount, db, end_reading, transaction
from crm.subscriptions.models import Plan
from tests.factories import Network, make_client, make_plan

DIALECTS = (sqlite.dialect(), postgresql.dialect())


# --- amounts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "expected"),
    [("0.005", "0.01"), ("0.004", "0.00"), ("-0.005", "-0.01"), (1, "1.00"), ("1000.10", "1000.10")],
)
def test_amount_rounds_half_up_to_two_places(given_: Any, expected: str) -> None:
    assert str(amount(given_)) == expected


@pytest.mark.parametrize("dialect_", DIALECTS)
def test_floats_are_refused_everywhere(dialect_: Any) -> None:
    with pytest.raises(TypeError, match="never float"):
        amount(0.1)
    with pytest.raises(TypeError, match="never float"):
        Money().process_bind_param(0.1, dialect_)


@given(st.decimals(min_value=-(10**12), max_value=10**12, places=2))
def test_money_survives_the_way_there_and_back(value: Decimal) -> None:
    for dialect_ in DIALECTS:
        stored = Money().process_bind_param(value, dialect_)
        assert isinstance(stored, int)
        assert Money().result_processor(dialect_, None)(stored) == value


def test_money_does_not_round_in_silence() -> None:
    with pytest.raises(ValueError, match="round it with amount"):
        Money().process_bind_param(Decimal("0.001"), DIALECTS[0])


def test_money_is_kept_as_whole_kopecks(app: Flask) -> None:
    plan = make_plan(price=Decimal("4000.10"))
    assert db.session.execute(text("SELECT price FROM plan")).scalar() == 400010
    db.session.expire_all()
    assert db.session.scalars(select(Plan.price)).one() == Decimal("4000.10")
    assert db.session.scalars(select(Plan).where(Plan.price == Decimal("4000.10"))).one() is plan


# --- instants -------------------------------------------------------------------------------------------------------


def test_instants_come_back_aware_in_utc(network: Network) -> None:
    client = make_client(network.lesnoy)
    there = datetime(2026, 7, 1, 1, 30, tzinfo=timezone(timedelta(hours=3)))
    with transaction():
        client.created_at = there
    db.session.expire_all()
    assert client.created_at == there
    assert client.created_at.utcoffset() == timedelta(0)
    found = select(Client).where(Client.created_at == there, Client.created_at < there + timedelta(seconds=1))
    assert db.session.scalars(found).one() is client


def test_naive_instants_are_refused(network: Network) -> None:
    with pytest.raises(StatementError, match="naive datetime"):
        db.session.scalars(select(Client).where(Client.created_at > datetime(2026, 1, 1))).all()
    db.session.rollback()
    for dialect_ in DIALECTS:
        with pytest.raises(ValueError, match="naive"):
            UtcDateTime().process_bind_param(datetime(2026, 1, 1), dialect_)
        assert UtcDateTime().process_bind_param(None, dialect_) is None


# --- phones, statuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_", ["89181590830", "+7 918 159-08-30", "nonsense", "+7", "+" + "1" * 16])
def test_phone_column_takes_e164_only(text_: str) -> None:
    with pytest.raises(ValueError, match="not an E.164"):
        Phone().process_bind_param(text_, DIALECTS[0])


def test_an_empty_phone_is_none() -> None:
    assert Phone().process_bind_param("", DIALECTS[0]) is None
    assert Phone().process_bind_param("+79181590830", DIALECTS[0]) == "+79181590830"


def test_label_enum_is_stored_by_value_and_shown_by_label(network: Network) -> None:
    client = make_client(network.lesnoy)
    assert db.session.execute(text("SELECT status FROM client")).scalar() == "active"
    db.session.expire_all()
    assert client.status is ClientStatus.ACTIVE
    assert str(client.status) == "active"
    assert client.status.label


# --- unit of work ---------------------------------------------------------------------------------------------------


def _cities() -> list[str]:
    return list(db.session.scalars(select(City.name).order_by(City.name)))


def test_a_transaction_commits_as_a_whole(app: Flask) -> None:
    with transaction():
        db.session.add(City(name="Москва"))
        with transaction():
            db.session.add(City(name="Самара"))
    db.session.rollback()
    assert _cities() == ["Москва", "Самара"]


def test_an_error_outside_takes_the_inner_one_along(app: Flask) -> None:
    with pytest.raises(ZeroDivisionError), transaction():
        with transaction():
            db.session.add(City(name="Самара"))
        raise ZeroDivisionError
    assert _cities() == []


def test_an_error_inside_takes_the_outer_one_along(app: Flask) -> None:
    with pytest.raises(ZeroDivisionError), transaction():
        db.session.add(City(name="Москва"))
        with transaction():
            raise ZeroDivisionError
    assert _cities() == []
    with transaction():
        db.session.add(City(name="Пермь"))
    assert _cities() == ["Пермь"]


def test_effects_wait_for_the_commit_in_order(app: Flask) -> None:
    seen: list[object] = []
    with transaction():
        after_commit(lambda: seen.append(_cities()))
        with transaction():
            after_commit(lambda: seen.append("second"))
            db.session.add(City(name="Москва"))
        assert seen == []
    assert seen == [["Москва"], "second"]


def test_effects_are_dropped_with_a_rollback(app: Flask) -> None:
    seen: list[str] = []
    with pytest.raises(ZeroDivisionError), transaction():
        after_commit(lambda: seen.append("never"))
        raise ZeroDivisionError
    with transaction():
        pass
    assert seen == []


def test_an_effect_may_open_a_transaction_of_its_own(app: Flask) -> None:
    def more() -> None:
        with transaction():
            db.session.add(City(name="Самара"))

    with transaction():
        db.session.add(City(name="Москва"))
        after_commit(more)
    assert _cities() == ["Москва", "Самара"]


def test_effects_need_a_transaction(app: Flask) -> None:
    with pytest.raises(RuntimeError, match="needs a transaction"):
        after_commit(lambda: None)


def test_nobody_outside_is_asked_from_within_a_transaction(app: Flask) -> None:
    with pytest.raises(RuntimeError, match="inside a transaction"), transaction():
        end_reading()


def test_writers_wait_for_each_other(app: Flask, in_parallel: Callable[..., list[Any]]) -> None:
    """SQLite's one write lock included: nobody gets "database is locked"."""

    def add(index: int) -> None:
        for turn in range(5):
            with transaction():
                _cities()
                db.session.add(City(name=f"Город {index}-{turn}"))

    assert in_parallel(add) == [None] * 8
    assert len(_cities()) == 40


def test_a_changed_row_is_not_overwritten(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    """version_id_col: of two who read the same version, one writes."""
    client_id = make_client(network.lesnoy).id
    have_read = Barrier(2)

    def rename(index: int) -> str:
        db.session().expire_on_commit = False  # as a form does: what was read stays as it was read
        client = db.session.get_one(Client, client_id)
        db.session.commit()
        have_read.wait(30)
        client.name = f"Новое имя {index}"
        try:
            db.session.commit()
        except StaleDataError:
            db.session.rollback()
            return "stale"
        return "written"

    assert sorted(in_parallel(rename, 2)) == ["stale", "written"]


def test_utc_is_the_zone_of_storage() -> None:
    instant = datetime(2026, 7, 1, tzinfo=UTC)
    assert UtcDateTime().process_bind_param(instant, DIALECTS[1]) == instant
    assert UtcDateTime().process_bind_param(instant, DIALECTS[0]) == instant.replace(tzinfo=None)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_connection_that_broke_while_idle_is_not_handed_out(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["crm.db"], "MAX_IDLE", 0)
    kill = text("SELECT pg_terminate_backend(:pid)")
    with db.engine.connect() as one, db.engine.connect() as another:
        pid = one.scalar(text("SELECT pg_backend_pid()"))
        one.close()
        assert another.scalar(kill, {"pid": pid}) is True
        another.invalidate()
    with db.engine.connect() as again:
        assert again.scalar(text("SELECT pg_backend_pid()")) != pid
