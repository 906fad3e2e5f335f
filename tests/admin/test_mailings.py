"""Templates and rules of mailings, as they are filled in."""

from __future__ import annotations

import html
import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill
from crm.db import db, transaction
from crm.ledger.models import AccountType
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    Channel,
    MailingKind,
    MailingRule,
    MailingRun,
    Periodicity,
)
from crm.mailings.runs import cancel_run, run_now
from tests.admin.test_grids import plain, table
from tests.admin.world import errors, fields, send
from tests.factories import make_client, make_message, make_rule, make_subscription, make_template

RULE, TEMPLATE = "/admin/mailingrule/new/", "/admin/template/new/"


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.director, network.lesnoy)


def options(page: str, name: str) -> list[str]:
    """What a select offers."""
    select_ = re.search(rf'<select[^>]*name="{name}".*?</select>', page, re.DOTALL)
    assert select_ is not None, name
    return [html.unescape(text) for text in re.findall(r"<option[^>]*>([^<]*)", select_[0])]


def shown(page: str) -> dict[str, bool]:
    """The fields of a rule's form, and whether each stands in sight."""
    places = re.findall(r'<div data-field="(\w+)"(?: data-decides)?( hidden)?>', page)
    return {name: not hidden for name, hidden in places}


def refreshed(browser: Any, path: str, **typed: Any) -> str:
    """The page after «Обновить поля»."""
    answer = browser.post(path, data=fields(browser.get(path).text) | typed | {"step": "refresh"})
    assert answer.status_code == 200
    return str(answer.text)


@pytest.mark.spec("B61")
def test_the_menu_leads_to_the_form_of_a_rule(network: Any, browser: Any) -> None:
    menu = browser.get("/admin/").text.split("</nav>")[0]
    section = menu.split("Автодействия и рассылки")[1].split("<h2")[0]
    link = re.search(r'href="([^"]+)">(?:(?!</a>).)*Автоматические рассылки', section, re.DOTALL)
    assert link is not None
    add = re.search(r'<a class="btn[^"]*"[^>]*href="([^"]+)"[^>]*>(?:(?!</a>).)*Добавить', browser.get(link[1]).text)
    assert add is not None
    assert 'id="section-1">Что рассылаем?' in browser.get(add[1]).text


@pytest.mark.spec("B67", "B71")
@pytest.mark.spec(
    *("B62", "B63", "B64", "B66", "B68", "B69", "B70", "B72", "B73", "B76", "B77", "B78", "B79"),
    *("B80", "B81", "B82", "B83", "B84", "B85", "B86", "B87", "B89", "B96", "B97", "B99", "B100", "B101", "B103"),
    *("X2",),
)
def test_the_form_of_a_rule_has_its_three_sections(network: Any, browser: Any) -> None:
    make_template(name="Счёт клиенту")
    page = browser.get(RULE).text
    sections = [plain(part) for part in page.split('<h2 class="form-section"')[1:]]
    assert [section.split(">")[-1].split("?")[0].strip() + "?" for section in sections] == [
        "Что рассылаем?",
        "Когда рассылаем?",
        "Как рассылаем?",
    ]
    what, when, how = sections
    for label in (
        *("Тип рассылки", "Метод расчёта", "Тип расчётов", "Тип периода", "Период", "Статус клиента", "Тип клиента"),
        *("Физ. лицо", "Юр. лицо", "Срок оплаты", "Счет можно оплачивать повторно"),
        *("Рассылать, только если был на уроках за 30 дней", "Рассылать, только если есть занятия в этот день"),
        "Выставлять счет повторно, если есть не оплаченный счет",
    ):
        assert label in what
    assert options(page, "kind")[0] == "Счета на оплату клиентам"
    assert options(page, "method") == ["По прогнозу оплаты", "По стоимости абонементов"]
    assert options(page, "accounts") == ["Базовый счёт", "По абонементу", "По всем счетам"]
    assert options(page, "period_type") == ["Текущий", "Следующий"]
    assert options(page, "period") == ["День", "Неделя", "Месяц"]
    assert options(page, "term")[:8] == [
        *("Бессрочно", "3 дня", "5 дней", "6 дней", "1 неделя", "2 недели"),
        *("Последний день текущего месяца", "Последний день следующего месяца"),
    ]
    assert "Время" in when
    assert "Один раз" in when
    assert options(page, "periodicity") == ["Ежедневная", "Еженедельная", "Ежемесячная"]
    assert "Способ рассылки" in how
    assert "Шаблон" in how
    assert options(page, "way")[:3] == ["Email", "SMS", "Telegram"]
    assert options(page, "template") == ["—", "Счёт клиенту"]


