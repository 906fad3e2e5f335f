"""Bulk edit: choose fields, see what would change, confirm, protocol with old and new; and its undo."""

from __future__ import annotations

import io
from datetime import date
from typing import Any

import pytest
from flask_babel import force_locale, gettext
from openpyxl import load_workbook
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.admin.columns import ColumnsView
from crm.background.models import BackgroundJob, JobStatus
from crm.bills.models import Bill
from crm.bills.operations import archive_bill
from crm.clients.models import Client
from crm.db import db, transaction
from crm.jobs.queues import LONG_QUEUE, queue
from crm.jobs.tasks import perform
from crm.protocol import Outcome
from tests.admin.test_grids import plain
from tests.admin.world import fields, row_counts
from tests.factories import make_bill, make_client

BILLS, CLIENTS = "/admin/bill/action/", "/admin/client/action/"
EDIT = {"action": "edit", "filled": "1"}


def term(day: str) -> dict[str, Any]:
    return {"set.change": ["payable_until"], "set.payable_until": day}


def go(browser: Any, path: str = BILLS, **sent: Any) -> Any:
    """Confirm the preview of what was sent; the job's page."""
    preview = browser.post(path, data={**EDIT, **sent})
    assert preview.status_code == 200, plain(preview.text)
    answer = browser.post(path, data=fields(preview.text) | {k: v for k, v in sent.items() if isinstance(v, list)})
    assert answer.status_code == 302, plain(answer.text)
    return browser.get(answer.location)


def job() -> BackgroundJob:
    return db.session.scalars(select(BackgroundJob).order_by(BackgroundJob.id.desc())).first()  # type: ignore[return-value]


def test_the_form_offers_the_fields_of_the_entity(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    assert 'name="action" value="edit">Изменить поля' in browser.get("/admin/bill/").text
    page = browser.post(BILLS, data={"action": "edit", "id": str(bill.id)}).text
    for part in ('name="set.payable_until"', 'name="set.is_repeatable"', 'value="payable_until"', "1 запись"):
        assert part in page
    assert "set.amount" not in page


def test_the_preview_tells_what_changes_what_stays_and_what_is_refused(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    for until in (date(2030, 1, 1), date(2030, 5, 5), None):
        make_bill(client, payable_until=until)
    with transaction():
        archive_bill(make_bill(client), by=SYSTEM)
    browser = web(network.administrator, network.lesnoy)
    before = db.session.scalars(select(Bill.payable_until)).all()
    page = plain(browser.post(BILLS, data={**EDIT, "all": "1", **term("2030-05-05")}).text)
    assert "Будет изменено: 2" in page
    with force_locale("ru"):
        assert f"{Outcome.SKIPPED.label}: 1 — {gettext('It is so already.')}" in page
    assert "Будет отказано: 1 — Изменить можно только счет, ожидающий оплаты." in page
    assert "05.05.2030" in page
    assert db.session.scalars(select(Bill.payable_until)).all() == before


def test_what_there_was_nothing_to_do_with_is_no_error(network: Any, web: Any) -> None:
    same, other = (make_bill(make_client(network.lesnoy), payable_until=date(2030, 5, day)) for day in (5, 6))
    browser = web(network.administrator, network.lesnoy)
    page = go(browser, id=[str(same.id), str(other.id)], **term("2030-05-05")).text
    assert row_counts(done=1, skipped=1) in plain(page)
    page = go(browser, id=[str(same.id), str(other.id)], **term("2030-05-05")).text
    assert row_counts(skipped=2) in plain(page)
    assert (job().done, job().skipped, job().failed) == (2, 2, 0)
    assert "is-failed" not in page
    assert "is-done" not in page


def test_the_protocol_tells_old_and_new_on_the_page_and_in_excel(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy), payable_until=date(2030, 1, 1))
    browser = web(network.administrator, network.lesnoy)
    page = go(browser, id=[str(bill.id)], **term("2030-05-05"))
    assert "01.01.2030 → 05.05.2030" in plain(page.text)
    assert bill.payable_until == date(2030, 5, 5)
    file = browser.get(f"/admin/job/protocol/{job().id}.xlsx")
    assert "01.01.2030 → 05.05.2030" in list(load_workbook(io.BytesIO(file.data)).active.values)[1][3]


def test_a_ticked_field_left_empty_is_emptied_an_unticked_one_is_left_alone(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, comment="Старый", birth_date=date(2000, 1, 1))
    browser = web(network.administrator, network.lesnoy)
    go(
        browser,
        CLIENTS,
        id=[str(client.id)],
        **{"set.change": ["birth_date"], "set.birth_date": "", "set.comment": "x"},
    )
    assert (client.birth_date, client.comment) == (None, "Старый")


def test_yes_and_no_are_chosen_and_both_can_be_set(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    for choice, is_repeatable in (("1", True), ("0", False)):
        go(browser, id=[str(bill.id)], **{"set.change": ["is_repeatable"], "set.is_repeatable": choice})
        db.session.expire_all()
        assert bill.is_repeatable is is_repeatable


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({}, "Отметьте поля, которые нужно изменить."),
        (term("31.02.2030"), "Not a valid date value."),
        ({"set.change": ["amount"], "set.amount": "1"}, "Одно из этих полей изменить нельзя."),
        ({"set.change": ["is_repeatable"], "set.is_repeatable": "7"}, ""),
    ],
)
def test_a_mistake_is_told_and_nothing_begins(network: Any, web: Any, sent: Any, said: str) -> None:
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    answer = browser.post(BILLS, data={**EDIT, "id": str(bill.id), "confirmed": "1", **sent})
    assert answer.status_code == 422
    assert said in plain(answer.text) or "is-invalid" in answer.text
    assert db.session.scalar(select(func.count()).select_from(BackgroundJob)) == 0


