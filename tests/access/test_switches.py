"""What a company uses of Kontora: switched by technical support and the owner, nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from crm.access.models import Role, RoleSettings
from crm.access.roles import change_role
from crm.access.switches import SWITCHES, set_switches
from crm.db import db, transaction
from crm.errors import Forbidden
from tests.admin.world import send
from tests.factories import Network

LABELS = {
    "has_waiting_list": "Лист ожидания",
    "has_parallel_rooms": "Параллельная работа с помещениями",
    "binds_instructor": "Инструктор привязывается ко времени занятия",
}


@pytest.mark.spec("C50", "C139", "C40")
@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("role", ["support", "owner"])
def test_support_switches_a_setting_in_the_companys_form(network: Network, web: Any, role: str, name: str) -> None:
    browser, path = web(getattr(network, role)), f"/admin/company/edit/?id={network.company.id}"
    assert LABELS[name] in browser.get(path).text
    was = {switch: getattr(network.company, switch) for switch in SWITCHES}
    assert send(browser, path, **{name: None if was[name] else "y"}).status_code == 302
    db.session.expire_all()
    assert {switch: getattr(network.company, switch) for switch in SWITCHES} == {**was, name: not was[name]}


@pytest.mark.spec("C50", "C139")
@pytest.mark.parametrize("role", ["regional", "director", "administrator", "manager", "instructor"])
def test_nobody_else_may(network: Network, web: Any, role: str) -> None:
    by = getattr(network, role)
    for name in SWITCHES:
        with pytest.raises(Forbidden):
            set_switches(network.company, **{name: not getattr(network.company, name)}, by=by)
    assert web(by).get(f"/admin/company/edit/?id={network.company.id}").status_code == 403


@pytest.mark.spec("C50")
def test_a_director_given_the_requisites_sees_the_settings_and_cannot_switch_them(network: Network, web: Any) -> None:
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.DIRECTOR)).one()
    with transaction():
        permissions = {"company.view": True, "company.edit": True}
        change_role(settings, permissions=permissions, fields={}, by=network.owner)
    with pytest.raises(Forbidden), transaction():
        change_role(settings, permissions={**permissions, "company.switch": True}, fields={}, by=network.owner)
    browser, path = web(network.director), f"/admin/company/edit/?id={network.company.id}"
    page = browser.get(path).text
    assert LABELS["binds_instructor"] in page
    assert "обратитесь в техническую поддержку" in page
    assert send(browser, path, kpp="770701001", binds_instructor=None, has_parallel_rooms="y").status_code == 302
    db.session.expire_all()
    assert network.company.kpp == "770701001"
    assert (network.company.binds_instructor, network.company.has_parallel_rooms) == (True, False)


def test_what_does_not_change_needs_no_right(network: Network) -> None:
    switches = {name: getattr(network.company, name) for name in SWITCHES}
    set_switches(network.company, **switches, by=network.administrator)
    with pytest.raises(TypeError):
        set_switches(network.company, has_swimming_pool=True, by=network.support)


def test_a_new_company_starts_with_the_usual_settings(network: Network, web: Any) -> None:
    browser = web(network.support)
    answer = send(browser, "/admin/company/new/", name="Вторая", has_parallel_rooms="y")
    assert answer.status_code == 302
    company = db.session.scalars(select(type(network.company)).where(type(network.company).name == "Вторая")).one()
    assert [getattr(company, name) for name in SWITCHES] == [True, True, True]
