"""«Разослать сообщение…»: chosen in a grid, written, looked at, sent once, at once or at a moment."""

from __future__ import annotations

import html
import io
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import openpyxl
import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.clients.models import Client
from crm.clients.operations import archive_client
from crm.contacts.models import MessageKind
from crm.contacts.operations import choose
from crm.db import db, transaction
from crm.mailings.models import Channel, MailingRule, MailingRun, MailingRunLine, Message, RunResult, RunStatus
from crm.mailings.running import execute_run
from crm.mailings.runs import cancel_run, plan_due_runs, ring_for_waiting
from crm.schedule.groups import join_group
from tests.admin.test_grids import plain, table
from tests.admin.test_mailings import options, shown
from tests.admin.world import errors, fields
from tests.factories import (
    make_account,
    make_bill,
    make_client,
    make_group,
    make_lesson,
    make_subscription,
    make_template,
    make_visit,
)

NOON = datetime(2027, 3, 10, 9, tzinfo=UTC)  # in Moscow
WRITTEN = {"name": "Каникулы", "subject": "Мы закрыты", "text": "Здравствуйте, {customer.name}!"}


@pytest.fixture(autouse=True)
def _march() -> Any:
    with clock.frozen(NOON):
        yield


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.director, network.lesnoy)


def chosen(browser: Any, entity: str, **data: Any) -> str:
    """The page of a message to the rows chosen in a grid: its address."""
    answer = browser.post(f"/admin/{entity}/action/", data={"action": "mail", **data})
    assert answer.status_code == 302, answer.status_code
    return str(answer.location)


def looked_at(browser: Any, path: str, **typed: Any) -> Any:
    """The answer to «Посмотреть»."""
    return browser.post(path, data=fields(browser.get(path).text) | WRITTEN | typed | {"step": "preview"})


def sent(browser: Any, path: str, **typed: Any) -> Any:
    """Written, looked at and sent."""
    page = looked_at(browser, path, **typed).text
    return browser.post(path, data=hidden(page, "send") | {"step": "send"})


def hidden(page: str, step: str) -> dict[str, str]:
    """What the page's form with this button sends along."""
    forms = re.findall(r"<form.*?</form>", page, re.DOTALL)
    form = next(one for one in forms if f'value="{step}"' in one)
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form)
    return {name: html.unescape(value) for name, value in found if name != "csrf_token"}


def recipients(run: MailingRun) -> list[str]:
    query = select(Client.name).join(MailingRunLine, MailingRunLine.client_id == Client.id)
    return list(db.session.scalars(query.where(MailingRunLine.run_id == run.id).order_by(Client.name)))


def the_run() -> MailingRun:
    db.session.expire_all()
    return db.session.scalars(select(MailingRun)).one()


def runs() -> int:
    return db.session.scalar(select(func.count()).select_from(MailingRun)) or 0


def test_ticked_clients_are_written_to_once(network: Any, browser: Any) -> None:
    anna, oleg = (make_client(network.lesnoy, name=name, email=f"{n}@demo.test") for n, name in enumerate("АО"))
    make_client(network.lesnoy, name="Я")
    path = chosen(browser, "client", id=[str(anna.id), str(oleg.id), str(anna.id)])
    assert "2 клиента · Клиенты" in plain(browser.get(path).text)
    answer = sent(browser, path)
    assert answer.status_code == 302
    run = the_run()
    assert answer.location == f"/admin/mailingrun/details/?id={run.id}"
    assert "Сообщение рассылается 2 клиентам." in plain(browser.get(answer.location).text)
    assert recipients(run) == ["А", "О"]
    assert (run.total, run.status, run.rule.is_selected, run.rule.name) == (2, RunStatus.PLANNED, True, "Каникулы")
    assert execute_run(run.id, by=SYSTEM)
    db.session.expire_all()
    query = select(Message.recipient, Message.subject, Message.body, Message.kind).order_by(Message.recipient)
    assert db.session.execute(query).all() == [
        ("0@demo.test", "Мы закрыты", "Здравствуйте, А!", MessageKind.NEWS),
        ("1@demo.test", "Мы закрыты", "Здравствуйте, О!", MessageKind.NEWS),
    ]
    assert plan_due_runs(now=NOON + timedelta(days=2)) == []