@pytest.mark.spec("X16")
def test_the_hint_says_what_next_covers(network: Any, browser: Any) -> None:
    hint = re.search(r'id="period_type-hint">([^<]*)<', browser.get(RULE).text)
    assert hint is not None
    assert "с 1.09 и до 31.10" in html.unescape(hint[1])


@pytest.mark.spec("X2", "B91", "B92", "B93", "B94", "B102")
def test_fields_stand_in_sight_where_they_apply(network: Any, browser: Any) -> None:
    at_first = shown(browser.get(RULE).text)
    asked = {name: at_first[name] for name in ("subject", "lesson_type", "lessons_from", "money_from", "term_days")}
    assert asked == dict.fromkeys(asked, False)
    page = refreshed(browser, RULE, accounts="subscription", name="Недописано")
    assert (shown(page)["subject"], shown(page)["lesson_type"], shown(page)["lessons_from"]) == (True, True, False)
    assert fields(page)["name"] == "Недописано"
    assert ("Предмет" in plain(page), "Тип урока" in plain(page)) == (True, True)
    page = refreshed(browser, RULE, method="subscription")
    assert (shown(page)["subject"], shown(page)["lessons_from"], shown(page)["money_from"]) == (False, True, True)
    assert "Остаток (уроки)" in plain(page)
    assert "Остаток (деньги)" in plain(page)
    assert shown(refreshed(browser, RULE, term="days"))["term_days"]
    weekly, monthly = (shown(refreshed(browser, RULE, periodicity=name)) for name in ("weekly", "monthly"))
    assert (weekly["weekday"], weekly["month_day"], monthly["weekday"], monthly["month_day"]) == (
        True,
        False,
        False,
        True,
    )
    once = shown(refreshed(browser, RULE, is_once="y"))
    assert (once["once_on"], once["periodicity"], at_first["once_on"]) == (True, False, False)
    birthday = shown(refreshed(browser, RULE, kind="birthday"))
    assert (birthday["days"], birthday["method"], birthday["term"], birthday["statuses"]) == (True, False, False, True)
    assert db.session.scalar(select(func.count()).select_from(MailingRule)) == 0


def test_the_next_way_is_asked_for_when_the_former_is_chosen(network: Any, browser: Any) -> None:
    make_template(name="Письмо")
    make_template(name="Текст SMS", channel=Channel.SMS)
    page = browser.get(RULE).text
    assert (shown(page)["way_2"], shown(page)["template_2"], shown(page)["way_3"]) == (True, False, False)
    page = refreshed(browser, RULE, way_2="sms")
    assert (shown(page)["template_2"], shown(page)["way_3"]) == (True, True)
    assert (options(page, "template"), options(page, "template_2")) == (["—", "Письмо"], ["—", "Текст SMS"])


