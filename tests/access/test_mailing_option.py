"""The mailing option of a company: off nothing is queued and the screen says why; tried once; switched by support."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.mailing_option import mailings_off, set_mailings, try_mailings
from crm.access.models import Role
from crm.access.roles import change_role
from crm.audit.models import AuditEntry
from crm.bills.models import Bill
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import Message, MessageStatus, RunResult, RunStatus
from crm.mailings.operations import resend_messages, send_message_to
from crm.mailings.running import execute_run
from crm.mailings.runs import plan_due_runs, run_now
from crm.payments.models import PaymentMethod
from crm.payments.operations import pay_bill_at_desk
from tests.access.test_roles import settings_of
from tests.admin.test_grids import plain
from tests.admin.world import errors, send
from tests.factories import (
    Network,
    make_account,
    make_bill,
    make_client,
    make_message,
    make_plan,
    make_rule,
    make_subscription,
    make_template,
)

NOON = datetime(2027, 3, 10, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _march() -> Any:
    with clock.frozen(NOON):
        yield


def switch(network: Network, *, is_on: bool = False, until: date | None = None) -> None:
    with transaction():
        set_mailings(network.company, has_mailings=is_on, mailings_until=until, by=network.support)


def write(client: Any, **facts: Any) -> Message:
    with transaction():
        return send_message_to(client, **{"subject": "Счёт", "text": "Здравствуйте!", "by": SYSTEM, **facts})


def messages() -> list[Message]:
    return list(db.session.scalars(select(Message).order_by(Message.id)))


def midnight_after(day: date, branch: Any) -> datetime:
    return datetime.combine(day + timedelta(days=1), datetime.min.time(), ZoneInfo(branch.time_zone))


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("B5", "X22")
def test_off_nothing_is_queued_and_the_refusal_says_why(network: Network) -> None:
    client = make_client(network.lesnoy)
    write(client)
    switch(network)
    with pytest.raises(DomainError) as refused:
        write(client, bill=make_bill(client))
    assert refused.value.code == "mailings_off"
    assert str(refused.value).startswith("Опция рассылок SMS/E-mail выключена")
    assert len(messages()) == 1


@pytest.mark.spec("B5", "X22")
def test_the_last_day_is_included_by_the_clock_of_the_branch(network: Network) -> None:
    last = date(2027, 3, 10)
    switch(network, is_on=True, until=last)
    midnight = midnight_after(last, network.lesnoy)
    with clock.frozen(midnight - timedelta(seconds=1)):
        assert mailings_off(network.lesnoy) == ""
        write(make_client(network.lesnoy))
    with clock.frozen(midnight):
        assert "закончилась 10.03.2027" in mailings_off(network.lesnoy)
        with pytest.raises(DomainError):
            write(make_client(network.lesnoy))


@pytest.mark.spec("X22")
def test_each_branch_of_a_company_goes_by_its_own_day(network: Network) -> None:
    with transaction():
        network.lesnoy.time_zone, network.rechnoy.time_zone = "Asia/Vladivostok", "Europe/Moscow"
    switch(network, is_on=True, until=date(2027, 3, 10))
    with clock.frozen(midnight_after(date(2027, 3, 10), network.lesnoy)):
        assert mailings_off(network.lesnoy) != ""
        assert mailings_off(network.rechnoy) == ""


def test_what_was_queued_before_is_delivered(network: Network, smtp: Any, app: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(app.config, "SETTINGS", replace(app.config["SETTINGS"], smtp_url=smtp.url))
    message = write(make_client(network.lesnoy))
    switch(network)
    deliver_batch()
    db.session.expire_all()
    assert message.status is MessageStatus.SENT
    assert len(smtp.messages) == 1


@pytest.mark.spec("X22")
def test_what_failed_is_not_sent_again(network: Network, web: Any) -> None:
    message = make_message(make_client(network.lesnoy), status=MessageStatus.FAILED)
    switch(network)
    with pytest.raises(DomainError) as refused, transaction():
        resend_messages([message], by=network.administrator)
    assert refused.value.code == "mailings_off"
    db.session.expire_all()
    assert message.status is MessageStatus.FAILED


# --- what goes out by itself -----------------------------------------------------------------------------------------


@pytest.mark.spec("B60", "X22")
def test_a_planned_run_issues_nothing_and_says_why(network: Network) -> None:
    make_subscription(make_client(network.lesnoy), make_plan(price=Decimal(4000)))
    make_rule(network.lesnoy)
    switch(network, is_on=True, until=date(2027, 3, 9))
    with transaction():
        (run,) = plan_due_runs(now=clock.now() + timedelta(days=1))
    assert execute_run(run.id, by=SYSTEM)
    db.session.expire_all()
    assert (run.status, run.lines) == (RunStatus.DONE, [])
    assert "закончилась 09.03.2027" in run.note
    assert db.session.scalars(select(Bill)).all() == []
    assert messages() == []


@pytest.mark.spec("B60")
def test_nor_is_a_rule_run_by_hand(network: Network) -> None:
    rule = make_rule(network.lesnoy)
    switch(network)
    with pytest.raises(DomainError) as refused, transaction():
        run_now(rule, by=network.director)
    assert refused.value.code == "mailings_off"


@pytest.mark.spec("B60")
def test_a_run_the_option_ends_in_stops_between_two_payers(network: Network) -> None:
    for _ in range(3):
        make_subscription(make_client(network.lesnoy), make_plan(price=Decimal(4000)))
    last = date(2027, 3, 10)
    switch(network, is_on=True, until=last)
    with transaction():
        run = run_now(make_rule(network.lesnoy), by=SYSTEM)
    with clock.frozen(midnight_after(last, network.lesnoy) - timedelta(minutes=1)):
        assert not execute_run(run.id, by=SYSTEM, limit=1)
    with clock.frozen(midnight_after(last, network.lesnoy)):
        assert execute_run(run.id, by=SYSTEM)
    db.session.expire_all()
    assert (run.status, len(messages())) == (RunStatus.DONE, 1)
    assert sorted(line.result.value for line in run.lines) == ["issued", "skipped", "skipped"]
    assert {line.reason for line in run.lines if line.result is RunResult.SKIPPED} == {run.note}
    assert len(db.session.scalars(select(Bill)).all()) == 1
    assert "закончилась 10.03.2027" in run.note


@pytest.mark.spec("X22")
def test_the_name_of_a_company_however_long_fits_the_note(network: Network) -> None:
    with transaction():
        network.company.name = "Ы" * 200
        rule = make_rule(network.lesnoy)
        run = run_now(rule, by=SYSTEM)
    switch(network)
    assert execute_run(run.id, by=SYSTEM)
    db.session.expire_all()
    assert run.note.startswith("Опция рассылок SMS/E-mail выключена")


@pytest.mark.spec("X22")
def test_a_payment_is_credited_and_nobody_thanked(network: Network) -> None:
    make_template(subject="Спасибо", body="Спасибо: {payment.amount}", is_thanks=True)
    bill = make_bill(make_client(network.lesnoy))
    switch(network)
    with transaction():
        payment = pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    db.session.expire_all()
    assert payment.account.balance == Decimal(1500)
    assert messages() == []


# --- the trial -------------------------------------------------------------------------------------------------------


@pytest.mark.spec("B6", "X22")
def test_the_trial_is_fourteen_days_once(network: Network) -> None:
    switch(network)
    with transaction():
        try_mailings(network.company, by=network.owner)
    assert (network.company.has_mailings, network.company.mailings_until) == (True, date(2027, 3, 23))
    assert network.company.mailings_tried_at == NOON
    with clock.frozen(NOON + timedelta(days=13)):
        assert mailings_off(network.lesnoy) == ""
    with clock.frozen(NOON + timedelta(days=14)):
        assert "закончилась 23.03.2027" in mailings_off(network.lesnoy)
        with pytest.raises(DomainError) as refused, transaction():
            try_mailings(network.company, by=network.owner)
    assert refused.value.code == "tried"
    assert "уже использован" in str(refused.value)


@pytest.mark.spec("X22")
def test_where_mailings_are_on_the_trial_is_kept(network: Network) -> None:
    with pytest.raises(DomainError) as refused, transaction():
        try_mailings(network.company, by=network.owner)
    assert refused.value.code == "mailings_on"
    assert (network.company.mailings_until, network.company.mailings_tried_at) == (None, None)


@pytest.mark.spec("X22")
def test_the_audit_tells_of_the_trial(network: Network, web: Any) -> None:
    switch(network)
    path = f"/admin/company/try-mailings/?id={network.company.id}"
    assert send(web(network.owner), path).status_code == 302
    lines = select(AuditEntry).where(AuditEntry.entity == "company").order_by(AuditEntry.id.desc()).limit(1)
    entry = db.session.scalars(lines).one()
    assert {"has_mailings", "mailings_until", "mailings_tried_at"} <= set(entry.changes)
    assert entry.actor_id == network.owner.id


# --- who -------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("X22")
@pytest.mark.parametrize("role", ["regional", "director", "administrator", "manager", "instructor"])
def test_nobody_but_support_and_the_owner_switches_it(network: Network, role: str) -> None:
    by = getattr(network, role)
    for facts in (
        {"has_mailings": False, "mailings_until": None},
        {"has_mailings": True, "mailings_until": NOON.date()},
    ):
        with pytest.raises(Forbidden):
            set_mailings(network.company, **facts, by=by)
    set_mailings(network.company, has_mailings=True, mailings_until=None, by=by)
    with pytest.raises(Forbidden):
        try_mailings(network.company, by=by)


@pytest.mark.spec("X22")
@pytest.mark.parametrize("role", ["support", "owner"])
def test_support_sets_the_last_day_in_the_companys_form(network: Network, web: Any, role: str) -> None:
    browser, path = web(getattr(network, role)), f"/admin/company/edit/?id={network.company.id}"
    assert send(browser, path, mailings_until="2027-04-30").status_code == 302
    db.session.expire_all()
    assert (network.company.has_mailings, network.company.mailings_until) == (True, date(2027, 4, 30))
    page = plain(browser.get(f"/admin/company/details/?id={network.company.id}").text)
    assert "Рассылки SMS/E-mail включены по 30.04.2027 включительно." in page


@pytest.mark.spec("X22")
def test_who_looks_after_the_requisites_tries_and_does_not_switch(network: Network, web: Any) -> None:
    with transaction():
        permissions = {"company.view": True, "company.edit": True}
        change_role(settings_of(Role.DIRECTOR), permissions=permissions, fields={}, by=network.owner)
    switch(network)
    browser = web(network.director)
    assert send(browser, f"/admin/company/edit/?id={network.company.id}", has_mailings="y").status_code == 302
    db.session.expire_all()
    assert not network.company.has_mailings
    assert send(browser, f"/admin/company/try-mailings/?id={network.company.id}").status_code == 302
    db.session.expire_all()
    assert network.company.has_mailings


# --- screens ---------------------------------------------------------------------------------------------------------


def try_link(network: Network) -> str:
    return f'href="/admin/company/try-mailings/?id={network.company.id}"'


@pytest.mark.spec("B5", "B6", "X22")
def test_the_form_of_a_message_says_why_instead(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    bill = make_bill(client)
    switch(network)
    for query in ("", f"?bill={bill.id}"):
        path = f"/admin/client/card/{client.id}/message/new/{query}"
        page = web(network.owner).get(path).text
        assert "Опция рассылок SMS/E-mail выключена" in page
        assert 'name="text"' not in page
        assert try_link(network) in page
        assert network.support.email in page
    page = web(network.director, network.lesnoy).get(path).text
    assert "Опция рассылок SMS/E-mail выключена" in page
    assert try_link(network) not in page
    assert "/admin/company/" not in page
    assert 'class="envelope"' in web(network.director).get(f"/admin/client/card/{client.id}/").text


@pytest.mark.spec("B5")
def test_a_form_opened_before_is_refused_when_sent(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    browser, path = web(network.director, network.lesnoy), f"/admin/client/card/{client.id}/message/new/?to=email"
    browser.get(path)
    switch(network)
    for step in ("preview", "send"):
        answer = browser.post(path, data={"subject": "Счёт", "text": "Здравствуйте!", "step": step})
        assert answer.status_code == 422
        assert "Опция рассылок SMS/E-mail выключена" in answer.text
    assert messages() == []


@pytest.mark.spec("B60")
@pytest.mark.parametrize("page", ["", "details/?id={rule}"])
def test_the_list_of_mailings_and_a_rule_show_the_state(network: Network, web: Any, page: str) -> None:
    rule = make_rule(network.lesnoy)
    browser, path = web(network.owner), f"/admin/mailingrule/{page.format(rule=rule.id)}"
    assert "Опция рассылок" not in browser.get(path).text
    switch(network, is_on=True, until=date(2027, 3, 9))
    text = browser.get(path).text
    assert "Опция рассылок SMS/E-mail закончилась 09.03.2027" in text
    assert "Попробовать бесплатно" in text
    assert "/admin/mailingrule/run/" not in text


@pytest.mark.spec("B6", "X22")
def test_the_companys_page_offers_the_trial_once(network: Network, web: Any) -> None:
    browser, path = web(network.owner), f"/admin/company/details/?id={network.company.id}"
    assert "Рассылки SMS/E-mail включены, без срока." in browser.get(path).text
    switch(network)
    page = browser.get(path).text
    assert "Опции" in page
    assert try_link(network) in page
    assert "Чтобы запросить тестовый период" in page
    assert network.support.email in page
    try_path = f"/admin/company/try-mailings/?id={network.company.id}"
    assert browser.get(try_path).status_code == 200
    db.session.expire_all()
    assert network.company.mailings_tried_at is None
    send(browser, try_path)
    switch(network)
    assert try_link(network) not in browser.get(path).text
    answer = send(browser, try_path)
    assert answer.status_code == 422
    assert "уже использован" in errors(answer.text)[""]


# --- the public page -------------------------------------------------------------------------------------------------


@pytest.mark.spec("X22")
def test_a_payer_is_told_that_codes_are_not_sent(network: Network, web: Any) -> None:
    payer = make_client(network.lesnoy)
    make_account(payer, balance=5000)
    bill, browser = make_bill(payer), web()
    browser.with_csrf = False
    path = f"/pay/{bill.token}/deposit"
    assert browser.post(path).status_code == 303
    code = messages()[0].secret
    switch(network)
    # The code on its way still holds.
    assert browser.get(path).status_code == 200
    answer = browser.post(path)
    assert answer.status_code == 422
    assert "Сейчас коды не отправляются" in answer.text
    assert "Опция рассылок" not in answer.text
    assert browser.post(f"{path}/code", data={"code": code}).status_code == 200
    other = make_bill(payer)
    answer = browser.get(f"/pay/{other.token}/deposit")
    assert answer.status_code == 422
    assert "Сейчас коды не отправляются" in answer.text
    assert len(messages()) == 1
