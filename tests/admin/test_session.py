"""Signing in and out, where one is sent afterwards, the branch, the language."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from crm.access.models import Role, User
from crm.db import db, transaction
from tests.admin.test_grids import plain
from tests.admin.world import errors, fields, send
from tests.factories import PASSWORD, make_user

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


def sign_in(browser: Any, user: Any, path: str = "/login", **changes: Any) -> Any:
    return browser.post(path, data={"email": user.email, "password": PASSWORD, **changes})


def test_signing_in_and_out(network: Any, web: Any) -> None:
    browser = web()
    assert browser.get("/").location == "/admin/"
    page = browser.get("/login").text
    assert fields(page).keys() == {"email", "password"}
    assert sign_in(browser, network.owner, email=f" {network.owner.email.upper()} ").location == "/admin/"
    assert network.owner.name in browser.get("/admin/").text
    assert browser.get("/login").status_code == 302
    assert browser.post("/logout").location == "/login"
    assert browser.get("/admin/").location.startswith("/login")


def test_wrong_or_missing_credentials(network: Any, web: Any) -> None:
    browser = web()
    answer = sign_in(browser, network.owner, password="wrong")
    assert answer.status_code == 401
    assert errors(answer.text) == {"": "Неверный адрес или пароль."}
    assert fields(answer.text)["email"] == network.owner.email
    assert "wrong" not in answer.text
    answer = browser.post("/login", data={"email": " ", "password": ""})
    assert errors(answer.text) == {"email": "Заполните это поле.", "password": "Заполните это поле."}
    assert sign_in(browser, network.owner, email="owner\x00@demo.test").status_code == 401
    assert sign_in(browser, network.owner, email="я" * 5000).status_code == 401
    assert browser.get("/admin/").status_code == 302


@pytest.mark.parametrize(
    ("target", "leads"),
    [
        ("/admin/bill/?f.status.is=pending", "/admin/bill/?f.status.is=pending"),
        ("/admin/client/?q=анна", "/admin/client/?q=%D0%B0%D0%BD%D0%BD%D0%B0"),
        *(
            (bad, "/admin/")
            for bad in (
                *("https://evil.example", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example"),
                *(
                    "/\t/evil.example",
                    "/\t//evil.example",
                    "http:evil.example",
                    " //evil.example",
                ),
                *("javascript:alert(1)", "evil.example", "", "/\r\nSet-Cookie: a=b", "\x00/admin/"),
            )
        ),
    ],
)
def test_one_is_sent_on_within_this_site_only(network: Any, web: Any, target: str, leads: str) -> None:
    browser = web()
    answer = browser.post(
        "/login", query_string={"next": target}, data={"email": network.owner.email, "password": PASSWORD}
    )
    assert (answer.status_code, answer.location) == (302, leads)
    for path in ("/switch", "/language"):
        answer = browser.post(path, data={"branch_id": "", "language": "ru", "next": target})
        assert (answer.status_code, answer.location) == (302, leads)


def test_after_signing_in_one_is_where_one_wanted_to_be(network: Any, web: Any) -> None:
    browser = web()
    asked = browser.get("/admin/bill/?q=1").location
    assert sign_in(browser, network.owner, asked).location == "/admin/bill/?q=1"


def test_the_branch_is_chosen_among_ones_own(network: Any, web: Any) -> None:
    browser = web(network.regional)
    page = browser.get("/admin/").text
    assert "Сеть: все филиалы" in plain(page)
    assert "Мира" not in page
    assert browser.post("/switch", data={"branch_id": str(network.lesnoy.id)}).status_code == 302
    assert "<h1>Лесной</h1>" in browser.get("/admin/").text
    for foreign in (str(network.mira.id), "999", "abc", "²", "-1", "9" * 40):
        assert browser.post("/switch", data={"branch_id": foreign}).status_code == 404, foreign
    assert "<h1>Лесной</h1>" in browser.get("/admin/").text
    browser.post("/switch", data={"branch_id": ""})
    assert "<h1>Сеть</h1>" in browser.get("/admin/").text


def test_a_branch_taken_away_is_no_longer_chosen(network: Any, web: Any) -> None:
    browser = web(network.director, network.lesnoy)
    assert "<h1>Лесной</h1>" in browser.get("/admin/").text
    with transaction():
        network.director.branches = [network.rechnoy]
    assert "<h1>Сеть</h1>" in browser.get("/admin/").text
    assert "Лесной" not in browser.get("/admin/").text


def test_the_language_is_the_browsers_then_ones_own_choice(network: Any, web: Any) -> None:
    english = web(network.owner, language="en")
    assert "Bills awaiting payment" in english.get("/admin/").text
    russian = web(network.owner)
    assert "Счета, ожидающие оплаты" in russian.get("/admin/").text
    assert russian.post("/language", data={"language": "en", "next": "/admin/"}).status_code == 302
    assert 'lang="en"' in russian.get("/admin/").text
    assert "Bills awaiting payment" in web(network.owner).get("/admin/").text  # kept with the user
    assert russian.post("/language", data={"language": "xx"}).status_code == 404
    stranger = web()
    stranger.post("/language", data={"language": "en"})
    assert "Sign in" in stranger.get("/login").text


def test_forms_take_back_in_english_the_sums_they_show(network: Any, web: Any) -> None:
    browser = web(network.owner, language="en")
    path = f"/admin/plan/edit/?id={network.plan.id}"
    assert fields(browser.get(path).text)["price"] == "4000.00"
    assert send(browser, path, lessons="9").status_code == 302
    assert send(browser, path, price="1,234.50").status_code == 302
    db.session.expire_all()
    assert (str(network.plan.price), network.plan.lessons) == ("1234.50", 9)
    answer = send(browser, path, price="abc", lessons="x")
    assert errors(answer.text)["lessons"] == "Not a valid integer value."


# --- users ----------------------------------------------------------------------------------------------------------


def test_users_are_added_and_changed(network: Any, web: Any) -> None:
    browser = web(network.owner)
    new = {"name": "Новый Человек", "email": "new@demo.test", "role": "administrator", "password": "секрет"}
    assert send(browser, "/admin/user/new/", **new, branches=[str(network.lesnoy.id)]).status_code == 302
    user = db.session.scalars(select(User).where(User.email == "new@demo.test")).one()
    assert (user.role, [branch.name for branch in user.branches]) == (Role.ADMINISTRATOR, ["Лесной"])
    assert sign_in(web(), user, password="секрет").location == "/admin/"
    page = browser.get(f"/admin/user/details/?id={user.id}").text
    assert "argon2" not in page
    before = user.password_hash
    path = f"/admin/user/edit/?id={user.id}"
    assert send(browser, path, name="Другое Имя", password="").status_code == 302
    db.session.expire_all()
    assert (user.name, user.password_hash) == ("Другое Имя", before)
    answer = send(browser, "/admin/user/new/", **new)
    assert errors(answer.text) == {"email": "Пользователь с таким адресом уже есть."}
    assert "секрет" not in answer.text
    answer = send(browser, "/admin/user/new/", **{**new, "email": "third@demo.test", "password": ""})
    assert list(errors(answer.text)) == ["password"]
    answer = send(browser, "/admin/user/new/", **{**new, "name": " ", "role": "god"})
    assert errors(answer.text) == {"name": "Заполните это поле.", "role": "Выберите один из вариантов."}


def test_the_last_head_stays(network: Any, web: Any) -> None:
    browser = web(network.owner)
    path = f"/admin/user/edit/?id={network.owner.id}"
    for field, changes in (("role", {"role": "manager"}), ("is_active", {"is_active": None})):
        answer = send(browser, path, **changes)
        assert answer.status_code == 422
        assert errors(answer.text) == {field: "Это последний руководитель сети: сначала назначьте другого."}
    assert send(web(make_user(Role.OWNER)), path, role="manager").status_code == 302


def test_a_director_sees_the_people_of_his_branches(network: Any, web: Any) -> None:
    there = make_user(Role.ADMINISTRATOR, branches=[network.mira], name="Самарский Администратор")
    browser = web(network.director)
    page = browser.get("/admin/user/").text
    assert network.administrator.name in page
    assert there.name not in page
    assert browser.get(f"/admin/user/details/?id={there.id}").status_code == 404
