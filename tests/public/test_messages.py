"""The page of a client's messages: without a script, in one click, and for nobody who guesses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.audit.models import AuditEntry
from crm.clients.merging import merge_clients
from crm.contacts.models import Channel, MessageChoice, MessageKind
from crm.contacts.operations import choose, link_contact
from crm.contacts.queries import choices_of
from crm.db import db, transaction
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import Message, MessageStatus, Provider, ProviderKind
from crm.mailings.operations import send_message_to
from crm.public.guessing import MAX_MISSES
from tests.contacts.test_contacts import say, token_of
from tests.factories import make_client
from tests.public.test_bill_page import text_of


@pytest.fixture
def client(network: Any) -> Any:
    return make_client(network.lesnoy, name="Кузнецова Анна Сергеевна")


@pytest.fixture
def path(client: Any) -> str:
    return f"/messages/{token_of(client)}"


def ticked(page: str) -> set[str]:
    return set(re.findall(r'name="kind" value="(\w+)" ?checked', page))


def choices() -> int:
    return db.session.scalar(select(func.count()).select_from(MessageChoice)) or 0


@pytest.mark.spec("D66", "D67")
def test_he_ticks_what_he_takes(network, web, client, path):
    say(client, MessageKind.BIRTHDAY, False)
    browser = web(language="en")
    page = browser.get(path)
    assert ticked(page.text) == {kind.value for kind in MessageKind} - {"service", "birthday"}
    assert "Анна Сергеевна К." in text_of(page)
    answer = browser.post(path, data={"kind": ["bills", "birthday", "thanks", "personal"]})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{path}?saved=1")
    page = browser.get(f"{path}?saved=1")
    assert "Your choice is saved." in text_of(page)
    assert ticked(page.text) == {"bills", "birthday", "thanks", "personal"}
    db.session.expire_all()
    assert {kind for kind, is_allowed in choices_of(client).items() if is_allowed} == {
        *(MessageKind.BILLS, MessageKind.BIRTHDAY, MessageKind.THANKS, MessageKind.PERSONAL)
    }
    assert choices() == 5  # nothing is noted of what stayed as it was
    lines = select(AuditEntry.actor_name).where(AuditEntry.entity == "client", AuditEntry.entity_id == client.id)
    assert set(db.session.scalars(lines.where(AuditEntry.action == "update"))) == {"client"}


@pytest.mark.spec("D67")
def test_one_click_takes_leave_and_opening_the_link_does_not(network, web, client, path):
    browser = web(language="en")
    asked = browser.get(f"{path}/unsubscribe/news")
    assert "No more such messages?" in text_of(asked)
    assert choices() == 0
    # As RFC 8058 has it: no cookie, no token of a form, one POST and no redirect.
    answer = browser.post(f"{path}/unsubscribe/news", data={"List-Unsubscribe": "One-Click"})
    assert answer.status_code == 200
    assert "You will not get such messages any more." in text_of(answer)
    db.session.expire_all()
    assert choices_of(client)[MessageKind.NEWS] is False
    assert choices_of(client)[MessageKind.BILLS] is True
    assert browser.post(f"{path}/unsubscribe/news").status_code == 200
    assert choices() == 1
    assert "any more" in text_of(browser.get(f"{path}/unsubscribe/news"))


def test_codes_and_kinds_there_are_not_cannot_be_refused(network, web, path):
    for kind in ("service", "nothing"):
        for method in ("get", "post"):
            assert getattr(web(), method)(f"{path}/unsubscribe/{kind}").status_code == 404
    web().post(path, data={"kind": ["service", "x"]})
    assert MessageKind.SERVICE not in db.session.scalars(select(MessageChoice.kind)).all()


def test_where_consent_is_asked_news_are_not_ticked_until_he_ticks_them(network, web, client, path):
    with transaction():
        network.company.asks_consent = True
    browser = web()
    kept = ticked(browser.get(path).text)
    assert {"news", "birthday"}.isdisjoint(kept)
    browser.post(path, data={"kind": [*kept]})
    assert choices() == 0
    browser.post(path, data={"kind": [*kept, "news"]})
    db.session.expire_all()
    assert choices_of(client)[MessageKind.NEWS] is True


@pytest.mark.spec("C156")
def test_it_leads_to_the_bots_of_his_company(network, web, client, path):
    browser, token = web(language="en"), path.rsplit("/", 1)[1]
    assert "messenger" not in text_of(browser.get(path))
    with transaction():
        for channel, kind, bot in (
            (Channel.TELEGRAM, ProviderKind.TELEGRAM, "@forest_bot"),
            (Channel.VIBER, ProviderKind.VIBER, ""),
        ):
            db.session.add(
                Provider(
                    company_id=network.company.id,
                    channel=channel,
                    kind=kind,
                    secret="s",
                    token=f"hook-{channel.value}",
                    options={"bot": bot} if bot else {},
                    created_at=clock.now(),
                )
            )
    page = browser.get(path)
    assert f'href="https://t.me/forest_bot?start={token}"' in page.text
    assert "viber" not in page.text.lower()
    assert "connected" not in text_of(page)
    with transaction():
        assert link_contact(token, Channel.TELEGRAM, "42") is client
    assert "Telegram connected" in text_of(browser.get(path))


def test_the_link_of_a_merged_card_changes_the_one_that_stayed(network, web, client, path):
    kept = make_client(network.lesnoy)
    with transaction():
        merge_clients(kept, client, by=SYSTEM)
    assert web().post(f"{path}/unsubscribe/debt").status_code == 200
    db.session.expire_all()
    assert choices_of(kept)[MessageKind.DEBT] is False


def test_wrong_links_are_slowed_down_and_a_right_one_opens_beside_them(network, web, path):
    browser = web(language="en")
    for number in range(MAX_MISSES):
        answer = browser.get(f"/messages/guess-{number}")
        assert answer.status_code == 404
    assert "Page not found" in text_of(answer)
    refused = browser.post("/messages/guess/unsubscribe/news")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert browser.get(path).status_code == 200
    assert browser.get("/messages/%00").status_code in {404, 429}


def test_it_is_kept_by_nobody_and_needs_no_script(network, web, path):
    answer = web(language="en").get(path)
    assert (answer.headers["Referrer-Policy"], answer.headers["Cache-Control"]) == ("no-referrer", "no-store")
    assert "noindex" in answer.headers["X-Robots-Tag"]
    assert "Set-Cookie" not in answer.headers
    assert not re.search(r"<script|\sstyle=|\son\w+=", answer.text)
    assert answer.text.count("<h1") == 1


def test_reading_writes_nothing(network, web, client, path):
    with transaction():
        choose(client, MessageKind.DEBT, False, by=None)
    before = db.session.scalar(select(func.count()).select_from(AuditEntry))
    for address in (path, f"{path}/unsubscribe/news", f"{path}/unsubscribe/debt"):
        assert web().get(address).status_code == 200
    assert db.session.scalar(select(func.count()).select_from(AuditEntry)) == before


# --- the cabinet's messages -------------------------------------------------------------------------------------------


def write(client: Any, text: str) -> Message:
    """A message to the client's cabinet, delivered."""
    with transaction():
        message = send_message_to(client, channel=Channel.CABINET, text=text, by=SYSTEM)
    deliver_batch()
    db.session.refresh(message)
    return message


