"""Account types: made in the network interface, for chosen branches."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.scope import Scope, scoped_to
from crm.db import db, transaction
from crm.errors import Forbidden
from crm.ledger.models import AccountType
from crm.ledger.operations import change_account_type, create_account_type
from tests.admin.test_grids import first_column, plain
from tests.admin.world import errors, fields, send
from tests.factories import make_account, make_account_type, make_client

NEW = "/admin/accounttype/new/"


@pytest.mark.spec("A5")
def test_the_way_to_a_new_type_leads_through_the_menu(network: Any, web: Any) -> None:
    browser = web(network.owner)
    menu = browser.get("/admin/").text.split("<main")[0]
    section = menu.split("Счета клиентов</h2>")[1].split("</ul>")[0]
    [types] = re.findall(r'href="([^"]+)"[^>]*><i[^>]*></i> Типы счетов<', section)
    [button] = re.findall(r'href="([^"]+)"[^>]*><i[^>]*></i> Добавить тип счета<', browser.get(types).text)
    assert button == NEW
    assert browser.get(button).status_code == 200


@pytest.mark.spec("A4", "A6", "A7", "A9")
def test_a_type_is_added_in_the_network(network: Any, web: Any) -> None:
    browser = web(network.owner)
    page = browser.get(NEW).text
    for label in ("Название", "Филиалы", "Лесной", "Речной", "Мира"):
        assert label in plain(page)
    assert '<button class="btn btn-primary">Сохранить</button>' in page
    answer = send(browser, NEW, name="Подарочные", branches=[str(network.lesnoy.id), str(network.mira.id)])
    assert answer.status_code == 302
    made = db.session.scalars(select(AccountType).where(AccountType.name == "Подарочные")).one()
    assert {branch.name for branch in made.branches} == {"Лесной", "Мира"}
    shown = plain(browser.get(f"/admin/accounttype/details/?id={made.id}").text)
    assert "Создано" in shown  # the history
    assert "Филиалы: Лесной, Мира" in shown


@pytest.mark.spec("A4")
def test_a_branch_neither_adds_nor_changes_types(network: Any, web: Any) -> None:
    browser = web(network.owner, network.lesnoy)
    assert "Добавить тип счета" not in browser.get("/admin/accounttype/").text
    assert browser.get(NEW).status_code == 403
    assert browser.post(NEW, data={"name": "Новый", "branches": str(network.lesnoy.id)}).status_code == 403
    edit = f"/admin/accounttype/edit/?id={network.account_type.id}"
    assert browser.get(edit).status_code == 403
    assert browser.post(edit, data={"name": "Другой", "branches": str(network.lesnoy.id)}).status_code == 403
    assert [kind.name for kind in db.session.scalars(select(AccountType))] == ["Депозиты"]
    assert "Добавить тип счета" in web(network.owner).get("/admin/accounttype/").text
    assert web(network.director).get(NEW).status_code == 403


@pytest.mark.spec("A8")
def test_without_branches_or_a_name_it_is_refused_beside_the_field(network: Any, web: Any) -> None:
    browser = web(network.owner)
    answer = send(browser, NEW, name="Подарочные")
    assert answer.status_code == 422
    assert errors(answer.text) == {"branches": "Выберите филиалы, в которых доступен этот тип счета."}
    assert 'value="Подарочные"' in answer.text  # nothing typed is lost
    answer = send(browser, NEW, name="  ", branches=[str(network.lesnoy.id)])
    assert errors(answer.text) == {"name": "Заполните это поле."}
    assert fields(answer.text)["branches"] == [str(network.lesnoy.id)]
    answer = send(browser, NEW, name="Депозиты", branches=[str(network.lesnoy.id)])
    assert errors(answer.text) == {"name": "Тип счета с таким названием уже есть."}
    assert len(db.session.scalars(select(AccountType)).all()) == 1


def test_a_branch_sees_the_types_it_offers(network: Any, web: Any) -> None:
    make_account_type(network.mira, name="Самарский")
    assert first_column(web(network.owner, network.lesnoy).get("/admin/accounttype/").text) == ["Депозиты"]
    assert first_column(web(network.owner).get("/admin/accounttype/").text) == ["Депозиты", "Самарский"]


def test_a_regional_director_leaves_the_branches_he_does_not_see(network: Any, web: Any) -> None:
    """His form shows his branches only; saving it must not take the type from the others."""
    path = f"/admin/accounttype/edit/?id={network.account_type.id}"
    page = web(network.regional).get(path).text
    assert "Мира" not in plain(page)
    assert send(web(network.regional), path, branches=[str(network.lesnoy.id)]).status_code == 302
    assert {branch.name for branch in network.account_type.branches} == {"Лесной", "Мира"}
    send(web(network.regional), path, branches=[str(network.lesnoy.id), str(network.mira.id), "999"])
    db.session.expire_all()
    assert {branch.name for branch in network.account_type.branches} == {"Лесной", "Мира"}


@pytest.mark.spec("A10")
def test_an_account_is_opened_of_a_type_of_its_branch_only(network: Any, web: Any) -> None:
    foreign = make_account_type(network.mira, name="Самарский")
    client = make_client(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/client/card/{client.id}/account/new/"
    assert "Самарский" not in browser.get(path).text
    answer = send(browser, path, account_type=str(foreign.id))
    assert answer.status_code == 422
    assert errors(answer.text) == {"account_type": "Выберите один из вариантов."}
    with transaction():
        network.account_type.is_archived = True
    assert "Депозиты" not in browser.get(path).text
    assert make_account(make_client(network.mira), foreign)  # where it is offered, it can be


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("field", "value"), [("name", "Другое"), ("position", "7"), ("is_archived", "y")])
def test_what_foreign_branches_share_stays(network: Any, web: Any, field: str, value: str) -> None:
    """The type is offered in Samara too, which the regional director of Moscow does not see."""
    path = f"/admin/accounttype/edit/?id={network.account_type.id}"
    answer = send(web(network.regional), path, **{field: value})
    assert answer.status_code == 422
    assert list(errors(answer.text)) == [field]
    db.session.expire_all()
    kind = network.account_type
    assert (kind.name, kind.position, kind.is_archived, len(kind.branches)) == ("Депозиты", 0, False, 3)
    own = make_account_type(network.lesnoy, network.rechnoy)
    assert send(web(network.regional), path.replace(str(kind.id), str(own.id)), **{field: value}).status_code == 302
    with transaction():
        db.session.delete(own)  # and its name with it
    assert send(web(network.owner), path, **{field: value}).status_code == 302


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_types_reach_no_further_than_the_scope(network: Any) -> None:
    shared = {"name": "Депозиты", "by": network.regional}
    with scoped_to(Scope(frozenset({network.lesnoy.id, network.rechnoy.id}))):
        for branches in ([network.lesnoy], [network.lesnoy, network.rechnoy]):  # Samara is taken away
            with pytest.raises(Forbidden) as caught:
                change_account_type(network.account_type, branches=branches, **shared)
            assert caught.value.field == "branches"
        with pytest.raises(Forbidden):
            create_account_type(name="Новый", branches=[network.lesnoy, network.mira], by=network.regional)
