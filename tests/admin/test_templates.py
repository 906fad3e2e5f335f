"""Templates of messages in the panel: the menu, the tags beside the text, how a client sees it."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.config import ROOT
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.mailings.models import Template
from tests.admin.test_grids import plain, table
from tests.admin.world import errors, fields, send
from tests.factories import make_bill, make_client, make_rule, make_template

NEW = "/admin/template/new/"


@pytest.fixture
def owner(network: Any, web: Any) -> Any:
    return web(network.owner, network.lesnoy)


@pytest.mark.spec("B106")
def test_the_menu_leads_to_the_templates_of_each_way(network: Any, owner: Any) -> None:
    make_template(name="Письмо")
    make_template(name="Короткое", channel=Channel.SMS, subject="", body="Счёт")
    side = owner.get("/admin/").text
    for title, name, channel in (("Email шаблоны", "Письмо", "email"), ("SMS Шаблоны", "Короткое", "sms")):
        link = re.search(rf'<a href="([^"]+)"[^>]*>(?:(?!</a>).)*{title}', side, re.DOTALL)
        assert link is not None, title
        page = owner.get(owner.get(link[1]).location).text
        [row] = table(page)
        assert name in row
        add = re.search(rf'<a[^>]*href="({NEW}[^"]*)"[^>]*>(?:(?!</a>).)*Добавить', page, re.DOTALL)
        assert add is not None
        assert fields(owner.get(add[1]).text)["channel"] == channel


def test_the_menu_shows_whose_page_it_is(network: Any, owner: Any) -> None:
    def current(path: str) -> list[str]:
        return re.findall(r'<a href="([^"]+)" aria-current="page">', owner.get(path).text.split("</nav>")[0])

    short = make_template(channel=Channel.SMS, subject="")
    letters, texts = "/admin/emailtemplates/", "/admin/smstemplates/"
    assert current("/admin/template/?f.channel.is=sms") == [texts]
    assert current("/admin/template/?f.channel.is=email") == [letters]
    assert current(f"/admin/template/edit/?id={short.id}") == [texts]
    assert current("/admin/template/new/") == [letters]
    assert current("/admin/template/new/?channel=sms") == [texts]
    assert current("/admin/template/") == []
    assert current("/admin/mailingrule/") == current("/admin/mailingrule/new/") == ["/admin/mailingrule/"]


@pytest.mark.spec("B107", "B108", "B110", "B115", "B116", "B117", "B118")
def test_a_templates_tags_stand_beside_it_in_red(network: Any, owner: Any) -> None:
    page = owner.get(NEW).text
    shown = re.findall(r'<code class="tag">([^<]+)</code>', page)
    assert {
        *("{customer.name}", "{bill.url}", "{bill.amount}", "{bill.type}", "{bill.amount_subjects_url}"),
        *("{bill.amount_url}", "{customer.bills}", "{customer.bills.amount_url}"),
        "{customer.bills.amount_subject_url}",
    } <= set(shown)
    style = (ROOT / "static" / "app.css").read_text()
    colour = re.search(r"(?:^|\})\s*\.tag\s*\{[^}]*color:\s*#([0-9a-f]{6})", style)
    assert colour is not None
    red, green, blue = (int(colour[1][place : place + 2], 16) for place in (0, 2, 4))
    assert red > 2 * max(green, blue)
    assert "/static/tags.js" in page


def test_a_template_is_made_and_mended(network: Any, owner: Any) -> None:
    body = "Здравствуйте, {customer.name}!\r\n\r\n  {bill.url}"
    answer = send(owner, NEW, name="Счёт", subject="Счёт", body="Итого {bill.sum}")
    assert list(errors(answer.text)) == ["body"]
    assert "{bill.sum}" in errors(answer.text)["body"]
    assert fields(answer.text)["body"] == "Итого {bill.sum}"
    assert re.search(r'<code class="tag">', answer.text)  # the tags are still beside it
    assert send(owner, NEW, name="Счёт", subject="Счёт", body=body).status_code == 302
    template = db.session.scalars(select(Template)).one()
    assert "{customer.name}" in template.body
    path = f"/admin/template/edit/?id={template.id}"
    assert fields(owner.get(path).text)["body"].splitlines() == template.body.splitlines() == body.splitlines()
    assert send(owner, path, subject="Новая тема").status_code == 302
    answer = send(owner, NEW, name="Счёт", subject="Счёт", body="Текст")
    assert errors(answer.text) == {"name": "Шаблон с таким названием уже есть."}


def test_a_template_of_sms_has_no_subject_and_one_of_letters_must(network: Any, owner: Any) -> None:
    form = {"name": "Ссылка", "subject": "", "body": "Счёт: {bill.url}"}
    assert list(errors(send(owner, NEW, **form).text)) == ["subject"]
    assert send(owner, NEW, **form, channel="sms").status_code == 302
    template = db.session.scalars(select(Template)).one()
    assert (template.channel, template.subject, template.is_thanks) == (Channel.SMS, "", False)


def test_a_template_in_use_keeps_its_channel(network: Any, owner: Any) -> None:
    rule = make_rule(network.lesnoy)
    answer = send(owner, f"/admin/template/edit/?id={rule.ways[0].template_id}", channel="sms")
    assert list(errors(answer.text)) == ["channel"]


# --- preview ---------------------------------------------------------------------------------------------------------


def seen(page: str) -> str:
    """What the preview shows."""
    found = re.search(r'<article class="message-preview".*?</article>', page, re.DOTALL)
    assert found is not None
    return plain(found[0]).replace("\xa0", " ")


def test_a_preview_shows_the_letter_with_the_real_bill(network: Any, owner: Any) -> None:
    client = make_client(network.lesnoy, name="Анна <b>Лесная</b>")
    bill = make_bill(client, amount=Decimal("4000.50"))
    make_client(network.lesnoy, name="Олег")
    typed = {"name": "", "subject": "Счёт на {bill.amount}", "body": "{customer.name}: {customer.bills}"}
    page = send(owner, NEW, **typed, step="preview", q="анна").text
    assert "Счёт на 4 000,50" in seen(page)
    assert f"https://kontora.test/pay/{bill.token}" in seen(page)
    assert "Анна &lt;b&gt;Лесная&lt;/b&gt;" in page
    assert "<b>Лесная" not in page
    assert fields(page)["body"] == typed["body"]
    assert errors(page) == {}
    assert db.session.scalar(select(func.count()).select_from(Template)) == 0


def test_a_preview_is_of_the_client_chosen_and_tells_the_length_of_an_sms(network: Any, owner: Any) -> None:
    anna, oleg = (make_client(network.lesnoy, name=name) for name in ("Анна", "Олег"))
    typed = {"channel": "sms", "body": "{customer.name}" + "ю" * 80, "step": "preview"}
    assert "Олег" in seen(send(owner, NEW, **typed, q="").text)  # the newest
    page = send(owner, NEW, **typed, q="", shown_to=str(anna.id)).text
    assert "Анна" in seen(page)
    assert "2 SMS" in seen(page)
    assert "84 из 134" in seen(page)
    assert oleg.name not in seen(page)


def test_what_there_is_nothing_for_stays_and_is_told(network: Any, owner: Any) -> None:
    make_client(network.lesnoy, name="Анна")
    page = send(owner, NEW, subject="Счёт", body="{customer.name} {bill.url} {debt.amount}", step="preview").text
    assert "Анна {bill.url} {debt.amount}" in seen(page)
    assert "Для тегов, оставшихся как есть" in seen(page)


def test_a_preview_says_what_is_wrong_with_the_tags(network: Any, owner: Any) -> None:
    make_client(network.lesnoy)
    page = send(owner, NEW, subject="Счёт", body="{bill.sum}", step="preview").text
    assert list(errors(page)) == ["body"]
    assert "message-preview" not in page


def test_only_clients_in_sight_are_offered(network: Any, web: Any) -> None:
    make_client(network.mira, name="Чужой")
    make_client(network.lesnoy, name="Наш")
    page = send(web(network.owner, network.lesnoy), NEW, subject="С", body="{customer.name}", step="preview", q="").text
    assert "Наш" in page
    assert "Чужой" not in page


def test_a_preview_of_a_saved_template_leaves_it_as_it_is(network: Any, owner: Any) -> None:
    make_client(network.lesnoy, name="Анна")
    template = make_template(body="Было")
    page = send(owner, f"/admin/template/edit/?id={template.id}", body="Стало, {customer.name}", step="preview").text
    assert "Стало, Анна" in seen(page)
    db.session.expire_all()
    assert template.body == "Было"


def test_a_preview_shows_nothing_its_reader_may_not_see(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Анна", phone="+79991234567", email="anna@demo.test")
    make_bill(client, amount=Decimal("4000.50"))
    director = web(network.director, network.lesnoy)
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.DIRECTOR)).one()
    body = "{customer.name}|{customer.phone}|{customer.email}|{bill.amount}"

    def previewed(fields: dict[str, FieldRule], **permissions: bool) -> str:
        with transaction():
            allowed = {"template.create": True, **{name.replace("_", "."): may for name, may in permissions.items()}}
            change_role(settings, permissions=allowed, fields=fields, by=SYSTEM)
        return seen(send(director, NEW, subject="На {customer.email}", body=body, step="preview").text)

    page = previewed({})
    assert "На anna@demo.test" in page
    assert "Анна|+7 999 123-45-67|anna@demo.test|4 000,50" in page
    page = previewed(dict.fromkeys(("client.phone", "client.email", "bill.amount"), FieldRule.HIDE))
    assert "На ••••••" in page
    assert "Анна|••••••|••••••|••••••" in page
    assert "Анна|+7 999 123-45-67|anna@demo.test|••••••" in previewed({}, bill_view=False)
