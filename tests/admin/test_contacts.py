"""The icons of ways to reach a client on his card, their menus, and the kinds of messages he takes."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.contacts.models import Channel, MessageKind
from crm.contacts.queries import address_for, choices_of
from crm.db import db, transaction
from tests.access.test_roles import settings_of
from tests.contacts.test_contacts import link, switch
from tests.factories import make_client


@pytest.fixture
def client(network: Any) -> Any:
    return make_client(network.lesnoy)


@pytest.fixture
def desk(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy, language="en")


def icons(page: str) -> dict[str, str]:
    """{channel as it is called: class of its icon}."""
    found = re.findall(r'<(?:summary|span) class="way is-(\w+)" title="([^:"]+):', page)
    return {html.unescape(name): state for state, name in found}


def card(client: Any) -> str:
    return f"/admin/client/card/{client.id}/"


def do(desk: Any, client: Any, what: str, **more: Any) -> Any:
    answer = desk.post(f"{card(client)}contacts/", data={"do": what, **more})
    db.session.expire_all()
    return answer


@pytest.mark.spec("C23")
def test_icons_of_all_ways_are_bright_where_he_is_connected(network, desk, client):
    link(client, Channel.TELEGRAM)
    switch(client, Channel.SMS, False)
    shown = icons(desk.get(card(client)).text)
    assert len(shown) == len(Channel)
    assert [name for name, state in shown.items() if state == "on"] == [
        *("Email", "WhatsApp", "Telegram", "Client's cabinet")
    ]
    assert (shown["SMS"], shown["Viber"]) == ("off", "none")


@pytest.mark.spec("C24", "C156")
def test_the_menu_switches_off_on_and_detaches(network, desk, client):
    link(client, Channel.TELEGRAM)
    page = desk.get(card(client)).text
    for button in ("off:email", "off:telegram", "detach:telegram"):
        assert f'value="{button}"' in page
    assert 'value="detach:email"' not in page
    assert do(desk, client, "off:telegram").status_code == 302
    assert address_for(client, Channel.TELEGRAM) is None
    assert icons(desk.get(card(client)).text)["Telegram"] == "off"
    do(desk, client, "on:telegram")
    assert address_for(client, Channel.TELEGRAM) == "42"
    do(desk, client, "detach:telegram")
    assert icons(desk.get(card(client)).text)["Telegram"] == "none"


@pytest.mark.spec("C24")
def test_the_history_says_who_did_it(network, desk, client):
    link(client, Channel.TELEGRAM)
    do(desk, client, "off:email")
    do(desk, client, "kinds", kind=["bills"])
    page = desk.get(f"/admin/client/history/?id={client.id}").text
    lines = [
        html.unescape(re.sub(r"<[^>]+>|\s+", " ", line)) for line in re.findall(r"<li>(.*?)</li>", page, re.DOTALL)
    ]
    lines = [" ".join(line.split()) for line in lines]
    assert any("The client himself" in line and "Telegram: Not connected → On" in line for line in lines)
    assert any(network.administrator.name in line and "Email: On → Off" in line for line in lines)
    assert any("News and offers: Allowed → Forbidden" in line for line in lines)


@pytest.mark.spec("D66", "D67")
def test_kinds_are_forbidden_from_the_card(network, desk, client):
    kinds = [kind.value for kind in choices_of(client) if kind is not MessageKind.LESSON]
    assert do(desk, client, "kinds", kind=kinds).status_code == 302
    assert [kind for kind, is_allowed in choices_of(client).items() if not is_allowed] == [MessageKind.LESSON]
    assert "forbidden: 1" in desk.get(card(client)).text


def test_the_link_of_his_page_is_shown(network, desk, client):
    do(desk, client, "link")
    assert re.search(r'href="https?://[^"]+/messages/[\w-]{32}"', desk.get(card(client)).text)


def test_what_cannot_be_done_is_refused(network, desk, client):
    assert "has not connected" in do(desk, client, "on:viber").text
    for nonsense in ("", "on", "on:pigeon", "kinds:email", "burn:email"):
        assert do(desk, client, nonsense).status_code == 404


def test_who_may_not_edit_sees_icons_without_menus(network, web, client):
    desk = web(network.instructor, network.lesnoy, language="en")
    page = desk.get(card(client)).text
    assert len(icons(page)) == len(Channel)
    assert 'name="do"' not in page
    assert do(desk, client, "off:email").status_code == 403
    assert address_for(client, Channel.EMAIL) == client.email


def test_a_hidden_phone_hides_what_goes_by_it(network, web, client):
    with transaction():
        change_role(
            settings_of(Role.ADMINISTRATOR), permissions={}, fields={"client.phone": FieldRule.HIDE}, by=network.owner
        )
    shown = icons(web(network.administrator, network.lesnoy, language="en").get(card(client)).text)
    assert "Email" in shown
    assert {"SMS", "WhatsApp"}.isdisjoint(shown)


def test_another_branch_is_out_of_reach(network, desk):
    foreign = make_client(network.mira)
    assert do(desk, foreign, "off:email").status_code == 404