def test_sent_twice_is_one_mailing(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    path = chosen(browser, "client", id=str(client.id))
    data = hidden(looked_at(browser, path).text, "send") | {"step": "send"}
    first, second = browser.post(path, data=data), browser.post(path, data=data)
    assert (first.status_code, second.status_code) == (302, 302)
    assert first.location == second.location
    assert runs() == 1


def test_all_that_are_found_are_meant(network: Any, browser: Any) -> None:
    for name in ("Анна Лесная", "Анна Речная", "Олег"):
        make_client(network.lesnoy, name=name)
    path = chosen(browser, "client", all="1", q="Анна")
    assert sent(browser, path).status_code == 302
    assert recipients(the_run()) == ["Анна Лесная", "Анна Речная"]


def test_archived_clients_can_be_chosen(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, name="Бывший")
    with transaction():
        archive_client(client, by=SYSTEM)
    assert sent(browser, chosen(browser, "client", all="1", **{"f.status.is": "archived"})).status_code == 302
    assert recipients(the_run()) == ["Бывший"]


@pytest.mark.parametrize("entity", ["bill", "subscription", "account", "debtor", "attendance", "visit", "clientgroup"])
def test_grids_whose_rows_have_a_client(network: Any, browser: Any, entity: str) -> None:
    anna, oleg = make_client(network.lesnoy, name="Анна"), make_client(network.lesnoy, name="Олег")
    if entity == "bill":
        rows = [make_bill(anna), make_bill(anna)]
    elif entity == "subscription":
        rows = [make_subscription(anna), make_subscription(anna)]
    elif entity == "account":
        rows = [make_account(anna, network.account_type)]
    elif entity == "debtor":
        make_subscription(anna)
        rows = []
    elif entity == "attendance":
        rows = make_lesson(network.lesnoy, anna).attendances
        make_lesson(network.lesnoy, oleg)
    elif entity == "visit":
        rows = [make_visit(anna), make_visit(anna)]
    else:
        rows = [_group_of(network, anna)]
    choice = {"id": [str(row.id) for row in rows]} if rows else {"all": "1"}
    path = chosen(browser, entity, **choice)
    assert sent(browser, path).status_code == 302
    assert recipients(the_run()) == ["Анна"]


def _group_of(network: Any, client: Client) -> Any:
    group = make_group(network.lesnoy)
    with transaction():
        join_group(group, client, by=SYSTEM)
    return group


def test_who_gets_nothing_and_why_is_seen_before(network: Any, browser: Any) -> None:
    anna = make_client(network.lesnoy, name="Анна", email="anna@demo.test")
    silent, mute = make_client(network.lesnoy, name="Без почты"), make_client(network.lesnoy, name="Отказалась")
    with transaction():
        silent.email = None
        mute.email = "mute@demo.test"
        choose(mute, MessageKind.NEWS, False, by=SYSTEM)
    path = chosen(browser, "client", all="1")
    answer = looked_at(browser, path)
    assert answer.status_code == 200
    rows = {row[0]: row for row in table(answer.text)}
    assert rows["Анна"][1] == "Email"
    assert "Отказалась" in rows
    assert (rows["Без почты"][2], rows["Отказалась"][2][:7]) == ("Нет адреса электронной почты.", "Клиент ")
    page = plain(answer.text)
    assert "Получат сообщение, клиентов 1" in page
    assert "Не получат ничего, клиентов 2" in page
    assert "Что получит Анна" in page
    assert "Здравствуйте, Анна!" in page
    data = hidden(answer.text, "send") | {"step": "preview", "who": "no"}
    assert {row[0] for row in table(browser.post(path, data=data).text)} == {"Без почты", "Отказалась"}
    assert runs() == 0
    [export] = re.findall(r'<form method="post" action="([^"]+)">', answer.text)
    book = browser.post(html.unescape(export), data=hidden(answer.text, "send"))
    sheet = openpyxl.load_workbook(io.BytesIO(book.data)).active
    lines = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert lines[0] == ["Клиент", "Способ рассылки", "Получатель", "Почему нет"]
    assert ["Анна", "Email", "anna@demo.test", None] in lines
    assert len(lines) == 4
    # The run says the same.
    assert browser.post(path, data=hidden(answer.text, "send") | {"step": "send"}).status_code == 302
    execute_run(the_run().id, by=SYSTEM)
    db.session.expire_all()
    kept = select(Client.name, MailingRunLine.result).join(Client, Client.id == MailingRunLine.client_id)
    assert db.session.execute(kept.order_by(Client.id)).all() == [
        ("Анна", RunResult.ISSUED),
        ("Без почты", RunResult.SKIPPED),
        ("Отказалась", RunResult.SKIPPED),
    ]
    assert anna.email == "anna@demo.test"


def test_nothing_is_said_to_be_missing_before_it_is_typed(network: Any, browser: Any) -> None:
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    typed = fields(browser.get(path).text) | {"way_2": "sms"}
    for step in ("refresh", "back"):
        assert "Не указан шаблон" not in plain(browser.post(path, data=typed | {"step": step}).text)
    sent(browser, path, is_later="y", once_on="2027-03-12", send_time="10:00")
    edit = f"/admin/mailingrule/edit/?id={the_run().rule_id}"
    page = browser.post(edit, data=fields(browser.get(edit).text) | {"way_2": "cabinet", "step": "refresh"}).text
    assert "Не указан шаблон" not in plain(page)


def test_templates_are_offered_that_suit_a_message_to_many(network: Any, browser: Any) -> None:
    make_template(name="Новость", body="{customer.name}")
    make_template(name="Счёт", body="{bill.url}")
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    assert options(browser.get(path).text, "template")[1:] == ["Новость"]


@pytest.mark.parametrize("ended", ["sent", "cancelled"])
def test_one_that_is_over_is_not_on(network: Any, browser: Any, ended: str) -> None:
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    sent(browser, path, is_later="y", once_on="2027-03-12", send_time="10:00")
    run = the_run()
    details, grid = f"/admin/mailingrule/details/?id={run.rule_id}", "/admin/mailingrule/?f.is_active.is="
    assert ("Каникулы" in browser.get(f"{grid}1").text, "Каникулы" in browser.get(f"{grid}0").text) == (True, False)
    assert "да" in table(browser.get("/admin/mailingrule/").text)[0]
    with clock.frozen(NOON + timedelta(days=3)):
        if ended == "sent":
            execute_run(run.id, by=SYSTEM)
        else:
            with transaction():
                cancel_run(run, by=SYSTEM)
        page = plain(browser.get(details).text)
        assert str(the_run().status.label) in page
        assert "Включена" not in page
        assert ("Каникулы" in browser.get(f"{grid}1").text, "Каникулы" in browser.get(f"{grid}0").text) == (False, True)
        row = table(browser.get("/admin/mailingrule/").text)[0]
        assert ("да" in row, "нет" in row) == (False, True)


def test_a_field_its_form_does_not_ask_is_not_changed_in_the_grid(network: Any, browser: Any) -> None:
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    sent(browser, path, is_later="y", once_on="2027-03-12", send_time="10:00")
    cell = f"/admin/mailingrule/cell/?id={the_run().rule_id}&column="
    assert browser.get(f"{cell}is_active").status_code == 403
    assert browser.get(f"{cell}name").status_code == 200


def test_fields_stand_in_sight_where_they_apply(network: Any, browser: Any) -> None:
    letter = make_template(name="Письмо", body="Привет")
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    at_first = shown(browser.get(path).text)
    assert {name: at_first[name] for name in ("subject", "text", "way_2", "text_2", "once_on")} == {
        **{"subject": True, "text": True, "way_2": True, "text_2": False, "once_on": False}
    }
    data = fields(browser.get(path).text) | {"step": "refresh"}
    page = browser.post(path, data=data | {"way": "sms", "way_2": "email", "is_later": "y", "name": "Не забыть"}).text
    now = shown(page)
    assert (now["subject"], now["text"], now["subject_2"], now["once_on"], now["send_time"]) == (
        *(False, True, True, True, True),
    )
    assert fields(page)["name"] == "Не забыть"
    now = shown(browser.post(path, data=data | {"template": str(letter.id)}).text)
    assert (now["subject"], now["text"]) == (False, False)
    assert "Обновить поля" in page  # a second step where there is no script


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"name": " "}, "name"),
        ({"subject": ""}, "subject"),
        ({"text": ""}, "text"),
        ({"text": "{bill.amount}"}, "text"),
        ({"text": "{customer.nome}"}, "text"),
        ({"subject": "{debt.amount}"}, "subject"),
        ({"way_2": "email", "text_2": "a", "subject_2": "b"}, "way_2"),
        ({"way": "sms", "text": "я" * 700}, "text"),
        ({"is_later": "y", "send_time": "10:00"}, "once_on"),
        ({"is_later": "y", "once_on": "2027-03-11"}, "send_time"),
    ],
)
def test_what_is_wrong_is_said_beside_the_field(network: Any, browser: Any, typed: dict[str, str], field: str) -> None:
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    answer = looked_at(browser, path, **typed)
    assert answer.status_code == 422
    said = errors(answer.text)
    assert list(said) == [field]
    assert re.search("[а-я]", said[field])
    assert runs() == 0


