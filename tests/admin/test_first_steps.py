"""From an empty database to an opened account, by the screens alone."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from crm.access.models import Branch, Company, Role, User
from crm.admin.base import DEFAULT_ZONE
from crm.db import db
from crm.ledger.models import Account, AccountKind, AccountType
from tests.admin.world import errors, fields, send


def test_a_new_owner_gets_to_an_opened_account(app: Flask, web: Any) -> None:
    command = ["user", "create", "head@demo.test", "--name", "Глава Сети", "--password", "тайна"]
    assert app.test_cli_runner().invoke(args=command).exit_code == 0
    browser = web()
    browser.post("/login", data={"email": "head@demo.test", "password": "тайна"})
    home = browser.get("/admin/").text
    for path in ("/admin/company/new/", "/admin/city/new/", "/admin/branch/new/"):
        assert path in home
    answer = send(browser, "/admin/branch/new/", name="Садовый")  # too early: it says what is missing
    assert set(errors(answer.text)) == {"company", "city"}

    requisites = {"name": "Садовая школа", "legal_name": "ООО «Садовая школа»", "inn": "7700000009"}
    assert send(browser, "/admin/company/new/", **requisites).status_code == 302
    assert send(browser, "/admin/city/new/", name="Тверь").status_code == 302
    assert fields(browser.get("/admin/branch/new/").text)["time_zone"] == DEFAULT_ZONE
    answer = send(browser, "/admin/branch/new/", name="Садовый", time_zone="Europe/Nowhere")
    assert list(errors(answer.text)) == ["time_zone"]
    answer = send(browser, "/admin/branch/new/", name="Садовый", address="Садовая ул., 1")
    assert answer.status_code == 302
    assert "Садовая ул., 1" in browser.get(answer.location).text
    branch = db.session.scalars(select(Branch)).one()
    assert (str(branch.company), str(branch.city), branch.company.inn) == ("Садовая школа", "Тверь", "7700000009")

    assert send(browser, "/admin/accounttype/new/", name="Депозиты", branches=[str(branch.id)]).status_code == 302
    kind = db.session.scalars(select(AccountType)).one()
    assert browser.post("/switch", data={"branch_id": str(branch.id)}).status_code == 302
    answer = send(browser, "/admin/client/new/", name="Первый Клиент", phone="+7 918 000-00-01")
    assert answer.status_code == 302
    answer = send(browser, f"{answer.location}account/new/", account_type=str(kind.id))
    assert answer.status_code == 302
    account = db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT)).one()
    assert (account.client.name, account.branch_id) == ("Первый Клиент", branch.id)
    assert account.author_id == db.session.scalars(select(User.id).where(User.role == Role.OWNER)).one()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_companies_and_branches_are_added_by_owner_and_support(network: Any, web: Any) -> None:
    may_add = {
        user.role.value
        for user in network.users
        if [web(user).get(f"/admin/{what}/new/").status_code for what in ("company", "branch")] == [200, 200]
    }
    assert may_add == {"owner", "support"}
    support = web(network.support)
    answer = send(support, "/admin/company/new/", name="Ещё одна", inn="7700000000")
    assert list(errors(answer.text)) == ["inn"]
    place = {"company": str(network.company.id), "city": str(network.samara.id)}
    answer = send(support, "/admin/branch/new/", name="Лесной", **place)
    assert answer.status_code == 422  # the name is taken
    assert send(support, "/admin/branch/new/", name="Новый", **place).status_code == 302
    assert len(db.session.scalars(select(Company)).all()) == 1
    path = f"/admin/branch/edit/?id={network.lesnoy.id}"
    assert "company" not in fields(support.get(path).text)
    assert send(support, path, address="Другая ул., 2").status_code == 302
    assert network.lesnoy.address == "Другая ул., 2"