def test_messages_of_the_cabinet_are_there_at_once_and_read_when_he_says_so(network, web, client, path):
    first = write(client, "Занятие перенесено <b>\nна 18:00")
    assert (first.status, first.recipient) == (MessageStatus.SENT, str(client.id))
    second = write(client, "Подробнее: https://kontora.test/x")
    browser = web(language="en")
    page = browser.get(path)
    notice, _rest = page.text.split("I have read them")
    assert notice.index("Подробнее") < notice.index("Занятие перенесено")
    assert "&lt;b&gt;<br>на 18:00" in notice
    assert re.search(r'<a href="https://kontora.test/x" rel="[a-z ]*noreferrer"', notice)
    assert re.findall(r'name="id" value="(\d+)"', notice) == [str(second.id), str(first.id)]
    third = write(client, "Пришло, пока он читал")
    answer = browser.post(f"{path}/read", data={"id": [str(first.id), str(second.id), "x", "9" * 30]})
    assert (answer.status_code, answer.headers["Location"]) == (303, path)
    db.session.expire_all()
    assert [one.status for one in (first, second, third)] == [MessageStatus.READ] * 2 + [MessageStatus.SENT]
    notice, rest = browser.get(path).text.split("I have read them")
    assert "Пришло" in notice
    assert "Подробнее" not in notice
    assert rest.index("Подробнее") < rest.index("Занятие перенесено")


def test_nobody_reads_another_client_s_messages(network, web, client, path):
    other = write(make_client(network.lesnoy), "Чужое")
    browser = web(language="en")
    assert "Чужое" not in browser.get(path).text
    browser.post(f"{path}/read", data={"id": str(other.id)})
    db.session.refresh(other)
    assert other.status is MessageStatus.SENT
