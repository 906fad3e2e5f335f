"""The pages of one's own jobs: nobody else's exist; the bar, the protocol, the file and its end."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import pytest
from flask_babel import force_locale
from openpyxl import load_workbook

from crm import clock
from crm.access.actors import Actor
from crm.background.models import BackgroundJob, JobLine, JobStatus
from crm.background.operations import KEPT, file_of
from crm.db import db, transaction
from crm.protocol import Outcome
from tests.admin.test_grids import plain
from tests.admin.world import row_counts
from tests.factories import make_job


def finished(by: Actor, *, lines: int = 0, skipped: int = 0, failed: int = 0, **facts: Any) -> BackgroundJob:
    """A job that is over, with `lines` lines of which the last `failed` have an error, and of the others the last
    `skipped` nothing to do.
    """
    job = make_job(by, **{"entity": "bill", **facts})  # type: ignore[arg-type]
    with transaction():
        job.status, job.done, job.skipped, job.failed, job.total = JobStatus.DONE, lines, skipped, failed, lines
        job.finished_at, job.expires_at = clock.now(), clock.now() + KEPT
        for number in range(1, lines + 1):
            facts = {"changes": {"payable_until": ["2027-01-31", "2027-02-28"]}}
            if number > lines - failed:
                facts = {"outcome": Outcome.FAILED, "reason": "Не вышло"}
            elif number > lines - failed - skipped:
                facts = {"outcome": Outcome.SKIPPED, "reason": "Уже так"}
            db.session.add(JobLine(job_id=job.id, row_id=number, label=f"Счёт-{number:04}", **facts))
    return job


def with_file(job: BackgroundJob) -> BackgroundJob:
    with transaction():
        job.file, job.file_name = f"{job.id}.xlsx", "Счета за январь.xlsx"
    file_of(job).write_bytes(b"the file")
    return job


def paths(job: BackgroundJob) -> list[str]:
    return [f"/admin/job/{rest}" for rest in (f"details/?id={job.id}", f"status/{job.id}", f"file/{job.id}")] + [
        f"/admin/job/protocol/{job.id}.xlsx"
    ]


def test_everyone_has_a_list_of_his_own_jobs(network: Any, web: Any) -> None:
    for user in network.users:
        make_job(user, title=f"Задание: {user.name}")
    for user in network.users:
        page = web(user).get("/admin/job/").text
        assert [other.name for other in network.users if f"Задание: {other.name}<" in page] == [user.name]


def test_another_persons_job_does_not_exist_even_for_the_owner(network: Any, web: Any) -> None:
    job = with_file(finished(network.director, lines=1))
    own = web(network.director)
    assert {own.get(path, buffered=True).status_code for path in paths(job)} == {200}
    for stranger in (network.owner, network.administrator):
        browser = web(stranger)
        assert {browser.get(path).status_code for path in paths(job)} == {404}
        assert browser.post("/admin/job/cancel/", data={"id": str(job.id)}).status_code == 404


def test_who_may_no_longer_see_the_rows_sees_no_protocol_of_them(network: Any, web: Any) -> None:
    job = with_file(finished(network.administrator, lines=1))
    network.administrator.role = network.instructor.role
    assert {web(network.administrator).get(path).status_code for path in paths(job)} == {403}


def test_who_has_lost_the_branch_has_lost_its_jobs(network: Any, web: Any) -> None:
    job = with_file(finished(network.administrator, lines=1, branch_id=network.lesnoy.id))
    network.administrator.branches = [network.mira]
    assert {web(network.administrator).get(path).status_code for path in paths(job)} == {403}


def test_a_running_job_shows_its_bar_and_says_how_far_it_is(network: Any, web: Any) -> None:
    job = make_job(network.director, total=400)
    with transaction():
        job.status, job.done = JobStatus.RUNNING, 100
    browser = web(network.director)
    page = browser.get(f"/admin/job/details/?id={job.id}").text
    assert 'max="400" value="100"' in page
    assert "Обработано: 100 из 400" in plain(page)
    said = browser.get(f"/admin/job/status/{job.id}").json
    assert (said["done"], said["total"], said["is_over"]) == (100, 400, False)
    assert "Обновить" in plain(page), "without a script there is a link"


def test_a_job_is_stopped_by_its_button(network: Any, web: Any) -> None:
    job = make_job(network.director)
    browser = web(network.director)
    answer = browser.post("/admin/job/cancel/", data={"id": str(job.id)})
    assert answer.location == f"/admin/job/details/?id={job.id}"
    assert "Отменено" in plain(browser.get(answer.location).text)


@pytest.mark.spec("B56", "B59")
def test_errors_stand_first_and_the_rest_on_further_pages(network: Any, web: Any) -> None:
    job = finished(network.director, lines=230, skipped=2, failed=3)
    browser = web(network.director)
    page = browser.get(f"/admin/job/details/?id={job.id}").text
    assert "Протокол выполненных операций" in plain(page)
    assert row_counts(done=225, skipped=2, failed=3) in plain(page)
    assert page.index("Счёт-0228") < page.index("Счёт-0226") < page.index("Счёт-0001")
    assert "Счёт-0096" not in page
    assert "31.01.2027 → 28.02.2027" in plain(page)
    last = browser.get(f"/admin/job/details/?id={job.id}&page=3").text
    assert "Счёт-0225" in last
    of_outcome = {"done": (1,), "skipped": (226, 227), "failed": (228, 229, 230)}
    for outcome, numbers in of_outcome.items():
        assert f"details/?id={job.id}&amp;outcome={outcome}" in page
        only = browser.get(f"/admin/job/details/?id={job.id}&outcome={outcome}").text
        shown = [n for n in (1, 226, 227, 228, 229, 230) if f"Счёт-{n:04}" in only]
        assert shown == list(numbers), outcome
    next_page = browser.get(f"/admin/job/details/?id={job.id}&outcome=done&page=2").text
    assert f"details/?id={job.id}&amp;page=3&amp;outcome=done" in next_page
    assert browser.get(f"/admin/job/details/?id={job.id}&outcome=odd").status_code == 200
    for odd in ("-1", "0", "999999", "9" * 30, "%00", "x"):
        assert browser.get(f"/admin/job/details/?id={job.id}&page={odd}").status_code == 200


def test_the_protocol_as_excel_has_every_line(network: Any, web: Any) -> None:
    job = finished(network.director, lines=120, skipped=1, failed=1)
    answer = web(network.director).get(f"/admin/job/protocol/{job.id}.xlsx")
    rows = list(load_workbook(io.BytesIO(answer.data)).active.values)
    with force_locale("ru"):
        done, skipped, failed = (str(outcome.label) for outcome in Outcome)
    assert (*rows[0][:2], rows[0][3]) == ("Запись", "Результат", "Изменения")
    assert rows[1] == ("Счёт-0120", failed, "Не вышло", None)
    assert rows[2] == ("Счёт-0119", skipped, "Уже так", None)
    assert rows[3][:3] == ("Счёт-0001", done, None)
    assert rows[3][3].endswith("31.01.2027 → 28.02.2027")
    assert len(rows) == 121


def test_the_file_is_its_makers_until_it_expires(network: Any, web: Any) -> None:
    job = with_file(finished(network.director))
    browser = web(network.director)
    answer = browser.get(f"/admin/job/file/{job.id}", buffered=True)
    assert answer.data == b"the file"
    assert "filename*=UTF-8''" in answer.headers["Content-Disposition"]
    assert "Скачать Счета за январь.xlsx" in plain(browser.get(f"/admin/job/details/?id={job.id}").text)
    with clock.frozen(clock.now() + KEPT + timedelta(hours=1)):
        assert browser.get(f"/admin/job/file/{job.id}").status_code == 410
        assert "Скачать Счета" not in plain(browser.get(f"/admin/job/details/?id={job.id}").text)


def test_a_job_without_a_file_has_none(network: Any, web: Any) -> None:
    job = finished(network.director)
    assert web(network.director).get(f"/admin/job/file/{job.id}").status_code == 404
