"""The demo's post office, from the SMTP conversation to the page."""

from __future__ import annotations

import dataclasses

import pytest

from crm import create_app, mail_sink, supervisor
from crm.db import transaction
from crm.i18n import moment
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import MessageStatus
from tests.factories import make_client, make_message


@pytest.fixture
def post(app, tmp_path):
    """The app of a demo whose letters go to a sink of its own."""
    with supervisor.mail_sink(tmp_path / "mail") as url:
        settings = dataclasses.replace(app.config["SETTINGS"], smtp_url=url, data_dir=tmp_path, is_demo=True)
        yield create_app(settings)


@pytest.mark.spec("B103")
def test_letters_are_listed_newest_first_and_shown_with_their_links(app, network, post, monkeypatch):
    monkeypatch.setitem(app.config, "SETTINGS", post.config["SETTINGS"])
    client = make_client(network.lesnoy, name="Ягодкина Ксения Викторовна", email="anna@demo.test")
    make_message(client, subject="Первое")
    last = make_message(
        client, subject="Счёт <b>1</b>", body="Оплатить: https://kontora.test/pay/abc <script>alert(1)</script>"
    )
    deliver_batch()
    assert last.status is MessageStatus.SENT
    visitor = post.test_client()
    listing = visitor.get("/demo-mail/").text
    assert listing.index("Счёт &lt;b&gt;1&lt;/b&gt;") < listing.index("Первое")
    newest = mail_sink.letters(post.config["SETTINGS"].data_dir / "mail")[0]
    shown = visitor.get(f"/demo-mail/{newest.id}").text
    assert '<a href="https://kontora.test/pay/abc"' in shown
    assert "<script>" not in shown
    assert "Ягодкина Ксения Викторовна &lt;anna@demo.test&gt;" in shown
    assert "Лесная школа" in shown


def test_a_letter_is_dated_by_the_clock_of_its_branch(app, network, post, monkeypatch):
    monkeypatch.setitem(app.config, "SETTINGS", post.config["SETTINGS"])
    with transaction():
        network.mira.time_zone = "Asia/Vladivostok"
    make_message(make_client(network.mira, email="far@demo.test"), subject="Далеко")
    deliver_batch()
    (kept,) = mail_sink.letters(post.config["SETTINGS"].data_dir / "mail")
    there = moment(kept.received_at, "Asia/Vladivostok")
    visitor = post.test_client()
    assert all(there in visitor.get(path).text for path in ("/demo-mail/", f"/demo-mail/{kept.id}"))


def test_an_sms_is_shown_whatever_the_sender_is_called(post):
    folder = mail_sink.folder_of(post.config["SETTINGS"])
    mail_sink.keep_sms(folder, sender="Школа «Лесная»", recipient="+79990000001", text="Счёт: 100 ₽")
    (kept,) = mail_sink.letters(folder)
    page = post.test_client().get(f"/demo-mail/{kept.id}")
    assert page.status_code == 200
    assert "Школа «Лесная»" in page.text
    assert "Счёт: 100 ₽" in page.text


def test_an_empty_list_says_what_to_do(post):
    page = post.test_client().get("/demo-mail/")
    assert page.status_code == 200
    assert "<ul" not in page.text


@pytest.mark.parametrize("letter_id", ["nothing", "..", "..%2f..%2fkontora.db", f"{0:020d}-00000000"])
def test_there_is_nothing_else_to_be_read(post, letter_id):
    assert post.test_client().get(f"/demo-mail/{letter_id}").status_code == 404


def test_outside_the_demo_there_is_no_mailbox(network, web):
    for user in (None, network.director, network.owner):
        assert web(user).get("/demo-mail/").status_code == 404
