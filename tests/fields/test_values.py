"""Values of every type: into the column and out again, and compared by the database itself."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import DomainError
from crm.fields.models import CustomField, FieldType
from crm.fields.values import VALUES
from tests.factories import Network, make_client
from tests.fields.test_fields import add

GOOD: list[tuple[FieldType, list[Any]]] = [
    (FieldType.TEXT, ["Ёлка", "«кавычки» \" ' \\ {тег}", "строка\nвторая"]),
    (FieldType.NUMBER, [Decimal("-12.5"), Decimal("0"), Decimal("0.000001"), Decimal("999999999999.999999")]),
    (FieldType.MONEY, [Decimal("-0.01"), Decimal("0.10"), Decimal("99999999.99")]),
    (FieldType.DATE, [date(1900, 1, 1), date(2026, 1, 31), date(2199, 12, 31)]),
    (FieldType.CHOICE, ["a", "b"]),
    (FieldType.CHOICES, [["a"], ["a", "b"]]),
    (FieldType.YES_NO, [False, True]),
    (FieldType.LINK, ["http://пример.рф/путь?q=1", "https://example.test/"]),
    (FieldType.PHONE, ["+74950000001", "+79181590830"]),
]


def field_of(network: Network, type: FieldType) -> CustomField:
    return add(network.company, "Поле", type, options=["А", "Б"] if type.has_options else ())


@pytest.mark.parametrize(("type", "values"), GOOD)
def test_a_value_comes_back_as_it_was_from_the_row_and_from_sql(network: Network, type: FieldType, values: Any) -> None:
    field_of(network, type)
    value_type = VALUES[type]
    for value in values:
        client_id = make_client(network.lesnoy, custom={"pole": value}).id
        db.session.expire_all()
        assert value_type.load(db.session.get_one(Client, client_id).custom["pole"]) == value
        assert db.session.scalar(select(value_type.sql(Client.custom, "pole")).where(Client.id == client_id)) == value


@pytest.mark.parametrize(
    ("type", "values"), [pair for pair in GOOD if pair[0] not in (FieldType.TEXT, FieldType.CHOICES)]
)
def test_the_database_puts_values_in_their_order(network: Network, type: FieldType, values: Any) -> None:
    field_of(network, type)
    for value in reversed(values):
        make_client(network.lesnoy, custom={"pole": value})
    make_client(network.lesnoy)
    column = VALUES[type].sql(Client.custom, "pole")
    expected = sorted(values)
    assert list(db.session.scalars(select(column).where(column.is_not(None)).order_by(column))) == expected
    assert db.session.scalar(select(func.count()).select_from(Client).where(column.is_(None))) == 1


@pytest.mark.parametrize("type", [FieldType.NUMBER, FieldType.MONEY])
def test_sums_are_exact(network: Network, type: FieldType) -> None:
    field_of(network, type)
    for _ in range(10):
        make_client(network.lesnoy, custom={"pole": Decimal("0.1")})
    assert db.session.scalar(select(func.sum(VALUES[type].sql(Client.custom, "pole")))) == Decimal("1")


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (FieldType.TEXT, "х" * 2001),
        (FieldType.NUMBER, Decimal("0.0000001")),
        (FieldType.NUMBER, Decimal("1e12")),
        (FieldType.MONEY, Decimal("0.001")),
        (FieldType.MONEY, Decimal("100000000.01")),
        (FieldType.DATE, date(1899, 12, 31)),
        (FieldType.CHOICE, "v"),
        (FieldType.CHOICES, ["a", "v"]),
        (FieldType.LINK, "javascript:alert(1)"),
        (FieldType.LINK, "https://"),
        (FieldType.LINK, "https://[::1"),
        (FieldType.PHONE, "нет"),
    ],
)
def test_what_is_no_value_is_refused_beside_the_field(network: Network, type: FieldType, value: Any) -> None:
    field_of(network, type)
    with pytest.raises(DomainError) as refused, transaction():
        make_client(network.lesnoy, custom={"pole": value})
    assert refused.value.field == "custom.pole"


@pytest.mark.parametrize("empty", [None, "", " ", []])
def test_nothing_empties_a_value_unless_it_is_required(network: Network, empty: Any) -> None:
    type = FieldType.CHOICES if empty == [] else FieldType.TEXT
    add(network.company, "Поле", type, options=["А"] if type.has_options else ())
    add(network.company, "Важное", type, options=["А"] if type.has_options else (), is_required=True)
    value = ["a"] if type.has_options else "a"
    assert make_client(network.lesnoy, custom={"pole": empty, "vazhnoe": value}).custom == {"vazhnoe": value}
    with pytest.raises(DomainError) as refused, transaction():
        make_client(network.lesnoy, custom={"pole": value, "vazhnoe": empty})
    assert refused.value.field == "custom.vazhnoe"
