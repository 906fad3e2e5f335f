"""Mailings end to end: a rule run by workers as a server runs them, from the moment it is rung for until the last
letter is noted as sent, beside a bare loop that builds and sends the same letters over one connection.
"""

from __future__ import annotations

import json
import os
import signal
import smtplib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from statistics import median
from typing import Any, cast

import flask_migrate
from aiosmtpd.controller import Controller
from flask import Flask
from jinja2 import Environment, FileSystemLoader
from redis import Redis
from rq import Worker
from sqlalchemy import func, select, update

from bench.contestants import Contestant, Outcome, Skill
from bench.databases import Place
from bench.duels import duel
from bench.report import duel_head, duel_line, plain_line, within
from bench.sizes import MAILING_SPEED, SECOND_WORKER
from crm import create_app
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.origin import acting
from crm.bills.models import Bill
from crm.config import read_settings
from crm.contacts.models import MessageKind
from crm.contacts.operations import contact_urls
from crm.db import db, transaction
from crm.mailings.models import MailingRule, MailingRun, Message, MessageStatus
from crm.mailings.runs import run_now
from crm.mailings.tags import bill_url, money
from crm.subscriptions.models import Subscription, SubscriptionStatus
from tests import servers
from tests.chaos.recipients import make_recipients
from tests.factories import make_network, make_rule, make_template

LETTERS = int(os.environ.get("BENCH_LETTERS") or 2000)  # of one turn
TURNS = int(os.environ.get("BENCH_TURNS") or 5)
SUBJECT = "Счёт на оплату"
BODY = """Здравствуйте, {name}!

Счёт на {amount} готов, его можно оплатить картой по ссылке:
{url}

Если вы уже оплатили занятия, не обращайте внимания на это письмо.
С уважением, администратор."""
REFUSE = "Больше не присылать такие письма"
FOOT = f"\n\n{REFUSE}: {{unsubscribe}}"
TAGS = {"{name}": "{customer.name}", "{amount}": "{bill.amount}", "{url}": "{bill.url}"}


