"""Who opens accounts: only a person signed in to the panel, by its form, for a card in use."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import select

from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind
from crm.payments.models import Payment
from crm.tills.models import TillKind
from crm.tills.operations import new_till
from crm.tills.queries import money_in
from tests.admin.world import errors, send
from tests.factories import make_child, make_client


@pytest.fixture
def client(network: Any) -> Any:
    return make_client(network.lesnoy, name="Берёзкина Анна")


def opening(client: Any) -> str:
    return f"/admin/client/card/{client.id}/account/new/"


def deposits() -> list[Account]:
    return list(db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT)))


@pytest.mark.spec("A12")
def test_nothing_but_the_panels_own_form_opens_an_account(network: Any, web: Any, client: Any) -> None:
    """A program without a session, with a key of its own making, or a page of another site: nobody is let in."""
    path, facts = opening(client), {"account_type": network.account_type.id, "initial_balance": "100", "method": "cash"}
    stranger, signed_in = web(), web(network.administrator, network.lesnoy)
    assert stranger.post(path, data=facts).location.startswith("/login")
    for headers in ({"Accept": "application/json"}, {"Authorization": "Bearer secret"}, {"X-API-Key": "secret"}):
        answer = stranger.post(path, json=facts, headers=headers)
        assert answer.status_code in {302, 401}, headers
        assert answer.status_code == 401 or answer.location.startswith("/login"), headers
    stranger.with_csrf = signed_in.with_csrf = False
    for browser in (stranger, signed_in):
        assert browser.post(path, data=facts).status_code == 400
        assert browser.post(path, json=facts).status_code == 400
    signed_in.with_csrf = True
    assert signed_in.post(path, json=facts).status_code == 422  # JSON is no form: nothing is filled in
    assert deposits() == []
    assert db.session.scalars(select(Payment)).all() == []
    assert send(signed_in, path).status_code == 302  # the panel's own form does
    assert len(deposits()) == 1


@pytest.mark.spec("A12")
def test_no_address_outside_the_panel_opens_accounts(app: Any) -> None:
    known = {
        rule.rule for rule in app.url_map.iter_rules() if "account" in rule.rule and "POST" in (rule.methods or ())
    }
    assert known
    assert all(rule.startswith("/admin/") for rule in known)


def test_an_archived_card_gets_no_account(network: Any, web: Any, client: Any) -> None:
    child = make_child(client)
    with transaction():
        archive_client(client, by=network.director)
    browser = web(network.administrator, network.lesnoy)
    for card in (client, child):  # his own, and that of one he pays for
        answer = send(browser, opening(card))
        assert answer.status_code == 422
        assert errors(answer.text) == {"": "Карточка клиента в архиве. Сначала восстановите её."}
    assert deposits() == []


def test_the_till_is_chosen_where_there_are_several(network: Any, web: Any, client: Any) -> None:
    browser, path = web(network.administrator, network.lesnoy), opening(client)
    assert 'name="till"' not in browser.get(path).text
    with transaction():
        new_till(TillKind.CASH, network.lesnoy.id, name="Касса у входа")
        bar = new_till(TillKind.CASH, network.lesnoy.id, name="Касса бара")
        elsewhere = new_till(TillKind.CASH, network.mira.id, name="Чужая касса")
    answer = send(browser, path, initial_balance="100", method="cash", till=str(elsewhere.id))
    assert list(errors(answer.text)) == ["till"]
    answer = send(browser, path, initial_balance="100", method="card", till=str(bar.id))
    assert list(errors(answer.text)) == ["till"]
    assert deposits() == []  # neither the account nor the payment
    assert send(browser, path, initial_balance="100", method="cash", till=str(bar.id)).status_code == 302
    assert (money_in(bar), deposits()[0].balance) == (100, 100)


def test_with_money_taken_it_leads_to_the_slip(network: Any, web: Any, client: Any) -> None:
    browser, path = web(network.administrator, network.lesnoy), opening(client)
    answer = send(browser, path, initial_balance="100", method="cash")
    [slip] = re.findall(r'href="(/admin/entry/receipt/\d+/)"[^>]*>Напечатать', browser.get(answer.location).text)
    assert browser.get(slip).data.startswith(b"%PDF")
    answer = send(browser, path)  # nothing was taken
    status = re.search(r'role="status">(.*?)</div>', browser.get(answer.location).text, re.DOTALL)
    assert status
    assert "receipt" not in status[1]
