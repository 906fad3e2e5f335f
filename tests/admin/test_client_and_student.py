"""A client is who signs and pays, a student who attends: two cards and one link. And what a card wishes for."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.clients.models import Client
from crm.contracts.operations import save_contract
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind
from crm.ledger.queries import lessons_left
from crm.schedule.models import Attendance, PreferredLesson
from crm.subscriptions.models import Subscription
from tests.admin.test_grids import plain
from tests.admin.world import errors, fields, send
from tests.factories import (
    make_child,
    make_client,
    make_lesson,
    make_lesson_type,
    make_plan,
    make_subject,
    make_subscription,
)

NEW = "/admin/client/new/"
HINT = "У клиента пока нет ученика"


def card(client: Client, tab: str = "") -> str:
    return f"/admin/client/card/{client.id}/{f'?tab={tab}' if tab else ''}"


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


# --- registering ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("E7")
def test_after_a_client_is_registered_his_card_invites_to_add_a_student(network: Any, browser: Any) -> None:
    answer = send(browser, NEW, name="Берёзкина Анна", phone="8 918 159-08-30")
    assert answer.status_code == 302
    page = browser.get(answer.location).text
    assert HINT in page
    found = re.search(r'<a class="btn btn-sm btn-primary" href="([^"]+)">[^<]*<i[^>]*></i> Добавить ученика</a>', page)
    assert found
    assert send(browser, found[1], name="Маша", phone="").status_code == 302
    parent, child = db.session.scalars(select(Client).order_by(Client.id))
    assert (child.name, child.payer_id, child.branch_id) == ("Маша", parent.id, parent.branch_id)
    again = browser.get(answer.location).text
    assert HINT not in again
    assert "Добавить ученика" not in again
    assert found[1] in again  # the button of the family stays: for the next child


@pytest.mark.spec("E2", "E7")
def test_who_comes_himself_and_who_is_paid_for_are_not_asked_for_a_student(network: Any, browser: Any) -> None:
    comes, bought, parent = (make_client(network.lesnoy) for _number in range(3))
    child = make_child(parent)
    make_lesson(network.lesnoy, comes)
    make_subscription(bought, make_plan())
    for client in (comes, bought, parent, child):
        assert HINT not in browser.get(card(client)).text
    alone = make_client(network.lesnoy)
    assert HINT in browser.get(card(alone)).text


def test_who_may_not_add_clients_is_not_invited(network: Any, web: Any) -> None:
    alone = make_client(network.lesnoy)
    page = web(network.manager, network.lesnoy).get(card(alone)).text
    assert "Добавить ученика" not in page


# --- who is who -----------------------------------------------------------------------------------------------------


@pytest.mark.spec("E2", "E3", "E5", "X18")
def test_children_attend_and_the_client_pays(network: Any, browser: Any) -> None:
    """Each child has lessons of his own; accounts and debts are of the one client, whose card says so with a star."""
    parent = make_client(network.lesnoy, name="Берёзкина Анна")
    masha, misha = make_child(parent, name="Маша"), make_child(parent, name="Миша")
    make_subscription(masha, make_plan(lessons=8, price=Decimal("4000.00")))
    lesson = make_lesson(network.lesnoy, misha)
    attendance = db.session.scalars(select(Attendance).where(Attendance.lesson_id == lesson.id)).one()
    assert attendance.client is misha
    assert [lessons_left(person.id) for person in (parent, masha, misha)] == [0, 8, 0]
    money = select(Account).where(Account.kind == AccountKind.BASE)
    [base] = db.session.scalars(money)
    assert (base.client_id, base.balance) == (parent.id, -4000)
    assert db.session.scalars(select(Subscription)).one().client_id == masha.id
    for person in (parent, masha, misha):
        page = browser.get(card(person)).text
        family = page.split("<h2>Семья</h2>")[1].split("</section>")[0]
        assert re.search(rf'★ <a href="{card(parent)}">Берёзкина Анна</a>', family)
        assert family.count("★") == 1
        assert "Маша" in family
        assert "Миша" in family
    page = browser.get(card(masha)).text
    assert '<span class="star"' not in page.split("</h1>")[0].split("<h1>")[1]
    assert plain(page).count("Плательщик") >= 1
    assert '<span class="star"' in browser.get(card(parent)).text.split("</h1>")[0].split("<h1>")[1]


@pytest.mark.spec("E4", "X18")
def test_the_contract_is_concluded_with_the_client(network: Any, browser: Any) -> None:
    parent = make_client(network.lesnoy, name="Берёзкина Анна")
    child = make_child(parent, name="Маша")
    with transaction():
        body = "Заказчик: {customer.name}"
        save_contract(None, company=network.company, name="Договор", body=body, is_archived=False, by=SYSTEM)
    for person in (parent, child):
        assert "Заказчик: Берёзкина Анна" in plain(browser.get(f"/admin/contract/print/{person.id}/").text)


def test_a_contract_takes_no_tags_it_has_nothing_for(network: Any, web: Any) -> None:
    owner = web(network.owner, network.lesnoy)
    page = owner.get("/admin/contract/new/").text
    shown = re.findall(r'<code class="tag">([^<]+)</code>', page)
    assert {"{customer.name}", "{company.name}"} <= set(shown)
    assert not [tag for tag in shown if tag.startswith(("{bill.", "{customer.bills", "{payment.", "{debt."))]
    typed = {"name": "Договор", "company": str(network.company.id)}
    for tag in ("{bill.amount}", "{customer.bills}", "{payment.amount}", "{debt.amount}", "{lesson.date}"):
        answer = send(owner, "/admin/contract/new/", **typed, body=f"Итого {tag}")
        assert list(errors(answer.text)) == ["body"]
        assert tag in errors(answer.text)["body"]
    assert send(owner, "/admin/contract/new/", **typed, body="{customer.name}, {company.name}").status_code == 302


# --- preferred lessons ----------------------------------------------------------------------------------------------


@pytest.mark.spec("C54")
def test_lessons_a_client_would_like_are_kept_in_his_card(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    subject, lesson_type = make_subject(name="Плавание"), make_lesson_type(name="Мини-группа")
    make_subject(name="Забытый", is_archived=True)
    page = browser.get(card(client)).text
    assert "Предпочитаемые занятия" in page
    path = f"/admin/client/card/{client.id}/wishes/"
    assert path in page
    assert "Забытый" not in browser.get(path).text
    wish = {"subject": str(subject.id), "lesson_type": str(lesson_type.id), "wish": "По вторникам после шести"}
    answer = send(browser, path, **wish)
    assert (answer.status_code, answer.location) == (302, card(client))
    assert send(browser, path, wish="Утром").status_code == 302
    shown = plain(browser.get(card(client)).text)
    assert "Плавание · Мини-группа · По вторникам после шести" in shown
    assert "Утром" in shown
    first = db.session.scalars(select(PreferredLesson).order_by(PreferredLesson.id)).first()
    assert browser.post(path, data={"remove": str(first.id)}).location == card(client)
    assert [left.wish for left in db.session.scalars(select(PreferredLesson))] == ["Утром"]


@pytest.mark.spec("C54")
def test_an_empty_wish_and_another_cards_are_refused(network: Any, web: Any, browser: Any) -> None:
    client, other = make_client(network.lesnoy), make_client(network.lesnoy)
    path = "/admin/client/card/{}/wishes/"
    answer = send(browser, path.format(client.id), wish=" ")
    assert (answer.status_code, [*errors(answer.text)]) == (422, [""])
    assert "wish" in fields(answer.text)
    assert send(browser, path.format(other.id), wish="Утром").status_code == 302
    wish = db.session.scalars(select(PreferredLesson)).one()
    assert browser.post(path.format(client.id), data={"remove": str(wish.id)}).status_code == 404
    assert browser.get(path.format(make_client(network.mira).id)).status_code == 404
    assert web(network.manager, network.lesnoy).post(path.format(client.id), data={"wish": "Я"}).status_code == 403
    assert len(db.session.scalars(select(PreferredLesson)).all()) == 1
