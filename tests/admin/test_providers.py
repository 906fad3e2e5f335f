"""«Каналы рассылок»: services are connected, changed, tried and switched off in the panel."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from crm.db import db
from crm.mailings.models import Provider, ProviderKind
from tests.admin.test_grids import plain
from tests.admin.world import errors, fields, send
from tests.factories import make_provider
from tests.mailings.services import service

KEY = "123456:AAE-key_of_the_bot"


@pytest.fixture(params=["owner", "support"])
def staff(request, network, web):
    return web(getattr(network, request.param))


def connected(browser, kind, **facts):
    return send(browser, f"/admin/provider/new/?kind={kind}", **facts)


def only():
    db.session.expire_all()
    return db.session.scalars(select(Provider)).one()


def test_a_service_is_chosen_and_its_own_fields_are_asked_for(network, staff):
    page = staff.get("/admin/provider/new/").text
    for kind in ProviderKind:
        assert f"kind={kind.value}" in page
    asked = {
        kind: set(fields(staff.get(f"/admin/provider/new/?kind={kind.value}").text)) - {"form_key", "is_active"}
        for kind in ProviderKind
    }
    common = {"company", "secret", "url", "per_minute"}
    assert asked == {
        ProviderKind.HTTP: common | {"sender", "body", "ok", "number", "price"},
        ProviderKind.SMSRU: common | {"sender", "price"},
        ProviderKind.TELEGRAM: common | {"bot"},
        ProviderKind.VIBER: common | {"bot", "sender", "price"},
        ProviderKind.WHATSAPP: common | {"channel", "price"},
    }


def test_any_sms_gateway_is_connected(network, staff):
    facts = {"url": "https://sms.demo.test/send", "secret": "key", "sender": "SCHOOL"}
    facts |= {"price": "2,50", "per_minute": "60"}
    facts |= {"body": '{"to": "{digits}", "msg": "{text}"}', "ok": "status=ok", "number": "data.id"}
    answer = connected(staff, "http", **facts)
    assert answer.status_code == 302, errors(answer.text)
    provider = only()
    assert (provider.company, provider.url, provider.secret, provider.sender) == (
        network.company,
        "https://sms.demo.test/send",
        "key",
        "SCHOOL",
    )
    assert (str(provider.price), provider.per_minute) == ("2.50", 60)
    assert provider.options == {"body": facts["body"], "ok": "status=ok", "id": "data.id"}
    page = plain(staff.get(answer.location).text)
    assert "Отправить проверочное сообщение" in page
    assert "/channels/" not in page
    assert "Признак успеха: status=ok" in page


@pytest.mark.parametrize(
    ("kind", "facts", "field", "said"),
    [
        ("http", {"url": "http://sms.demo.test"}, "url", "https://"),
        ("http", {"url": ""}, "url", "Заполните"),
        ("http", {"body": "{nonsense"}, "body", "JSON"),
        ("http", {"body": "to={digits}"}, "body", "{text}"),
        ("http", {"ok": "status"}, "ok", "status=ok"),
        ("smsru", {"secret": ""}, "secret", "Заполните"),
        ("smsru", {"secret": "ключ"}, "secret", "латинских"),
        ("smsru", {"per_minute": "0"}, "per_minute", "одно"),
        ("telegram", {"bot": ""}, "bot", "Заполните"),
        ("whatsapp", {"channel": ""}, "channel", "Заполните"),
    ],
)
def test_a_mistake_stands_beside_its_field(network, web, kind, facts, field, said):
    good = {"url": "https://sms.demo.test", "secret": "key"}
    good |= {"telegram": {"bot": "school"}, "whatsapp": {"channel": "1"}}.get(kind, {})
    answer = connected(web(network.owner), kind, **{**good, **facts})
    assert answer.status_code == 422
    assert said in errors(answer.text)[field]
    assert db.session.scalars(select(Provider)).all() == []


def test_a_channel_has_one_service_and_another_may_take_its_place(network, staff):
    provider = make_provider(network.company, ProviderKind.SMSRU)
    taken = connected(staff, "http", url="https://sms.demo.test", secret="key")
    assert taken.status_code == 422
    assert "уже есть" in "".join(errors(taken.text).values())
    page = staff.get(f"/admin/provider/details/?id={provider.id}").text
    assert f"/admin/provider/edit/?id={provider.id}&amp;kind=http" in page
    path = f"/admin/provider/edit/?id={provider.id}&kind=http"
    without = send(staff, path, url="https://sms.demo.test")
    assert "secret" in errors(without.text)  # the key of another service is of no use
    assert send(staff, path, url="https://sms.demo.test", secret="other").status_code == 302
    assert (only().kind, only().secret) == (ProviderKind.HTTP, "other")
    # A messenger takes no SMS's place: the form stays what it was.
    assert "bot" not in fields(staff.get(f"/admin/provider/edit/?id={provider.id}&kind=telegram").text)


def test_the_key_is_never_shown_again_and_stays_where_none_is_typed(network, staff):
    provider = make_provider(network.company, ProviderKind.TELEGRAM, secret=KEY)
    path = f"/admin/provider/edit/?id={provider.id}"
    assert send(staff, path, per_minute="20").status_code == 302
    assert (only().secret, only().per_minute) == (KEY, 20)
    pages = ("/admin/provider/", path, f"/admin/provider/details/?id={provider.id}", "/admin/audit/")
    for page in (*pages, f"/admin/provider/history/?id={provider.id}"):
        answer = staff.get(page)
        assert answer.status_code == 200, page
        assert KEY not in answer.text, page


def test_another_server_is_not_told_the_key_of_the_former(network, staff):
    """Else whoever may change the address would read the key there."""
    connected(staff, "http", url="https://sms.demo.test/send", secret="key")
    path = f"/admin/provider/edit/?id={only().id}"
    answer = send(staff, path, url="https://other.demo.test/send", secret="")
    assert answer.status_code == 422
    assert set(errors(answer.text)) == {"secret"}
    assert send(staff, path, url="https://sms.demo.test/v2/send", secret="").status_code == 302
    assert (only().url, only().secret) == ("https://sms.demo.test/v2/send", "key")
    assert send(staff, path, url="https://other.demo.test/send", secret="new").status_code == 302
    assert (only().url, only().secret) == ("https://other.demo.test/send", "new")


def test_it_is_switched_off(network, staff):
    provider = make_provider(network.company)
    assert send(staff, f"/admin/provider/edit/?id={provider.id}", is_active=None).status_code == 302
    assert not only().is_active


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ({"ok": True, "result": True}, 200, "Подключено"),
        ({"ok": False, "error_code": 401, "description": "Unauthorized"}, 401, "Unauthorized"),
    ],
)
def test_the_service_is_told_where_to_call_us(network, staff, answer, status, said):
    with service() as telegram:
        telegram.say(answer, status)
        provider = make_provider(network.company, ProviderKind.TELEGRAM, url=telegram.url, secret=KEY)
        page = staff.get(f"/admin/provider/details/?id={provider.id}").text
        address = f"https://kontora.test/channels/{provider.token}"
        assert f'data-copy="{address}"' in page
        where = staff.post("/admin/provider/connect/", data={"id": str(provider.id)}).location
        assert said in staff.get(where).text
        (call,) = telegram.calls
        assert (call.path, call.fields["url"]) == (f"/bot{KEY}/setWebhook", address)


def test_a_test_message_goes_to_the_phone_given_once(network, staff):
    with service() as gateway:
        gateway.say({"status": "ok"})
        options = {"ok": "status=ok"}
        provider = make_provider(network.company, ProviderKind.HTTP, url=gateway.url, options=options)
        path = f"/admin/provider/try/?id={provider.id}"
        form = {**fields(staff.get(path).text), "phone": "8 918 000-00-07"}
        said = staff.get(staff.post(path, data=form).location).text
        assert "Сервис принял сообщение" in said
        staff.post(path, data=form)
        assert [post.fields["phone"] for post in gateway.calls] == ["+79180000007"]
        assert "Лесная школа" in gateway.calls[0].fields["text"]
        gateway.say({"status": "no money"})
        assert "no money" in staff.get(send(staff, path, phone="89180000007").location).text
        assert "phone" in errors(send(staff, path, phone="").text)


def test_a_bot_has_no_phone_to_write_to(network, staff):
    provider = make_provider(network.company, ProviderKind.TELEGRAM)
    assert staff.get(f"/admin/provider/try/?id={provider.id}").status_code == 404


@pytest.mark.parametrize("role", ["regional", "director", "administrator", "manager", "instructor"])
def test_others_do_not_see_the_channels(network, web, role):
    provider = make_provider(network.company)
    browser = web(getattr(network, role))
    assert browser.get("/admin/provider/").status_code == 403
    for path in ("connect", "try", "edit"):
        assert browser.post(f"/admin/provider/{path}/", data={"id": str(provider.id)}).status_code == 403


def test_the_menu_leads_there(network, web):
    assert "Каналы рассылок" in web(network.owner).get("/admin/provider/").text
    assert "/admin/provider/" not in web(network.administrator).get("/admin/client/").text
