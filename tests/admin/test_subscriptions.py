"""Subscriptions in the panel: the grid with its filters and bulk actions, the page of one, what is done with it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule
from crm.access.roles import change_role
from crm.background.models import BackgroundJob, JobLine
from crm.db import db, transaction
from crm.ledger.models import AccountKind, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, house_account, post
from crm.sales.canceling import cancel_sale
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from crm.subscriptions.freezing import freeze_subscription
from crm.subscriptions.models import PlanAccount, Subscription, SubscriptionStatus
from crm.subscriptions.operations import lessons_of
from tests.admin.test_export import values
from tests.admin.world import errors, fields, send
from tests.factories import (
    Network,
    make_account,
    make_child,
    make_client,
    make_lesson_type,
    make_plan,
    make_subscription,
)

GRID = "/admin/subscription/"
NOON = datetime(2027, 1, 20, 9, tzinfo=UTC)
TODAY = date(2027, 1, 20)


@pytest.fixture(autouse=True)
def at_noon() -> Any:
    with clock.frozen(NOON):
        yield


@pytest.fixture
def desk(network: Network, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


def plain(html: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))).replace("\xa0", " ")


def ids(page: str) -> list[int]:
    """Of the rows of the grid, in their order."""
    return [int(id) for id in re.findall(r'name="id" value="(\d+)"', page)]


def attend(subscription: Subscription, times: int) -> None:
    with transaction():
        attended = house_account(AccountKind.ATTENDED, subscription.branch_id, Unit.LESSON)
        post(
            TransactionKind.LESSON,
            [Line(lessons_of(subscription), Decimal(-times)), Line(attended, Decimal(times))],
            branch_id=subscription.branch_id,
            by=SYSTEM,
            cause=Cause(client_id=subscription.client_id, subscription_id=subscription.id),
        )
    db.session.expire_all()


def sold(network: Network, **changes: Any) -> Subscription:
    """From a new client of lesnoy, for thirty days from today."""
    facts = {"plan": network.plan, "starts_on": TODAY, **changes}
    return make_subscription(facts.pop("client", None) or make_client(network.lesnoy), facts.pop("plan"), **facts)


# --- the grid -------------------------------------------------------------------------------------------------------


@pytest.mark.spec("D53", "C151", "C152")
def test_the_grid_shows_what_a_subscription_carries(network: Network, desk: Any) -> None:
    client = make_client(network.lesnoy, name="Анна Абонентова")
    with transaction():
        client.discount = Decimal("300.50")
    subscription = sold(network, client=client, discount=Decimal("199.50"))
    attend(subscription, 3)
    page = desk.get(f"{GRID}?columns=").text
    text = plain(page)
    for shown in ("Анна Абонентова", "8 занятий", "Активный", "20.01.2027", "18.02.2027", "4 000,00", "500,00"):
        assert shown in text, shown
    assert "3 500,00" in text  # what is owed of it
    assert re.search(r">\s*5\s*<", page)  # lessons left
    assert ids(page) == [subscription.id]


def test_it_is_found_by_its_state_of_today(network: Network, desk: Any) -> None:
    active = sold(network)
    begins = sold(network, starts_on=TODAY + timedelta(days=1))
    expired = sold(network, starts_on=TODAY - timedelta(days=30))
    used_up = sold(network)
    attend(used_up, 8)
    frozen = sold(network)
    with transaction():
        freeze_subscription(frozen, from_on=TODAY, by=SYSTEM)
    for state, found in (
        ("active", active),
        ("not_begun", begins),
        ("expired", expired),
        ("used_up", used_up),
        ("frozen", frozen),
    ):
        assert ids(desk.get(f"{GRID}?f.state.is={state}").text) == [found.id], state
    assert ids(desk.get(f"{GRID}?f.state.is=frozen&f.state.is=used_up").text) == [frozen.id, used_up.id]
    assert ids(desk.get(f"{GRID}?f.state.not=active").text) == [s.id for s in (frozen, used_up, expired, begins)]
    with clock.frozen(NOON + timedelta(days=1)):  # the day goes on, whatever was asked before
        assert ids(desk.get(f"{GRID}?f.state.is=not_begun").text) == []


def test_the_quick_filters(network: Network, desk: Any) -> None:
    calm = sold(network, plan=make_plan(price=Decimal(0)))
    soon = sold(network, plan=make_plan(price=Decimal(0)), starts_on=TODAY - timedelta(days=23))
    few = sold(network, plan=make_plan(price=Decimal(0), lessons=2))
    unlimited = sold(network, plan=make_plan(price=Decimal(0), lessons=None))
    owed = sold(network, plan=make_plan(lessons=10))
    page = desk.get(GRID).text
    links = {unescape(label): unescape(url) for url, label in re.findall(r'href="(\?[^"]*)"[^>]*>([^<]+)</a>', page)}
    for label, found in (
        ("Заканчиваются скоро", [few, soon]),
        ("Не оплаченные", [owed]),
        ("Израсходованные", []),
        ("Замороженные", []),
    ):
        assert ids(desk.get(GRID + links[label]).text) == [one.id for one in found], label
    assert {calm.id, unlimited.id} <= set(ids(page))


def test_lessons_left_are_sorted_and_added_up(network: Network, desk: Any) -> None:
    eight, three, unlimited = sold(network), sold(network), sold(network, plan=make_plan(lessons=None))
    attend(three, 5)
    assert ids(desk.get(f"{GRID}?sort=lessons_left").text) == [three.id, eight.id, unlimited.id]
    assert ids(desk.get(f"{GRID}?sort=-lessons_left").text)[:2] == [eight.id, three.id]
    foot = desk.get(GRID).text.partition("<tfoot")[2]
    assert re.search(r">\s*11\s*<", foot)
    assert ids(desk.get(f"{GRID}?f.lessons_left.from=4").text) == [eight.id]


def test_who_sees_no_balances_sees_no_debts(network: Network, desk: Any) -> None:
    subscription = sold(network)
    assert 'href="?f.debt.is=0"' in desk.get(GRID).text
    with transaction():
        hidden = {"account.balance": FieldRule.HIDE}
        change_role(network.administrator.role_settings, permissions={}, fields=hidden, by=SYSTEM)
    page = desk.get(GRID).text
    assert 'href="?f.debt.is=0"' not in page
    assert "Долг" not in plain(page.partition("<main")[2])
    assert ids(desk.get(f"{GRID}?f.debt.is=1").text) == [subscription.id]  # a filter that is not there narrows nothing


# --- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C56", "C57")
def test_its_name_in_the_card_leads_to_all_there_is_to_know(network: Network, desk: Any) -> None:
    parent = make_client(network.lesnoy, name="Анна Плательщица")
    child = make_child(parent, name="Петя Ученик")
    swimming = make_lesson_type(name="Плавание")
    plan = make_plan(name="Абонемент «Дельфин»", lessons=8, lesson_types=[swimming])
    subscription = sold(network, client=child, plan=plan, discount=Decimal("0.01"), by=network.administrator)
    lesson = attended_lesson(network, subscription, swimming)
    card = desk.get(f"/admin/client/card/{child.id}/?tab=subscriptions").text
    [url] = re.findall(r'href="([^"]+)">Абонемент «Дельфин»</a>', card)
    text = plain(desk.get(url).text)
    for shown in (
        *("Абонемент «Дельфин»", "Активный", "Петя Ученик", "Анна Плательщица", "Москва", "Лесной", "Плавание"),
        *("4 000,00", "0,01", "3 999,99", "20.01.2027", "18.02.2027", "7 из 8", network.administrator.name),
        *("Продажа абонемента", "Скидка при продаже", "-4 000,00", "+8", "-1", "Был", lesson.title),
    ):
        assert shown in text.replace("−", "-"), shown


def attended_lesson(network: Network, subscription: Subscription, lesson_type: Any) -> Lesson:
    attend(subscription, 1)
    with transaction():
        lesson = Lesson(
            branch_id=network.lesnoy.id,
            lesson_type_id=lesson_type.id,
            starts_at=clock.at(TODAY, time(10), network.lesnoy),
            ends_at=clock.at(TODAY, time(11), network.lesnoy),
            status=LessonStatus.HELD,
            created_at=clock.now(),
        )
        db.session.add(lesson)
        db.session.flush()
        db.session.add(
            Attendance(
                branch_id=network.lesnoy.id,
                lesson_id=lesson.id,
                client_id=subscription.client_id,
                subscription_id=subscription.id,
                mark=Mark.PRESENT,
                created_at=clock.now(),
            )
        )
    return lesson


@pytest.mark.spec("C153")
def test_a_debt_on_the_subscription_is_shown_with_it(network: Network, desk: Any) -> None:
    subscription = sold(network, plan=make_plan(price=Decimal("1234.56"), account=PlanAccount.SEPARATE))
    assert "1 234,56" in plain(desk.get(f"{GRID}details/?id={subscription.id}").text)
    card = plain(desk.get(f"/admin/client/card/{subscription.client_id}/?tab=debts").text)
    assert str(subscription) in card


def test_a_role_without_the_right_reads_and_does_nothing(network: Network, web: Any) -> None:
    subscription = sold(network)
    manager = web(network.manager, network.lesnoy)
    page = manager.get(f"{GRID}details/?id={subscription.id}")
    assert page.status_code == 200
    for verb in ("freeze", "resume", "prolong", "archive"):
        assert f"/{subscription.id}/{verb}/" not in page.text
        assert manager.get(f"{GRID}{subscription.id}/{verb}/").status_code == 403
    assert web(network.director, network.lesnoy).get(f"{GRID}{sold_elsewhere(network).id}/freeze/").status_code == 404


def sold_elsewhere(network: Network) -> Subscription:
    return make_subscription(make_client(network.mira), network.plan, starts_on=TODAY)


# --- what is done with it -------------------------------------------------------------------------------------------


def test_it_is_frozen_and_resumed_from_its_page(network: Network, desk: Any) -> None:
    subscription = sold(network)
    path = f"{GRID}{subscription.id}/"
    assert f"{path}freeze/" in desk.get(f"{GRID}details/?id={subscription.id}").text
    refused = send(desk, f"{path}freeze/", until_on="2027-01-19")
    assert errors(refused.text) == {"until_on": "Конец заморозки раньше её начала."}
    assert send(desk, f"{path}freeze/", comment="Болеет").status_code == 302
    page = plain(desk.get(f"{GRID}details/?id={subscription.id}").text)
    assert "Заморожен" in page
    assert "Болеет" in page
    with clock.frozen(NOON + timedelta(days=5)):
        answer = send(desk, f"{path}resume/")
        assert answer.status_code == 302
        assert "23.02.2027" in desk.get(answer.location).text
    db.session.expire_all()
    assert (subscription.status, subscription.ends_on) == (SubscriptionStatus.ACTIVE, date(2027, 2, 23))


def test_it_is_prolonged_by_days_or_until_a_day(network: Network, desk: Any) -> None:
    subscription = sold(network)
    path = f"{GRID}{subscription.id}/prolong/"
    assert set(errors(send(desk, path).text)) == {"days"}
    assert set(errors(send(desk, path, days="0").text)) == {"days"}
    assert set(errors(send(desk, path, days="3", until="2027-03-01").text)) == {"until"}
    assert set(errors(send(desk, path, until="2027-02-18").text)) == {"until"}
    assert send(desk, path, days="3").status_code == 302
    db.session.expire_all()
    assert subscription.ends_on == date(2027, 2, 21)
    assert send(desk, path, until="2027-02-28").status_code == 302
    db.session.expire_all()
    assert subscription.ends_on == date(2027, 2, 28)


def test_only_what_is_over_goes_to_the_archive(network: Network, desk: Any) -> None:
    active, over = sold(network), sold(network, starts_on=TODAY - timedelta(days=30))
    assert "archive/" not in desk.get(f"{GRID}details/?id={active.id}").text
    refused = send(desk, f"{GRID}{active.id}/archive/")
    assert "в архив отправляют только закончившиеся" in errors(refused.text)[""]
    assert send(desk, f"{GRID}{over.id}/archive/").status_code == 302
    db.session.expire_all()
    assert (active.status, over.status) == (SubscriptionStatus.ACTIVE, SubscriptionStatus.ARCHIVED)


def act(desk: Any, action: str, chosen: list[Subscription], **filled: str) -> list[JobLine]:
    """Choose, fill in, confirm: the lines of the protocol."""
    data: dict[str, Any] = {"action": action, "id": [str(one.id) for one in chosen]}
    page = desk.post(f"{GRID}action/", data=data)
    if filled:
        assert page.status_code == 200, page.text
        data |= {"filled": "1", **{f"set.{name}": value for name, value in filled.items()}}
        page = desk.post(f"{GRID}action/", data=data)
    assert page.status_code == 200, page.text
    sent = desk.post(f"{GRID}action/", data={**data, "confirmed": "1", "count": str(len(chosen)), **key_of(page.text)})
    assert sent.status_code == 302
    job = db.session.scalars(select(BackgroundJob).order_by(BackgroundJob.id.desc())).first()
    assert job is not None
    db.session.expire_all()
    return list(db.session.scalars(select(JobLine).where(JobLine.job_id == job.id).order_by(JobLine.id)))


def key_of(page: str) -> dict[str, str]:
    return {"form_key": fields(page)["form_key"]}


def test_many_are_frozen_at_once(network: Network, desk: Any) -> None:
    one, other = sold(network), sold(network, starts_on=TODAY + timedelta(days=3))
    lines = act(desk, "freeze", [one, other], from_on="2027-01-21", until_on="2027-01-25", comment="Каникулы")
    assert [line.outcome.value for line in lines] == ["done", "failed"]
    assert "23.01.2027" in str(lines[1].reason)
    [freeze] = one.freezes
    assert (freeze.from_on, freeze.planned_until, freeze.comment) == (date(2027, 1, 21), date(2027, 1, 25), "Каникулы")


def test_a_freeze_of_many_that_ends_before_it_begins_is_refused_in_the_form(network: Network, desk: Any) -> None:
    filled = {"set.from_on": "2027-01-25", "set.until_on": "2027-01-21", "set.comment": ""}
    page = desk.post(f"{GRID}action/", data={"action": "freeze", "id": str(sold(network).id), "filled": "1", **filled})
    assert page.status_code == 422
    assert errors(page.text) == {"set.until_on": "Конец заморозки раньше её начала."}
    assert db.session.scalars(select(BackgroundJob)).all() == []


def test_many_are_prolonged_at_once(network: Network, desk: Any) -> None:
    one, other = sold(network), sold(network)
    with transaction():
        other.status = SubscriptionStatus.RETURNED
    lines = act(desk, "prolong", [one, other], days="10", until="")
    assert [line.reason is None for line in lines] == [True, False]
    assert (one.ends_on, other.ends_on) == (date(2027, 2, 28), date(2027, 2, 18))


def test_many_are_archived_each_with_its_reason(network: Network, desk: Any) -> None:
    active, expired = sold(network), sold(network, starts_on=TODAY - timedelta(days=30))
    lines = act(desk, "archive", [active, expired])
    assert [line.outcome.value for line in lines] == ["failed", "done"]
    assert "Активный" in str(lines[0].reason)
    assert (active.status, expired.status) == (SubscriptionStatus.ACTIVE, SubscriptionStatus.ARCHIVED)


# --- selling from the grid ------------------------------------------------------------------------------------------


def test_who_buys_is_found_first(network: Network, desk: Any) -> None:
    client = make_client(network.lesnoy, name="Анна Покупательница")
    assert f"{GRID}sell/" in desk.get(GRID).text
    page = desk.get(f"{GRID}sell/?q=покупательница").text
    assert f"/admin/client/card/{client.id}/subscription/new/" in page
    assert "Анна Покупательница" not in desk.get(f"{GRID}sell/?q=никого").text


def test_the_card_says_what_is_paid_and_what_is_left(network: Network, desk: Any) -> None:
    client = make_client(network.lesnoy)
    sold(network, client=client, account=make_account(client, balance=4000))
    owed = sold(network, client=client, plan=make_plan(price=Decimal("700.70"), lessons=4))
    attend(owed, 4)
    card = plain(desk.get(f"/admin/client/card/{client.id}/?tab=subscriptions").text)
    for shown in ("оплачен", "700,70", "0 из 4", "8 из 8", "Израсходован"):
        assert shown in card, shown


def test_where_nothing_was_to_be_paid_nothing_is_paid(network: Network, desk: Any) -> None:
    client = make_client(network.lesnoy)
    account = make_account(client, balance=4000)
    sold(network, client=client, plan=make_plan(price=Decimal(0)))
    mistaken = sold(network, client=client, account=account)
    with transaction():
        cancel_sale(mistaken, by=SYSTEM)
    returned = sold(network, client=client, account=account)
    with transaction():
        returned.status = SubscriptionStatus.RETURNED
    card = f"/admin/client/card/{client.id}/?tab=subscriptions"
    for url in (f"{GRID}?columns=", f"{GRID}details/?id={mistaken.id}", card):
        assert 'class="status is-paid"' not in desk.get(url).text, url
    assert ids(desk.get(f"{GRID}?f.debt.is=1").text) == []
    assert ids(desk.get(f"{GRID}?f.debt.is=0").text) == []


def test_excel_holds_what_the_grid_shows(network: Network, desk: Any) -> None:
    owed, used_up = sold(network), sold(network, plan=make_plan(name="На два раза", price=Decimal(0), lessons=2))
    unlimited = sold(network, plan=make_plan(lessons=None, price=Decimal("0.01")))
    attend(used_up, 2)
    columns = "id,state,lessons_left,debt"
    for shown in (columns, "id,state,lessons_left"):  # the books are asked through the rows, the rest without them
        rows = values(desk, "subscription", f"?columns={shown}&sort=id")
        expected = [
            [owed.id, "Активный", 8, 4000],
            [used_up.id, "Израсходован", 0, 0],
            [unlimited.id, "Активный", None, 0.01],
        ]
        assert rows[1:] == [row[: len(rows[0])] for row in expected]
        assert rows[0] == ["№", "Состояние", "Остаток занятий", "Долг"][: len(rows[0])]
