"""What a role does not see it learns by no mailing: by no text it could send to itself, nor by what was sent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.audit.models import AuditAction, AuditEntry
from crm.clients.models import Client
from crm.contacts.models import Channel, ContactLink
from crm.contacts.operations import contact_url, detach_contact, link_contact
from crm.db import db, transaction
from crm.errors import DomainError
from crm.fields.models import FieldType
from crm.fields.operations import add_field
from crm.mailings.models import HIDDEN, MailingKind, MailingRule, MailingRunLine, Message
from crm.mailings.operations import draft_message_to, send_message_to
from crm.mailings.preview import dry_run_of_selection
from crm.mailings.rules import RuleFacts, Way, save_rule
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.mailings.selection import SelectionFacts, WrittenWay, change_selection, mail_selection
from crm.mailings.templates import save_template
from tests.access.test_roles import settings_of
from tests.factories import (
    make_bill,
    make_client,
    make_plan,
    make_rule,
    make_subscription,
    make_template,
)

LATER = {"once_on": date(2027, 3, 12), "send_time": time(10)}


@pytest.fixture(autouse=True)
def _march():
    with clock.frozen(datetime(2027, 3, 10, 9, tzinfo=UTC)):
        yield


@pytest.fixture
def client(network):
    return make_client(network.lesnoy, name="Анна", phone="+79135550142", email="anna@demo.test")


def hide(*fields, role=Role.DIRECTOR, **permissions):
    with transaction():
        may = {name.replace("_", "."): allowed for name, allowed in permissions.items()}
        change_role(settings_of(role), permissions=may, fields=dict.fromkeys(fields, FieldRule.HIDE), by=SYSTEM)


def written(text="Привет", subject="Тема", channel=Channel.EMAIL, template=None):
    return SelectionFacts("Новость", [WrittenWay(channel, template, subject, text)])


def selected():
    return select(Client.id)


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["phone", "email"])
@pytest.mark.parametrize("beside", ["subject", "text"])
def test_a_letter_by_hand_tells_nothing_its_writer_does_not_see(network, client, field, beside):
    typed = {"subject": "Тема", "text": "Текст"} | {beside: f"Ваш контакт: {{customer.{field}}}"}
    draft = draft_message_to(client, by=network.director, **typed)
    told = {"phone": "+7 913 555-01-42", "email": "anna@demo.test"}[field]
    assert f"Ваш контакт: {told}" in {draft.subject, draft.body}
    hide(f"client.{field}")
    for attempt in (draft_message_to, send_message_to):
        with pytest.raises(DomainError) as refused:
            attempt(client, by=network.director, **typed)
        assert (refused.value.code, refused.value.field) == ("tag_hidden", beside)
        assert f"{{customer.{field}}}" in refused.value.message
    assert db.session.scalars(select(Message)).all() == []


def test_fields_of_the_company_and_sums_of_bills_are_kept_too(network, client):
    with transaction():
        field = add_field(network.company, "client", label="Диагноз", type=FieldType.TEXT, by=SYSTEM)
        client.custom = {field.key: "астма"}
    bill, tag = make_bill(client), f"{{customer.custom.{field.key}}}"
    sent = {"subject": "Тема", "bill": bill, "by": network.director}
    assert "астма" in draft_message_to(client, text=tag, **sent).body
    hide(f"client.custom.{field.key}", "bill.amount")
    for text in (tag, "{bill.amount}", "{bill.amount_subject_url}", "{customer.bills.amount_url}"):
        with pytest.raises(DomainError) as refused:
            draft_message_to(client, text=text, **sent)
        assert (refused.value.code, refused.value.field) == ("tag_hidden", "text")
    assert bill.token in draft_message_to(client, text="{bill.url}", **sent).body


def test_a_message_keeps_the_tags_it_was_filled_in_from(network, client):
    with transaction():
        message = send_message_to(
            client, subject="{customer.name}", text="{customer.phone} {company.name}", by=network.director
        )
    assert message.tags == ["company.name", "customer.name", "customer.phone"]


# --- to a selection --------------------------------------------------------------------------------------------------


def test_a_text_to_a_selection_tells_nothing_its_writer_does_not_see(network, client):
    facts = written(text="Ваш телефон: {customer.phone}")
    dry_run_of_selection(facts, selected(), by=network.director)
    hide("client.phone")
    for attempt in (dry_run_of_selection, mail_selection):
        with pytest.raises(DomainError) as refused:
            attempt(facts, selected(), by=network.director)
        assert (refused.value.code, refused.value.field) == ("tag_hidden", "text")


def test_a_template_somebody_else_has_made_is_sent_and_shown_with_dots(network, client):
    hide("client.phone")
    facts = written(template=make_template(body="Ваш телефон: {customer.phone}"))
    looked = dry_run_of_selection(facts, selected(), by=network.director)
    assert looked.sample(looked.page(1).lines).body == f"Ваш телефон: {HIDDEN}"
    with transaction():
        (run,) = mail_selection(facts, selected(), by=network.director)
    execute_run(run.id, by=SYSTEM)
    message = db.session.scalars(select(Message)).one()
    assert (message.body[-5:], message.tags) == ("01-42", ["customer.phone"])


def test_who_sees_less_moves_a_message_and_adds_nothing_to_its_text(network, client):
    facts = SelectionFacts("Новость", written(text="{customer.phone}").ways, **LATER)
    with transaction():
        (run,) = mail_selection(facts, selected(), by=network.owner)
    hide("client.phone", "client.email")
    with transaction():
        change_selection(run.rule, SelectionFacts("Иначе", facts.ways, **LATER), by=network.director)
    assert run.rule.name == "Иначе"
    with pytest.raises(DomainError) as refused:
        more = written(text="{customer.phone} {customer.email}").ways
        change_selection(run.rule, SelectionFacts("Иначе", more, **LATER), by=network.director)
    assert (refused.value.code, refused.value.field) == ("tag_hidden", "text")


# --- templates -------------------------------------------------------------------------------------------------------

LETTER = {"name": "Письмо", "subject": "Тема", "body": "{customer.phone}"}


def test_who_sends_puts_no_hidden_tag_in_a_template(network, client):
    with transaction():
        made = save_template(None, **LETTER, by=network.regional)
    hide("client.phone", "client.email", role=Role.REGIONAL_DIRECTOR)
    with pytest.raises(DomainError) as refused:
        save_template(None, **LETTER | {"name": "Ещё"}, by=network.regional)
    assert (refused.value.code, refused.value.field) == ("tag_hidden", "body")
    with transaction():
        save_template(made, **LETTER | {"body": "Телефон: {customer.phone}"}, by=network.regional)
    assert made.body == "Телефон: {customer.phone}", "it was there already"
    with pytest.raises(DomainError) as refused:
        save_template(made, **LETTER | {"subject": "{customer.email}"}, by=network.regional)
    assert (refused.value.code, refused.value.field) == ("tag_hidden", "subject")


def test_who_sends_nothing_writes_templates_of_what_he_does_not_see(network):
    """Technical support sees no bills, and learns nothing by a text it cannot send."""
    with transaction():
        template = save_template(None, name="Счёт", subject="Счёт", body="{bill.amount}", by=network.support)
    assert template.body == "{bill.amount}"


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_where_a_bot_or_a_browser_reaches_a_client_is_not_in_the_audit(network, client):
    with transaction():
        contact_url(client)
    token = db.session.scalars(select(ContactLink.token)).one()
    keys = '{"endpoint": "https://push.test/77120045", "keys": {"auth": "BTBZMqHH6r4Tts7J"}}'
    for address in (keys, keys.replace("7712", "8823")):
        with transaction():
            link_contact(token, Channel.PUSH, address)
    with transaction():
        link_contact(token, Channel.TELEGRAM, "990017263")
        detach_contact(client, Channel.PUSH, by=SYSTEM)
    lines = db.session.scalars(select(AuditEntry).order_by(AuditEntry.id)).all()
    told = [str(line.changes) for line in lines if line.entity == "contact"]
    assert len(told) == 4
    secrets = ("push.test", "BTBZMqHH6r4Tts7J", "990017263")
    assert [secret for secret in secrets for text in told if secret in text] == []


def test_who_does_not_see_what_is_left_sets_no_ranges_of_it(network):
    rule = make_rule(network.lesnoy, template=make_template())
    facts = RuleFacts(
        name=rule.name,
        branch=network.lesnoy,
        kind=rule.kind,
        send_time=rule.send_time,
        money_to=Decimal(100),
        lessons_from=1,
        ways=[Way(Channel.EMAIL, rule.ways[0].template)],
    )
    with transaction():
        save_rule(rule, facts, by=SYSTEM)
    hide("account.balance", "subscription.lessons_left")
    with transaction():  # what others have set stays
        save_rule(rule, facts, by=network.director)
    for name, value in (("money_from", Decimal(50)), ("money_to", Decimal(99)), ("lessons_to", 2), ("lessons_from", 2)):
        with pytest.raises(DomainError) as error, transaction():
            save_rule(rule, replace(facts, **{name: value}), by=network.director)
        assert (error.value.code, error.value.field) == ("range_hidden", name)


def test_the_history_of_a_rule_tells_who_gave_it_which_text(network):
    rule = make_rule(network.lesnoy, template=make_template(name="Прежний"))
    letter, short = make_template(name="Новый"), make_template(name="Короткий", channel=Channel.SMS)
    facts = RuleFacts(
        name=rule.name,
        branch=network.lesnoy,
        kind=rule.kind,
        send_time=rule.send_time,
        ways=[Way(Channel.SMS, short), Way(Channel.EMAIL, letter)],
    )
    for _ in range(2):  # what stays the same is told of once
        with transaction():
            save_rule(rule, facts, by=network.director)
    made, changed = _told_of_ways(rule)
    assert (made.action, made.changes["ways"]) == (AuditAction.CREATE, [None, [["email", "Прежний"]]])
    assert (changed.actor_name, changed.changes["ways"]) == (
        network.director.name,
        [[["email", "Прежний"]], [["sms", "Короткий"], ["email", "Новый"]]],
    )


def test_the_history_of_a_new_rule_tells_its_ways_at_once(network):
    letter, short = make_template(name="Письмо"), make_template(name="Короткий", channel=Channel.SMS)
    facts = RuleFacts(
        name="Новая",
        branch=network.lesnoy,
        kind=MailingKind.BILLS,
        send_time=time(10),
        ways=[Way(Channel.SMS, short), Way(Channel.EMAIL, letter)],
    )
    with transaction():
        rule = save_rule(None, facts, by=network.director)
    (line,) = db.session.scalars(_lines_of(rule)).all()
    assert (line.action, line.changes["name"]) == (AuditAction.CREATE, [None, "Новая"])
    assert line.changes["ways"] == [None, [["sms", "Короткий"], ["email", "Письмо"]]]


def test_the_history_of_a_message_to_a_selection_tells_its_texts(network, client):
    with transaction():
        (run,) = mail_selection(SelectionFacts("Н", written(text="Было").ways, **LATER), selected(), by=network.owner)
    with transaction():
        change_selection(run.rule, SelectionFacts("Н", written(text="Стало").ways, **LATER), by=network.director)
    was, now = [["email", "Тема: Было"]], [["email", "Тема: Стало"]]
    assert [line.changes["ways"] for line in _told_of_ways(run.rule)] == [[None, was], [was, now]]


def _told_of_ways(rule):
    return [line for line in db.session.scalars(_lines_of(rule)) if "ways" in line.changes]


def _lines_of(rule):
    lines = select(AuditEntry).where(AuditEntry.entity == MailingRule.__tablename__, AuditEntry.entity_id == rule.id)
    return lines.order_by(AuditEntry.id)


def test_a_mailing_keeps_the_tags_of_each_message(network, client):
    make_subscription(client, make_plan(price=Decimal("7123.45")))
    rule = make_rule(network.lesnoy, kind=MailingKind.DEBT, template=make_template(body="Долг: {debt.amount}"))
    with transaction():
        run = run_now(rule, by=SYSTEM)
    execute_run(run.id, by=SYSTEM)
    assert [line.reason for line in db.session.scalars(select(MailingRunLine))] == [""]
    assert [message.tags for message in db.session.scalars(select(Message).order_by(Message.id))] == [["debt.amount"]]