def test_a_frozen_field_is_not_offered_and_refused(network: Any, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(network.lesnoy, comment="Старый")
    monkeypatch.setattr(ColumnsView, "is_frozen", lambda _view, name: name == "comment")
    browser = web(network.administrator, network.lesnoy)
    assert "set.comment" not in browser.post(CLIENTS, data={"action": "edit", "id": str(client.id)}).text
    sent = {**EDIT, "id": str(client.id), "confirmed": "1", "set.change": "comment", "set.comment": "Новый"}
    assert browser.post(CLIENTS, data=sent).status_code == 422
    assert client.comment == "Старый"


def test_who_may_not_edit_is_refused(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    for user in (network.manager, network.instructor):
        answer = web(user).post(BILLS, data={**EDIT, "id": str(bill.id), "confirmed": "1", **term("2030-05-05")})
        assert answer.status_code == 403
    assert db.session.scalar(select(func.count()).select_from(BackgroundJob)) == 0


# --- many rows ------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(network: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seven bills, which are many here."""
    monkeypatch.setattr("crm.admin.bulk.AT_ONCE", 5)
    monkeypatch.setattr("crm.admin.bulk_jobs.BATCH", 2)
    client = make_client(network.lesnoy)
    return [make_bill(client).id for _ in range(7)]


def start(browser: Any) -> int:
    preview = browser.post(BILLS, data={"action": "archive", "all": "1"})
    answer = browser.post(BILLS, data=fields(preview.text))
    assert answer.status_code == 302
    found: int = job().id
    db.session.commit()
    return found


def states() -> list[str]:
    db.session.expire_all()
    found = [status.value for status in db.session.scalars(select(Bill.status).order_by(Bill.id))]
    db.session.commit()
    return found


@pytest.mark.spec("B51", "B56")
def test_many_rows_wait_for_the_worker_and_land_on_the_same_page(network: Any, web: Any, many: list[int]) -> None:
    browser = web(network.administrator, network.lesnoy)
    job_id = start(browser)
    assert states() == ["pending"] * 7
    assert queue(LONG_QUEUE).count == 1
    page = browser.get(f"/admin/job/details/?id={job_id}").text
    assert "<progress" in page
    db.session.commit()
    perform("background.run", job_id)
    assert states() == ["archived"] * 7
    assert row_counts(done=7) in plain(browser.get(f"/admin/job/details/?id={job_id}").text)


def test_bills_issued_while_the_job_waited_are_left_alone(network: Any, web: Any, many: list[int]) -> None:
    """What cannot be undone is done to what was confirmed."""
    job_id = start(web(network.administrator, network.lesnoy))
    make_bill(make_client(network.lesnoy))
    db.session.commit()
    perform("background.run", job_id)
    assert states() == ["archived"] * 7 + ["pending"]


def test_rights_lost_while_the_job_waited_stop_it(network: Any, web: Any, many: list[int]) -> None:
    job_id = start(web(network.administrator, network.lesnoy))
    with transaction():
        network.administrator.role = network.manager.role
    perform("background.run", job_id)
    assert states() == ["pending"] * 7
    assert job().status is JobStatus.FAILED


# --- undo -----------------------------------------------------------------------------------------------------------


def undo(browser: Any, job_id: int) -> Any:
    answer = browser.post("/admin/job/undo/", data={"id": str(job_id), "form_key": "a" * 32})
    return browser.get(answer.location) if answer.status_code == 302 else answer


def test_a_bulk_edit_is_undone_from_its_protocol_once(network: Any, web: Any) -> None:
    clients = [make_client(network.lesnoy, comment=f"Был {n}") for n in range(3)]
    browser = web(network.administrator, network.lesnoy)
    chosen = {"set.change": ["comment"], "set.comment": "Стал"}
    page = go(browser, CLIENTS, id=[str(client.id) for client in clients], **chosen)
    assert {client.comment for client in clients} == {"Стал"}
    assert "Вернуть прежние значения" in plain(page.text)
    edited = job().id
    with transaction():
        db.session.get_one(Client, clients[2].id).comment = "Уже другой"
    undone = undo(browser, edited)
    assert row_counts(done=2, failed=1) in plain(undone.text)
    assert "С тех пор значение изменилось" in plain(undone.text)
    db.session.expire_all()
    assert [client.comment for client in clients] == ["Был 0", "Был 1", "Уже другой"]
    assert undo(browser, edited).request.path == undone.request.path, "a double click undoes once"
    again = browser.post("/admin/job/undo/", data={"id": str(edited)})
    assert again.status_code == 403
    assert "Вернуть прежние значения" not in plain(browser.get(f"/admin/job/details/?id={edited}").text)


@pytest.mark.spec("B54")
def test_what_cannot_be_undone_offers_no_undo(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    answer = browser.post(BILLS, data={"action": "archive", "id": str(bill.id), "confirmed": "1"})
    assert "Вернуть прежние значения" not in plain(browser.get(answer.location).text)
    assert undo(browser, job().id).status_code == 403
    assert states() == ["archived"]


def test_another_persons_edit_is_not_undone(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    go(web(network.administrator, network.lesnoy), id=[str(bill.id)], **term("2030-05-05"))
    assert undo(web(network.owner), job().id).status_code == 404
    assert bill.payable_until == date(2030, 5, 5)
