"""A message by hand from the card: envelopes, the form, the preview, what is refused and why."""

from __future__ import annotations

import html
import re
from datetime import date
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.bills.operations import archive_bill
from crm.clients.models import Client, PhoneKind
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose, contact_url, link_contact, set_contact
from crm.db import db, transaction
from crm.mailings.cabinet import cabinet_messages, unread_messages
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import Message, MessageStatus, ProviderKind, Template
from crm.mailings.providers import ProviderFacts, save_provider
from tests.access.test_roles import settings_of
from tests.admin.test_grids import plain
from tests.admin.world import errors, fields, send
from tests.factories import make_bill, make_child, make_client, make_template
from tests.mailings.services import service as loopback


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.director, network.lesnoy)


@pytest.fixture
def owner(network: Any, web: Any) -> Any:
    return web(network.owner, network.lesnoy)


def path_of(client: Client, **query: Any) -> str:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return f"/admin/client/card/{client.id}/message/new/" + (f"?{asked}" if asked else "")


def messages() -> list[Message]:
    return list(db.session.scalars(select(Message).order_by(Message.id)))


def envelopes(page: str) -> list[str]:
    return re.findall(r'class="envelope" href="[^"]*[?&]to=(\w+)"', page)


# --- the card --------------------------------------------------------------------------------------------------------


@pytest.mark.spec("B34")
def test_an_envelope_stands_beside_each_phone_and_the_e_mail(network: Any, web: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, extra_phone="+79180000001")
    page = browser.get(f"/admin/client/card/{client.id}/").text
    assert envelopes(page) == ["phone", "extra_phone", "email"]
    for to in envelopes(page):
        assert browser.get(path_of(client, to=to)).status_code == 200
    assert envelopes(web(network.manager, network.lesnoy).get(f"/admin/client/card/{client.id}/").text) == []


