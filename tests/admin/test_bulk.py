"""Bulk actions: choose, confirm, protocol. What bills answer is in tests/bills/test_in_the_panel.py."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.audit.models import AuditAction, AuditEntry
from crm.background.models import BackgroundJob, JobStatus
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import archive_bills
from crm.db import db, transaction
from crm.fields.models import FieldType
from crm.fields.operations import archive_field, edit_custom
from crm.jobs.tasks import perform
from tests.admin.test_grids import plain
from tests.admin.world import fields, row_counts
from tests.bills.test_archive import ALREADY, PAID, settle_at_desk
from tests.factories import make_bill, make_client
from tests.fields.test_fields import add

ACTION = "/admin/bill/action/"


def protocol(browser: Any, **chosen: Any) -> str:
    """Carry out a confirmed action and read its protocol."""
    answer = browser.post(ACTION, data={"action": "archive", "confirmed": "1", **chosen})
    assert answer.status_code == 302, answer.text
    assert answer.location.startswith("/admin/job/details/")
    return str(browser.get(answer.location).text)


def archived() -> int:
    return db.session.scalar(select(func.count()).select_from(Bill).where(Bill.status == BillStatus.ARCHIVED)) or 0


@pytest.mark.spec("B52", "B53", "B54")
def test_choosing_changes_nothing_and_warns(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    grid = browser.get("/admin/bill/").text
    assert "Править" in plain(grid)
    assert 'name="action" value="archive">Отправить в архив' in grid
    page = browser.post(ACTION, data={"action": "archive", "id": str(bill.id)})
    for text in ("Подтвердите действие", "1 запись", "Данное действие необратимо. Оплата по ссылке будет недоступна."):
        assert text in plain(page.text)
    assert archived() == 0


def test_a_row_that_fails_unexpectedly_stops_no_other(network: Any, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bills = [make_bill(make_client(network.lesnoy)) for _ in range(5)]
    bad = bills[3].id

    def archive(ids: list[int], *, by: Any) -> Any:
        if bad in ids:
            raise RuntimeError("on purpose")
        return archive_bills(ids, by=by)

    monkeypatch.setattr("crm.admin.bulk_jobs.BATCH", 2)
    monkeypatch.setattr("crm.admin.views.bills.archive_bills", archive)
    page = plain(protocol(web(network.administrator, network.lesnoy), all="1"))
    assert archived() == 4
    assert row_counts(done=4, failed=1) in page
    assert page.index(f"#{bad}") < page.index(bills[0].title), "errors first"
    assert "on purpose" not in page


def test_ticking_nothing_says_so(network: Any, web: Any) -> None:
    make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    answer = browser.post(ACTION, data={"action": "archive", "confirmed": "1"})
    assert answer.status_code == 302
    assert "Сначала отметьте строки." in browser.get(answer.location).text
    for ids in (["abc"], ["²"], ["-1"], ["9" * 30], ["0"]):
        assert browser.post(ACTION, data={"action": "archive", "confirmed": "1", "id": ids}).status_code == 302
    assert archived() == 0


@pytest.mark.spec("B57")
def test_a_confirmation_sent_twice_archives_once(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    form = fields(browser.post(ACTION, data={"action": "archive", "id": str(bill.id)}).text)
    first, second = browser.post(ACTION, data=form), browser.post(ACTION, data=form)
    assert first.location == second.location, "a double click starts one job"
    assert db.session.scalar(select(func.count()).select_from(BackgroundJob)) == 1
    assert row_counts(done=1) in plain(browser.get(first.location).text)
    assert "Статус: Уже в архиве" in plain(protocol(browser, id=str(bill.id)))
    moves = select(func.count()).where(AuditEntry.action == AuditAction.TRANSITION, AuditEntry.entity == "bill")
    assert db.session.scalar(moves) == 1


def test_a_selection_that_has_grown_since_is_confirmed_anew(network: Any, web: Any) -> None:
    """What cannot be undone is done to what the person was told of, and to nothing else."""
    client = make_client(network.lesnoy)
    make_bill(client, amount=Decimal(10))
    browser = web(network.administrator, network.lesnoy)
    form = fields(browser.post(ACTION, data={"action": "archive", "all": "1", "f.amount.to": "50"}).text)
    make_bill(client, amount=Decimal(20))
    make_bill(client, amount=Decimal(100))
    page = browser.post(ACTION, data=form)
    assert "2 записи" in plain(page.text)
    assert archived() == 0
    assert row_counts(done=2) in plain(protocol(browser, **fields(page.text)))
    assert archived() == 2


def test_foreign_rows_do_not_exist(network: Any, web: Any) -> None:
    own, foreign = make_bill(make_client(network.lesnoy)), make_bill(make_client(network.mira))
    browser = web(network.administrator)
    page = plain(protocol(browser, id=[str(own.id), str(foreign.id)]))
    assert row_counts(done=1) in page
    assert foreign.title not in page.replace(own.title, "")
    db.session.expire_all()
    assert (own.status, foreign.status) == (BillStatus.ARCHIVED, BillStatus.PENDING)


def test_a_role_that_may_not_sees_no_action_and_is_refused(network: Any, web: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.manager)
    grid = browser.get("/admin/bill/").text
    assert "Отправить в архив" not in grid
    assert "data-tick" not in grid
    for confirmed in ("", "1"):
        data = {"action": "archive", "id": str(bill.id), "confirmed": confirmed}
        assert browser.post(ACTION, data=data).status_code == 403
    assert browser.post("/admin/bill/archive/", data={"id": str(bill.id)}).status_code == 403
    assert archived() == 0


@pytest.mark.spec("B51")
def test_filters_of_all_that_match_survive_the_confirmation(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    small = [make_bill(client, amount=Decimal(10)) for _ in range(30)]
    big = make_bill(client, amount=Decimal(1000))
    browser = web(network.administrator, network.lesnoy)
    chosen = {"action": "archive", "all": "1", "f.amount.to": "50", "f.status.is": ["pending", "paid"], "size": "25"}
    page = browser.post(ACTION, data=chosen)
    assert "30 записей" in plain(page.text)
    text = protocol(browser, **fields(page.text) | {"f.status.is": ["pending", "paid"]})
    for bill in small:
        assert bill.title in text
    assert big.title not in text
    assert "Протокол выполненных операций" in plain(text)
    assert archived() == 30


def test_a_protocol_of_refusals_alone_is_not_headed_as_done(network: Any, web: Any) -> None:
    bills = [make_bill(make_client(network.lesnoy)) for _ in range(2)]
    settle_at_desk(bills[0])
    browser = web(network.administrator, network.lesnoy)
    page = protocol(browser, id=str(bills[0].id))
    assert '<span class="status is-failed">Ничего не выполнено</span>' in page
    assert "Ничего не выполнено" in browser.get("/admin/job/").text
    page = protocol(browser, id=[str(bill.id) for bill in bills])
    assert "Ничего не выполнено" not in page, "one of the two was archived"
    assert '<span class="status is-done">Выполнено</span>' in page


@pytest.mark.spec("B57", "B58")
def test_a_bill_in_the_archive_or_paid_is_an_error_beside_what_was_done(network: Any, web: Any) -> None:
    gone, paid, fine = (make_bill(make_client(network.lesnoy)) for _ in range(3))
    with transaction():
        archive_bills([gone.id], by=network.administrator)
    settle_at_desk(paid)
    page = plain(protocol(web(network.administrator, network.lesnoy), id=[str(one.id) for one in (fine, gone, paid)]))
    assert row_counts(done=1, failed=2) in page
    for reason in (ALREADY, PAID):
        assert f" — {reason}" in page


@pytest.mark.parametrize("wrong", [{"f.status.is": "typo"}, {"f.nothing.is": "1"}, {"any1.f.amount.from": "много"}])
def test_all_that_match_a_filter_nobody_can_read_are_no_rows(network: Any, web: Any, wrong: dict[str, str]) -> None:
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    answer = browser.post(ACTION, data={"action": "archive", "all": "1", "confirmed": "1", "count": "1", **wrong})
    assert "нельзя применить" in browser.get(answer.location).text
    assert archived() == 0
    answer = browser.get("/admin/bill/export/xlsx/", query_string=wrong)
    assert (answer.status_code, answer.mimetype) == (302, "text/html")
    answer = web(network.owner).get("/admin/exportschedule/new/", query_string={"of": "bill", **wrong})
    assert answer.status_code == 302
    protocol(browser, id=str(bill.id), **wrong)  # what is ticked, is meant
    assert archived() == 1


def test_a_filter_lost_while_the_job_waited_stops_it(network: Any, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crm.admin.bulk.AT_ONCE", 0)
    field = add(network.company, "Заметка", FieldType.TEXT, entity="bill")
    with transaction():
        edit_custom(make_bill(make_client(network.lesnoy)), {field.key: "VIP"}, by=network.owner)
    make_bill(make_client(network.lesnoy))
    filtered = {f"f.custom.{field.key}.has": "VIP", "all": "1", "confirmed": "1"}
    browser = web(network.administrator, network.lesnoy)
    assert browser.post(ACTION, data={"action": "archive", **filtered}).status_code == 302
    job_id = db.session.scalars(select(BackgroundJob.id)).one()
    with transaction():
        archive_field(field, by=network.owner)
        db.session.get_one(BackgroundJob, job_id).total = 2  # were it the number alone that is asked
    perform("background.run", job_id)
    assert archived() == 0
    assert db.session.get_one(BackgroundJob, job_id, populate_existing=True).status is JobStatus.FAILED
