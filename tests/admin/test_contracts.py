"""A contract filled in from a card, for who does not see all of the card."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.clients.models import Client
from crm.contracts.models import ContractTemplate
from crm.contracts.operations import fill_contract, save_contract
from crm.db import transaction
from crm.fields.models import FieldType
from crm.fields.operations import add_field
from crm.mailings.models import HIDDEN
from tests.access.test_roles import settings_of
from tests.admin.test_grids import plain
from tests.factories import make_child, make_client

BODY = (
    "Заказчик: {customer.surname} {customer.patronymic}, родился {customer.birth_date}, тел. {customer.phone}, "
    "{customer.email}, паспорт {customer.custom.pasport}; исполнитель: {company.name}"
)
FACTS = {
    "surname": "Берёзкина",
    "patronymic": "Игоревна",
    "birth_date": "17.05.1986",
    "phone": "+7 918 555-01-42",
    "email": "anna@demo.test",
    "custom.pasport": "60 05 771234",
}
NOTE = "Dots stand for what your role does not see. Whoever sees it prints the contract in full."


@pytest.fixture
def client(network: Any) -> Client:
    with transaction():
        add_field(network.company, "client", label="Паспорт", type=FieldType.TEXT, by=SYSTEM)
    return make_client(
        network.lesnoy,
        name="Анна",
        surname="Берёзкина",
        patronymic="Игоревна",
        birth_date=date(1986, 5, 17),
        phone="+79185550142",
        email="anna@demo.test",
        custom={"pasport": "60 05 771234"},
    )


@pytest.fixture
def contract(network: Any, client: Client) -> ContractTemplate:
    with transaction():
        return save_contract(None, company=network.company, name="Договор", body=BODY, is_archived=False, by=SYSTEM)


def hide(role: Role, *fields: str) -> None:
    with transaction():
        change_role(settings_of(role), permissions={}, fields=dict.fromkeys(fields, FieldRule.HIDE), by=SYSTEM)


def printed(staff: Any, client: Client) -> str:
    return plain(staff.get(f"/admin/contract/print/{client.id}/").text)


def whole(network: Any, *, without: str = "") -> str:
    told = BODY.replace("{company.name}", network.company.name)
    for name, text in FACTS.items():
        told = told.replace(f"{{customer.{name}}}", HIDDEN if name == without else text)
    return told


@pytest.mark.parametrize("who", ["administrator", "director", "regional"])
def test_what_a_role_does_not_see_is_dots_in_the_contract_it_prints(
    network: Any, web: Any, client: Client, contract: ContractTemplate, who: str
) -> None:
    user = getattr(network, who)
    staff = web(user, network.lesnoy)
    child = make_child(client, name="Маша")
    for person in (client, child):
        assert whole(network) in printed(staff, person)
    for field, text in FACTS.items():
        hide(user.role, f"client.{field}")
        for person in (client, child):  # a child's is concluded with whoever pays for him
            page = printed(staff, person)
            assert whole(network, without=field) in page
            assert text not in page
    assert whole(network) in printed(web(network.owner, network.lesnoy), client), "the role alone is kept from it"


def test_the_owner_and_the_program_fill_in_everything(network: Any, client: Client, contract: ContractTemplate) -> None:
    for role in Role:
        if role is not Role.OWNER:
            hide(role, *(f"client.{name}" for name in FACTS))
    for who in (network.owner, SYSTEM):
        assert fill_contract(contract, client, by=who) == whole(network)
    told = fill_contract(contract, client, by=network.director)
    assert told.count(HIDDEN) == len(FACTS)
    assert [text for text in FACTS.values() if text in told] == []


def test_the_page_says_why_there_are_dots(network: Any, web: Any, client: Client, contract: ContractTemplate) -> None:
    staff = web(network.administrator, network.lesnoy, language="en")
    assert NOTE not in printed(staff, client)
    hide(Role.ADMINISTRATOR, "client.comment")
    assert NOTE not in printed(staff, client), "of what the contract does not tell there is nothing to say"
    hide(Role.ADMINISTRATOR, "client.phone")
    assert NOTE in printed(staff, client)
