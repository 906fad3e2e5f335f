"""«Выслать пароль повторно»: by SMS at the provider's price, by e-mail for nothing; once a minute, readable nowhere."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.mailing_option import set_mailings
from crm.audit.models import AuditEntry
from crm.clients.merging import merge_clients
from crm.clients.models import PhoneKind
from crm.contacts.models import Channel, ClientPassword, MessageKind
from crm.contacts.operations import choose
from crm.contacts.passwords import check_password, renew_password
from crm.db import db, transaction
from crm.errors import DomainError
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import HIDDEN, Message, MessageCharge, MessageStatus, ProviderKind
from crm.mailings.operations import resend_messages
from crm.mailings.passwords import send_password
from tests.admin.test_grids import plain
from tests.admin.world import errors, fields, send
from tests.factories import make_child, make_client, make_provider
from tests.mailings.services import service

NOON = datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _noon(app):
    with clock.frozen(NOON):
        yield


@pytest.fixture
def gateway(network):
    """The company's gateway of SMS, at 2.50 a part."""
    with service() as server:
        server.say({"status": "ok"})
        make_provider(network.company, ProviderKind.HTTP, url=server.url, price=Decimal("2.50"))
        yield server


def sent(client, channel):
    with transaction():
        return send_password(client, channel, by=SYSTEM)


def charges():
    return list(db.session.scalars(select(MessageCharge.amount).order_by(MessageCharge.id)))


def messages():
    db.session.expire_all()
    return list(db.session.scalars(select(Message).order_by(Message.id)))


def password_in(text):
    return re.search(r"— (\w+)", text)[1]


@pytest.mark.spec("E26")
def test_by_sms_it_costs_the_company_what_the_provider_takes(network, gateway, web):
    client = make_client(network.lesnoy)
    path = f"/admin/client/card/{client.id}/"
    browser = web(network.administrator, network.lesnoy)
    assert "Выслать пароль повторно" in browser.get(path).text
    answer = send(browser, f"{path}password/", way="sms")
    assert answer.status_code == 302, errors(answer.text)
    assert charges() == []  # nothing has been sent yet
    deliver_batch()
    (message,) = messages()
    assert (message.status, message.channel, message.kind) == (
        MessageStatus.SENT,
        Channel.SMS,
        MessageKind.SERVICE,
    )
    (post,) = gateway.calls
    assert post.fields["phone"] == client.phone
    assert check_password(client, password_in(post.fields["text"]))
    assert charges() == [Decimal("2.50")]
    assert "2,50" in plain(web(network.owner).get("/admin/messagecharge/").text)


@pytest.mark.spec("E27")
def test_by_email_it_is_free(network, gateway, smtp, web):
    client = make_client(network.lesnoy)
    answer = send(web(network.administrator, network.lesnoy), f"/admin/client/card/{client.id}/password/", way="email")
    assert answer.status_code == 302, errors(answer.text)
    deliver_batch()
    (message,) = messages()
    assert (message.status, message.channel, message.recipient) == (MessageStatus.SENT, Channel.EMAIL, client.email)
    (letter,) = smtp.messages
    assert check_password(client, password_in(str(letter.text)))
    assert (charges(), gateway.calls) == ([], [])


def test_staff_read_it_nowhere(network, gateway, web):
    client = make_client(network.lesnoy)
    browser = web(network.owner)
    message = sent(client, Channel.SMS)
    password = message.secret
    assert HIDDEN in message.body
    deliver_batch()
    db.session.expire_all()
    assert message.secret is None
    kept = db.session.scalars(select(ClientPassword)).one()
    assert kept.password_hash.startswith("$argon2")
    for page in (f"/admin/message/details/?id={message.id}", "/admin/audit/", f"/admin/client/card/{client.id}/"):
        text = browser.get(page).text
        assert password not in text, page
        assert "$argon2" not in text, page
    assert all(kept.password_hash not in str(entry.changes) for entry in db.session.scalars(select(AuditEntry)))


def test_a_new_one_ends_the_former(network, gateway):
    client = make_client(network.lesnoy)
    first = sent(client, Channel.SMS)
    former = first.secret
    with clock.frozen(NOON + timedelta(minutes=2)):
        second = sent(client, Channel.EMAIL)
        assert not check_password(client, former)
        assert check_password(client, second.secret)
    # What has not left yet is not sent any more.
    db.session.expire_all()
    assert (first.status, first.secret) == (MessageStatus.SKIPPED, None)


