"""A bill's link taken back, and given anew; several bills under one link."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.bills.bundles import MOST, bundle_bills, bundle_url, bundles_of, revoke_bundle
from crm.bills.links import bill_url, renew_link, revoke_link
from crm.bills.models import Bill, BillBundle
from crm.bills.operations import archive_bill
from crm.bills.queries import bill_by_token
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from tests.bills.test_archive import settle_at_desk
from tests.factories import make_bill, make_client


def test_a_revoked_link_leads_nowhere(network: Any, web: Callable[..., Any]) -> None:
    bill = make_bill(make_client(network.lesnoy))
    with transaction():
        revoke_link(bill, by=network.administrator)
    with pytest.raises(NotFound):
        bill_by_token(bill.token)
    assert web().get(f"/pay/{bill.token}").status_code == 404
    assert web().post(f"/pay/{bill.token}").status_code == 404


def test_a_new_link_works_and_the_old_one_does_not(network: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    old = bill.token
    with transaction():
        revoke_link(bill, by=network.administrator)
        renew_link(bill, by=network.administrator)
    assert bill_by_token(bill.token) is bill
    assert bill_url(bill) == f"https://kontora.test/pay/{bill.token}"
    assert bill.token != old
    with pytest.raises(NotFound):
        bill_by_token(old)


def test_revoking_twice_keeps_the_first_moment(network: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    for hour in (9, 10):
        with clock.frozen(datetime(2027, 3, 1, hour, tzinfo=UTC)), transaction():
            revoke_link(bill, by=network.administrator)
    assert bill.link_revoked_at == datetime(2027, 3, 1, 9, tzinfo=UTC)


@pytest.mark.spec("B55")
def test_an_archived_bill_gets_no_new_link(network: Any) -> None:
    bill = make_bill(make_client(network.lesnoy))
    old = bill.token
    with transaction():
        archive_bill(bill, by=SYSTEM)
    with pytest.raises(DomainError) as refused, transaction():
        renew_link(bill, by=network.owner)
    assert refused.value.code == "archived"
    assert bill.token == old


@pytest.mark.parametrize("verb", [revoke_link, renew_link])
def test_links_are_for_who_may_issue_bills_there(network: Any, verb: Callable[..., Bill]) -> None:
    bill = make_bill(make_client(network.lesnoy))
    with pytest.raises(Forbidden), transaction():
        verb(bill, by=network.manager)
    with scoped_to(Scope(branch_ids=frozenset({network.rechnoy.id}))), pytest.raises(NotFound), transaction():
        verb(bill, by=network.owner)


# --- several bills under one link -----------------------------------------------------------------------------------


def bundle(bills: list[Bill], by: Any = SYSTEM) -> BillBundle:
    with transaction():
        return bundle_bills(bills, by=by)


def test_one_link_for_several_bills(network: Any) -> None:
    client = make_client(network.lesnoy)
    bills = [make_bill(client) for _ in range(3)]
    made = bundle(bills[::-1], by=network.administrator)
    assert [bill.id for bill in made.bills] == [bill.id for bill in bills]
    assert (made.client_id, made.branch_id, made.author_id) == (client.id, client.branch_id, network.administrator.id)
    assert bundle_url(made) == f"https://kontora.test/pay/{made.token}"
    assert made.token not in {bill.token for bill in bills}


def test_the_same_bills_have_the_same_link_and_others_another(network: Any) -> None:
    client = make_client(network.lesnoy)
    first, second, third = (make_bill(client) for _ in range(3))
    made = bundle([first, second])
    assert bundle([second, first, second]).id == made.id
    assert len({made.id, bundle([first, second, third]).id, bundle([first, third]).id}) == 3


def test_a_revoked_link_of_several_does_not_come_back(network: Any) -> None:
    client = make_client(network.lesnoy)
    bills = [make_bill(client) for _ in range(2)]
    gone = bundle(bills)
    with transaction():
        revoke_bundle(gone, by=network.administrator)
    assert bundles_of(client.id) == []
    made = bundle(bills)
    assert made.id != gone.id
    assert [one.id for one in bundles_of(client.id)] == [made.id]


def test_two_who_ask_at_once_get_one_link(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    client = make_client(network.lesnoy)
    ids = [make_bill(client).id for _ in range(2)]

    def ask(_index: int) -> int:
        with transaction():
            return bundle_bills([db.session.get_one(Bill, id) for id in ids], by=SYSTEM).id

    assert len(set(in_parallel(ask, 4))) == 1


def test_which_bills_have_no_link_together(network: Any) -> None:
    client = make_client(network.lesnoy)
    bill, paid, gone, late = (make_bill(client) for _ in range(4))
    settle_at_desk(paid)
    with transaction():
        archive_bill(gone, by=SYSTEM)
        late.payable_from, late.payable_until = date(2020, 1, 1), date(2020, 1, 2)
    revoked = make_bill(client)
    with transaction():
        revoke_link(revoked, by=SYSTEM)
    stranger = make_bill(make_client(network.lesnoy))
    many = [make_bill(client) for _ in range(MOST)]
    for bills, code in (
        ([bill], "bundle_size"),
        ([bill, bill], "bundle_size"),
        ([bill, *many], "bundle_size"),
        ([bill, stranger], "bundle_payers"),
        ([bill, paid], "bundle_unpayable"),
        ([bill, gone], "bundle_unpayable"),
        ([bill, late], "bundle_unpayable"),
        ([bill, revoked], "bundle_revoked"),
    ):
        with pytest.raises(DomainError) as refused:
            bundle(bills)
        assert refused.value.code == code
    assert db.session.scalars(select(BillBundle)).all() == []
    assert len(bundle(many).bills) == MOST


def test_bundles_are_for_who_may_issue_bills(network: Any) -> None:
    client = make_client(network.lesnoy)
    bills = [make_bill(client) for _ in range(2)]
    with pytest.raises(Forbidden):
        bundle(bills, by=network.manager)
    made = bundle(bills)
    with pytest.raises(Forbidden), transaction():
        revoke_bundle(made, by=network.manager)