def test_a_moment_that_has_passed_is_refused(network: Any, browser: Any) -> None:
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    late = {"is_later": "y", "once_on": "2027-03-10", "send_time": "11:59"}
    typed = fields(browser.get(path).text) | WRITTEN | late
    for answer in (looked_at(browser, path, **late), browser.post(path, data=typed | {"step": "send", "count": "1"})):
        assert answer.status_code == 422
        said = {"send_time": "Это время уже прошло. Выберите более позднее или отправьте сразу."}
        assert errors(answer.text) == said


def test_it_goes_out_at_its_moment_and_can_be_changed_until_then(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, name="Анна", email="anna@demo.test")
    path = chosen(browser, "client", id=str(client.id))
    answer = sent(browser, path, is_later="y", once_on="2027-03-12", send_time="10:00")
    assert "Сообщение будет разослано 12.03.2027 10:00." in plain(page := browser.get(answer.location).text)
    assert "Отправка назначена на 12.03.2027 10:00" in plain(page)
    assert "/admin/mailingrun/pause/" not in page
    run = the_run()
    rule = run.rule
    assert not execute_run(run.id, by=SYSTEM)  # rung for too early
    assert the_run().status is RunStatus.PLANNED
    assert "12.03.2027 10:00" in table(browser.get("/admin/mailingrule/").text)[0]
    edit = f"/admin/mailingrule/edit/?id={rule.id}"
    typed = fields(browser.get(edit).text)
    assert (typed["text"], typed["send_time"], typed["once_on"]) == (WRITTEN["text"], "10:00", "2027-03-12")
    answer = browser.post(edit, data=typed | {"text": "Иначе", "send_time": "11:30", "way_2": "cabinet", "text_2": "И"})
    assert answer.status_code == 302
    db.session.expire_all()
    assert [(way.channel, way.body) for way in rule.ways] == [(Channel.EMAIL, "Иначе"), (Channel.CABINET, "И")]
    assert (rule.once_on, rule.send_time) == (date(2027, 3, 12), time(11, 30))
    assert the_run().planned_at == datetime(2027, 3, 12, 8, 30, tzinfo=UTC)
    assert recipients(the_run()) == ["Анна"]
    assert "Анна" in plain(browser.get(f"/admin/mailingrule/preview/?id={rule.id}").text)
    with clock.frozen(datetime(2027, 3, 12, 8, 31, tzinfo=UTC)):
        assert execute_run(run.id, by=SYSTEM)
        db.session.expire_all()
        assert [one.body for one in db.session.scalars(select(Message))] == ["Иначе"]
        assert browser.get(edit).status_code == 403
        page = browser.get(f"/admin/mailingrule/details/?id={rule.id}").text
        assert "Это сообщение уже разослано выбранным клиентам или отменено" in plain(page)
        assert "/admin/mailingrule/run/" not in page


