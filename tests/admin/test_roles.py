"""Settings → Roles: the matrix, what will change, two owners at once; and "what can this person do and why"."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.fields import field_rules
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.audit.models import AuditEntry
from crm.db import db, transaction
from tests.admin.world import fields
from tests.factories import Network

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


def settings_of(role: Role) -> RoleSettings:
    return db.session.scalars(select(RoleSettings).where(RoleSettings.role == role)).one()


@pytest.fixture
def manager_id(network: Network) -> int:
    return settings_of(Role.MANAGER).id


def form_of(text: str) -> dict[str, Any]:
    """The matrix as a browser would send it; the page's form has an address of its own."""
    return fields(re.sub(r'(<form class="role-form" method="post") action="[^"]*"', r"\1", text))


def saved(
    client: Any, role_id: int, *, allow: set[str] = frozenset(), deny: set[str] = frozenset(), **rules: str
) -> Any:
    """Tick and untick in the matrix, look at the changes, save. rules: client__phone="hide"."""
    path = f"/admin/role/edit/?id={role_id}"
    form = form_of(client.get(path).text)
    form["allow"] = sorted((set(form["allow"]) | set(allow)) - set(deny))
    form |= {f"field.{name.replace('__', '.')}": rule for name, rule in rules.items()}
    review = client.post(path, data=form)
    assert review.status_code == 200, review.status_code
    return client.post(path, data=fields(review.text) | {"allow": form["allow"], "confirmed": "1"})


def test_the_list_counts_people_and_changes(network: Network, web: Any, manager_id: int) -> None:
    owner = web(network.owner)
    assert "изменение" not in owner.get("/admin/role/").text
    assert saved(owner, manager_id, deny={"client.export"}, client__phone="hide").status_code == 302
    page = owner.get("/admin/role/").text
    assert len(re.findall(r"<li><a href=\"/admin/role/details/", page)) == len(Role)
    assert re.search(r"Менеджер</strong>\s*<span>1 человек</span>\s*<span><b[^>]*>2 изменения", page)


def test_what_is_ticked_is_what_the_role_holds(network: Network, web: Any, manager_id: int) -> None:
    form = form_of(web(network.owner).get(f"/admin/role/edit/?id={manager_id}").text)
    assert {"client.view", "client.export", "bill.view"} <= set(form["allow"])
    assert not {"client.edit", "user.view"} & set(form["allow"])
    assert form["field.client.phone"] == ""


def test_saving_untouched_changes_nothing(network: Network, web: Any, manager_id: int) -> None:
    owner, path = web(network.owner), f"/admin/role/edit/?id={manager_id}"
    assert owner.post(path, data=form_of(owner.get(path).text)).status_code == 302
    assert settings_of(Role.MANAGER).permissions == {}
    assert db.session.scalars(select(AuditEntry).where(AuditEntry.entity == "role_settings")).all() == []


def test_what_will_change_is_shown_before_it_does(network: Network, web: Any, manager_id: int) -> None:
    owner, path = web(network.owner), f"/admin/role/edit/?id={manager_id}"
    form = form_of(owner.get(path).text)
    form["allow"] = [name for name in form["allow"] if name != "client.export"] + ["client.edit"]
    form["field.client.phone"] = "freeze"
    review = owner.post(path, data=form)
    rows = re.findall(
        r"<tr><td>(.*?)</td><td>(.*?)</td><td><del>(.*?)</del></td><td><strong>(.*?)</strong>", review.text
    )
    assert rows == [
        ("Клиенты", "Выгружать", "да", "нет"),
        ("Клиенты", "Изменять", "нет", "да"),
        ("Клиенты", "Телефон", "Виден", "Только чтение"),
    ]
    assert settings_of(Role.MANAGER).permissions == {}
    again = owner.post(path, data=fields(review.text) | {"allow": form["allow"], "back": "1"}).text
    assert form_of(again)["field.client.phone"] == "freeze"
    assert "client.edit" in form_of(again)["allow"]
    assert settings_of(Role.MANAGER).permissions == {}


def test_it_holds_with_the_next_page(network: Network, web: Any, manager_id: int) -> None:
    manager = web(network.manager, network.lesnoy)
    assert manager.get("/admin/client/new/").status_code == 403
    assert manager.get("/admin/client/export/xlsx/").status_code == 200
    saved(web(network.owner), manager_id, allow={"client.create"}, deny={"client.export"})
    assert manager.get("/admin/client/new/").status_code == 200
    assert manager.get("/admin/client/export/xlsx/").status_code == 403


def test_two_owners_at_once(network: Network, web: Any, manager_id: int) -> None:
    owner, path = web(network.owner), f"/admin/role/edit/?id={manager_id}"
    form = form_of(owner.get(path).text)
    saved(owner, manager_id, deny={"bill.export"})
    form["allow"] = [name for name in form["allow"] if name != "client.export"]
    for extra in ({}, {"confirmed": "1"}):
        late = owner.post(path, data=form | extra)
        assert late.status_code == 409
        assert "Счета: Выгружать" in late.text
        assert "client.export" not in form_of(late.text)["allow"]
    assert settings_of(Role.MANAGER).permissions == {"bill.export": False}


