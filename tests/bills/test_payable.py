"""Until when a bill may be paid: to the last midnight of its term, where the branch is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill
from crm.bills.operations import archive_bill, check_payable
from crm.db import transaction
from crm.errors import DomainError
from tests.bills.test_archive import settle_at_desk
from tests.factories import make_bill, make_client

EXPIRED = "Срок оплаты счета истек, обратитесь к администратору"


def refusal(bill: Bill) -> str | None:
    try:
        check_payable(bill)
    except DomainError as error:
        return error.code
    return None


@pytest.mark.spec("B26", "X4")
@pytest.mark.parametrize(("branch", "zone"), [("lesnoy", "Europe/Moscow"), ("mira", "Europe/Samara")])
def test_the_last_day_counts_until_midnight_of_the_branch(network, branch, zone):
    bill = make_bill(
        make_client(getattr(network, branch)), payable_from=date(2027, 1, 1), payable_until=date(2027, 1, 31)
    )
    midnight = datetime(2027, 2, 1, tzinfo=ZoneInfo(zone))
    with clock.frozen(midnight - timedelta(seconds=1)):
        assert refusal(bill) is None
        assert not bill.is_overdue
    with clock.frozen(midnight):
        assert refusal(bill) == "expired"
        assert bill.is_overdue


@pytest.mark.spec("B26")
def test_one_moment_is_too_late_in_samara_and_early_enough_in_moscow(network):
    term = {"payable_from": date(2027, 1, 1), "payable_until": date(2027, 1, 31)}
    moscow = make_bill(make_client(network.lesnoy), **term)
    samara = make_bill(make_client(network.mira), **term)
    with clock.frozen(datetime(2027, 1, 31, 20, 30, tzinfo=UTC)):
        assert (refusal(moscow), refusal(samara)) == (None, "expired")


@pytest.mark.spec("B27")
def test_the_text_of_expiry(network):
    bill = make_bill(make_client(network.lesnoy), payable_from=date(2027, 1, 1), payable_until=date(2027, 1, 1))
    with clock.frozen(datetime(2027, 1, 2, 9, tzinfo=UTC)), pytest.raises(DomainError) as refused:
        check_payable(bill)
    assert str(refused.value) == EXPIRED


def test_not_before_the_first_day(network):
    bill = make_bill(make_client(network.lesnoy), payable_from=date(2027, 1, 10))
    midnight = datetime(2027, 1, 10, tzinfo=ZoneInfo("Europe/Moscow"))
    with clock.frozen(midnight - timedelta(seconds=1)):
        assert refusal(bill) == "not_yet"
    with clock.frozen(midnight):
        assert refusal(bill) is None


@pytest.mark.spec("B24")
def test_without_an_end_it_may_be_paid_for_ever(network):
    bill = make_bill(make_client(network.lesnoy))
    with clock.frozen(clock.now() + timedelta(days=3650)):
        assert refusal(bill) is None


def test_who_has_paid_is_thanked_and_not_told_the_term_has_expired(network):
    today = clock.today(network.lesnoy)
    once = settle_at_desk(make_bill(make_client(network.lesnoy), payable_until=today))
    again = settle_at_desk(make_bill(make_client(network.lesnoy), payable_until=today, is_repeatable=True))
    assert (refusal(once), refusal(again)) == ("paid", None)
    with clock.frozen(clock.now() + timedelta(days=2)):
        assert (refusal(once), refusal(again)) == ("paid", "expired")


@pytest.mark.spec("B55")
def test_the_archive_wins_over_repeatable(network):
    bill = make_bill(make_client(network.lesnoy), is_repeatable=True)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    assert refusal(bill) == "archived"