@pytest.mark.spec("B39")
def test_a_phone_has_a_type(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    page = browser.get(f"/admin/client/edit/?id={client.id}").text
    for name in ("phone_kind", "extra_phone_kind"):
        select_ = re.search(rf'<select[^>]*name="{name}".*?</select>', page, re.DOTALL)
        assert select_ is not None
        labels = [html.unescape(text) for text in re.findall(r"<option[^>]*>([^<]*)", select_[0])]
        assert labels == ["Мобильный", "Домашний", "Рабочий", "Другой"]
    assert send(browser, f"/admin/client/edit/?id={client.id}", phone_kind="work").status_code == 302
    db.session.refresh(client)
    assert (client.phone_kind, client.extra_phone_kind) == (PhoneKind.WORK, PhoneKind.MOBILE)
    assert "Рабочий" in plain(browser.get(f"/admin/client/card/{client.id}/").text)


def test_who_does_not_see_a_phone_does_not_see_its_type(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, phone_kind=PhoneKind.WORK)
    with transaction():
        rules = {"client.phone": FieldRule.HIDE}
        change_role(settings_of(Role.ADMINISTRATOR), permissions={}, fields=rules, by=SYSTEM)
    staff = web(network.administrator, network.lesnoy)
    assert "Рабочий" not in plain(staff.get(f"/admin/client/card/{client.id}/").text)
    assert 'name="phone_kind"' not in staff.get(f"/admin/client/edit/?id={client.id}").text
    page = staff.get(path_of(client, to="phone")).text
    assert client.phone is not None
    assert client.phone[-7:] not in re.sub(r"\D", "", plain(page))


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.spec("B35", "B36")
def test_a_letter_has_a_subject_and_a_text_an_sms_a_text_alone(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    letter, sms = (browser.get(path_of(client, to=to)).text for to in ("email", "phone"))
    for page in (letter, sms):
        assert "Текст SMS/email письма" in plain(page)
        assert "Отправить" in plain(page)
    assert "Тема письма" in plain(letter)
    assert "Тема письма" not in plain(sms)
    assert errors(send(browser, path_of(client, to="email"), text="Привет").text) == {"subject": "Заполните это поле."}
    assert send(browser, path_of(client, to="phone"), text="Привет").status_code == 302


def test_the_choice_of_a_bill_tells_an_expired_one(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    term = {"payable_from": date(2020, 1, 1), "payable_until": date(2020, 1, 5)}
    good, expired = make_bill(client), make_bill(client, **term)
    page = plain(browser.get(path_of(client, to="email")).text)
    assert f"{good.title} · 1 500,00 · Ожидает оплаты" in page
    assert f"{expired.title} · 1 500,00 · Срок оплаты истёк" in page


@pytest.mark.spec("B37")
def test_what_is_sent_is_logged_with_author_and_fate(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, name="Анна")
    assert send(browser, path_of(client, to="phone"), text="Здравствуйте, {customer.name}!").status_code == 302
    (message,) = messages()
    assert (message.channel, message.recipient, message.subject) == (Channel.SMS, client.phone, "")
    assert (message.status, message.body) == (MessageStatus.PENDING, "Здравствуйте, Анна!")
    assert message.author_id == network.director.id
    for page in (f"/admin/client/card/{client.id}/?tab=messages", "/admin/message/"):
        shown = plain(browser.get(page).text)
        for text in ("SMS", "Здравствуйте, Анна!", "В очереди", network.director.name):
            assert text in shown, (page, text)


def test_a_form_sent_twice_sends_one_message(network: Any, browser: Any) -> None:
    path = path_of(make_client(network.lesnoy), to="phone")
    form = {**fields(browser.get(path).text), "text": "Привет", "step": "send"}
    assert [browser.post(path, data=form).status_code for _ in range(2)] == [302, 302]
    assert len(messages()) == 1


def test_the_preview_shows_what_the_client_will_get_and_sends_nothing(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, name="Анна")
    bill = make_bill(client)
    path = path_of(client, to="phone", bill=bill.id)
    answer = send(browser, path, text="Здравствуйте, {customer.name}! {bill.url}", step="preview")
    page = plain(answer.text)
    assert answer.status_code == 200
    assert f"Здравствуйте, Анна! https://kontora.test/pay/{bill.token}" in page
    assert re.search(r"\b2 SMS · \d+ из 134 знаков", page)
    assert messages() == []
    form = {**fields(answer.text), "step": "send"}
    assert browser.post(path, data=form).status_code == 302
    assert messages()[0].body == f"Здравствуйте, Анна! https://kontora.test/pay/{bill.token}"


def test_from_the_preview_one_goes_on_writing(network: Any, browser: Any) -> None:
    path = path_of(make_client(network.lesnoy), to="email")
    answer = send(browser, path, subject="Тема", text="Первая\nвторая", step="preview")
    page = browser.post(path, data={**fields(answer.text), "step": "edit"})
    assert page.status_code == 200
    written = fields(page.text)
    assert (written["subject"], written["text"].replace("\r\n", "\n")) == ("Тема", "Первая\nвторая")


@pytest.mark.spec("X7", "B109")
@pytest.mark.parametrize("step", ["preview", "send"])
def test_tags_of_a_bill_without_one_are_refused_and_the_text_is_kept(network: Any, browser: Any, step: str) -> None:
    client = make_client(network.lesnoy)
    text = "Оплатите {bill.amount}: {bill.url}"
    answer = send(browser, path_of(client, to="phone"), text=text, step=step)
    assert answer.status_code == 422
    assert "{bill.amount}" in errors(answer.text)["text"]
    assert fields(answer.text)["text"] == text
    assert messages() == []


@pytest.mark.spec("X7", "B109")
def test_with_a_bill_chosen_its_tags_are_filled_in(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    bill = make_bill(client)
    text = "{bill.amount} {bill.type} {bill.begin_date} {bill.end_date} {bill.url}"
    assert send(browser, path_of(client, to="phone"), text=text, bill=bill.id).status_code == 302
    (message,) = messages()
    assert message.bill_id == bill.id
    assert bill.token in message.body
    assert "{" not in message.body


def test_a_bill_whose_link_is_dead_is_not_sent(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    bill = make_bill(client)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    answer = send(browser, path_of(client, to="phone", bill=bill.id))
    assert list(errors(answer.text)) == ["bill"]
    assert messages() == []


def test_a_template_fills_in_the_text_without_a_script(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    template = make_template(channel=Channel.SMS, subject="", body="Счёт: {bill.url}")
    make_template(name="Письмо")
    path = path_of(client, to="phone")
    page = browser.get(path).text
    assert template.name in page
    assert "Письмо" not in re.search(r'<select[^>]*name="template".*?</select>', page, re.DOTALL)[0]  # type: ignore[index]
    answer = send(browser, path, template=template.id, step="fill")
    assert (answer.status_code, fields(answer.text)["text"]) == (200, "Счёт: {bill.url}")
    assert messages() == []


# --- phones ----------------------------------------------------------------------------------------------------------


@pytest.mark.spec("B38")
@pytest.mark.parametrize("kind", [PhoneKind.HOME, PhoneKind.WORK, PhoneKind.OTHER])
def test_an_sms_to_a_phone_that_is_not_mobile_is_refused_with_the_reason(
    network: Any, browser: Any, kind: PhoneKind
) -> None:
    client = make_client(network.lesnoy, phone_kind=kind)
    path = path_of(client, to="phone")
    assert "SMS отправляются только на телефоны типа «Мобильный»" in errors(browser.get(path).text)[""]
    for step in ("preview", "send"):
        answer = send(browser, path, text="Привет", step=step)
        assert answer.status_code == 422
        assert "«Мобильный»" in errors(answer.text)[""]
    assert messages() == []


def test_a_landline_by_its_number_is_refused_whatever_its_type_says(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, phone="+74951234567", extra_phone="+79181234567")
    path = path_of(client, to="phone")
    assert "городской" in errors(browser.get(path).text)[""]
    answer = send(browser, path, text="Привет")
    assert answer.status_code == 422
    assert "городской" in errors(answer.text)[""]
    assert messages() == []
    assert client.mobile_phone == "+79181234567"


def test_a_text_of_too_many_sms_is_refused(network: Any, browser: Any) -> None:
    answer = send(browser, path_of(make_client(network.lesnoy), to="phone"), text="я" * (8 * 67 + 1))
    assert "9 SMS" in errors(answer.text)["text"]


def test_a_child_without_contacts_is_written_to_through_the_payer(network: Any, browser: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer, phone="+79180000002")
    assert send(browser, path_of(child, to="email"), subject="Тема", text="Привет").status_code == 302
    assert send(browser, path_of(child, to="phone"), text="Привет").status_code == 302
    assert [message.recipient for message in messages()] == [payer.email, child.phone]
    shown = plain(browser.get(f"/admin/client/card/{child.id}/?tab=messages").text)
    assert payer.email in shown
    assert shown.count("Привет") == 2


def test_a_card_without_contacts_is_written_to_in_the_cabinet(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, phone="", email="")
    answer = browser.get(path_of(client))
    assert answer.status_code == 200
    assert pressed(answer.text) == "cabinet"
    assert {"email", "sms"} <= set(refusals(answer.text))
    assert "нет телефона" in refusals(answer.text)["sms"]
    assert errors(send(browser, path_of(client, to="email"), subject="Тема", text="Привет").text)[""]
    assert messages() == []


# --- types of messages -----------------------------------------------------------------------------------------------


def buttons(page: str) -> list[tuple[str, str, bool, str]]:
    """Of each type of message: key, label, whether it is the one chosen, why it cannot be chosen."""
    found = re.findall(
        r'<button [^>]*formaction="[^"]*[?&;]to=(\w+)[^>]*aria-pressed="(\w+)"([^>]*)>(.*?)</button>', page
    )
    return [
        (key, plain(label), chosen == "true", html.unescape("".join(re.findall(r'disabled title="([^"]*)"', rest))))
        for key, chosen, rest, label in found
    ]


def pressed(page: str) -> str:
    return next(key for key, _label, is_chosen, _refusal in buttons(page) if is_chosen)


def refusals(page: str) -> dict[str, str]:
    return {key: refusal for key, _label, _is_chosen, refusal in buttons(page) if refusal}


def link(client: Client, channel: Channel, address: str = "42") -> None:
    with transaction():
        link_contact(contact_url(client).rpartition("/")[2], channel, address)


@pytest.fixture
def service(network: Any) -> Any:
    """The services of messengers, on loopback."""
    with loopback() as server:
        yield server


def connect(network: Any, service: Any, *kinds: ProviderKind) -> None:
    for kind in kinds:
        options = {"bot": "school_bot", "channel": "c-1"}
        facts = ProviderFacts(network.company, kind, service.url, "1:key", options=options)
        with transaction():
            save_provider(None, facts, by=SYSTEM)


BOTS = (ProviderKind.TELEGRAM, ProviderKind.VIBER)
TAKEN = {
    ProviderKind.TELEGRAM: {"ok": True, "result": {"message_id": 41}},
    ProviderKind.VIBER: {"status": 0, "status_message": "ok", "message_token": 51},
    ProviderKind.WHATSAPP: {"messageId": "w-61"},
}


@pytest.mark.spec("C97", "D45", "D46", "D48")
def test_the_types_of_messages_are_chosen_in_the_form(network: Any, browser: Any, service: Any) -> None:
    connect(network, service, *BOTS, ProviderKind.WHATSAPP)
    client = make_client(network.lesnoy)
    page = browser.get(path_of(client)).text
    assert "Тип сообщения" in plain(page)
    shown = {key: label.split(":")[0].split()[0] for key, label, *_rest in buttons(page)}
    assert shown == {
        **{"email": "Email", "phone": "SMS", "whatsapp": "WhatsApp", "telegram": "Telegram", "viber": "Viber"},
        **{"push": "Push-уведомление", "cabinet": "Личный"},
    }
    assert set(refusals(page)) == {"telegram", "viber", "push"}
    assert "клиент не подключён" in refusals(page)["telegram"]
    link(client, Channel.TELEGRAM)
    link(client, Channel.VIBER)
    link(client, Channel.PUSH, "{}")
    assert set(refusals(browser.get(path_of(client)).text)) == set()


def test_what_the_company_has_no_provider_for_cannot_be_chosen(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    link(client, Channel.TELEGRAM)
    refused = refusals(browser.get(path_of(client)).text)
    assert refused["telegram"] == "Не подключён провайдер для «Telegram»."
    answer = send(browser, path_of(client, to="telegram"), text="Привет")
    assert (answer.status_code, errors(answer.text)[""]) == (422, refused["telegram"])
    assert messages() == []


def test_another_type_is_chosen_without_a_script_and_nothing_typed_is_lost(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    form = fields(browser.get(path_of(client, to="email")).text) | {"subject": "Тема", "text": "Привет", "step": "edit"}
    sms = browser.post(path_of(client, to="phone"), data=form)
    assert (sms.status_code, pressed(sms.text)) == (200, "phone")
    assert fields(sms.text)["text"] == "Привет"
    assert "Тема письма" not in plain(sms.text)
    letter = browser.post(path_of(client, to="email"), data=fields(sms.text) | {"step": "edit"})
    assert (fields(letter.text)["subject"], fields(letter.text)["text"]) == ("Тема", "Привет")
    assert messages() == []


@pytest.mark.spec("C98", "C100")
@pytest.mark.parametrize(
    ("linked", "kinds", "used"),
    [
        ((), BOTS, Channel.SMS),
        ((Channel.TELEGRAM,), BOTS, Channel.TELEGRAM),
        ((Channel.VIBER,), BOTS, Channel.VIBER),
        ((Channel.TELEGRAM, Channel.VIBER), BOTS, Channel.TELEGRAM),
        ((Channel.TELEGRAM, Channel.VIBER), (ProviderKind.VIBER,), Channel.VIBER),
        ((Channel.TELEGRAM,), (*BOTS, ProviderKind.WHATSAPP), Channel.TELEGRAM),
        ((), (*BOTS, ProviderKind.WHATSAPP), Channel.WHATSAPP),
        ((Channel.TELEGRAM, Channel.VIBER), (), Channel.SMS),
    ],
)
def test_an_sms_goes_to_the_bot_the_client_has_linked(
    network: Any, browser: Any, service: Any, linked: Any, kinds: Any, used: Channel
) -> None:
    connect(network, service, *kinds)
    client = make_client(network.lesnoy)
    for channel in linked:
        link(client, channel, f"chat-{channel.value}")
    path = path_of(client, to="phone")
    told = f"Вместо SMS сообщение уйдёт в {used.label}."
    preview = send(browser, path, text="Я" * 80, step="preview")
    for page in (browser.get(path), preview):
        assert (told in plain(page.text)) is (used is not Channel.SMS)
    assert ("2 SMS" in plain(preview.text)) is (used is Channel.SMS)
    assert messages() == []
    assert send(browser, path, text="Я" * 80).status_code == 302
    (message,) = messages()
    recipient = client.phone if used in {Channel.SMS, Channel.WHATSAPP} else f"chat-{used.value}"
    assert (message.channel, message.recipient, message.kind) == (used, recipient, MessageKind.PERSONAL)
    if used is not Channel.SMS:
        service.say(TAKEN[ProviderKind(used.value)])
        deliver_batch()
        db.session.refresh(message)
        assert (message.status, message.error) == (MessageStatus.SENT, "")
        assert "Я" * 80 in service.calls[-1].body.decode() or "Я" * 80 in str(service.calls[-1].fields)


@pytest.mark.spec("C98", "C100")
def test_what_a_messenger_refuses_goes_on_as_an_sms(network: Any, browser: Any, service: Any) -> None:
    connect(network, service, *BOTS)
    client = make_client(network.lesnoy)
    link(client, Channel.TELEGRAM)
    assert send(browser, path_of(client, to="phone"), text="Привет").status_code == 302
    service.say({"ok": False, "error_code": 403, "description": "Forbidden: bot was blocked by the user"}, 403)
    for _attempt in range(2):
        deliver_batch()
    refused, sms = messages()
    assert (refused.status, refused.channel, sms.channel) == (MessageStatus.FAILED, Channel.TELEGRAM, Channel.SMS)
    assert (sms.recipient, sms.body, sms.kind, sms.author_id) == (
        *(client.phone, "Привет", MessageKind.PERSONAL, network.director.id),
    )


def test_what_was_written_to_a_messenger_goes_nowhere_else(network: Any, browser: Any, service: Any) -> None:
    connect(network, service, *BOTS)
    client = make_client(network.lesnoy)
    link(client, Channel.TELEGRAM)
    assert send(browser, path_of(client, to="telegram"), text="Привет").status_code == 302
    service.say({"ok": False, "error_code": 403, "description": "Forbidden: bot was blocked by the user"}, 403)
    deliver_batch()
    (message,) = messages()
    assert message.status is MessageStatus.FAILED


def test_a_message_to_the_cabinet_is_shown_to_the_client_until_he_has_read_it(
    network: Any, browser: Any, web: Any
) -> None:
    client = make_client(network.lesnoy)
    assert send(browser, path_of(client, to="cabinet"), text="Занятие перенесено").status_code == 302
    deliver_batch()
    (message,) = messages()
    assert (message.channel, message.status) == (Channel.CABINET, MessageStatus.SENT)
    assert unread_messages(client) == [message]
    with transaction():
        path = contact_url(client).removeprefix("https://kontora.test")
    page = web().get(path).text
    assert "Занятие перенесено" in page
    web().post(f"{path}/read", data={"id": str(message.id)})
    assert (unread_messages(client), cabinet_messages(client)) == ([], [message])
    assert "Прочитано" in plain(browser.get("/admin/message/").text)


def test_a_client_who_forbids_a_kind_gets_none_and_the_reason_is_told(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    bill = make_bill(client)
    with transaction():
        choose(client, MessageKind.PERSONAL, False, by=None)
    told = "не получает сообщения вида «Личные сообщения»"
    assert told in errors(browser.get(path_of(client)).text)[""]
    for to in ("email", "phone", "cabinet"):
        answer = send(browser, path_of(client, to=to), subject="Тема", text="Привет")
        assert answer.status_code == 422
        assert told in errors(answer.text)[""]
    assert messages() == []
    assert errors(browser.get(path_of(client, bill=bill.id)).text) == {}
    assert send(browser, path_of(client, to="email", bill=bill.id)).status_code == 302
    (message,) = messages()
    assert message.kind is MessageKind.BILLS


def test_a_channel_switched_off_in_the_card_is_not_used(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        set_contact(client, Channel.SMS, False, by=SYSTEM)
    assert "выключено" in refusals(browser.get(path_of(client)).text)["phone"]
    assert send(browser, path_of(client, to="phone"), text="Привет").status_code == 422
    assert messages() == []


# --- templates -------------------------------------------------------------------------------------------------------


def test_thanks_are_switched_on_in_the_template(network: Any, owner: Any) -> None:
    form = {"name": "Спасибо", "subject": "Оплата", "body": "Спасибо за {payment.amount}", "is_thanks": "1"}
    assert send(owner, "/admin/template/new/", **form).status_code == 302
    assert db.session.scalars(select(Template)).one().is_thanks
    assert list(errors(send(owner, "/admin/template/new/", **{**form, "name": "Ещё"}).text)) == ["is_thanks"]