def test_a_way_chosen_already_is_not_offered_again(network: Any, browser: Any) -> None:
    page = browser.get(RULE).text
    assert ("Email" in options(page, "way"), "Email" in options(page, "way_2")) == (True, False)
    page = refreshed(browser, RULE, way="sms", way_2="telegram")
    assert [name for name in ("SMS", "Telegram", "Email") if name in options(page, "way_3")] == ["Email"]
    page = refreshed(browser, RULE, way="sms", way_2="sms", way_3="email")
    assert fields(page)["way_2"] == ""
    # Of a form sent without a script.
    letter = make_template()
    typed = fields(browser.get(RULE).text) | {"name": "Счета", "send_time": "10:00", "template": str(letter.id)}
    answer = browser.post(RULE, data=typed | {"way_2": "email", "template_2": str(letter.id)})
    assert (answer.status_code, list(errors(answer.text))) == (422, ["way_2"])
    assert fields(answer.text)["way_2"] == "email"


def test_templates_are_offered_that_suit_what_is_mailed(network: Any, browser: Any) -> None:
    make_template(name="Поздравление", body="{customer.name}")
    bill, lesson = make_template(name="Счёт", body="{bill.url}"), make_template(name="Урок", body="{lesson.date}")
    make_template(name="Спасибо", body="{payment.amount}", is_thanks=True)
    assert options(browser.get(RULE).text, "template") == ["—", "Поздравление", "Счёт"]
    assert options(refreshed(browser, RULE, kind="lesson"), "template") == ["—", "Поздравление", "Урок"]
    page = refreshed(browser, RULE, kind="birthday", template=str(bill.id))
    assert options(page, "template") == ["—", "Поздравление"]
    rule = make_rule(network.lesnoy, template=lesson, kind=MailingKind.LESSON)
    page = browser.get(f"/admin/mailingrule/edit/?id={rule.id}").text
    assert fields(page)["template"] == str(lesson.id)


@pytest.mark.spec("B103", "B105")
def test_ways_are_kept_in_their_order(network: Any, browser: Any) -> None:
    letter, short = make_template(), make_template(channel=Channel.SMS)
    page = fields(refreshed(browser, RULE, way="telegram", way_2="sms", way_3="email"))
    typed = page | {"name": "Счета", "send_time": "10:00"}
    assert browser.post(RULE, data=typed).status_code == 302
    rule = db.session.scalars(select(MailingRule)).one()
    assert [(way.channel, way.template) for way in rule.ways] == [
        (Channel.TELEGRAM, short),
        (Channel.SMS, short),
        (Channel.EMAIL, letter),
    ]
    page = fields(browser.get(f"/admin/mailingrule/edit/?id={rule.id}").text)
    assert (page["way"], page["way_2"], page["way_3"]) == ("telegram", "sms", "email")


def test_the_history_of_a_rule_tells_its_ways_in_words(network: Any, browser: Any) -> None:
    old, new = make_template(name="Прежний"), make_template(name="Новый", body="Здравствуйте!")
    rule = make_rule(network.lesnoy, template=old)
    answer = send(browser, f"/admin/mailingrule/edit/?id={rule.id}", template=str(new.id))
    assert answer.status_code == 302
    for path in ("details", "history"):
        page = browser.get(f"/admin/mailingrule/{path}/?id={rule.id}").text
        assert "<del>Email · Прежний</del> → Email · Новый" in re.sub(r"\s+", " ", page)
        assert network.director.name in page


def test_the_history_of_a_new_rule_tells_its_ways_in_words(network: Any, browser: Any) -> None:
    make_template(name="Письмо")
    answer = send(browser, RULE, name="Счета за месяц", send_time="10:30", method="subscription")
    rule = db.session.scalars(select(MailingRule)).one()
    for page in (browser.get(answer.location), browser.get(f"/admin/mailingrule/history/?id={rule.id}")):
        assert "Способы рассылки: Email · Письмо" in plain(page.text)


