"""The page of a run: how far it is, its lines by result, paused, gone on with, cancelled, sent once more."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import insert, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.mailings.models import (
    MailingRun,
    MailingRunLine,
    Message,
    MessageStatus,
    RunResult,
    RunStatus,
    message_bill,
)
from crm.mailings.progress import LineFate, fates_of, resend_lines
from tests.admin.test_grids import plain, table
from tests.factories import make_bill, make_client, make_message, make_rule


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.director, network.lesnoy)


def make_run(network: Any, status: RunStatus = RunStatus.RUNNING) -> MailingRun:
    rule = make_rule(network.lesnoy)
    with transaction():
        run = MailingRun(branch_id=network.lesnoy.id, rule_id=rule.id, planned_at=clock.now(), status=status)
        db.session.add(run)
    return run


def make_line(
    network: Any, run: MailingRun, result: RunResult = RunResult.ISSUED, *statuses: MessageStatus, **changes: Any
) -> MailingRunLine:
    """A line, and a message for each of `statuses`, in the order they were tried."""
    client = make_client(network.lesnoy, **changes)
    with transaction():
        line = MailingRunLine(run_id=run.id, client_id=client.id, result=result)
        db.session.add(line)
    for status in statuses:
        make_message(client, run_id=run.id, line_id=line.id, status=status)
    return line


def page_of(browser: Any, run: MailingRun, **query: Any) -> str:
    return str(browser.get("/admin/mailingrun/details/", query_string={"id": run.id, **query}).text)


def press(browser: Any, page: str, step: str) -> Any:
    form = re.search(rf'<form[^>]*action="/admin/mailingrun/{step}/".*?</form>', page, re.DOTALL)
    assert form is not None
    return browser.post(f"/admin/mailingrun/{step}/", data=dict(re.findall(r'name="(\w+)" value="([^"]*)"', form[0])))


def test_every_line_is_counted_by_what_has_become_of_it(network: Any, browser: Any) -> None:
    run, status = make_run(network), MessageStatus
    make_line(network, run, RunResult.WAITING)
    make_line(network, run, RunResult.SKIPPED)
    make_line(network, run, RunResult.FAILED)
    make_line(network, run, RunResult.ISSUED, status.PENDING)
    make_line(network, run, RunResult.ISSUED, status.SENDING)
    make_line(network, run, RunResult.ISSUED, status.UNKNOWN)
    make_line(network, run, RunResult.ISSUED, status.FAILED, status.DELIVERED)  # the second way got through
    make_line(network, run, RunResult.ISSUED, status.FAILED, status.FAILED)
    make_line(network, run, RunResult.ISSUED, status.SKIPPED)
    fates = LineFate
    assert fates_of(run) == {
        fates.WAITING: 1,
        fates.QUEUED: 2,
        fates.SENT: 1,
        fates.FAILED: 2,
        fates.UNKNOWN: 1,
        fates.SKIPPED: 2,
    }
    bar = re.search(r'<progress[^>]*max="(\d+)" value="(\d+)"', page_of(browser, run))
    assert bar is not None
    assert bar.groups() == ("9", "6")


def test_of_several_bills_the_worst_tells(network: Any, browser: Any) -> None:
    run = make_run(network)
    line = make_line(network, run)
    for status in (MessageStatus.SENT, MessageStatus.FAILED):
        bill = make_bill(line.client)
        make_message(line.client, run_id=run.id, line_id=line.id, bill_id=bill.id, status=status)
    assert fates_of(run)[LineFate.FAILED] == 1


def test_every_bill_a_line_was_told_of_stands_beside_it(network: Any, browser: Any) -> None:
    run = make_run(network)
    line = make_line(network, run)
    bills = [make_bill(line.client) for _number in range(3)]
    message = make_message(line.client, run_id=run.id, line_id=line.id, bill_id=bills[0].id)
    with transaction():
        told = [{"message_id": message.id, "bill_id": bill.id} for bill in bills[1:]]
        db.session.execute(insert(message_bill), told)
    links = re.findall(r'href="/admin/bill/details/\?id=(\d+)"', page_of(browser, run))
    assert links == [str(bill.id) for bill in bills]


def test_lines_are_asked_for_by_result_and_page(network: Any, browser: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("crm.admin.views.runs.PAGE", 2)
    run = make_run(network)
    for name in ("Первый", "Второй", "Третий"):
        make_line(network, run, RunResult.SKIPPED, name=name)
    make_line(network, run, RunResult.ISSUED, MessageStatus.SENT, name="Дошло")
    lines = " ".join(map(str, table(page_of(browser, run, fate="skipped"))))
    assert ("Первый" in lines, "Второй" in lines, "Третий" in lines, "Дошло" in lines) == (True, True, False, False)
    lines = " ".join(map(str, table(page_of(browser, run, fate="skipped", page=2))))
    assert ("Первый" in lines, "Третий" in lines) == (False, True)


def test_a_run_is_paused_gone_on_with_and_cancelled(network: Any, browser: Any) -> None:
    run = make_run(network)
    make_line(network, run, RunResult.WAITING)
    for step, status in (("pause", RunStatus.PAUSED), ("resume", RunStatus.RUNNING)):
        assert press(browser, page_of(browser, run), step).status_code == 302
        db.session.expire_all()
        assert run.status is status
    path = f"/admin/mailingrun/cancel/?id={run.id}"
    page = browser.get(path).text
    assert "1 ожидающий клиент ничего не получит" in plain(page)
    key = re.search(r'name="form_key" value="(\w+)"', page)
    assert key is not None
    assert browser.post(path, data={"form_key": key[1]}).status_code == 302
    db.session.expire_all()
    assert run.status is RunStatus.CANCELLED
    page = page_of(browser, run)
    assert "/admin/mailingrun/pause/" not in page
    assert "/admin/mailingrun/cancel/" not in page


def test_what_failed_goes_out_once_more_when_somebody_presses(network: Any, browser: Any) -> None:
    run = make_run(network, RunStatus.DONE)
    failed = make_line(network, run, RunResult.ISSUED, MessageStatus.FAILED, MessageStatus.FAILED)
    sent = make_line(network, run, RunResult.ISSUED, MessageStatus.FAILED, MessageStatus.SENT)
    unknown = make_line(network, run, RunResult.ISSUED, MessageStatus.UNKNOWN)
    page = page_of(browser, run)
    form = re.search(r'<form[^>]*action="/admin/mailingrun/again/".*?</form>', page, re.DOTALL)
    assert form is not None
    ids = re.findall(r'name="line" value="(\d+)"', form[0])
    assert ids == [str(failed.id), str(unknown.id)]
    key = re.search(r'name="form_key" value="(\w+)"', form[0])
    assert key is not None
    answer = browser.post("/admin/mailingrun/again/", data={"id": run.id, "line": ids, "form_key": key[1]})
    assert answer.status_code == 302
    db.session.expire_all()
    statuses = select(Message.line_id, Message.status).where(Message.run_id == run.id).order_by(Message.id)
    assert db.session.execute(statuses).all() == [
        (failed.id, MessageStatus.FAILED),
        (failed.id, MessageStatus.PENDING),  # the way tried last, alone
        (sent.id, MessageStatus.FAILED),
        (sent.id, MessageStatus.SENT),
        (unknown.id, MessageStatus.PENDING),
    ]
    with transaction():
        assert resend_lines(run, [sent.id, failed.id], by=SYSTEM) == 0


def test_a_line_of_another_run_is_not_sent_again(network: Any, browser: Any) -> None:
    run, other = make_run(network, RunStatus.DONE), make_run(network, RunStatus.DONE)
    line = make_line(network, other, RunResult.ISSUED, MessageStatus.FAILED)
    with transaction():
        assert resend_lines(run, [line.id], by=SYSTEM) == 0


def test_who_only_looks_has_no_buttons(network: Any, web: Any) -> None:
    run = make_run(network)
    make_line(network, run, RunResult.ISSUED, MessageStatus.FAILED)
    page = page_of(web(network.administrator, network.lesnoy), run)
    assert "/admin/mailingrun/pause/" not in page
