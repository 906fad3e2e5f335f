"""Where a card belongs: its fields to a company, the client himself to one branch."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from crm.db import db, transaction
from crm.errors import DomainError
from crm.schedule.enrolment import enrol
from crm.subscriptions.operations import sell_subscription
from tests.admin.world import send
from tests.factories import make_client, make_lesson, make_plan
from tests.fields.test_fields import add, other_company


@pytest.mark.spec("C142")
def test_fields_of_a_card_are_those_of_the_company_of_its_branch(network: Any, web: Any) -> None:
    other = other_company()
    with transaction():
        network.mira.company_id = other.id
    add(network.company, "Класс школы")
    add(other, "Размер формы")
    browser = web(network.owner)
    for branch, own, foreign in (
        (network.lesnoy, "Класс школы", "Размер формы"),
        (network.rechnoy, "Класс школы", "Размер формы"),  # of the same company
        (network.mira, "Размер формы", "Класс школы"),
    ):
        client = make_client(branch)
        for path in (f"/admin/client/card/{client.id}/", f"/admin/client/edit/?id={client.id}"):
            page = browser.get(path).text
            assert own in page
            assert foreign not in page


@pytest.mark.spec("C143")
def test_a_client_is_attached_to_one_branch(network: Any, web: Any) -> None:
    """He is seen, sold to and enrolled there and nowhere else, and no form moves him."""
    client = make_client(network.lesnoy, name="Анна Лесная")
    in_rechnoy = web(network.regional, network.rechnoy)
    assert "Анна Лесная" not in in_rechnoy.get("/admin/client/").text
    assert in_rechnoy.get(f"/admin/client/card/{client.id}/").status_code == 404
    in_lesnoy, path = web(network.regional, network.lesnoy), f"/admin/client/edit/?id={client.id}"
    assert "Анна Лесная" in in_lesnoy.get("/admin/client/").text
    assert send(in_lesnoy, path, comment="Переезжает", branch=str(network.rechnoy.id)).status_code == 302
    db.session.expire_all()
    assert (client.branch_id, client.comment) == (network.lesnoy.id, "Переезжает")
    with pytest.raises(DomainError) as caught:
        enrol(make_lesson(network.rechnoy), client, by=network.regional)
    assert caught.value.code == "client_elsewhere"
    elsewhere = make_plan(branches=[network.rechnoy])
    with pytest.raises(DomainError) as caught:
        sell_subscription(client, elsewhere, starts_on=date(2027, 1, 31), by=network.regional)
    assert caught.value.code == "plan_elsewhere"