def test_it_is_sent_before_its_moment_when_somebody_presses(network: Any, browser: Any) -> None:
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    sent(browser, path, is_later="y", once_on="2027-03-12", send_time="10:00")
    page = browser.get(f"/admin/mailingrule/details/?id={the_run().rule_id}").text
    form = re.search(r'<form[^>]*action="/admin/mailingrule/run/".*?</form>', page, re.DOTALL)
    assert form is not None
    assert "Отправить сейчас" in form[0]
    data = dict(re.findall(r'name="(form_key|id)" value="(\w+)"', form[0]))
    assert browser.post("/admin/mailingrule/run/", data=data).status_code == 302
    assert (the_run().planned_at, runs()) == (NOON, 1)
    assert execute_run(the_run().id, by=SYSTEM)
    db.session.expire_all()
    answer = browser.post("/admin/mailingrule/run/", data={"id": data["id"]})
    assert "заново оно не отправляется" in plain(answer.text)
    assert runs() == 1


def test_one_that_waits_is_cancelled(network: Any, browser: Any) -> None:
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    sent(browser, path, is_later="y", once_on="2027-03-12", send_time="10:00")
    run = the_run()
    cancel = f"/admin/mailingrun/cancel/?id={run.id}"
    page = fields(browser.get(cancel).text)
    assert browser.post(cancel, data=page).status_code == 302
    with clock.frozen(NOON + timedelta(days=3)):
        with transaction():
            ring_for_waiting(now=clock.now())
        assert not execute_run(run.id, by=SYSTEM)
    assert the_run().status is RunStatus.CANCELLED
    assert db.session.scalar(select(func.count()).select_from(Message)) == 0


