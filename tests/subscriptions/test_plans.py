"""Plans: made and changed by the rules, on the screen too; where they are sold; what is sold stays as it was."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount
from crm.subscriptions.operations import sell_subscription
from crm.subscriptions.plans import change_plan, create_plan, plans_on_offer, sells_for_any_type
from tests.admin.world import errors, fields, send
from tests.factories import make_client, make_lesson_type, make_plan, make_subject, make_subscription

FACTS: dict[str, Any] = {"name": "Пробный месяц", "price": Decimal("3333.33"), "lessons": 7}


def sold_plan(name: str) -> Plan:
    return db.session.scalars(select(Plan).where(Plan.name == name)).one()


def test_a_plan_has_all_it_was_given(network: Any) -> None:
    group, subject = make_lesson_type(), make_subject()
    with transaction():
        plan = create_plan(
            **FACTS,
            duration_days=31,
            charge=ChargeMoment.PER_LESSON,
            account=PlanAccount.SEPARATE,
            lesson_types=[group],
            subjects=[subject],
            branches=[network.mira],
            is_trial=True,
            position=4,
            by=network.owner,
        )
    db.session.expire_all()
    assert (plan.name, plan.price, plan.lessons, plan.duration_days) == ("Пробный месяц", Decimal("3333.33"), 7, 31)
    assert (plan.charge, plan.account) == (ChargeMoment.PER_LESSON, PlanAccount.SEPARATE)
    assert (plan.lesson_types, plan.subjects, plan.branches) == ([group], [subject], [network.mira])
    assert (plan.is_trial, plan.position, plan.is_archived) == (True, 4, False)


@pytest.mark.parametrize(
    ("facts", "code", "field"),
    [
        ({"name": "  "}, "name_empty", "name"),
        ({"name": " 8  занятий "}, "name_taken", "name"),
        ({"price": Decimal("-0.01")}, "price_invalid", "price"),
        ({"price": Decimal("100000000.01")}, "price_invalid", "price"),
        ({"lessons": -1}, "lessons_invalid", "lessons"),
        ({"lessons": None, "charge": ChargeMoment.PER_LESSON}, "lessons_missing", "lessons"),
        ({"lessons": 0, "charge": ChargeMoment.PER_LESSON}, "lessons_missing", "lessons"),
        ({"duration_days": 0}, "duration_invalid", "duration_days"),
    ],
)
def test_what_is_no_plan_is_refused_beside_its_field(network: Any, facts: Any, code: str, field: str) -> None:
    plan = make_plan(name="Другой", lessons=3)
    for act in (
        lambda: create_plan(**{**FACTS, **facts}, by=network.owner),
        lambda: change_plan(plan, **{**FACTS, **facts}, by=network.owner),
    ):
        with pytest.raises(DomainError) as caught, transaction():
            act()
        assert (caught.value.code, caught.value.field) == (code, field)
    db.session.expire_all()
    assert (plan.name, plan.lessons, len(db.session.scalars(select(Plan)).all())) == ("Другой", 3, 2)


def test_what_is_sold_stays_as_it_was(network: Any) -> None:
    client, plan = make_client(network.lesnoy), make_plan(price=Decimal("4000.00"), lessons=8)
    sold = make_subscription(client, plan, starts_on=date(2027, 1, 31))
    facts = {"name": plan.name, "price": Decimal("9000.00"), "lessons": 2, "duration_days": 7}
    with transaction():
        change_plan(plan, **facts, charge=ChargeMoment.PER_LESSON, account=PlanAccount.SEPARATE, by=network.regional)
    db.session.expire_all()
    assert (sold.price, sold.lessons, sold.lessons_left) == (Decimal("4000.00"), 8, 8)
    assert (sold.charge, sold.account, sold.ends_on) == (ChargeMoment.AT_SALE, PlanAccount.BASE, date(2027, 3, 1))
    with transaction():
        new = sell_subscription(client, plan, starts_on=date(2027, 1, 31), by=network.administrator)
    assert (new.price, new.charge, new.ends_on) == (Decimal("9000.00"), ChargeMoment.PER_LESSON, date(2027, 2, 6))


@pytest.mark.parametrize("role", ["director", "administrator", "manager", "instructor"])
def test_plans_are_the_networks_to_make(network: Any, web: Any, role: str) -> None:
    by = getattr(network, role)
    with pytest.raises(Forbidden):
        create_plan(**FACTS, by=by)
    with pytest.raises(Forbidden):
        change_plan(network.plan, **FACTS, by=by)
    assert web(by).get("/admin/plan/new/").status_code == 403


# --- where they are sold --------------------------------------------------------------------------------------------


def test_a_branch_is_offered_its_own_plans_and_those_of_everywhere(network: Any) -> None:
    make_plan(name="Только Мира", branches=[network.mira], position=1)
    make_plan(name="Старый", is_archived=True)
    assert [plan.name for plan in plans_on_offer(network.mira)] == ["8 занятий", "Только Мира"]
    assert [plan.name for plan in plans_on_offer(network.lesnoy)] == ["8 занятий"]


@pytest.mark.spec("C41")
def test_whether_something_is_sold_that_no_type_is_named_for(network: Any) -> None:
    """The type of the lesson is asked for while there is: the planning form says so by it."""
    assert sells_for_any_type(network.lesnoy)
    group = make_lesson_type()
    with transaction():
        network.plan.lesson_types = [group]
    assert not sells_for_any_type(network.lesnoy)
    make_plan(branches=[network.mira])
    make_plan(is_archived=True)
    assert not sells_for_any_type(network.lesnoy)
    assert sells_for_any_type(network.mira)


def test_branches_out_of_sight_stay_and_are_not_named(network: Any) -> None:
    plan = make_plan(name="Везде понемногу", branches=[network.lesnoy, network.mira])
    facts = {"name": plan.name, "price": plan.price, "lessons": plan.lessons}
    with scoped_to(Scope(frozenset({network.lesnoy.id, network.rechnoy.id}))):  # the regional director's
        with transaction():
            change_plan(plan, **facts, branches=[network.mira, network.rechnoy], by=network.regional)
        for branches in ([network.rechnoy], [network.rechnoy, network.lesnoy]):
            with pytest.raises(Forbidden) as caught:
                change_plan(plan, **facts, branches=branches, by=network.regional)
            assert caught.value.field == "branches"
        own = make_plan(name="Только Лесной", branches=[network.lesnoy])
        with pytest.raises(Forbidden) as caught:  # it would be sold in Samara as well
            change_plan(own, **{**facts, "name": own.name}, branches=[], by=network.regional)
        assert caught.value.field == "branches"
    db.session.rollback()
    assert {branch.name for branch in plan.branches} == {"Мира", "Речной"}


# --- on the screen --------------------------------------------------------------------------------------------------


def test_a_plan_is_made_on_its_form(network: Any, web: Any) -> None:
    group, english = make_lesson_type(name="Группа"), make_subject(name="Английский")
    make_subject(name="Латынь", is_archived=True)
    browser = web(network.owner)
    page = browser.get("/admin/plan/new/").text
    assert "Латынь" not in page
    answer = send(
        browser,
        "/admin/plan/new/",
        name="По занятиям",
        price="5 000,50",
        lessons="7",
        charge="per_lesson",
        account="separate",
        lesson_types=[str(group.id)],
        subjects=[str(english.id)],
        is_trial="y",
    )
    assert answer.status_code == 302
    plan = sold_plan("По занятиям")
    assert (plan.price, plan.lessons, plan.charge) == (Decimal("5000.50"), 7, ChargeMoment.PER_LESSON)
    assert (plan.account, plan.is_trial) == (PlanAccount.SEPARATE, True)
    assert (plan.lesson_types, plan.subjects, plan.branches) == ([group], [english], [])
    page = browser.get("/admin/plan/").text
    for text in ("По занятиям", "5\xa0000,50", "Отдельный счет", "Группа", "Английский", "везде", "любого типа"):
        assert text in page


def test_the_rule_of_lesson_by_lesson_stands_beside_the_field(network: Any, web: Any) -> None:
    facts = {"name": "Новый", "price": "100", "charge": "per_lesson"}
    answer = send(web(network.owner), "/admin/plan/new/", **facts, lessons="", is_unlimited="y")
    assert errors(answer.text) == {"lessons": "При оплате по занятиям нужно число занятий: введите его."}


def test_without_a_limit_is_said_and_not_left_out(network: Any, web: Any) -> None:
    browser, facts = web(network.owner), {"name": "Безлимит", "price": "7900"}
    answer = send(browser, "/admin/plan/new/", **facts, lessons="")
    assert errors(answer.text) == {"lessons": "Введите число занятий или отметьте «Без ограничения занятий»."}
    answer = send(browser, "/admin/plan/new/", **facts, lessons="8", is_unlimited="y")
    assert errors(answer.text) == {"lessons": "Либо число занятий, либо без ограничения."}
    assert send(browser, "/admin/plan/new/", **facts, lessons="", is_unlimited="y").status_code == 302
    plan = sold_plan("Безлимит")
    assert plan.lessons is None
    path = f"/admin/plan/edit/?id={plan.id}"
    assert fields(browser.get(path).text)["is_unlimited"] == ["y"]
    assert send(browser, path, price="8000").status_code == 302
    db.session.expire_all()
    assert (plan.price, plan.lessons) == (Decimal("8000.00"), None)
    assert "без ограничения" in browser.get("/admin/plan/").text


def test_a_city_stands_for_its_branches(network: Any, web: Any) -> None:
    browser = web(network.owner)
    facts = {"name": "Московский", "price": "100", "lessons": "1"}
    page = browser.get("/admin/plan/new/").text
    assert "Все филиалы города" in page
    cities = [str(network.moscow.id)]
    assert (
        send(browser, "/admin/plan/new/", **facts, cities=cities, branches=[str(network.lesnoy.id)]).status_code == 302
    )
    assert {branch.name for branch in sold_plan("Московский").branches} == {"Лесной", "Речной"}


def test_a_change_of_branches_alone_is_told_and_found_by_who_comes_second(network: Any, web: Any) -> None:
    browser, path = web(network.owner), f"/admin/plan/edit/?id={network.plan.id}"
    form = fields(browser.get(path).text)
    assert send(browser, path, branches=[str(network.mira.id)]).status_code == 302
    assert browser.post(path, data={**form, "price": "1"}).status_code == 409
    db.session.expire_all()
    assert (network.plan.price, network.plan.branches) == (Decimal("4000.00"), [network.mira])
    told = select(AuditEntry.changes).where(AuditEntry.entity == "plan", AuditEntry.actor_id == network.owner.id)
    assert db.session.scalars(told).one()["branches"] == [[], ["Мира"]]


def test_a_branch_sees_what_it_sells_and_changes_nothing(network: Any, web: Any) -> None:
    make_plan(name="Только Мира", branches=[network.mira])
    browser = web(network.owner, network.lesnoy)
    page = browser.get("/admin/plan/").text
    assert "8 занятий" in page
    assert "Только Мира" not in page
    assert browser.get("/admin/plan/new/").status_code == 403
    assert browser.get(f"/admin/plan/edit/?id={network.plan.id}").status_code == 403


def test_the_page_of_a_plan_tells_what_is_sold_within_sight(network: Any, web: Any) -> None:
    for branch in (network.lesnoy, network.lesnoy, network.mira):
        make_subscription(make_client(branch), network.plan)
    path, link = f"/admin/plan/details/?id={network.plan.id}", f"f.plan.is={network.plan.id}&amp;f.status.is=active"
    for user, count in ((network.owner, 3), (network.director, 2)):
        page = web(user).get(path).text
        assert link in page
        assert f">{count}</a>" in page
    assert "f.plan.is" not in web(network.support).get(path).text  # he sees no subscriptions
    other = make_plan()
    assert "Пока ничего не продано." in web(network.owner).get(f"/admin/plan/details/?id={other.id}").text