def test_no_more_than_once_a_minute(network, web):
    client = make_client(network.lesnoy)
    browser, path = web(network.administrator, network.lesnoy), f"/admin/client/card/{client.id}/password/"
    assert send(browser, path, way="email").status_code == 302
    with clock.frozen(NOON + timedelta(seconds=21)):
        answer = send(browser, path, way="sms")
        assert answer.status_code == 422
        assert "через 39 секунд" in plain(answer.text)
    assert len(messages()) == 1
    with clock.frozen(NOON + timedelta(seconds=60)):
        assert send(browser, path, way="email").status_code == 302


def test_a_double_click_sends_one(network, web):
    client = make_client(network.lesnoy)
    browser, path = web(network.administrator, network.lesnoy), f"/admin/client/card/{client.id}/password/"
    form = fields(browser.get(path).text)
    assert [browser.post(path, data=form).status_code for _time in range(2)] == [302, 302]
    assert len(messages()) == 1


def test_two_desks_at_once_send_one(network, in_parallel):
    client = make_client(network.lesnoy)
    client_id = client.id

    def ask(_n):
        with transaction():
            return send_password(db.session.get_one(type(client), client_id), Channel.EMAIL, by=SYSTEM).id

    results = in_parallel(ask, times=4)
    assert sum(isinstance(result, int) for result in results) == 1, results
    assert len(messages()) == 1


def test_the_cabinet_is_the_payers(network, smtp):
    payer = make_client(network.lesnoy)
    message = sent(make_child(payer), Channel.EMAIL)
    assert (message.client_id, message.recipient) == (payer.id, payer.email)


def test_it_is_sent_whatever_else_he_has_refused(network):
    client = make_client(network.lesnoy)
    with transaction():
        for kind in MessageKind:
            if not kind.is_forbidden_by_nobody:
                choose(client, kind, False, by=SYSTEM)
    assert sent(client, Channel.EMAIL).status is MessageStatus.PENDING


@pytest.mark.parametrize(
    ("facts", "channel", "code"),
    [
        ({"email": ""}, Channel.EMAIL, "no_email"),
        ({"phone": ""}, Channel.SMS, "no_phone"),
        ({"phone_kind": PhoneKind.HOME}, Channel.SMS, "no_phone"),
        ({"phone": "+74950000007"}, Channel.SMS, "phone_landline"),
    ],
)
def test_without_an_address_there_is_none(network, facts, channel, code):
    client = make_client(network.lesnoy, **facts)
    with pytest.raises(DomainError) as refused:
        sent(client, channel)
    assert refused.value.code == code
    db.session.rollback()
    assert db.session.scalars(select(ClientPassword)).all() == []  # the former one still works


def test_without_the_option_there_is_none(network):
    with transaction():
        set_mailings(network.company, has_mailings=False, mailings_until=None, by=SYSTEM)
    with pytest.raises(DomainError) as refused:
        sent(make_client(network.lesnoy), Channel.EMAIL)
    assert refused.value.code == "mailings_off"


@pytest.mark.parametrize("role", ["manager", "instructor", "support"])
def test_who_sends_no_messages_sends_no_password(network, web, role):
    client = make_client(network.lesnoy)
    browser, path = web(getattr(network, role), network.lesnoy), f"/admin/client/card/{client.id}/"
    assert browser.get(f"{path}password/").status_code == 403
    assert browser.post(f"{path}password/", data={"way": "email"}).status_code == 403
    assert "Выслать пароль повторно" not in browser.get(path).text


def test_one_of_another_branch_is_not_there(network, web):
    client = make_client(network.rechnoy)
    path = f"/admin/client/card/{client.id}/password/"
    assert web(network.administrator, network.lesnoy).post(path, data={"way": "email"}).status_code == 404


def test_one_that_was_refused_is_not_sent_with_dots_in_its_place(network, smtp):
    client = make_client(network.lesnoy)
    smtp.refuse_for_good(client.email)
    message = sent(client, Channel.EMAIL)
    deliver_batch()
    db.session.expire_all()
    assert (message.status, message.secret) == (MessageStatus.FAILED, None)
    smtp.reset()
    with transaction():
        resend_messages([message], by=SYSTEM)
    deliver_batch()
    db.session.expire_all()
    assert (message.status, smtp.messages) == (MessageStatus.SKIPPED, [])
    assert "вышлите новый" in message.error


def test_of_two_merged_cards_the_password_of_the_one_that_stays_is_good(network):
    kept, gone, other = (make_client(network.lesnoy) for _ in range(3))
    with transaction():
        own, foreign, third = (renew_password(client) for client in (kept, gone, other))
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)
    assert check_password(kept, own)
    assert not check_password(kept, foreign)
    heir = make_client(network.lesnoy)
    with transaction():
        merge_clients(heir, other, by=SYSTEM)
    assert check_password(heir, third)
    assert not check_password(gone, "")