def mailings(place: Place) -> Iterator[str]:
    """Lines of the report. Raises SystemExit where somebody sent other letters than he was asked for."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kontora-")))
        url = stack.enter_context(place.postgresql("kontora_bench_mailings"))
        redis_url = stack.enter_context(servers.valkey())
        port = servers.free_port()
        sink = stack.enter_context(Contestant(smtp_sink, port))
        sink.run("take")
        facts = {"DATABASE_URL": url, "REDIS_URL": redis_url, "DATA_DIR": str(home), "SECRET_KEY": "a secret"}
        facts |= {"SMTP_URL": f"smtp://127.0.0.1:{port}", "PUBLIC_URL": "https://kontora.test"}
        office = stack.enter_context(Contestant(mailing_office, facts))
        loop = stack.enter_context(Contestant(bare_loop, port))
        yield duel_head(f"PostgreSQL, {LETTERS:,} clients billed and written to")
        last: list[dict[str, str]] = []

        def ours(workers: int) -> Outcome:
            rule_id = int(office.run("prepare", LETTERS).content)
            sink.run("take")
            with _working(facts, home, workers):
                done = office.run("mail", rule_id)
            last[:] = json.loads(office.run("letters", rule_id).content)
            _compare(json.loads(sink.run("take").content), last)
            return done

        def theirs() -> Outcome:
            done = loop.run("send", last)
            _compare(json.loads(sink.run("take").content), last)
            return done

        ours(1)  # what the peer sends; both are warm then
        theirs()
        alone = duel(lambda: ours(1), theirs, turns=TURNS, is_warm=True)
        each = replace(alone, ours=alone.ours / LETTERS, theirs=alone.theirs / LETTERS)
        peer = "a bare loop: EmailMessage, smtplib"
        yield duel_line("one worker", peer, each, within("speed", alone.speed, at_least=MAILING_SPEED), unit="/s")
        ratios = []
        for _turn in range(TURNS):
            one = ours(1).seconds
            ratios.append((one / (two := ours(2).seconds), two))
        gain, seconds = median(ratio for ratio, _ in ratios), median(two for _, two in ratios)
        yield plain_line(
            "two workers",
            f"{LETTERS / seconds:.0f} /s",
            f"×{gain:.2f}",
            "one worker",
            within("gain", gain, at_least=SECOND_WORKER),
        )


def _compare(taken: list[dict[str, str]], asked: Sequence[Mapping[str, str]]) -> None:
    """Every recipient has one letter, with the text his bill asks for."""
    texts = {one["recipient"]: (BODY + FOOT).format(**one) for one in asked}
    if len(taken) != len(texts) or {one["recipient"]: one["text"] for one in taken} != texts:
        raise SystemExit(f"{len(taken)} letters of {len(texts)} arrived, or with another text")


@contextmanager
def _working(facts: dict[str, str], home: Path, count: int) -> Iterator[None]:
    """So many workers, each waiting for the queue."""
    command = [sys.executable, "-m", "flask", "--app", "app", "worker"]

    def are_waiting() -> bool:
        with Redis.from_url(facts["REDIS_URL"]) as connection:
            return Worker.count(connection=connection) == count

    with (home / "log").open("ab") as log:
        workers = [
            subprocess.Popen(command, cwd=servers.ROOT, env=os.environ | facts, stdout=log, stderr=log)
            for _ in range(count)
        ]
        try:
            servers.wait_until(are_waiting, seconds=60, what="the workers did not begin")
            yield
        finally:
            for worker in workers:
                servers.stop(worker, signal.SIGKILL)
            with Redis.from_url(facts["REDIS_URL"]) as connection:
                connection.flushall()  # who has ended is known to it for a minute yet


# --- the contestants --------------------------------------------------------------------------------------------------


def mailing_office(facts: dict[str, str]) -> Mapping[str, Skill]:
    """Kontora: prepare(count) new clients and a rule of theirs, whose id it gives; mail(rule) and wait until all are
    sent; letters(rule): what was to be written to whom.
    """
    app: Flask = create_app(read_settings(facts))
    written = 0
    with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "bench"):
        flask_migrate.upgrade()
        if db.session.scalar(select(Branch.id).limit(1)) is None:
            make_network()

    def within_app(do: Callable[..., bytes]) -> Skill:
        def done(*args: Any) -> bytes:
            with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "bench"):
                return do(*args)

        return done

    def prepare(count: int) -> bytes:
        nonlocal written
        with transaction():  # those of the turns before are not for this one
            db.session.execute(update(Subscription).values(status=SubscriptionStatus.ARCHIVED))
            db.session.execute(update(MailingRule).values(is_active=False))
        branch = db.session.scalars(select(Branch).order_by(Branch.id)).first()
        assert branch is not None
        make_recipients(branch, count, first=written)
        written += count
        body = BODY
        for ours, tag in TAGS.items():
            body = body.replace(ours, tag)
        rule = make_rule(branch, template=make_template(name=f"Замер {written}", subject=SUBJECT, body=body))
        return str(rule.id).encode()

    def mail(rule_id: int) -> bytes:
        with transaction():
            run_id = run_now(db.session.get_one(MailingRule, rule_id), by=SYSTEM).id
        waiting = select(func.count()).where(Message.run_id == run_id, Message.status == MessageStatus.SENT)
        while True:
            db.session.rollback()
            total = db.session.scalar(select(MailingRun.total).where(MailingRun.id == run_id))
            if total and db.session.scalar(waiting) == total:
                return b""
            time.sleep(0.3)

    def letters(rule_id: int) -> bytes:
        query = select(Message.recipient, Bill).join(Bill, Bill.id == Message.bill_id)
        query = query.join(MailingRun, MailingRun.id == Message.run_id).where(MailingRun.rule_id == rule_id)
        rows = db.session.execute(query.order_by(Message.id)).all()
        pages = contact_urls([bill.client for _recipient, bill in rows])
        found = [
            {
                "recipient": recipient,
                "name": bill.client.name,
                "amount": money(bill.amount),
                "url": bill_url(bill),
                "unsubscribe": f"{pages[bill.client_id]}/unsubscribe/{MessageKind.BILLS.value}",
            }
            for recipient, bill in rows
        ]
        return json.dumps(found).encode()

    return {"prepare": within_app(prepare), "mail": within_app(mail), "letters": within_app(letters)}


def bare_loop(port: int) -> Mapping[str, Skill]:
    """send(letters): each built by the standard library and handed over, one connection for all."""
    templates = Environment(loader=FileSystemLoader(servers.ROOT / "templates"), autoescape=True)
    templates.globals["_"] = {"Do not send me such letters": REFUSE}.__getitem__
    html = templates.get_template("mail/letter.html")

    def send(letters: Sequence[Mapping[str, str]]) -> bytes:
        with smtplib.SMTP("127.0.0.1", port) as smtp:
            for one in letters:
                text = BODY.format(**one)
                message = EmailMessage(policy=policy.SMTP)
                message["From"] = "Школа <school@demo.test>"
                message["To"] = f"{one['name']} <{one['recipient']}>"
                message["Subject"] = SUBJECT
                message["Date"] = formatdate()
                message["Message-ID"] = make_msgid(domain="demo.test")
                message["List-Unsubscribe"] = f"<{one['unsubscribe']}>"
                message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
                message.set_content(text + FOOT.format(**one))
                facts = {"sender": "Школа", "unsubscribe": one["unsubscribe"]}
                message.add_alternative(html.render(subject=SUBJECT, text=text, **facts), subtype="html")
                smtp.send_message(message)
        return b""

    return {"send": send}


class _Sink:
    """A real SMTP server that keeps letters as they came."""

    def __init__(self) -> None:
        self.letters: list[bytes] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.letters.append(envelope.content)
        return "250 OK"


def smtp_sink(port: int) -> Mapping[str, Skill]:
    """take(): the letters that came since the last time: recipient and text."""
    sink = _Sink()
    Controller(sink, hostname="127.0.0.1", port=port).start()

    def take() -> bytes:
        letters, sink.letters = sink.letters, []
        return json.dumps([_told(letter) for letter in letters]).encode()

    return {"take": take}


def _told(letter: bytes) -> dict[str, str]:
    message = cast(EmailMessage, message_from_bytes(letter, policy=policy.default))
    body = message.get_body(("plain",))
    assert body is not None
    text = "\n".join(str(body.get_content()).strip().splitlines())
    return {"recipient": message["To"].addresses[0].addr_spec, "text": text}