@pytest.mark.spec("B63", "B66", "B68", "B100", "B101", "B105")
def test_a_rule_is_made(network: Any, browser: Any) -> None:
    template = make_template()
    answer = send(browser, RULE, name="Счета за месяц", send_time="10:30", method="subscription")
    assert answer.status_code == 302
    rule = db.session.scalars(select(MailingRule)).one()
    assert (rule.kind, rule.method, rule.accounts) == (
        MailingKind.BILLS,
        BillingMethod.SUBSCRIPTION,
        BilledAccounts.BASE,
    )
    assert (rule.periodicity, rule.send_time) == (Periodicity.DAILY, time(10, 30))
    assert [(way.channel, way.template_id) for way in rule.ways] == [(Channel.EMAIL, template.id)]
    assert (rule.branch_id, rule.is_active, rule.statuses) == (network.lesnoy.id, True, ["active"])
    page = plain(browser.get(answer.location).text)
    for text in ("Счета за месяц", "10:30", "Ежедневная", "Ещё не запускалась."):
        assert text in page


@pytest.mark.spec("B79", "B89", "B93", "B94", "B95", "B96", "B97", "B99")
def test_every_condition_of_a_rule_is_kept_and_shown(network: Any, browser: Any) -> None:
    make_template()
    typed = {
        **{"method": "subscription", "accounts": "all", "period_type": "next", "period": "week", "term": "month_end"},
        **{"lessons_from": "1", "lessons_to": "3", "money_from": "100", "client_kinds": "person"},
        **dict.fromkeys(("is_repeatable", "attended_only", "lesson_only", "issues_again"), "y"),
    }
    answer = send(browser, RULE, name="Счета", send_time="10:00", **typed)
    assert answer.status_code == 302
    rule = db.session.scalars(select(MailingRule)).one()
    assert (rule.lessons_from, rule.lessons_to, rule.money_from, rule.money_to) == (1, 3, Decimal(100), None)
    assert (rule.is_repeatable, rule.attended_only, rule.lesson_only, rule.issues_again) == (True,) * 4
    assert (rule.period_type.value, rule.period.value, rule.term.value) == ("next", "week", "month_end")
    assert rule.client_kinds == ["person"]
    page = plain(browser.get(answer.location).text)
    for text in ("Остаток (уроки)", "1 – 3", "Остаток (деньги)", "Последний день текущего месяца", "Следующий"):
        assert text in page


def test_what_does_not_apply_is_not_looked_at(network: Any, browser: Any) -> None:
    make_template()
    hidden = {"term_days": "x", "lessons_from": "много", "month_day": "99"}
    answer = send(browser, RULE, name="Счета", send_time="10:00", **hidden)
    assert answer.status_code == 302
    rule = db.session.scalars(select(MailingRule)).one()
    assert (rule.term_days, rule.lessons_from, rule.month_day) == (None, None, None)


def test_a_rule_of_a_single_day(network: Any, browser: Any) -> None:
    make_template()
    typed = {"name": "Счета", "send_time": "10:00", "is_once": "y"}
    assert errors(send(browser, RULE, **typed).text) == {"once_on": "Укажите дату."}
    assert send(browser, RULE, **typed, once_on="2030-05-01").status_code == 302
    rule = db.session.scalars(select(MailingRule)).one()
    assert rule.once_on == date(2030, 5, 1)
    row = table(browser.get("/admin/mailingrule/").text)[0]
    assert {"01.05.2030 10:00", "Один раз"} <= set(row)
    assert "Ежедневная" not in row
    assert table(browser.get("/admin/mailingrule/?f.is_selected.is=1").text) == []


def test_the_list_tells_the_next_run(network: Any, browser: Any) -> None:
    make_rule(network.lesnoy, name="Ежедневно", send_time=time(10))
    with clock.frozen(datetime(2027, 3, 10, 9, tzinfo=UTC)):  # noon in Moscow
        assert "11.03.2027 10:00" in table(browser.get("/admin/mailingrule/").text)[0]


