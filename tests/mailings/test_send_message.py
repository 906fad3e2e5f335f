from __future__ import annotations

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.mailings.models import Message, MessageStatus
from crm.mailings.operations import resend_messages, send_message_to
from tests.factories import make_bill, make_child, make_client, make_message


def send(client, **changes):
    facts = {"subject": "Привет", "text": "Здравствуйте, {customer.name}!", "by": SYSTEM, **changes}
    with transaction():
        return send_message_to(client, **facts)


def refusal(client, **changes):
    with pytest.raises(DomainError) as refused:
        send(client, **changes)
    return refused.value.code, refused.value.field


def test_a_letter_is_queued_with_its_author(network):
    client = make_client(network.lesnoy, name="Анна")
    message = send(client, by=network.administrator)
    assert (message.status, message.body) == (MessageStatus.PENDING, "Здравствуйте, Анна!")
    assert (message.author_id, message.author_name) == (network.administrator.id, network.administrator.name)


@pytest.mark.spec("B109")
def test_bill_tags_need_a_chosen_bill(network):
    client = make_client(network.lesnoy)
    bill = make_bill(client)
    assert refusal(client, text="Ссылка: {bill.url}") == ("bill_required", "text")
    assert bill.token in send(client, text="Ссылка: {bill.url}", bill=bill).body
    assert db.session.scalar(select(func.count()).select_from(Message)) == 1


def test_what_is_wrong_stands_beside_its_field(network):
    client, other = make_client(network.lesnoy), make_client(network.lesnoy)
    assert refusal(client, subject=" ") == ("subject_empty", "subject")
    assert refusal(client, text="") == ("text_empty", "text")
    assert refusal(client, text="{bill.sum}") == ("tag_unknown", "text")
    assert refusal(client, bill=make_bill(other)) == ("bill_foreign", "bill")
    assert refusal(make_child(client)) == ("no_email", None)


def test_a_manager_may_not_write_to_clients(network):
    with pytest.raises(Forbidden):
        send(make_client(network.lesnoy), by=network.manager)


@pytest.mark.parametrize("status", list(MessageStatus))
def test_only_a_letter_that_failed_or_is_unknown_can_be_sent_again(network, status):
    message = make_message(make_client(network.lesnoy), status=status, attempts=7, error="550 no")
    again = status in (MessageStatus.FAILED, MessageStatus.UNKNOWN)
    with transaction():
        assert resend_messages([message], by=network.administrator) == again
    assert (message.attempts, message.error) == ((0, "") if again else (7, "550 no"))
    assert message.status is (MessageStatus.PENDING if again else status)
