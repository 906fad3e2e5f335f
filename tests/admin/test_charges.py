"""«Расходы на сообщения»: what messages have cost, by whom it may be seen."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from openpyxl import load_workbook

from crm import clock
from crm.contacts.models import Channel
from tests.admin.test_grids import plain
from tests.factories import make_charge, make_client, make_message

AT = datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.fixture
def charges(network):
    """Two messages of lesnoy, one of rechnoy."""
    anna, boris = make_client(network.lesnoy, name="Анна"), make_client(network.rechnoy, name="Борис")
    sms = make_message(anna, channel=Channel.SMS, recipient=anna.phone, subject="")
    more = make_message(anna, channel=Channel.WHATSAPP, recipient=anna.phone, subject="")
    other = make_message(boris, channel=Channel.SMS, recipient=boris.phone, subject="")
    return [make_charge(one, amount, at=AT) for one, amount in ((sms, "2.50"), (more, "4.00"), (other, "7.25"))]


def rows(browser, query=""):
    file = browser.get(f"/admin/messagecharge/export/xlsx/{query}")
    assert file.status_code == 200
    header, *lines = load_workbook(io.BytesIO(file.data)).active.values
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_each_message_that_cost_something_and_what_they_cost_together(network, web, charges):
    browser = web(network.owner)
    page = plain(browser.get("/admin/messagecharge/").text)
    for part in ("Анна", "Борис", "WhatsApp", "13,75", "Лесная школа"):
        assert part in page
    filtered = plain(browser.get("/admin/messagecharge/?f.channel.is=sms").text)
    assert "9,75" in filtered
    assert "4,00" not in filtered
    with clock.frozen(AT):
        assert "13,75" in plain(browser.get("/admin/messagecharge/?f.at.period=this_month").text)
        assert "Анна" in plain(browser.get("/admin/messagecharge/?q=анна").text)


def test_excel_has_them_too(network, web, charges):
    lines = rows(web(network.owner, network.lesnoy), "?f.channel.is=whatsapp")
    assert [(line["Клиент"], line["Канал"], line["Сумма"]) for line in lines][:1] == [("Анна", "WhatsApp", 4)]


def test_a_director_sees_those_of_his_branch_alone(network, web, charges):
    page = plain(web(network.director, network.lesnoy).get("/admin/messagecharge/").text)
    assert "6,50" in page
    assert "Борис" not in page


@pytest.mark.parametrize("role", ["administrator", "instructor", "support"])
def test_others_do_not(network, web, role):
    assert web(getattr(network, role)).get("/admin/messagecharge/").status_code == 403


def test_a_line_leads_to_its_message(network, web, charges):
    browser = web(network.owner)
    page = browser.get("/admin/messagecharge/").text
    assert f"/admin/message/details/?id={charges[0].message_id}" in page