@pytest.mark.spec("B60", "B105")
def test_a_rule_that_cannot_run_says_what_is_missing(network: Any, browser: Any) -> None:
    rule = make_rule(network.lesnoy, template=make_template(channel=Channel.SMS), channel=Channel.TELEGRAM)
    missing = "Не подключён провайдер для «Telegram»."
    for path in (f"/admin/mailingrule/details/?id={rule.id}", f"/admin/mailingrule/edit/?id={rule.id}"):
        assert missing in plain(browser.get(path).text)
    with transaction():
        rule.ways[0].template = None
        network.company.has_mailings = False
    for path in (f"/admin/mailingrule/details/?id={rule.id}", f"/admin/mailingrule/edit/?id={rule.id}"):
        page = plain(browser.get(path).text)
        assert "Не указан шаблон для «Telegram»." in page
        assert "рассылок SMS/E-mail" in page


def test_whom_a_rule_concerns(network: Any, browser: Any) -> None:
    with clock.frozen(datetime(2027, 3, 10, 9, tzinfo=UTC)):
        payer, silent = make_client(network.lesnoy, name="Анна", email="anna@demo.test"), make_client(network.lesnoy)
        with transaction():
            silent.name, silent.email = "Без почты", None
        for client in (payer, silent):
            make_subscription(client, starts_on=date(2027, 3, 1))
        rule = make_rule(network.lesnoy)
        path = f"/admin/mailingrule/preview/?id={rule.id}"
        answer = browser.get(path)
        assert answer.status_code == 200
        lines = [row for row in table(answer.text) if "Анна" in row or "Без почты" in row]
        assert len(lines) == 2
        assert "Email" in next(row for row in lines if "Анна" in row)
        assert "Без почты" not in plain(browser.get(f"{path}&who=yes").text)
        assert "Анна" not in plain(browser.get(f"{path}&who=no").text)
        book = browser.get(f"/admin/mailingrule/preview/xlsx/?id={rule.id}")
        assert book.status_code == 200
        assert book.data[:2] == b"PK"
        assert db.session.scalar(select(func.count()).select_from(Bill)) == 0


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"send_time": ""}, "send_time"),
        ({"send_time": "25:00"}, "send_time"),
        ({"name": " "}, "name"),
        ({"periodicity": "weekly"}, "weekday"),
        ({"periodicity": "weekly", "weekday": "9"}, "weekday"),
        ({"periodicity": "weekly", "weekday": "x"}, "weekday"),
        ({"periodicity": "monthly"}, "month_day"),
        ({"periodicity": "monthly", "month_day": "32"}, "month_day"),
        ({"periodicity": "monthly", "month_day": "x"}, "month_day"),
        ({"periodicity": "yearly"}, "periodicity"),
        ({"term": "days", "term_days": "0"}, "term_days"),
        ({"term": "days", "term_days": "9" * 30}, "term_days"),
        ({"way": "telegraph"}, "way"),
        ({"way_2": "email"}, "way_2"),
        ({"method": "subscription", "lessons_from": "3", "lessons_to": "1"}, "lessons_to"),
        ({"kind": ""}, "kind"),
        ({"template": "999"}, "template"),
    ],
)
def test_a_rule_says_in_russian_what_is_wrong_beside_the_field(
    network: Any, browser: Any, typed: dict[str, Any], field: str
) -> None:
    make_template()
    good = {"name": "Счета", "send_time": "10:00"}
    answer = send(browser, RULE, **{**good, **typed})
    assert answer.status_code == 422
    said = errors(answer.text)
    assert list(said) == [field]
    assert re.search("[а-я]", said[field]), said
    assert not re.search("[A-Za-z]{3}", said[field]), said
    if "name" not in typed:
        assert fields(answer.text)["name"] == "Счета"
    assert db.session.scalar(select(func.count()).select_from(MailingRule)) == 0


@pytest.mark.spec("B105")
def test_without_a_template_nothing_is_saved(network: Any, browser: Any) -> None:
    answer = send(browser, RULE, name="Счета", send_time="10:00")
    assert answer.status_code == 422
    assert list(errors(answer.text)) == ["template"]
    make_template()
    answer = send(browser, RULE, name="Счета", send_time="10:00", template="")
    assert list(errors(answer.text)) == ["template"]
    assert db.session.scalar(select(func.count()).select_from(MailingRule)) == 0