def test_each_branch_has_a_mailing_of_its_own(network: Any, web: Any) -> None:
    for branch, name in ((network.lesnoy, "Анна"), (network.mira, "Мария")):
        make_client(branch, name=name)
    browser = web(network.owner)
    path = chosen(browser, "client", all="1")
    assert "2 клиента (Лесной — 1, Мира — 1)" in plain(browser.get(path).text)
    answer = sent(browser, path, is_later="y", once_on="2027-03-12", send_time="10:00")
    assert answer.location == "/admin/mailingrun/"
    made = list(db.session.scalars(select(MailingRun).order_by(MailingRun.branch_id)))
    assert [recipients(run) for run in made] == [["Анна"], ["Мария"]]
    assert [run.planned_at.hour for run in made] == [7, 6]  # ten o'clock at each


def test_nobody_writes_to_clients_he_may_not_see(network: Any, web: Any) -> None:
    mine, foreign = make_client(network.lesnoy, name="Своя"), make_client(network.rechnoy, name="Чужая")
    browser = web(network.director)
    path = chosen(browser, "client", id=[str(mine.id), str(foreign.id)])
    assert sent(browser, path).status_code == 302
    assert recipients(the_run()) == ["Своя"]
    forged = f"/admin/mailingrule/selection/?of=client&ids={foreign.id}"
    assert browser.get(forged).status_code == 302
    assert browser.get("/admin/mailingrule/selection/?of=template&ids=1").status_code == 404
    assert browser.get("/admin/mailingrule/selection/?of=nothing").status_code == 404


def test_who_makes_no_mailings_has_no_such_action(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    assert "Разослать сообщение" not in browser.get("/admin/client/").text
    assert browser.post("/admin/client/action/", data={"action": "mail", "id": str(client.id)}).status_code == 403
    assert browser.get(f"/admin/mailingrule/selection/?of=client&ids={client.id}").status_code == 403


def test_others_than_were_looked_at_are_looked_at_again(network: Any, browser: Any) -> None:
    make_client(network.lesnoy, name="Анна")
    path = chosen(browser, "client", all="1")
    data = hidden(looked_at(browser, path).text, "send") | {"step": "send"}
    make_client(network.lesnoy, name="Олег")
    answer = browser.post(path, data=data)
    assert answer.status_code == 200
    assert "список выбранных изменился" in plain(answer.text)
    assert runs() == 0
    assert browser.post(path, data=hidden(answer.text, "send") | {"step": "send"}).status_code == 302
    assert recipients(the_run()) == ["Анна", "Олег"]


@pytest.mark.spec("B60", "X22")
def test_without_the_option_nothing_is_sent_and_the_page_says_why(network: Any, browser: Any) -> None:
    path = chosen(browser, "client", id=str(make_client(network.lesnoy).id))
    data = hidden(looked_at(browser, path).text, "send") | {"step": "send"}
    with transaction():
        network.company.has_mailings = False
    for page in (browser.get(path).text, looked_at(browser, path).text, browser.post(path, data=data).text):
        assert "Опция рассылок SMS/E-mail выключена" in plain(page)
        assert 'value="send"' not in page
    assert runs() == 0


def test_nothing_chosen_leads_back(network: Any, browser: Any) -> None:
    answer = browser.post("/admin/client/action/", data={"action": "mail"})
    assert answer.status_code == 302
    assert answer.location.startswith("/admin/client/")
    assert db.session.scalar(select(func.count()).select_from(MailingRule)) == 0
