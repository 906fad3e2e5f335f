"""Quiet hours and consent of a company: entered in its form, obeyed by nobody but whom they concern."""

from __future__ import annotations

from datetime import time

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.mailing_option import set_mailing_rules
from crm.access.models import Company
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from tests.admin.test_grids import plain
from tests.admin.world import errors, send


@pytest.mark.parametrize("role", ["owner", "support"])
def test_they_are_entered_shown_and_taken_back(network, web, role):
    browser, path = web(getattr(network, role)), f"/admin/company/edit/?id={network.company.id}"
    answer = send(browser, path, quiet_from="21:00", quiet_to="09:00", asks_consent="y")
    assert answer.status_code == 302, errors(answer.text)
    company = network.company
    db.session.expire_all()
    assert (company.quiet_from, company.quiet_to, company.asks_consent) == (time(21), time(9), True)
    page = plain(browser.get(answer.location).text)
    assert "Тихие часы: с 21:00" in page
    assert 'value="21:00"' in browser.get(path).text
    assert send(browser, path, quiet_from="", quiet_to="", asks_consent=None).status_code == 302
    db.session.expire_all()
    assert (company.quiet_from, company.quiet_to, company.asks_consent) == (None, None, False)


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"quiet_from": "21:00"}, "quiet_to"),
        ({"quiet_to": "09:00"}, "quiet_from"),
        ({"quiet_from": "09:00", "quiet_to": "09:00"}, "quiet_to"),
        ({"quiet_from": "25:00", "quiet_to": "09:00"}, "quiet_from"),
    ],
)
def test_a_mistake_stands_beside_its_field(network, web, sent, field):
    answer = send(web(network.owner), f"/admin/company/edit/?id={network.company.id}", **sent)
    assert answer.status_code == 422
    assert set(errors(answer.text)) == {field}


def test_a_new_company_has_its_own(network, web):
    answer = send(web(network.owner), "/admin/company/new/", name="Вторая", quiet_from="22:00", quiet_to="08:30")
    assert answer.status_code == 302, errors(answer.text)
    company = db.session.scalars(select(Company).where(Company.name == "Вторая")).one()
    assert (company.quiet_from, company.quiet_to, company.asks_consent) == (time(22), time(8, 30), False)


def test_only_who_may_change_the_company_does(network):
    told = {"quiet_from": time(21), "quiet_to": time(9), "asks_consent": False}
    with pytest.raises(Forbidden), transaction():
        set_mailing_rules(network.company, **told, by=network.director)
    with transaction():  # what stays the same needs no right
        set_mailing_rules(network.company, quiet_from=None, quiet_to=None, asks_consent=False, by=network.director)
    with pytest.raises(DomainError), transaction():
        set_mailing_rules(network.company, **{**told, "quiet_to": None}, by=SYSTEM)
