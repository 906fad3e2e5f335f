"""«Кассы и счета» and «Смены»: grids, pages and forms."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pypdf
import pytest
from sqlalchemy import event, select

from crm import clock
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.db import db, transaction
from crm.tills.models import Shift, Till, TillKind
from crm.tills.queries import current_shift, money_in
from crm.tills.shifts import close_shift
from tests.admin.test_grids import headers, money, table, totals
from tests.admin.world import errors, fields, send
from tests.factories import make_account, make_client, make_shift, make_till

GRID, SHIFTS = "/admin/till/", "/admin/shift/"


def column(page: str, name: str) -> list[str]:
    place = headers(page).index(name)
    return [row[place] for row in table(page)]


def hide_balance(network: Any, role: Role) -> None:
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == role)).one()
    with transaction():
        change_role(settings, permissions={}, fields={"till.balance": FieldRule.HIDE}, by=network.owner)


@pytest.mark.spec("C146")
def test_the_menu_leads_to_tills_of_cash_and_cashless_money(network: Any, web: Any) -> None:
    make_till(network.lesnoy, name="Стойка", money=Decimal("1234.56"))
    make_till(network.lesnoy, kind=TillKind.BANK, name="Р/с 0001")
    browser = web(network.director, network.lesnoy)
    assert "Кассы и счета" in browser.get("/admin/").text
    page = browser.get(GRID).text
    assert dict(zip(column(page, "Название"), column(page, "Вид"), strict=True)) == {
        "Стойка": "Касса",
        "Р/с 0001": "Расчётный счёт",
    }
    assert [money(text) for text in column(page, "Денег сейчас")] == [Decimal("1234.56"), 0]
    assert money(totals(page)[headers(page).index("Денег сейчас")]) == Decimal("1234.56")


def test_the_network_sees_all_branches_and_a_branch_its_own(network: Any, web: Any) -> None:
    for branch in (network.lesnoy, network.mira):
        make_till(branch, name=f"Касса {branch.name}")
    assert set(column(web(network.owner).get(GRID).text, "Название")) == {"Касса Лесной", "Касса Мира"}
    for browser in (web(network.owner, network.lesnoy), web(network.director)):
        assert column(browser.get(GRID).text, "Название") == ["Касса Лесной"]


def test_the_money_of_a_page_of_tills_is_one_query(network: Any, web: Any) -> None:
    """However many there are."""
    counts = []
    for _ in range(2):
        for _till in range(5):
            make_till(network.lesnoy, money=10)
        statements: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, *_rest: Any, seen: list[str] = statements) -> None:
            seen.append(statement)

        event.listen(db.engine, "before_cursor_execute", note)
        web(network.owner, network.lesnoy).get(GRID)
        event.remove(db.engine, "before_cursor_execute", note)
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_a_till_is_added_and_changed(network: Any, web: Any) -> None:
    browser = web(network.director, network.lesnoy)
    answer = send(browser, f"{GRID}new/", name="Бар", kind="cash", uses_shifts="y", position="2")
    assert answer.status_code == 302
    till = db.session.scalars(select(Till).where(Till.name == "Бар")).one()
    assert (till.branch_id, till.kind, till.uses_shifts, till.position) == (network.lesnoy.id, TillKind.CASH, True, 2)
    page = browser.get(f"{GRID}edit/?id={till.id}").text
    assert {"kind", "branch"} & fields(page).keys() == set()
    assert send(browser, f"{GRID}edit/?id={till.id}", name="Бар у входа").status_code == 302
    db.session.expire_all()
    assert (till.name, till.uses_shifts) == ("Бар у входа", True)


def test_what_is_wrong_is_said_beside_its_field(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, name="Бар", money=10)
    browser = web(network.director, network.lesnoy)
    answer = send(browser, f"{GRID}new/", name="Бар", kind="cash")
    assert answer.status_code == 422
    assert "name" in errors(answer.text)
    answer = send(browser, f"{GRID}edit/?id={till.id}", is_archived="y")
    assert "Там есть деньги" in errors(answer.text)["is_archived"]
    assert "10,00" not in errors(answer.text)["is_archived"]


def test_archived_tills_are_shown_when_they_are_asked_for(network: Any, web: Any) -> None:
    make_till(network.lesnoy, name="Новая")
    make_till(network.lesnoy, name="Старая", is_archived=True)
    browser = web(network.owner, network.lesnoy)
    assert column(browser.get(GRID).text, "Название") == ["Новая"]
    assert column(browser.get(f"{GRID}?f.is_archived.is=1").text, "Название") == ["Старая"]


# --- shifts ---------------------------------------------------------------------------------------------------------


def test_a_shift_is_opened_and_closed_from_the_page_of_the_desk(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, money=500, uses_shifts=True)
    browser = web(network.administrator, network.lesnoy)
    assert "Открыть смену" in browser.get(f"{GRID}details/?id={till.id}").text
    path = f"{GRID}shift/?id={till.id}"
    assert send(browser, path, counted="500").status_code == 302
    shift = current_shift(till)
    assert (shift.opening_counted, shift.opened_by_id) == (500, network.administrator.id)
    assert "Закрыть смену" in browser.get(f"{GRID}details/?id={till.id}").text
    answer = send(browser, path, counted="500,00")
    assert answer.location == f"{SHIFTS}details/?id={shift.id}"
    db.session.expire_all()
    assert (shift.closing_counted, shift.is_open) == (500, False)


def test_the_sum_there_should_be_is_said_after_counting(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, money=500, uses_shifts=True)
    browser = web(network.administrator, network.lesnoy)
    path = f"{GRID}shift/?id={till.id}"
    assert "500,00" not in browser.get(path).text
    # An explanation of what he has not seen yet explains nothing.
    answer = send(browser, path, counted="450", comment="Недостача")
    assert answer.status_code == 422
    said = errors(answer.text)
    assert list(said) == [""]  # nothing is wrong with the explanation itself
    assert "Должно быть 500,00: не хватает 50,00" in said[""]
    assert "нажмите «Открыть с расхождением»" in said[""]
    assert "Открыть с расхождением</button>" in answer.text
    assert current_shift(till) is None
    again = {**fields(answer.text), "comment": "Размен у курьера"}
    assert browser.post(path, data=again).status_code == 302
    assert current_shift(till).difference == -50
    assert money_in(till) == 450


def test_he_may_count_once_more(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, money=500, uses_shifts=True)
    browser = web(network.administrator, network.lesnoy)
    path = f"{GRID}shift/?id={till.id}"
    answer = send(browser, path, counted="450")
    assert browser.post(path, data={**fields(answer.text), "counted": "500"}).status_code == 302
    assert current_shift(till).difference == 0


def test_who_does_not_see_the_money_counts_blind(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, money=Decimal("512.34"), uses_shifts=True)
    shift = make_shift(till)
    hide_balance(network, Role.ADMINISTRATOR)
    browser = web(network.administrator, network.lesnoy)
    seen = [
        browser.get(GRID).text,
        browser.get(f"{GRID}details/?id={till.id}").text,
        browser.get(f"{SHIFTS}details/?id={shift.id}").text,
    ]
    answer = send(browser, f"{GRID}shift/?id={till.id}", counted="450")
    assert "Есть расхождение" in errors(answer.text)["comment"]
    seen += [errors(answer.text)["comment"]]
    seen += [browser.get("/admin/cashflow/").text]
    assert not any("512,34" in page or "62,34" in page for page in seen)
    assert "512.34" not in answer.text
    assert browser.get("/admin/cashflow/totals/").status_code == 403


def test_a_form_of_a_shift_that_somebody_else_has_closed_says_so(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, uses_shifts=True)
    shift = make_shift(till)
    browser = web(network.administrator, network.lesnoy)
    path = f"{GRID}shift/?id={till.id}&act=close"
    form = fields(browser.get(path).text)
    with transaction():
        close_shift(shift, counted=Decimal(0), by=network.director)
    answer = browser.post(path, data={**form, "counted": "0"})
    assert answer.status_code == 302
    assert "Смена уже закрыта" in browser.get(answer.location).text
    assert db.session.scalars(select(Shift)).all() == [shift]


def test_a_desk_may_hold_more_than_one_operation_may_enter(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, money=90_000_000, uses_shifts=True)
    shift = make_shift(till)
    make_account(make_client(network.lesnoy), balance=90_000_000)
    browser = web(network.administrator, network.lesnoy)
    path = f"{GRID}shift/?id={till.id}"
    refused = send(browser, path, counted="100000000000,01")
    assert "100 000 000 000,00" in errors(refused.text)["counted"].replace("\xa0", " ")
    assert send(browser, path, counted="180000000").status_code == 302
    db.session.expire_all()
    assert (shift.closing_counted, shift.is_open) == (180_000_000, False)


def test_a_desk_without_shifts_has_none_to_open(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    assert browser.get(f"{GRID}shift/?id={till.id}").location == f"{GRID}details/?id={till.id}"


def test_the_report_of_a_shift_adds_up(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, money=500, uses_shifts=True)
    shift = make_shift(till)
    make_account(make_client(network.lesnoy, name="Анна Плательщик"), balance=1000)  # into the first desk: this one
    with transaction():
        close_shift(shift, counted=Decimal(1490), comment="Потеряли десятку", by=network.director)
    page = web(network.director, network.lesnoy).get(f"{SHIFTS}details/?id={shift.id}").text
    for text in ("Пополнение", "1 000,00", "Расхождение при пересчёте кассы", "10,00", "1 490,00", "Анна Плательщик"):
        assert text.replace(" ", "\xa0") in page or text in page, text
    assert "Потеряли десятку" in page
    span = f"f.till.is={till.id}&amp;f.id.from={shift.from_entry_id + 1}&amp;f.id.to={shift.to_entry_id}"
    assert span in page


def test_the_grid_of_shifts_tells_open_ones_and_differences(network: Any, web: Any) -> None:
    first, second = (make_till(network.lesnoy, money=100, uses_shifts=True) for _ in range(2))
    with clock.frozen(clock.now() - timedelta(days=1, hours=1)):
        make_shift(first)
    with transaction():
        close_shift(make_shift(second), counted=Decimal(90), comment="Нет десятки", by=network.director)
    browser = web(network.director, network.lesnoy)
    page = browser.get(SHIFTS).text
    assert "открыта больше суток" in page
    assert sorted(money(text) for text in column(page, "Расхождение")) == [-10, 0]
    assert [money(text) for text in column(browser.get(f"{SHIFTS}?f.difference.not=0").text, "Расхождение")] == [-10]
    assert len(table(browser.get(f"{SHIFTS}?f.closed_at.empty=1").text)) == 1


# --- moves ----------------------------------------------------------------------------------------------------------


def test_money_is_moved_to_the_bank_and_spent(network: Any, web: Any) -> None:
    desk, bank = make_till(network.lesnoy, money=1000), make_till(network.lesnoy, kind=TillKind.BANK, name="Р/с")
    browser = web(network.director, network.lesnoy)
    path = f"{GRID}move/?id={desk.id}"
    assert "1\xa0000,00" in browser.get(path).text
    assert send(browser, path, target=str(bank.id), amount="700", comment="Инкассация").status_code == 302
    assert send(browser, f"{GRID}spend/?id={desk.id}", amount="50", comment="Бумага").status_code == 302
    assert send(browser, f"{GRID}take/?id={desk.id}", amount="20", comment="Вернули залог").status_code == 302
    assert (money_in(desk), money_in(bank)) == (270, 700)
    page = browser.get(f"{GRID}details/?id={desk.id}").text
    for text in ("Инкассация", "Бумага", "Вернули залог", "Перемещение между кассами"):
        assert text in page


def test_a_form_of_money_sent_twice_moves_it_once(network: Any, web: Any) -> None:
    desk = make_till(network.lesnoy, money=1000)
    browser = web(network.director, network.lesnoy)
    path = f"{GRID}spend/?id={desk.id}"
    form = {**fields(browser.get(path).text), "amount": "100", "comment": "Вода"}
    assert [browser.post(path, data=form).status_code for _ in range(2)] == [302, 302]
    assert money_in(desk) == 900


def test_what_cannot_be_moved_is_said_in_words(network: Any, web: Any) -> None:
    desk, bank = make_till(network.lesnoy, money=100), make_till(network.lesnoy, kind=TillKind.BANK)
    browser = web(network.director, network.lesnoy)
    answer = send(browser, f"{GRID}move/?id={desk.id}", target=str(bank.id), amount="100,01")
    assert answer.status_code == 422
    assert "не хватает" in " ".join(errors(answer.text).values()).lower()
    answer = send(browser, f"{GRID}spend/?id={desk.id}", amount="10", comment=" ")
    assert "comment" in errors(answer.text)
    assert money_in(desk) == 100


def test_only_tills_in_sight_are_offered(network: Any, web: Any) -> None:
    desk, foreign = make_till(network.lesnoy, money=100), make_till(network.mira, name="Чужая")
    browser = web(network.director, network.lesnoy)
    page = browser.get(f"{GRID}move/?id={desk.id}").text
    assert "Чужая" not in page
    answer = send(browser, f"{GRID}move/?id={desk.id}", target=str(foreign.id), amount="10")
    assert answer.status_code == 422
    assert "Мира: Касса: Чужая" in web(network.owner).get(f"{GRID}move/?id={desk.id}").text


def test_movements_of_today_are_those_of_the_branch_s_own_day(network: Any, web: Any) -> None:
    """23:30 in Moscow is 00:30 of the next day in Samara."""
    with clock.frozen(datetime(2026, 3, 10, 20, 30, tzinfo=UTC)):
        till = make_till(network.mira, money=77)
        make_till(network.lesnoy, name="Москва", money=55)
    with clock.frozen(datetime(2026, 3, 10, 21, 30, tzinfo=UTC)):
        browser = web(network.owner)
        assert "Денег никто не двигал" not in browser.get(f"{GRID}details/?id={till.id}").text
        other = db.session.scalars(select(Till).where(Till.name == "Москва")).one()
        assert "Сегодня денег никто не двигал" in browser.get(f"{GRID}details/?id={other.id}").text


def test_the_report_of_a_shift_is_printed(network: Any, web: Any) -> None:
    till = make_till(network.lesnoy, name="Стойка #1 *у входа*", money=500, uses_shifts=True)
    shift = make_shift(till)
    make_account(make_client(network.lesnoy, name="Анна Плательщик"), balance=1000)
    with transaction():
        close_shift(shift, counted=Decimal(1490), comment="Потеряли десятку", by=network.director)
    answer = web(network.director, network.lesnoy).get(f"{SHIFTS}report/{shift.id}/")
    assert (answer.status_code, answer.mimetype) == (200, "application/pdf")
    text = " ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(answer.data)).pages)
    text = text.replace("\xa0", " ")
    for part in ("Отчёт по смене", "Стойка #1 *у входа*", "1 490,00", "Потеряли десятку", "Анна Плательщик", "Сдал"):
        assert part in text, part


def test_who_counts_blind_prints_no_report(network: Any, web: Any) -> None:
    shift = make_shift(make_till(network.lesnoy, money=500, uses_shifts=True))
    hide_balance(network, Role.ADMINISTRATOR)
    assert web(network.administrator, network.lesnoy).get(f"{SHIFTS}report/{shift.id}/").status_code == 403