def test_a_double_click_saves_once(network: Network, web: Any, manager_id: int) -> None:
    owner, path = web(network.owner), f"/admin/role/edit/?id={manager_id}"
    form = form_of(owner.get(path).text)
    form["allow"] = [name for name in form["allow"] if name != "client.export"]
    sent = fields(owner.post(path, data=form).text) | {"allow": form["allow"], "confirmed": "1"}
    assert [owner.post(path, data=sent).status_code for _ in range(2)] == [302, 302]
    assert len(db.session.scalars(select(AuditEntry).where(AuditEntry.entity == "role_settings")).all()) == 1


def test_back_to_the_built_in(network: Network, web: Any, manager_id: int) -> None:
    owner = web(network.owner)
    saved(owner, manager_id, deny={"client.export"}, client__phone="hide")
    assert f"/admin/role/reset/?id={manager_id}" in owner.get(f"/admin/role/details/?id={manager_id}").text
    assert owner.post(f"/admin/role/reset/?id={manager_id}").status_code == 302
    assert (settings_of(Role.MANAGER).permissions, settings_of(Role.MANAGER).fields) == ({}, {})
    page = owner.get(f"/admin/role/details/?id={manager_id}").text
    assert "Клиенты: Выгружать" in page  # the history
    assert f"/admin/role/reset/?id={manager_id}" not in page


def test_rules_that_are_not_on_offer_are_not_taken(network: Network, web: Any, manager_id: int) -> None:
    """What names a row stays; what no form holds cannot be frozen; nonsense is nothing."""
    owner, path = web(network.owner), f"/admin/role/edit/?id={manager_id}"
    nonsense = {
        "field.client.name": "hide",
        "field.bill.amount": "freeze",
        "field.client.phone": "burn",
        "field.x.y": "hide",
    }
    sent = form_of(owner.get(path).text) | nonsense | {"confirmed": "1"}
    sent["allow"] = [*sent["allow"], "client.fly", "role.edit"]
    owner.post(path, data=sent)
    assert (settings_of(Role.MANAGER).permissions, settings_of(Role.MANAGER).fields) == ({}, {})


def test_the_owners_role_is_nobodys_to_edit(network: Network, web: Any) -> None:
    owner, owners = web(network.owner), settings_of(Role.OWNER).id
    for path in (f"/admin/role/edit/?id={owners}", f"/admin/role/reset/?id={owners}"):
        assert owner.get(path).status_code == 403
        assert owner.post(path, data={"confirmed": "1"}).status_code == 403
    assert "/admin/role/edit/" not in owner.get(f"/admin/role/details/?id={owners}").text


# --- what can this person do and why --------------------------------------------------------------------------------


def right(page: str, entity: str, action: str) -> tuple[str, str]:
    """(yes or no, why) of one line."""
    part = re.search(rf'<th colspan="3" scope="rowgroup">{entity}</th></tr>(.*?)</tbody>', page, re.DOTALL)
    assert part, entity
    row = re.search(rf"<tr><td>{action}</td><td[^>]*>(.*?)</td>\s*<td>(.*?)</td></tr>", part[1], re.DOTALL)
    assert row, action
    said, why = (re.sub("<[^>]+>", "", text).strip() for text in row.groups())
    return said, why


def test_each_right_is_told_with_its_source(network: Network, web: Any, manager_id: int) -> None:
    owner = web(network.owner)
    saved(owner, manager_id, allow={"client.edit"}, deny={"client.export"}, client__phone="hide")
    page = owner.get(f"/admin/user/rights/?id={network.manager.id}").text
    assert right(page, "Клиенты", "Видеть") == ("да", "исходная роль")
    assert right(page, "Клиенты", "Добавлять") == ("нет", "исходная роль")
    said, why = right(page, "Клиенты", "Изменять")
    assert (said, why.startswith(f"изменил(а) {network.owner.name}")) == ("да", True)
    assert right(page, "Клиенты", "Выгружать")[0] == "нет"
    assert right(page, "Клиенты", "Поле «Телефон»")[0] == "Скрыто"


@pytest.mark.parametrize(
    ("role", "reasons"),
    [
        ("owner", {"Роль видит всю сеть."}),
        ("regional", {"Региональному директору доступны все филиалы города: Москва."}),
        ("director", {"Филиал отмечен у пользователя."}),
    ],
)
def test_branches_are_told_with_the_reason(network: Network, web: Any, role: str, reasons: set[str]) -> None:
    page = web(getattr(network, role)).get("/admin/rights/").text
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    expected = {"owner": {"Лесной", "Речной", "Мира"}, "regional": {"Лесной", "Речной"}, "director": {"Лесной"}}[role]
    assert ({name for name, _why in facts}, {why for _name, why in facts}) == (expected, reasons)


def test_everybody_sees_his_own_rights(network: Network, web: Any) -> None:
    for user in network.users:
        assert web(user).get("/admin/rights/").status_code == 200
    assert web().get("/admin/rights/").status_code == 302


def test_a_person_switched_off_may_nothing(network: Network, web: Any) -> None:
    network.manager.is_active = False
    page = web(network.owner).get(f"/admin/user/rights/?id={network.manager.id}").text
    assert right(page, "Клиенты", "Видеть") == ("нет", "вход отключён")


def test_rules_of_a_role_reach_its_people(network: Network) -> None:
    with transaction():
        change_role(settings_of(Role.MANAGER), permissions={}, fields={"client.phone": FieldRule.HIDE}, by=SYSTEM)
    assert field_rules(network.manager, "client").hidden == {"phone"}
