"""Channels of a client switched on, off, linked and detached; kinds of messages refused; whom a message reaches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask_babel import force_locale
from sqlalchemy import event, func, select

from crm.access.actors import SYSTEM
from crm.audit.models import AuditEntry
from crm.clients.merging import merge_clients
from crm.clients.models import Client, PhoneKind
from crm.contacts.models import Channel, Contact, ContactLink, MessageChoice, MessageKind
from crm.contacts.operations import (
    choose,
    contact_url,
    contact_urls,
    detach_contact,
    link_contact,
    set_contact,
)
from crm.contacts.queries import ContactState, address_for, choices_of, client_by_token, reach, ways_of, why_not
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from tests.factories import Network, make_client


@pytest.fixture(autouse=True)
def _in_english(app: Any) -> Iterator[None]:
    """What is said is compared as it stands in the code, whatever the catalogue makes of it."""
    with force_locale("en"):
        yield


def link(client: Client, channel: Channel, address: str = "42") -> None:
    with transaction():
        assert link_contact(token_of(client), channel, address) is client


def token_of(client: Client) -> str:
    with transaction():
        return contact_url(client).rsplit("/", 1)[1]


def switch(client: Client, channel: Channel, is_on: bool, *, by: Any = SYSTEM) -> None:
    with transaction():
        set_contact(client, channel, is_on, by=by)


def say(client: Client, kind: MessageKind, is_allowed: bool, *, by: Any = None) -> None:
    with transaction():
        choose(client, kind, is_allowed, by=by)


def last_line(client: Client) -> AuditEntry:
    lines = select(AuditEntry).where(AuditEntry.entity == "client", AuditEntry.entity_id == client.id)
    return db.session.scalars(lines.order_by(AuditEntry.id.desc())).first()


# --- channels -------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C156")
def test_a_channel_is_switched_off_and_on_again(network: Network) -> None:
    client = make_client(network.lesnoy)
    assert address_for(client, Channel.EMAIL) == client.email
    switch(client, Channel.EMAIL, False, by=network.administrator)
    assert address_for(client, Channel.EMAIL) is None
    assert address_for(client, Channel.SMS) == client.phone
    assert "switched off" in why_not(client, MessageKind.BILLS, Channel.EMAIL)
    line = last_line(client)
    assert (line.actor_id, line.changes) == (network.administrator.id, {"contact_email": ["on", "off"]})
    switch(client, Channel.EMAIL, True)
    assert address_for(client, Channel.EMAIL) == client.email


@pytest.mark.spec("C156")
def test_a_linked_channel_is_detached_and_linked_anew(network: Network) -> None:
    client = make_client(network.lesnoy)
    assert "has not connected" in why_not(client, MessageKind.BILLS, Channel.TELEGRAM)
    with pytest.raises(DomainError, match="has not connected"):
        set_contact(client, Channel.TELEGRAM, True, by=SYSTEM)
    link(client, Channel.TELEGRAM, "42")
    assert address_for(client, Channel.TELEGRAM) == "42"
    assert (last_line(client).actor_name, last_line(client).changes) == ("client", {"contact_telegram": ["none", "on"]})
    with transaction():
        detach_contact(client, Channel.TELEGRAM, by=network.owner)
    assert address_for(client, Channel.TELEGRAM) is None
    assert last_line(client).changes == {"contact_telegram": ["on", "none"]}
    with pytest.raises(DomainError, match="has not connected"):
        detach_contact(client, Channel.TELEGRAM, by=SYSTEM)
    link(client, Channel.TELEGRAM, "43")
    assert address_for(client, Channel.TELEGRAM) == "43"


def test_linking_anew_switches_on_what_was_off(network: Network) -> None:
    client = make_client(network.lesnoy)
    link(client, Channel.VIBER)
    switch(client, Channel.VIBER, False)
    assert address_for(client, Channel.VIBER) is None
    link(client, Channel.VIBER)
    assert address_for(client, Channel.VIBER) == "42"


def test_what_goes_by_the_card_cannot_be_detached(network: Network) -> None:
    with pytest.raises(DomainError) as refused:
        detach_contact(make_client(network.lesnoy), Channel.EMAIL, by=SYSTEM)
    assert refused.value.code == "by_card"


def test_sms_go_to_the_first_mobile_phone(network: Network) -> None:
    home = make_client(network.lesnoy, phone_kind=PhoneKind.HOME, extra_phone="+79180000077")
    assert address_for(home, Channel.SMS) == "+79180000077"
    bare = make_client(network.lesnoy, phone="", email="")
    assert "no mobile phone" in why_not(bare, MessageKind.BILLS, Channel.SMS)
    assert "no e-mail" in why_not(bare, MessageKind.BILLS, Channel.EMAIL)
    assert {way.state for way in ways_of(bare) if way.channel is not Channel.CABINET} == {ContactState.NONE}


def test_a_token_there_is_not_links_nobody(network: Network) -> None:
    for token in ("", "x" * 32, "\x00"):
        assert link_contact(token, Channel.TELEGRAM, "42") is None


def test_who_may_not_change_a_card_changes_no_contact(network: Network) -> None:
    client = make_client(network.lesnoy)
    for verb in (
        lambda: set_contact(client, Channel.EMAIL, False, by=network.instructor),
        lambda: detach_contact(client, Channel.TELEGRAM, by=network.instructor),
        lambda: choose(client, MessageKind.NEWS, False, by=network.instructor),
    ):
        with pytest.raises(Forbidden):
            verb()


# --- kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.spec("D66", "D67")
def test_a_forbidden_kind_reaches_him_over_no_channel_and_the_reason_is_said(network: Network) -> None:
    client = make_client(network.lesnoy)
    say(client, MessageKind.LESSON, False, by=network.administrator)
    found = reach([client], MessageKind.LESSON, list(Channel))[client.id]
    assert found == "the client has forbidden such messages: Reminders of lessons"
    assert why_not(client, MessageKind.BILLS, Channel.EMAIL) == ""
    choice = db.session.scalar(select(MessageChoice))
    assert choice.decided_by == network.administrator.name
    assert last_line(client).changes == {"messages_lesson": ["allowed", "forbidden"]}
    say(client, MessageKind.LESSON, True)
    assert why_not(client, MessageKind.LESSON, Channel.EMAIL) == ""
    assert (choice.decided_by, last_line(client).actor_name) == ("", "client")


def test_news_want_consent_where_the_company_asks_for_it(network: Network) -> None:
    client = make_client(network.lesnoy)
    assert why_not(client, MessageKind.NEWS, Channel.EMAIL) == ""
    with transaction():
        network.company.asks_consent = True
    assert "has not agreed" in why_not(client, MessageKind.NEWS, Channel.EMAIL)
    assert "has not agreed" in why_not(client, MessageKind.BIRTHDAY, Channel.EMAIL)
    assert why_not(client, MessageKind.BILLS, Channel.EMAIL) == ""
    assert choices_of(client)[MessageKind.NEWS] is False
    say(client, MessageKind.NEWS, True)
    assert why_not(client, MessageKind.NEWS, Channel.EMAIL) == ""


def test_codes_are_refused_by_nobody(network: Network) -> None:
    client = make_client(network.lesnoy)
    with pytest.raises(DomainError) as refused:
        choose(client, MessageKind.SERVICE, False, by=None)
    assert refused.value.code == "always_sent"
    assert MessageKind.SERVICE not in choices_of(client)


# --- many -----------------------------------------------------------------------------------------------------------


def test_the_next_channel_is_taken_where_the_former_is_off_or_has_no_address(network: Network) -> None:
    both, no_mail, off, nothing = (make_client(network.lesnoy, **facts) for facts in ({}, {"email": ""}, {}, {}))
    switch(off, Channel.EMAIL, False)
    for channel in (Channel.EMAIL, Channel.SMS):
        switch(nothing, channel, False)
    found = reach([both, no_mail, off, nothing], MessageKind.BILLS, [Channel.TELEGRAM, Channel.EMAIL, Channel.SMS])
    assert found[both.id] == (Channel.EMAIL, both.email)
    assert found[no_mail.id] == (Channel.SMS, no_mail.phone)
    assert found[off.id] == (Channel.SMS, off.phone)
    assert str(found[nothing.id]).count(";") == 2
    link(both, Channel.TELEGRAM)
    assert reach([both], MessageKind.BILLS, [Channel.TELEGRAM, Channel.EMAIL])[both.id] == (Channel.TELEGRAM, "42")
    assert reach([both], MessageKind.BILLS, [])[both.id]


def test_hundreds_are_asked_in_as_many_statements_as_one(network: Network) -> None:
    clients = [make_client(network.lesnoy) for _number in range(30)]
    with transaction():
        network.company.asks_consent = True
    for client in clients[::2]:
        say(client, MessageKind.NEWS, True)
    for client in clients:
        db.session.refresh(client)

    def counted(*some: Client) -> int:
        seen: list[Any] = []
        note = lambda *asked: seen.append(asked[2])  # noqa: E731
        event.listen(db.engine, "before_cursor_execute", note)
        try:
            found = reach(some, MessageKind.NEWS, [Channel.EMAIL, Channel.SMS])
        finally:
            event.remove(db.engine, "before_cursor_execute", note)
        assert found.keys() == {client.id for client in some}
        return len(seen)

    assert counted(*clients) == counted(clients[0]) == 3
    found = reach(clients, MessageKind.NEWS, [Channel.EMAIL])
    assert [isinstance(found[client.id], str) for client in clients] == [bool(at % 2) for at in range(30)]


# --- links ----------------------------------------------------------------------------------------------------------


def test_two_at_once_make_one_link(network: Network, in_parallel: Any) -> None:
    ids = [make_client(network.lesnoy).id for _number in range(5)]

    def ask(_index: int) -> dict[int, str]:
        with transaction():
            return contact_urls([db.session.get_one(Client, id) for id in ids])

    answers = in_parallel(ask)
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0].values())) == 5
    assert db.session.scalar(select(func.count()).select_from(ContactLink)) == 5


def test_two_who_switch_one_channel_at_once_leave_one_row(network: Network, in_parallel: Any) -> None:
    client_id = make_client(network.lesnoy).id

    def change(index: int) -> None:
        client = db.session.get_one(Client, client_id)
        switch(client, Channel.EMAIL, bool(index % 2))
        say(client, MessageKind.NEWS, bool(index % 2))

    assert in_parallel(change) == [None] * 8
    for model in (Contact, MessageChoice):
        assert db.session.scalar(select(func.count()).select_from(model)) == 1


# --- merging --------------------------------------------------------------------------------------------------------


@pytest.mark.spec("D67")
def test_of_two_cards_the_one_that_stays_refuses_what_either_refused(network: Network) -> None:
    kept, gone = make_client(network.lesnoy), make_client(network.lesnoy)
    tokens = [token_of(card) for card in (kept, gone)]
    say(kept, MessageKind.NEWS, True)
    say(gone, MessageKind.NEWS, False)
    say(kept, MessageKind.DEBT, False)
    say(gone, MessageKind.DEBT, True)
    say(gone, MessageKind.LESSON, False)
    switch(kept, Channel.EMAIL, True)
    switch(gone, Channel.EMAIL, False)
    link(gone, Channel.TELEGRAM, "42")
    link(kept, Channel.VIBER, "1")
    link(gone, Channel.VIBER, "2")
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)
    taken = choices_of(kept)
    assert [kind for kind, is_allowed in taken.items() if not is_allowed] == [
        MessageKind.DEBT,
        MessageKind.LESSON,
        MessageKind.NEWS,
    ]
    assert address_for(kept, Channel.EMAIL) is None
    assert (address_for(kept, Channel.TELEGRAM), address_for(kept, Channel.VIBER)) == ("42", "1")
    assert [client_by_token(token) for token in tokens] == [kept, kept]
    assert token_of(kept) == tokens[0]
