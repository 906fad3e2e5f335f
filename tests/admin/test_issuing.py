"""The form of a bill on the screen, by each method; bills for many; a bill's page, its link and links for several."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from flask_babel import force_locale
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.bundles import bundle_bills
from crm.bills.issuing import issue_draft
from crm.bills.models import Bill, BillBundle, BillMethod, BillStatus
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.ledger.operations import base_account
from crm.payments.models import PaymentMethod
from crm.payments.operations import pay_bill_at_desk
from crm.protocol import Outcome
from crm.subscriptions.models import ChargeMoment, PlanAccount
from crm.subscriptions.operations import account_of
from tests.admin.test_grids import headers, table
from tests.admin.world import errors, fields, row_counts, send
from tests.bills.test_archive import settle_at_desk
from tests.bills.test_in_the_panel import labels, plain
from tests.factories import (
    make_account,
    make_bill,
    make_child,
    make_client,
    make_lesson,
    make_lesson_type,
    make_payment,
    make_plan,
    make_subscription,
)

NOON = datetime(2027, 1, 20, 9, tzinfo=UTC)  # noon in Moscow
TODAY = date(2027, 1, 20)


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Iterator[None]:
    with clock.frozen(NOON):
        yield


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


@pytest.fixture
def client(network: Any) -> Any:
    """Two lessons of 500 are planned for him this month."""
    made = make_client(network.lesnoy, name="Ежов Илья")
    kind = make_lesson_type(name="Танцы", single_price=Decimal(500))
    for days in (1, 3):
        make_lesson(network.lesnoy, made, lesson_type=kind, starts_at=NOON + timedelta(days=days))
    return made


def path_of(client: Any) -> str:
    return f"/admin/client/card/{client.id}/bill/new/"


def recalculated(browser: Any, client: Any, **changes: Any) -> Any:
    return send(browser, path_of(client), recalculate="1", **changes)


def sent_again(browser: Any, client: Any, page: Any, **changes: Any) -> Any:
    """The form of a page that was just shown, some of it changed."""
    return browser.post(path_of(client), data={**fields(page.text), **changes})


def bills() -> list[Bill]:
    db.session.expire_all()
    return list(db.session.scalars(select(Bill).order_by(Bill.id)))


def input_of(page: str, name: str) -> str:
    found = re.search(rf'<input[^>]*name="{name}"[^>]*>', page)
    assert found, name
    return found[0]


# --- by the forecast ------------------------------------------------------------------------------------------------


@pytest.mark.spec("B8", "B9", "B10", "B11")
def test_the_methods_by_name(browser: Any, client: Any) -> None:
    options = re.findall(r"<option[^>]*>(.*?)</option>", browser.get(path_of(client)).text)
    assert options[:3] == ["Вручную", "По прогнозу оплаты", "По стоимости абонементов"]


@pytest.mark.spec("B13", "B14", "B21", "B22")
def test_the_forecast_is_shown_line_by_line_and_fixed(browser: Any, client: Any) -> None:
    make_payment(make_base(client), 300)
    page = recalculated(browser, client, method="forecast")
    assert page.status_code == 200
    assert fields(page.text)["amount"] == "700,00"
    assert fields(page.text)["period_from"] == TODAY.isoformat()
    assert all("readonly" in input_of(page.text, name) for name in ("amount", "period_from"))
    assert "readonly" not in input_of(page.text, "period_to")
    text = plain(page.text)
    for words in ("21.01.2027 Танцы", "23.01.2027 Танцы", "500,00", "-300,00", "700,00"):
        assert words.replace("-", "−") in text, words
    assert bills() == []


def test_lessons_of_past_days_that_are_not_marked_are_warned_of(network: Any, browser: Any, client: Any) -> None:
    """The rule of the forecast stays: what they take is not in it."""
    warning = "по вчерашний день"
    assert warning not in recalculated(browser, client, method="forecast").text
    child, stranger = make_child(client), make_client(network.lesnoy)
    kind = make_lesson_type(name="Пение", single_price=Decimal(700))
    begins = NOON - timedelta(days=1)
    make_lesson(network.lesnoy, client, child, lesson_type=kind, starts_at=begins)
    make_lesson(network.lesnoy, stranger, lesson_type=kind, starts_at=begins)
    page = recalculated(browser, client, method="forecast")
    assert "1 занятие по вчерашний день не отмечено" in plain(page.text)
    assert fields(page.text)["amount"] == "1000,00"
    make_lesson(network.lesnoy, child, lesson_type=kind, starts_at=begins - timedelta(days=40))
    assert "2 занятия по вчерашний день не отмечены" in plain(recalculated(browser, client, method="forecast").text)
    assert warning not in recalculated(browser, client, method="manual").text


@pytest.mark.spec("B13", "B22")
def test_a_bill_by_the_forecast_is_issued_as_it_was_shown(browser: Any, client: Any) -> None:
    page = recalculated(browser, client, method="forecast")
    assert sent_again(browser, client, page).status_code == 302
    (bill,) = bills()
    assert (bill.method, bill.amount) == (BillMethod.FORECAST, Decimal(1000))
    assert (bill.period_from, bill.period_to) == (TODAY, date(2027, 1, 31))
    assert [line.amount for line in bill.lines] == [500, 500]


@pytest.mark.spec("B14", "B21")
@pytest.mark.parametrize("tampered", [{"amount": "1"}, {"amount": "999,99"}, {"period_from": "2027-01-21"}])
def test_what_the_forecast_fixes_is_refused_when_it_is_sent_otherwise(
    browser: Any, client: Any, tampered: dict[str, str]
) -> None:
    page = recalculated(browser, client, method="forecast")
    answer = sent_again(browser, client, page, purpose="За танцы", **tampered)
    assert answer.status_code == 422
    assert set(errors(answer.text)) == set(tampered)
    again = fields(answer.text)
    # The page has what is found, and what he typed.
    assert (again["amount"], again["period_from"], again["purpose"]) == ("1000,00", TODAY.isoformat(), "За танцы")
    assert bills() == []


def test_a_method_changed_without_a_recalculation_is_asked_about(browser: Any, client: Any) -> None:
    answer = send(browser, path_of(client), method="forecast", amount="1", purpose="За танцы")
    assert answer.status_code == 422
    assert "Проверьте и сохраните" in errors(answer.text)[""]
    assert bills() == []
    assert sent_again(browser, client, answer).status_code == 302
    assert [(bill.amount, bill.purpose) for bill in bills()] == [(1000, "За танцы")]


def test_what_is_typed_while_the_page_is_on_its_way_stays(browser: Any, client: Any) -> None:
    """static/issuing.js names the fields; the one of them the method fixes is found all the same."""
    own = {"method": "forecast", "amount": "1", "period_to": "2027-01-22", "typed": "amount period_to"}
    page = recalculated(browser, client, **own)
    shown = fields(page.text)
    assert (shown["amount"], shown["period_to"], shown["typed"]) == ("500,00", "2027-01-22", "")
    answer = send(browser, path_of(client), **own)
    assert (answer.status_code, fields(answer.text)["period_to"]) == (422, "2027-01-22")


def test_unpaid_bills_for_the_account_are_told_of_and_refuse_nothing(network: Any, browser: Any, client: Any) -> None:
    deposit = make_account(client)
    make_bill(client, account=deposit)
    gone, _expired, unpaid = (
        make_bill(client, payable_from=date(2027, 1, 1), payable_until=until)
        for until in (None, date(2027, 1, 19), TODAY)
    )
    with transaction():
        archive_bill(gone, by=SYSTEM)
    page = browser.get(path_of(client)).text
    warned = re.search(r'<div class="alert[^>]*>([^<]*неоплаченные счета.*?)</div>', page, re.DOTALL)
    assert warned
    assert re.findall(r"20\d\d-\d{6} · [\d ,]+", plain(warned[1])) == [f"{unpaid.title} · 1 500,00 "]
    assert send(browser, path_of(client), amount="100").status_code == 302
    page = recalculated(browser, client, account=str(deposit.id))
    assert "неоплаченные счета" in plain(page.text)


def test_another_end_of_the_period_is_another_forecast(browser: Any, client: Any) -> None:
    page = recalculated(browser, client, method="forecast")
    page = sent_again(browser, client, page, recalculate="1", period_to="2027-01-22")
    assert fields(page.text)["amount"] == "500,00"
    page = sent_again(browser, client, page, recalculate="1", period_to="2027-01-19")
    assert set(errors(page.text)) == {"period_to"}


@pytest.mark.spec("B13")
def test_nothing_to_pay_says_why_and_issues_nothing(browser: Any, client: Any) -> None:
    make_payment(make_base(client), 5000)
    page = recalculated(browser, client, method="forecast")
    assert "Платить не за что" in plain(page.text)
    assert re.search(r"<button[^>]*disabled[^>]*>Сохранить", page.text)
    answer = sent_again(browser, client, page)
    assert answer.status_code == 422
    assert "Платить не за что" in errors(answer.text)["amount"]
    assert bills() == []


def make_base(client: Any) -> Any:
    with transaction():
        return base_account(client.id, client.branch_id)


# --- by the cost of subscriptions, and accounts ---------------------------------------------------------------------


@pytest.fixture
def own(network: Any, client: Any) -> Any:
    """A subscription with an account of its own, written off lesson by lesson."""
    plan = make_plan(name="Йога 8", account=PlanAccount.SEPARATE, charge=ChargeMoment.PER_LESSON)
    return make_subscription(client, plan)


@pytest.mark.spec("B17", "B18")
def test_accounts_are_offered_only_where_there_is_a_choice(browser: Any, client: Any) -> None:
    assert "Клиентский счет" not in str(labels(browser.get(path_of(client)).text))
    plan = make_plan(name="Йога 8", account=PlanAccount.SEPARATE, charge=ChargeMoment.PER_LESSON)
    make_subscription(client, plan)
    make_account(client)
    page = browser.get(path_of(client)).text
    select = re.search(r'<select[^>]*name="account".*?</select>', page, re.DOTALL)
    assert select
    offered = [plain(option) for option in re.findall(r"<option.*?</option>", select[0])]
    assert offered[0] == "Базовый счёт: 0,00"
    assert offered[1].startswith("Йога 8 № ")
    assert offered[2].startswith("Депозиты")
    assert len(offered) == 3


@pytest.mark.spec("B15", "B17", "B19")
def test_the_cost_of_a_subscription_is_filled_in_and_paid_onto_its_account(
    network: Any, browser: Any, client: Any, own: Any
) -> None:
    account = account_of(own, client)
    page = recalculated(browser, client, method="subscription", account=str(account.id))
    assert fields(page.text)["amount"] == "4000,00"
    assert f'value="{own.id}"' in page.text
    assert "readonly" not in input_of(page.text, "amount")
    answer = browser.post(path_of(client), data={**fields(page.text), "subscriptions": str(own.id)})
    assert answer.status_code == 302
    (bill,) = bills()
    assert (bill.amount, bill.account_id, bill.subscriptions) == (4000, account.id, [own])
    settle_at_desk(bill)
    db.session.expire_all()
    assert account.balance == 4000
    assert make_base(client).balance == 0


def test_the_sum_by_subscriptions_may_be_typed_over(browser: Any, client: Any, own: Any) -> None:
    page = recalculated(browser, client, method="subscription", account=str(account_of(own, client).id))
    data = {**fields(page.text), "subscriptions": str(own.id), "amount": "3500"}
    assert browser.post(path_of(client), data=data).status_code == 302
    assert [bill.amount for bill in bills()] == [3500]


def test_without_a_subscription_ticked_nothing_is_issued(browser: Any, client: Any, own: Any) -> None:
    page = recalculated(browser, client, method="subscription", account=str(account_of(own, client).id))
    data = {name: value for name, value in fields(page.text).items() if name != "subscriptions"}
    answer = browser.post(path_of(client), data=data)
    assert answer.status_code == 422
    assert bills() == []


# --- the term -------------------------------------------------------------------------------------------------------


@pytest.mark.spec("B23", "B24", "B28", "W6")
def test_a_usual_term_sets_the_last_day(browser: Any, client: Any) -> None:
    for term, until in (("weeks_2", date(2027, 2, 3)), ("next_month_end", date(2027, 2, 28)), ("unlimited", None)):
        answer = send(browser, path_of(client), amount="100", term=term, payable_until="2027-01-25")
        assert answer.status_code == 302
        assert bills()[-1].payable_until == until


def test_a_term_that_is_over_is_allowed_and_warned_of(browser: Any, client: Any) -> None:
    term = {"payable_from": "2027-01-10", "payable_until": "2027-01-19", "amount": "100"}
    page = recalculated(browser, client, **term)
    assert "Срок уже закончился" in plain(page.text)
    answer = sent_again(browser, client, page)
    assert "Срок уже закончился" in plain(browser.get(answer.location).text)
    assert "Срок уже закончился" not in plain(
        recalculated(browser, client, **{**term, "payable_until": "2027-01-20"}).text
    )


def test_an_empty_date_is_asked_for(browser: Any, client: Any) -> None:
    answer = send(browser, path_of(client), amount="100", period_to="", payable_from="")
    assert errors(answer.text) == dict.fromkeys(("period_to", "payable_from"), "Заполните это поле.")
    assert bills() == []


@pytest.mark.spec("X11")
def test_a_term_of_one_day_is_allowed_and_warned_of(browser: Any, client: Any) -> None:
    with clock.frozen(datetime(2027, 1, 31, 9, tzinfo=UTC)):
        page = recalculated(browser, client, amount="100", term="month_end")
        assert "Срок — один день" in plain(page.text)
        answer = sent_again(browser, client, page)
        assert "Срок — один день" in plain(browser.get(answer.location).text)
    (bill,) = bills()
    assert bill.payable_from == bill.payable_until == date(2027, 1, 31)


# --- many at once ---------------------------------------------------------------------------------------------------


def issue_to(browser: Any, *clients: Any, **values: str) -> Any:
    """Choose, fill in, confirm; the page of the job, or of what is wrong."""
    chosen = {"action": "bill", "id": [str(one.id) for one in clients]}
    page = browser.post("/admin/client/action/", data=chosen)
    assert page.status_code == 200
    sent = {f"set.{name}": value for name, value in {"term": "weeks_2", "period_to": "2027-01-31", **values}.items()}
    asked = browser.post("/admin/client/action/", data={**chosen, **sent, "filled": "1"})
    if asked.status_code != 200:
        return asked
    assert "По прогнозу оплаты" in plain(asked.text) or "Вручную" in plain(asked.text)
    assert bills() == []
    answer = browser.post("/admin/client/action/", data=fields(asked.text) | {"id": [str(one.id) for one in clients]})
    return browser.get(answer.location)


@pytest.mark.spec("B13", "B22")
def test_many_are_billed_by_the_forecast_each_with_his_line(network: Any, browser: Any, client: Any) -> None:
    idle = make_client(network.lesnoy, name="Лунев Пётр")
    page = issue_to(browser, client, idle, method="forecast", purpose="Занятия в январе")
    text = plain(page.text)
    (bill,) = bills()
    assert (bill.client_id, bill.amount, bill.purpose) == (client.id, 1000, "Занятия в январе")
    assert bill.payable_until == date(2027, 2, 3)
    assert bill.title in text
    assert "Платить не за что" in text
    assert row_counts(done=1, skipped=1) in text
    assert "is-failed" not in page.text


def test_many_are_billed_by_hand_with_one_sum(network: Any, browser: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(3)]
    issue_to(browser, *clients, method="manual", amount="250,50", is_repeatable="y")
    assert [(bill.amount, bill.is_repeatable) for bill in bills()] == [(Decimal("250.50"), True)] * 3


@pytest.mark.parametrize("values", [{"method": "manual"}, {"method": "forecast", "amount": "5"}])
def test_the_sum_of_many_belongs_to_the_method_by_hand(browser: Any, client: Any, values: dict[str, str]) -> None:
    answer = issue_to(browser, client, **values)
    assert (answer.status_code, set(errors(answer.text))) == (422, {"set.amount"})
    assert bills() == []


def asked_about(browser: Any, *clients: Any, **values: str) -> Any:
    """The page that asks whether it is meant."""
    sent = {"set.method": "forecast", "set.term": "unlimited", "set.period_to": "2027-01-31", **values}
    chosen = {"action": "bill", "id": [str(one.id) for one in clients], "filled": "1"}
    return browser.post("/admin/client/action/", data={**chosen, **sent})


def facts_of(page: Any) -> dict[str, str]:
    pairs = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.text, re.DOTALL)
    return {plain(name): plain(value) for name, value in pairs}


def test_what_the_bills_come_to_is_shown_before(network: Any, browser: Any, client: Any) -> None:
    child, idle = make_child(client, name="Ежова Анна"), make_client(network.lesnoy)
    facts = facts_of(asked_about(browser, client, child, idle))
    names = ("Выбрано клиентов", "Плательщиков", "Будет выставлено счетов", "На общую сумму")
    assert [facts[name] for name in names] == ["3", "2", "1", "1 000,00"]
    with force_locale("ru"):
        assert facts[str(Outcome.SKIPPED.label)] == "1"
    assert bills() == []


def test_a_period_that_is_over_is_refused_before_anybody_is_asked(browser: Any, client: Any) -> None:
    page = asked_about(browser, client, **{"set.period_to": "2027-01-19"})
    assert page.status_code == 422
    assert set(errors(page.text)) == {"set.period_to"}


def test_back_from_the_confirmation_keeps_what_was_filled_in(browser: Any, client: Any) -> None:
    page = asked_about(browser, client, **{"set.purpose": "Занятия", "set.period_to": "2027-01-25"})
    assert re.search(r'<button[^>]*name="back"[^>]*>Назад', page.text)
    page = browser.post("/admin/client/action/", data={**fields(page.text), "id": [str(client.id)], "back": "1"})
    shown = fields(page.text)
    assert page.status_code == 200
    assert (shown["set.purpose"], shown["set.period_to"]) == ("Занятия", "2027-01-25")
    assert 'name="back"' not in page.text
    assert bills() == []


@pytest.mark.spec("W8", "B98", "B99")
def test_many_are_not_billed_twice_unless_it_is_ticked(browser: Any, client: Any) -> None:
    issue_to(browser, client, method="forecast")
    (bill,) = bills()
    page = issue_to_again(browser, client, period_to="2027-02-28")
    assert f"Есть неоплаченный счёт: {bill.title}" in plain(page.text)
    assert bills() == [bill]
    issue_to_again(browser, client, period_to="2027-02-28", is_reissued="y")
    assert len(bills()) == 2


def issue_to_again(browser: Any, client: Any, **values: str) -> Any:
    page = asked_about(browser, client, **{f"set.{name}": value for name, value in values.items()})
    return browser.get(browser.post("/admin/client/action/", data=fields(page.text) | {"id": str(client.id)}).location)


def test_a_child_is_in_the_bill_of_the_payer(browser: Any, client: Any) -> None:
    page = plain(issue_to(browser, client, make_child(client, name="Ежова Анна"), method="forecast").text)
    (bill,) = bills()
    assert f"вошло в счёт плательщика {bill.title}" in page
    assert row_counts(done=2) in page


def test_archiving_tells_what_has_been_received(network: Any, browser: Any, client: Any) -> None:
    network.company.takes_part_payments = True
    part, none = make_bill(client), make_bill(client)
    with transaction():
        pay_bill_at_desk(part, method=PaymentMethod.CASH, amount=Decimal(400), by=SYSTEM)
    path = "/admin/bill/archive/?id="
    assert "По нему уже получено 400,00" in plain(browser.get(f"{path}{part.id}").text)
    assert "уже получено" not in plain(browser.get(f"{path}{none.id}").text)
    page = browser.post("/admin/bill/action/", data={"action": "archive", "id": [str(part.id), str(none.id)]})
    assert "400,00" in facts_of(page)["Уже получено по архивируемым; деньги останутся на счетах клиентов"]


# --- the page of a bill ---------------------------------------------------------------------------------------------


def page_of(browser: Any, bill: Bill) -> str:
    return str(browser.get(f"/admin/bill/details/?id={bill.id}").text)


def test_the_page_keeps_the_calculation_as_it_was(network: Any, browser: Any, client: Any) -> None:
    with transaction():
        bill = issue_draft(client, method=BillMethod.FORECAST, by=SYSTEM)
    make_payment(make_base(client), 5000)
    text = plain(page_of(browser, bill))
    assert "Как получилась сумма" in text
    assert "21.01.2027 Танцы" in text
    assert "1 000,00" in text


@pytest.mark.spec("B33")
def test_the_link_is_copied_and_stands_to_be_copied_by_hand(browser: Any, client: Any) -> None:
    bill = make_bill(client)
    page = page_of(browser, bill)
    assert re.search(rf'<button[^>]*data-copy="https://kontora.test/pay/{bill.token}"[^>]*>', page)
    assert "Скопировать ссылку" in plain(page)
    assert f'readonly value="https://kontora.test/pay/{bill.token}"' in page


def test_a_link_is_revoked_and_renewed_after_a_confirmation(network: Any, browser: Any, web: Any, client: Any) -> None:
    bill = make_bill(client)
    old = bill.token
    browser.get(f"/admin/bill/link/revoke/?id={bill.id}")
    assert web().get(f"/pay/{old}").status_code == 200
    assert send(browser, f"/admin/bill/link/revoke/?id={bill.id}").status_code == 302
    assert web().get(f"/pay/{old}").status_code == 404
    assert old not in page_of(browser, bill)
    send(browser, f"/admin/bill/link/renew/?id={bill.id}")
    db.session.expire_all()
    assert bill.token in page_of(browser, bill)
    assert web().get(f"/pay/{bill.token}").status_code == 200
    assert web(network.manager, network.lesnoy).get(f"/admin/bill/link/renew/?id={bill.id}").status_code == 403


def test_the_desk_takes_what_is_left(network: Any, browser: Any, client: Any) -> None:
    bill = make_bill(client, amount=Decimal(1000))
    path = f"/admin/bill/pay/?id={bill.id}"
    assert 'name="amount"' not in browser.get(path).text
    network.company.takes_part_payments = True
    assert fields(browser.get(path).text)["amount"] == "1000,00"
    answer = send(browser, path, method="cash", amount="400")
    assert "осталось оплатить: 600,00" in plain(browser.get(answer.location).text)
    db.session.expire_all()
    assert (bill.status, bill.paid_amount, bill.due) == (BillStatus.PENDING, 400, 600)
    assert set(errors(send(browser, path, method="cash", amount="700").text)) == {"amount"}
    network.company.takes_overpayments = True
    send(browser, path, method="cash", amount="700")
    db.session.expire_all()
    assert (bill.status, bill.paid_amount, bill.account.balance) == (BillStatus.PAID, 1100, 1100)


def test_parts_are_refused_where_the_exact_sum_is_taken(browser: Any, client: Any) -> None:
    bill = make_bill(client, amount=Decimal(1000))
    send(browser, f"/admin/bill/pay/?id={bill.id}", method="cash", amount="400")
    db.session.expire_all()
    assert (bill.status, bill.paid_amount) == (BillStatus.PAID, 1000)


def test_the_bill_opens_as_a_document(browser: Any, client: Any) -> None:
    answer = browser.get(f"/admin/bill/pdf/?id={make_bill(client).id}")
    assert answer.mimetype == "application/pdf"
    assert answer.data.startswith(b"%PDF")


# --- one link for several -------------------------------------------------------------------------------------------


def test_ticked_bills_of_a_payer_get_one_link(browser: Any, client: Any) -> None:
    made = [make_bill(client, amount=Decimal(sum)) for sum in (100, 250)]
    ticked = {"action": "together", "id": [str(bill.id) for bill in made]}
    path = browser.post("/admin/bill/action/", data=ticked).location
    assert db.session.scalars(select(BillBundle)).all() == []
    answer = browser.get(send(browser, path).location)
    bundle = db.session.scalars(select(BillBundle)).one()
    assert bundle.bills == made
    assert f'data-copy="https://kontora.test/pay/{bundle.token}"' in answer.text
    assert "К оплате по ссылке: 350,00" in plain(answer.text)


def test_revoking_a_bill_of_a_link_to_several_warns_of_it(browser: Any, client: Any, web: Any) -> None:
    alone, *bills = (make_bill(client) for _ in range(3))
    with transaction():
        bundle = bundle_bills(bills, by=SYSTEM)
    shown = {bill.id: plain(browser.get(f"/admin/bill/link/revoke/?id={bill.id}").text) for bill in (alone, bills[0])}
    warning = "исчезнет и со страницы общей ссылки"
    assert (warning in shown[alone.id], warning in shown[bills[0].id]) == (False, True)
    send(browser, f"/admin/bill/link/revoke/?id={bills[0].id}")
    assert bills[0].title not in web().get(f"/pay/{bundle.token}").text


def test_bills_of_two_payers_get_none_and_the_page_says_why(network: Any, browser: Any, client: Any) -> None:
    made = [make_bill(client), make_bill(make_client(network.lesnoy))]
    path = browser.post(
        "/admin/bill/action/", data={"action": "together", "id": [str(one.id) for one in made]}
    ).location
    page = browser.get(path).text
    assert "для счетов одного плательщика" in plain(page)
    assert browser.post(path).status_code == 422


def test_the_card_lists_its_links_and_revokes_them(network: Any, browser: Any, client: Any) -> None:
    made = [make_bill(client) for _ in range(2)]
    with transaction():
        bundle = bundle_bills(made, by=SYSTEM)
    card = f"/admin/client/card/{client.id}/?tab=bills"
    assert bundle.token in browser.get(card).text
    assert browser.get(f"/admin/bill/together/{bundle.id}/").status_code == 200
    send(browser, f"/admin/bill/together/{bundle.id}/revoke/")
    assert bundle.token not in browser.get(card).text
    for path in (f"/admin/bill/together/{bundle.id}/", f"/admin/bill/together/{bundle.id}/revoke/"):
        network.administrator.branches = [network.rechnoy]
        assert browser.get(path).status_code == 404


# --- the grid -------------------------------------------------------------------------------------------------------


def chips(page: str) -> dict[str, str]:
    found = re.findall(r'<a class="chip chip-quick"[^>]*>(.*?)</a>', page, re.DOTALL)
    parts = [re.fullmatch(r'(.*?)(?: <span class="chip-note">(.*)</span>)?', chip, re.DOTALL) for chip in found]
    return {part[1]: plain(part[2] or "") for part in parts if part}


@pytest.fixture
def of_each_status(network: Any, client: Any) -> None:
    _waiting, overdue, paid, gone = (make_bill(client, amount=Decimal(sum)) for sum in (100, 200, 400, 800))
    make_bill(client, amount=Decimal(1000))
    with transaction():
        overdue.payable_from, overdue.payable_until = date(2027, 1, 1), date(2027, 1, 19)
        archive_bill(gone, by=SYSTEM)
    settle_at_desk(paid)
    make_bill(make_client(network.rechnoy), amount=Decimal(9999))


@pytest.mark.spec("X5")
@pytest.mark.parametrize("query", ["", "?f.status.is=paid"])
def test_chips_say_how_many_bills_there_are_of_each_status_and_their_sum(
    browser: Any, of_each_status: None, query: str
) -> None:
    shown = chips(browser.get(f"/admin/bill/{query}").text)
    assert shown == {
        "Ожидает оплаты": "2 · 1 100,00",
        "Срок оплаты истёк": "1 · 200,00",
        "Оплачен": "1 · 400,00",
        "В архиве": "1 · 800,00",
        "Оплачены в этом месяце": "",
    }


def test_chips_count_within_the_filter_in_force(browser: Any, of_each_status: None) -> None:
    shown = chips(browser.get("/admin/bill/?f.amount.from=300").text)
    assert (shown["Ожидает оплаты"], shown["Срок оплаты истёк"]) == ("1 · 1 000,00", "")


def test_the_register_of_a_period_is_a_file_with_totals(browser: Any, of_each_status: None) -> None:
    page = browser.get("/admin/bill/").text
    form = re.search(r'<form class="menu-list register".*?</form>', page, re.DOTALL)
    assert form
    sent = re.findall(r'<input[^>]*name="([^"]*)" value="([^"]*)"', form[0])
    answer = browser.get("/admin/bill/export/xlsx/", query_string=dict(sent))
    assert answer.status_code == 200
    sheet = openpyxl.load_workbook(io.BytesIO(answer.data)).active
    assert sheet is not None
    header, *rows, totals = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert len(rows) == 5
    amounts = {name: totals[header.index(name)] for name in ("Сумма", "Оплачено", "Осталось оплатить")}
    assert amounts == {"Сумма": 2500, "Оплачено": 400, "Осталось оплатить": 1300}
    assert "В архиве" in {row[header.index("Статус")] for row in rows}


def test_what_is_left_is_a_column_that_is_asked_for(browser: Any, of_each_status: None) -> None:
    page = browser.get("/admin/bill/").text
    assert "Осталось оплатить" not in headers(page)
    assert len(table(browser.get("/admin/bill/?f.left.from=1").text)) == 3


def test_a_bill_begun_from_the_list_finds_its_payer(network: Any, browser: Any, client: Any) -> None:
    make_child(client, name="Ежова Анна")
    page = browser.get("/admin/bill/find/?q=Ежов").text
    assert path_of(client) in page
