"""A dry run tells what the run would do, and keeps no more than is asked for."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.errors import DomainError
from crm.mailings import preview
from crm.mailings.models import MailingKind, MailingRunLine, Message, RunResult
from crm.mailings.preview import PreviewLine, dry_run, dry_run_of_selection
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.mailings.selection import BATCH, SelectionFacts, WrittenWay, mail_selection
from tests.factories import make_bill, make_child, make_client, make_rule, make_subscription, make_template

NOON = datetime(2027, 3, 10, 9, tzinfo=UTC)
FACTS = SelectionFacts("Новость", [WrittenWay(Channel.EMAIL, None, "Тема", "Привет, {customer.name}")])


@pytest.fixture(autouse=True)
def _march() -> Iterator[None]:
    with clock.frozen(NOON):
        yield


def make_many(branch: Any, number: int) -> None:
    """Clients written by one statement; each third has no e-mail address."""
    kept = make_client(branch)
    table: Any = Client.__table__
    facts = {column.name: getattr(kept, column.key) for column in table.columns if column.name not in {"id", "email"}}
    rows = [
        facts
        | {"name": f"Клиент {place}", "phone": f"+7900{place:07}"}
        | {"email": f"a{place}@demo.test" if place % 3 else None}
        for place in range(1, number)
    ]
    with transaction():
        kept.email = None
        db.session.execute(insert(table), rows)


def selected() -> Any:
    return select(Client.id)


def told(line: PreviewLine) -> tuple[str, Decimal | None, bool]:
    return line.client.name, line.amount, not line.reason


def test_a_run_does_what_was_told(network: Any) -> None:
    payer, silent, billed = (make_client(network.lesnoy, name=name, email="a@demo.test") for name in ("А", "Б", "В"))
    for client in (payer, silent, billed):
        make_subscription(client, starts_on=date(2027, 3, 1))
    make_bill(billed, amount=Decimal(10))
    with transaction():
        silent.email = None
    rule = make_rule(network.lesnoy)
    lines = list(dry_run(rule, by=SYSTEM).lines())
    assert [told(line) for line in lines] == [("А", Decimal(4000), True), ("Б", None, False), ("В", None, False)]
    counts = dry_run(rule, by=SYSTEM).counts()
    assert (counts.total, counts.due, counts.skipped, counts.bills, counts.amount) == (3, 1, 2, 1, Decimal(4000))
    assert db.session.scalar(select(func.count()).select_from(Message)) == 0
    with transaction():
        run = run_now(rule, by=SYSTEM)
    assert execute_run(run.id, by=SYSTEM)
    db.session.expire_all()
    done = db.session.execute(
        select(MailingRunLine.result, MailingRunLine.reason, Bill.amount)
        .outerjoin(Message, Message.line_id == MailingRunLine.id)
        .outerjoin(Bill, Bill.id == Message.bill_id)
        .where(MailingRunLine.run_id == run.id)
        .order_by(MailingRunLine.client_id)
    ).all()
    assert [(result is RunResult.ISSUED, reason, amount) for result, reason, amount in done] == [
        (not line.reason, line.reason, line.amount) for line in lines
    ]


def test_pages_follow_one_another(network: Any) -> None:
    make_many(network.lesnoy, 25)
    run, after, seen = dry_run_of_selection(FACTS, selected(), by=SYSTEM), 0, list[int]()
    for expected in (10, 10, 5):
        page = run.page(10, after=after)
        assert len(page.lines) == expected
        seen += [line.client.id for line in page.lines]
        after = page.after or 0
    assert after == 0
    assert seen == sorted(set(seen))
    assert len(seen) == 25
    reached = run.page(10, who="yes")
    assert [bool(line.reason) for line in reached.lines] == [False] * 10
    rest = run.page(10, who="yes", after=reached.after or 0)
    assert (len(rest.lines), rest.after) == (6, None)
    assert len(run.page(10, who="no").lines) == 9


def test_of_more_than_it_looks_at_the_first_are_counted(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "BATCH", 10)
    monkeypatch.setattr(preview, "LOOKED_AT", 20)
    make_many(network.lesnoy, 45)
    run = dry_run_of_selection(FACTS, selected(), by=SYSTEM)
    counts = run.counts(20)
    assert (counts.total, counts.looked_at, counts.due + counts.skipped, counts.is_whole) == (45, 20, 20, False)
    whole = run.counts(None)
    assert (whole.total, whole.due, whole.skipped, whole.is_whole) == (45, 30, 15, True)
    # Where nobody fits, a page ends all the same, and says where to go on.
    with transaction():
        for client in db.session.scalars(select(Client).where(Client.email.is_not(None))):
            client.email = None
    page = run.page(10, who="yes")
    assert (page.lines, page.after) == ([], sorted(db.session.scalars(selected()))[19])


def test_a_batch_is_let_go_before_the_next(network: Any) -> None:
    """In as many statements a batch, and no more rows in memory than two batches, however many there are."""
    make_many(network.lesnoy, 400)
    run = dry_run_of_selection(FACTS, selected(), by=SYSTEM)
    db.session.commit()
    statements, kept, told_of = list[int](), list[int](), 0
    count = 0

    def note(*_args: Any) -> None:
        nonlocal count
        count += 1

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        for batch in run.batches(50):
            told_of += len(batch)
            del batch
            gc.collect()
            statements.append(count)
            kept.append(sum(isinstance(row, Client) for row in db.session))
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    assert told_of == 400
    assert len({after - before for before, after in pairwise(statements[1:])}) == 1
    assert max(kept) <= 100, kept


def test_lines_of_a_selection_are_written_in_batches(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crm.mailings.selection.BATCH", 20)
    make_many(network.lesnoy, 45)
    with transaction():
        [run] = mail_selection(FACTS, selected(), by=SYSTEM)
    lines = select(MailingRunLine.client_id).where(MailingRunLine.run_id == run.id).order_by(MailingRunLine.id)
    assert list(db.session.scalars(lines)) == sorted(db.session.scalars(selected()))
    assert (run.total, BATCH) == (45, 10_000)


def test_too_many_are_a_matter_of_a_rule(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crm.mailings.selection.MOST", 3)
    make_many(network.lesnoy, 4)
    with pytest.raises(DomainError) as refused, transaction():
        mail_selection(FACTS, selected(), by=SYSTEM)
    assert refused.value.code == "too_many"
    assert db.session.scalar(select(func.count()).select_from(MailingRunLine)) == 0


def test_a_child_without_an_address_is_reached_by_his_payer(network: Any) -> None:
    payer = make_client(network.lesnoy, email="mother@demo.test")
    child = make_child(payer, name="Дочь")
    with transaction():
        child.email = None
    run = dry_run_of_selection(FACTS, select(Client.id).where(Client.id == child.id), by=SYSTEM)
    [line] = run.lines()
    assert (line.client.name, line.recipient, line.reason) == ("Дочь", "mother@demo.test", "")
    sample = run.sample([line])
    assert sample is not None
    assert (sample.subject, sample.body) == ("Тема", "Привет, Дочь")


def test_a_rule_of_any_message_is_looked_at_too(network: Any) -> None:
    make_client(network.lesnoy, name="Анна", email="anna@demo.test")
    template = make_template(subject="Тема", body="Привет, {customer.name}")
    rule = make_rule(network.lesnoy, kind=MailingKind.TEXT, template=template)
    run = dry_run(rule, by=SYSTEM)
    [line] = run.lines()
    sample = run.sample([line])
    assert sample is not None
    assert sample.body == "Привет, Анна"
