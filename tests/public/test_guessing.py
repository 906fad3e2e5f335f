"""Links tried at random are slowed down; a right link always opens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import LoginAttempt
from crm.access.operations import forget_attempts
from crm.bills.links import renew_link, revoke_link
from crm.db import db, transaction
from crm.public.guessing import MAX_MISSES, WINDOW
from tests.factories import make_bill, make_client
from tests.public.test_bill_page import has_button, text_of

NOON = datetime(2027, 2, 1, 12, tzinfo=UTC)
GUESSER, STRANGER = "203.0.113.7", "203.0.113.8"


@pytest.fixture
def guess(web):
    """guess(n, address): so many wrong links; the last answer."""

    def ask(count: int, address: str = GUESSER):
        browser = web()
        answer = None
        for number in range(count):
            answer = browser.get(f"/pay/guess-{number}", environ_base={"REMOTE_ADDR": address})
        return answer

    return ask


def attempts() -> int:
    return db.session.scalar(select(func.count()).select_from(LoginAttempt)) or 0


def test_many_wrong_links_are_refused_for_a_while(network, web, guess):
    with clock.frozen(NOON):
        assert guess(MAX_MISSES).status_code == 404
        refused = guess(1)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["Retry-After"]) <= WINDOW.total_seconds() + 1
        assert "Подождите" in text_of(refused)
        assert web().post("/pay/guess", environ_base={"REMOTE_ADDR": GUESSER}).status_code == 429
        assert guess(1, STRANGER).status_code == 404
    with clock.frozen(NOON + WINDOW + timedelta(seconds=1)):
        assert guess(1).status_code == 404


def test_who_goes_on_guessing_writes_nothing_more(network, guess):
    guess(MAX_MISSES + 10)
    assert attempts() == MAX_MISSES


def test_a_right_link_opens_beside_a_guesser(network, bank, web, guess):
    bill = make_bill(make_client(network.lesnoy))
    guess(MAX_MISSES + 1)
    browser = web()
    assert has_button(browser.get(f"/pay/{bill.token}", environ_base={"REMOTE_ADDR": GUESSER}))
    assert browser.post(f"/pay/{bill.token}", environ_base={"REMOTE_ADDR": GUESSER}).status_code == 302


def test_ipv6_addresses_of_one_owner_count_together(network, guess):
    for number in range(MAX_MISSES):
        assert guess(1, f"2001:db8:1:2::{number:x}").status_code == 404
    assert guess(1, "2001:db8:1:2:ffff::1").status_code == 429
    assert guess(1, "2001:db8:1:3::1").status_code == 404


def test_right_links_are_not_counted_and_opening_one_writes_nothing(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    for _ in range(MAX_MISSES + 1):
        assert browser.get(f"/pay/{bill.token}").status_code == 200
    db.session.expire_all()
    assert attempts() == 0
    assert (bill.version, bill.payments_count) == (1, 0)


def test_the_nightly_job_forgets_them(network, guess):
    with clock.frozen(NOON):
        guess(3)
    with transaction():
        forget_attempts(before=NOON + timedelta(days=7))
    assert attempts() == 0


def test_a_revoked_link_is_as_one_that_never_was(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    unknown, old = browser.get("/pay/unknown"), bill.token
    with transaction():
        revoke_link(bill, by=SYSTEM)
    for path in (f"/pay/{old}", f"/pay/{old}/bill.pdf", f"/pay/{old}/qr.svg"):
        answer = browser.get(path)
        assert (answer.status_code, answer.text) == (404, unknown.text)
    assert browser.post(f"/pay/{old}").text == unknown.text
    with transaction():
        renew_link(bill, by=SYSTEM)
    assert browser.get(f"/pay/{old}").text == unknown.text
    assert has_button(browser.get(f"/pay/{bill.token}"))
