"""Exports too large to be waited for: asked for once, made by a worker as a whole or not at all, for one alone."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule
from crm.access.roles import change_role
from crm.admin import exporting, exports
from crm.audit.models import AuditAction, AuditEntry
from crm.background.models import BackgroundJob, JobStatus
from crm.background.operations import cancel_job, file_of, files_folder
from crm.db import db, transaction
from crm.jobs.tasks import perform
from tests.admin.world import send
from tests.factories import make_bill, make_client

ADDRESS = "/admin/bill/export/xlsx/?sort=amount"


@pytest.fixture(autouse=True)
def few_rows_at_once(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for left in files_folder().iterdir():  # by another test
        left.unlink()
    monkeypatch.setattr(exporting, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(exports, "STEP", 2)


@pytest.fixture
def bills(network: Any) -> None:
    client = make_client(network.lesnoy, name="Анна")
    for amount in (30, 10, 20, 40, 50):
        make_bill(client, amount=Decimal(amount))


def started(client: Any, address: str = ADDRESS) -> BackgroundJob:
    answer = send(client, address)
    assert answer.status_code == 302
    job = db.session.scalars(select(BackgroundJob).order_by(BackgroundJob.id.desc())).first()
    assert job is not None
    assert answer.location == f"/admin/job/details/?id={job.id}"
    return job


def run(job: BackgroundJob) -> BackgroundJob:
    job_id = job.id
    db.session.commit()
    perform("background.run", job_id)
    return db.session.get_one(BackgroundJob, job_id, populate_existing=True)


def content(data: bytes) -> list[list[Any]]:
    return [list(row) for row in openpyxl.load_workbook(io.BytesIO(data)).active.values]


def leftovers() -> list[str]:
    return sorted(path.name for path in files_folder().glob("export-*"))


def test_who_follows_an_address_is_asked_and_nothing_begins(network: Any, web: Any, bills: None) -> None:
    page = web(network.owner).get(ADDRESS)
    assert page.status_code == 200
    assert "5 строк" in page.text
    assert db.session.scalar(select(func.count()).select_from(BackgroundJob)) == 0


def test_the_file_is_made_by_a_worker_as_the_grid_shows_it(network: Any, web: Any, bills: None) -> None:
    client = web(network.owner, network.lesnoy)
    at_once = content(client.get(f"{ADDRESS}&f.amount.from=30").data)
    job = run(started(client))
    assert (job.status, job.done, job.total, job.error) == (JobStatus.DONE, 5, 5, "")
    with client.get(f"/admin/job/file/{job.id}") as answer:
        assert answer.status_code == 200
        header, *rows, total = content(answer.data)
    assert header == at_once[0]
    place = header.index("Сумма")
    assert [row[place] for row in rows] == [10, 20, 30, 40, 50]
    assert (total[0], total[place]) == ("Итого", 150)
    assert leftovers() == [file_of(job).name]


def test_chosen_columns_stay_chosen(network: Any, web: Any, bills: None) -> None:
    client = web(network.owner)
    job = run(started(client, f"{ADDRESS}&columns=all"))
    assert "Тип расчета" in content(file_of(job).read_bytes())[0]
    job = run(started(client))
    assert "Тип расчета" not in content(file_of(job).read_bytes())[0]


def test_it_belongs_to_its_maker_and_obeys_his_rights_of_then(network: Any, web: Any, bills: None) -> None:
    for amount in range(5):
        make_bill(make_client(network.mira), amount=Decimal(amount + 1))
    job = run(started(web(network.director)))
    assert len(content(file_of(job).read_bytes())) == 7  # header, five of his branch, total
    assert web(network.owner).get(f"/admin/job/file/{job.id}").status_code == 404
    late = started(web(network.director))
    network.director.branches = []
    assert run(late).status is JobStatus.DONE
    assert len(content(file_of(late).read_bytes())) == 1


def test_that_personal_data_left_is_noted_once(network: Any, web: Any, bills: None) -> None:
    run(started(web(network.owner)))
    noted = db.session.scalars(select(AuditEntry).where(AuditEntry.action == AuditAction.EXPORT)).all()
    assert [(line.actor_id, line.entity, line.changes["rows"]) for line in noted] == [
        (network.owner.id, "bill", [None, 5])
    ]
    assert noted[0].origin.startswith("job:")


def test_a_form_sent_twice_makes_one_job(network: Any, web: Any, bills: None) -> None:
    client = web(network.owner)
    form = {"columns": "shown", "form_key": "a" * 32}
    first, second = (client.post(ADDRESS, data=form) for _ in range(2))
    assert first.location == second.location
    assert db.session.scalar(select(func.count()).select_from(BackgroundJob)) == 1


def test_cancelled_it_leaves_neither_file_nor_note(
    network: Any, web: Any, bills: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started(web(network.owner))
    job_id, step = job.id, exports.Progress.advance

    def press_cancel(self: Any, done: int, **facts: Any) -> None:
        step(self, done, **facts)
        cancel_job(db.session.get_one(BackgroundJob, job_id))

    monkeypatch.setattr(exports.Progress, "advance", press_cancel)
    job = run(job)
    assert (job.status, job.file) == (JobStatus.CANCELED, None)
    assert 0 < job.done < 5
    assert leftovers() == []
    assert not db.session.scalars(select(AuditEntry).where(AuditEntry.action == AuditAction.EXPORT)).all()


def test_what_a_killed_worker_left_is_swept_and_the_file_begun_anew(network: Any, web: Any, bills: None) -> None:
    job = started(web(network.owner))
    with transaction():
        job.done = 4
    (files_folder() / f"export-{job.id}-1.part").mkdir()
    (files_folder() / f"export-{job.id}-1.part" / "book.xlsx").write_bytes(b"torn")
    job = run(job)
    assert (job.status, job.done) == (JobStatus.DONE, 5)
    assert len(content(file_of(job).read_bytes())) == 7
    assert leftovers() == [file_of(job).name]


def test_a_field_hidden_meanwhile_does_not_leave(network: Any, web: Any, bills: None) -> None:
    job = started(web(network.owner))
    with transaction():
        job.params = {**job.params, "columns": ["title", "amount", "no_such_column"]}
    assert content(file_of(run(job)).read_bytes())[0] == ["Номер", "Сумма"]


def test_only_ticked_rows(network: Any, web: Any, bills: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from crm.bills.models import Bill

    ids = list(db.session.scalars(select(Bill.id).order_by(Bill.id)))
    client = web(network.owner)
    answer = client.post("/admin/bill/export/xlsx/", data={"rows": "ticked", "id": [str(ids[0]), str(ids[3])]})
    header, *rows, _total = content(answer.data)
    assert sorted(row[header.index("Сумма")] for row in rows) == [30, 40]
    nothing = client.post("/admin/bill/export/xlsx/", data={"rows": "ticked"})
    assert nothing.status_code == 302


@pytest.mark.parametrize("lost", ["a branch", "the export", "a column"])
def test_a_file_is_not_given_to_who_might_not_have_it_made_now(network: Any, web: Any, bills: None, lost: str) -> None:
    with transaction():
        network.administrator.branches = [network.lesnoy, network.mira]
    browser = web(network.administrator)
    job = run(started(browser))
    path = f"/admin/job/file/{job.id}"
    assert browser.get(path, buffered=True).status_code == 200
    settings = network.administrator.role_settings
    with transaction():
        if lost == "a branch":
            network.administrator.branches = [network.lesnoy]
        elif lost == "the export":
            change_role(settings, permissions={"bill.export": False}, fields={}, by=SYSTEM)
        else:
            change_role(settings, permissions={}, fields={"bill.amount": FieldRule.HIDE}, by=SYSTEM)
    assert browser.get(path).status_code == 403
    expected = 403 if lost == "a branch" else 200
    assert browser.get(f"/admin/job/details/?id={job.id}").status_code == expected
    assert browser.get(f"/admin/job/protocol/{job.id}.xlsx", buffered=True).status_code == expected