def test_a_rule_is_changed_and_switched_off(network: Any, browser: Any) -> None:
    rule = make_rule(network.lesnoy, periodicity=Periodicity.WEEKLY, weekday=4)
    path = f"/admin/mailingrule/edit/?id={rule.id}"
    assert fields(browser.get(path).text)["weekday"] == "4"
    assert send(browser, path, is_active=None, term="days", term_days="5").status_code == 302
    db.session.expire_all()
    assert (rule.is_active, rule.term_days, rule.weekday) == (False, 5, 4)
    assert "нет" in table(browser.get("/admin/mailingrule/").text)[0]


def test_a_rule_is_made_for_ones_own_branch_only(network: Any, web: Any) -> None:
    make_template()
    browser = web(network.director)
    assert "Мира" not in browser.get(RULE).text
    answer = send(browser, RULE, name="Счета", send_time="10:00", branch=str(network.mira.id))
    assert errors(answer.text) == {"branch": "Выберите один из вариантов."}


def test_a_rule_whose_run_is_not_over_keeps_its_branch(network: Any, web: Any) -> None:
    rule = make_rule(network.lesnoy)
    with transaction():
        run = run_now(rule, by=SYSTEM)
    browser, path = web(network.owner), f"/admin/mailingrule/edit/?id={rule.id}"
    answer = send(browser, path, branch=str(network.mira.id))
    assert list(errors(answer.text)) == ["branch"]
    db.session.expire_all()
    assert rule.branch_id == network.lesnoy.id
    with transaction():
        cancel_run(run, by=SYSTEM)
    assert send(browser, path, branch=str(network.mira.id)).status_code == 302
    db.session.expire_all()
    assert rule.branch_id == network.mira.id


def test_run_now_twice_is_one_run(network: Any, browser: Any) -> None:
    rule = make_rule(network.lesnoy)
    page = browser.get(f"/admin/mailingrule/details/?id={rule.id}").text
    form = re.search(r'<form[^>]*action="/admin/mailingrule/run/".*?</form>', page, re.DOTALL)
    assert form is not None
    assert "Запустить сейчас" in form[0]
    [key] = re.findall(r'name="form_key" value="(\w+)"', form[0])
    data = {"form_key": key, "id": str(rule.id)}
    first, second = (browser.post("/admin/mailingrule/run/", data=data) for _ in range(2))
    assert first.status_code == second.status_code == 302
    assert first.location == second.location
    assert db.session.scalar(select(func.count()).select_from(MailingRun)) == 1
    assert "Рассылка запущена." in plain(browser.get(first.location).text)


def test_messages_are_found_by_client_and_recipient(network: Any, browser: Any) -> None:
    make_message(make_client(network.lesnoy, name="Анна", email="anna@demo.test"), subject="Письмо Анне")
    make_message(make_client(network.lesnoy, name="Олег", email="oleg@demo.test"), subject="Письмо Олегу")
    for text in ("анна", "anna@"):
        page = browser.get("/admin/message/", query_string={"q": text}).text
        assert "Письмо Анне" in page
        assert "Письмо Олегу" not in page


# --- what else the panel keeps --------------------------------------------------------------------------------------


