"""Cards: what may stand in them, who pays for whom."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.clients.models import Client, ClientStatus
from crm.clients.operations import archive_client, create_client, edit_client, restore_client
from crm.db import db, transaction
from crm.errors import DomainError
from tests.factories import Network, make_child, make_client


def test_a_card_keeps_clean_values(network: Network) -> None:
    client = make_client(
        network.lesnoy,
        name="  Белова   Анна ",
        phone="8 (918) 159-08-30",
        extra_phone="",
        email=" Anna@Demo.TEST ",
        birth_date=date(1990, 5, 17),
        comment=" VIP ",
    )
    assert (client.name, client.phone, client.extra_phone) == ("Белова Анна", "+79181590830", None)
    assert (client.email, client.birth_date, client.comment) == ("anna@demo.test", date(1990, 5, 17), "VIP")
    assert client.is_payer


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("name", "   ", "name_empty"),
        ("phone", "12", "phone_invalid"),
        ("extra_phone", "abc", "phone_invalid"),
        ("email", "нет", "email_invalid"),
        ("birth_date", date(1899, 12, 31), "birth_date_invalid"),
        ("birth_date", date(2026, 9, 3), "birth_date_invalid"),
    ],
)
def test_a_bad_value_is_refused_beside_its_field(network: Network, field: str, value: object, code: str) -> None:
    facts = {"name": "Анна", field: value}
    with clock.frozen(datetime(2026, 9, 1, 12, tzinfo=UTC)), pytest.raises(DomainError) as caught:
        create_client(branch=network.lesnoy, by=SYSTEM, **facts)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_nobody_is_born_tomorrow_in_his_branch(network: Network) -> None:
    with clock.frozen(datetime(2026, 11, 20, 20, 30, tzinfo=UTC)):  # the 21st in Samara, not yet in Moscow
        assert make_client(network.mira, birth_date=date(2026, 11, 21)).birth_date == date(2026, 11, 21)
        with pytest.raises(DomainError) as caught:
            make_client(network.lesnoy, birth_date=date(2026, 11, 21))
    assert caught.value.code == "birth_date_invalid"


@pytest.mark.spec("E2", "E5")
def test_parent_and_children_are_cards_of_their_own(network: Network) -> None:
    parent = make_client(network.lesnoy, name="Мать")
    first, second = make_child(parent, name="Сын"), make_child(parent, name="Дочь")
    assert [child.name for child in parent.family] == ["Сын", "Дочь"]
    assert first.payer is second.payer is parent
    assert (parent.is_payer, first.is_payer) == (True, False)
    assert len({parent.id, first.id, second.id}) == 3


def test_one_payer_per_phone_but_a_family_may_share(network: Network) -> None:
    parent = make_client(network.lesnoy, name="Мать", phone="89181590830")
    make_child(parent, phone="+7 918 159-08-30")
    with pytest.raises(DomainError) as caught:
        make_client(network.lesnoy, phone="9181590830")
    assert (caught.value.code, caught.value.field) == ("phone_taken", "phone")
    assert "Мать" in str(caught.value)
    with transaction():
        archive_client(parent, by=SYSTEM)
    assert make_client(network.lesnoy, phone="9181590830").phone == "+79181590830"


def test_a_phone_that_went_to_another_keeps_a_card_in_the_archive(network: Network) -> None:
    first = make_client(network.lesnoy, phone="89181590830")
    with transaction():
        archive_client(first, by=SYSTEM)
    second = make_client(network.lesnoy, phone="89181590830")
    with pytest.raises(DomainError) as caught, transaction():
        restore_client(first, by=SYSTEM)
    assert (caught.value.code, caught.value.field) == ("phone_taken", "phone")
    with transaction():
        archive_client(second, by=SYSTEM)
        restore_client(first, by=SYSTEM)
    assert first.status is ClientStatus.ACTIVE


@pytest.mark.parametrize("way", ["create", "edit", "restore"])
def test_of_many_who_take_a_phone_at_once_one_gets_it(network: Network, in_parallel: Any, way: str) -> None:
    branch_id, ids = network.lesnoy.id, []
    for _ in range(4):
        card = make_client(network.lesnoy, phone="89181590830" if way == "restore" else "")
        if way == "restore":
            with transaction():
                archive_client(card, by=SYSTEM)
        ids.append(card.id)

    def take(index: int) -> None:
        facts = {"name": "Анна", "phone": "89181590830", "by": SYSTEM}
        with transaction():
            card = db.session.get_one(Client, ids[index])
            if way == "create":
                create_client(branch=db.session.get_one(Branch, branch_id), **facts)
            elif way == "edit":
                edit_client(card, **facts, extra_phone="", email="", birth_date=None, comment="")
            else:
                restore_client(card, by=SYSTEM)

    results = in_parallel(take, 4)
    refused = [result for result in results if result is not None]
    assert [getattr(error, "code", error) for error in refused] == ["phone_taken"] * 3
    query = select(Client).where(Client.phone == "+79181590830", Client.status == ClientStatus.ACTIVE)
    assert len(db.session.scalars(query).all()) == 1


def test_keeping_ones_own_phone_is_no_conflict(network: Network) -> None:
    client = make_client(network.lesnoy, name="Анна", phone="89181590830")
    with transaction():
        edit_client(
            client,
            by=SYSTEM,
            name="Анна",
            phone="8 918 159 08 30",
            extra_phone="",
            email="",
            birth_date=None,
            comment="",
        )
    assert client.phone == "+79181590830"