@pytest.mark.spec("B45", "B46", "B47", "B48")
def test_requisites_behind_the_avatar(network: Any, web: Any) -> None:
    browser = web(network.owner)
    home = browser.get("/admin/").text
    avatar = re.search(r'<details class="menu user">.*?</details>', home, re.DOTALL)
    assert avatar is not None
    link = re.search(r'href="([^"]+)"[^>]*>(?:(?!href=).)*?Лицензирование', avatar[0], re.DOTALL)
    assert link is not None
    page = browser.get(link[1]).text
    button = re.search(r'<a class="btn[^"]*" href="([^"]+)">.*?Реквизиты', page, re.DOTALL)
    assert button is not None
    path = html.unescape(button[1])
    form = browser.get(path).text
    for label in ("Публичная оферта", "ИНН", "БИК", "Расчётный счёт"):
        assert label in plain(form)
    assert '<button class="btn btn-primary">Сохранить</button>' in form
    answer = send(browser, path, offer_url="javascript:alert(1)", legal_name="ООО «Другая»")
    assert list(errors(answer.text)) == ["offer_url"]
    assert fields(answer.text)["legal_name"] == "ООО «Другая»"
    numbers = {"inn": "7707083893", "bic": "", "settlement_account": "", "correspondent_account": ""}
    facts = {"offer_url": "https://school.example/offer", "legal_name": "ООО «Другая»", "ogrn": "", **numbers}
    assert send(browser, path, **facts).status_code == 302
    db.session.expire_all()
    assert (network.company.offer_url, network.company.legal_name, network.company.inn) == (
        "https://school.example/offer",
        "ООО «Другая»",
        "7707083893",
    )
    assert "Лицензирование" not in web(network.administrator).get("/admin/").text


def test_plans_and_places_refuse_what_the_database_would(network: Any, web: Any) -> None:
    browser = web(network.owner)
    for typed, field in (
        ({"price": "-5"}, "price"),
        ({"price": " "}, "price"),
        ({"lessons": "-1"}, "lessons"),
        ({"lessons": ""}, "lessons"),
        ({"duration_days": "0"}, "duration_days"),
        ({"duration_days": "9" * 30}, "duration_days"),
        ({"name": ""}, "name"),
    ):
        good = {"name": "План", "price": "100", "lessons": "1", "duration_days": "30"}
        answer = send(browser, "/admin/plan/new/", **{**good, **typed})
        assert answer.status_code == 422
        assert list(errors(answer.text)) == [field], typed
    answer = send(browser, "/admin/plan/new/", name="8 занятий", price="0", lessons="0")
    assert list(errors(answer.text)) == ["name"]
    assert send(browser, "/admin/plan/new/", name="Пробный", price="0", lessons="1").status_code == 302
    answer = send(browser, "/admin/city/new/", name="Москва")
    assert errors(answer.text) == {"": "Такая запись уже есть."}
    answer = send(browser, "/admin/city/new/", name="   ")
    assert errors(answer.text) == {"name": "Заполните это поле."}
    path = f"/admin/branch/edit/?id={network.lesnoy.id}"
    assert list(errors(send(browser, path, time_zone="Europe/Atlantis").text)) == ["time_zone"]
    assert send(browser, path, time_zone="Asia/Yekaterinburg").status_code == 302


def test_an_employee_works_in_a_branch_of_the_person(network: Any, web: Any) -> None:
    browser = web(network.director)
    page = browser.get("/admin/employee/new/").text
    assert "Мира" not in page
    answer = send(browser, "/admin/employee/new/", name="Пётр", branch=str(network.mira.id))
    assert errors(answer.text) == {"branch": "Выберите один из вариантов."}
    answer = send(browser, "/admin/employee/new/", name="Пётр", branch=str(network.lesnoy.id))
    assert answer.status_code == 302
    assert "Пётр" in browser.get("/admin/employee/").text


def test_two_people_edit_one_type(network: Any, web: Any) -> None:
    path = f"/admin/accounttype/edit/?id={network.account_type.id}"
    browser = web(network.owner)
    form = fields(browser.get(path).text)
    with transaction():
        network.account_type.name = "Авансы"
    answer = browser.post(path, data=form | {"position": "5"})
    assert answer.status_code == 409
    assert "Название: Депозиты → Авансы" in plain(answer.text)
    db.session.expire_all()
    assert db.session.scalars(select(AccountType.position)).one() == 0
