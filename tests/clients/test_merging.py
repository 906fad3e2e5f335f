"""Two cards of one person made one: accounts go over, no entry changes, everything leads to the card that stays."""

from __future__ import annotations

import threading
from datetime import date
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.audit.origin import acting
from crm.bills.models import BillStatus
from crm.clients.discount import set_discount
from crm.clients.merging import merge_clients, references
from crm.clients.models import Client, ClientStatus
from crm.clients.operations import archive_client, restore_client
from crm.clients.queries import find_clients, payers_by_phone
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.fields.models import FieldType
from crm.fields.operations import add_field, set_custom
from crm.ledger.models import Account, AccountKind, AccountType, Entry, Transaction, TransactionKind
from crm.ledger.operations import base_account, reverse
from crm.ledger.queries import check_ledger, lessons_left
from crm.payments.models import Payment, PaymentMethod, PaymentStatus
from crm.payments.operations import accept_notice, open_account_paid, pay_bill_at_desk, top_up
from crm.visits.models import Visit
from tests.bank import begin, pay_at
from tests.factories import (
    Network,
    make_account,
    make_bill,
    make_child,
    make_client,
    make_message,
    make_payment,
    make_plan,
    make_subscription,
)


def merge(kept: Client, gone: Client, *, by: Any = SYSTEM) -> None:
    with transaction():
        merge_clients(kept, gone, by=by)


def entries() -> list[tuple[Any, ...]]:
    rows = select(Entry.id, Entry.transaction_id, Entry.account_id, Entry.amount, Entry.balance_after)
    return [tuple(row) for row in db.session.execute(rows.order_by(Entry.id))]


def worth(*clients: Client) -> Decimal:
    """All money these cards have."""
    ids = [client.id for client in clients]
    accounts = db.session.scalars(
        select(Account).where(Account.client_id.in_(ids), Account.kind != AccountKind.LESSONS)
    )
    return sum((account.balance for account in accounts), Decimal(0))


def two(branch: Branch, other: Branch | None = None, **facts: Any) -> tuple[Client, Client]:
    return make_client(branch, name="Анна Ветрова"), make_client(other or branch, name="Аня Ветрова", **facts)


# --- money ----------------------------------------------------------------------------------------------------------


def test_accounts_go_over_and_entries_stay(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    make_account(kept, balance=100)
    moved = make_account(gone, balance=Decimal("250.50"))
    before, total = entries(), worth(kept, gone)
    merge(kept, gone)
    assert entries() == before
    assert (moved.client_id, moved.balance) == (kept.id, Decimal("250.50"))
    assert worth(kept) == total == Decimal("350.50")
    assert worth(gone) == 0


@pytest.mark.parametrize("is_debt", [False, True])
def test_two_base_accounts_of_a_branch_become_one_by_a_transfer(network: Network, is_debt: bool) -> None:
    kept, gone = two(network.lesnoy)
    make_payment(base_account(kept.id, network.lesnoy.id), 300)
    emptied = base_account(gone.id, network.lesnoy.id)
    if is_debt:
        make_subscription(gone, make_plan(price=Decimal("4000.00"), lessons=0))
    else:
        make_payment(emptied, Decimal("77.70"))
    before, owed = entries(), emptied.balance
    merge(kept, gone)
    assert entries()[: len(before)] == before
    assert emptied.balance == 0
    assert emptied.is_closed
    assert emptied.client_id == kept.id
    assert base_account(kept.id, network.lesnoy.id).balance == 300 + owed
    posted = db.session.scalars(select(Transaction).order_by(Transaction.id.desc())).first()
    assert posted is not None
    assert posted.kind is TransactionKind.TRANSFER
    assert {entry.amount for entry in posted.entries} == {owed, -owed}


def test_an_empty_base_account_is_closed_without_a_transfer(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    base_account(kept.id, network.lesnoy.id)
    emptied = base_account(gone.id, network.lesnoy.id)
    merge(kept, gone)
    assert entries() == []
    assert emptied.is_closed


def test_a_base_account_goes_over_whole_where_the_other_card_has_none(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    base = base_account(gone.id, network.lesnoy.id)
    make_payment(base, 10)
    merge(kept, gone)
    assert base_account(kept.id, network.lesnoy.id) is base
    assert not base.is_closed


def test_in_two_cities_each_base_account_stays_in_its_own(network: Network) -> None:
    kept, gone = two(network.lesnoy, network.mira)
    make_subscription(kept, make_plan(price=Decimal("1000.00")))
    make_subscription(gone, make_plan(price=Decimal("500.00")))
    merge(kept, gone)
    accounts = db.session.scalars(select(Account).where(Account.client_id == kept.id, Account.kind == AccountKind.BASE))
    assert {account.branch_id: account.balance for account in accounts} == {
        network.lesnoy.id: Decimal("-1000.00"),
        network.mira.id: Decimal("-500.00"),
    }


def test_lessons_left_are_added_up(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    make_subscription(kept, make_plan(lessons=8))
    make_subscription(gone, make_plan(lessons=5))
    merge(kept, gone)
    assert lessons_left(kept.id) == 13
    assert lessons_left(kept.id) == 13


def test_what_was_posted_before_can_be_reversed_after(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    base = base_account(kept.id, network.lesnoy.id)
    payment = make_payment(base_account(gone.id, network.lesnoy.id), 500)
    merge(kept, gone)
    posted = db.session.scalars(select(Transaction).where(Transaction.payment_id == payment.id)).one()
    with transaction():
        reverse(posted, by=SYSTEM, comment="по ошибке")
    assert base.balance == 0


def test_the_transfer_of_a_merge_cannot_be_reversed(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    base_account(kept.id, network.lesnoy.id)
    make_payment(base_account(gone.id, network.lesnoy.id), 500)
    merge(kept, gone)
    moved = db.session.scalars(select(Transaction).where(Transaction.kind == TransactionKind.TRANSFER)).one()
    with pytest.raises(DomainError) as refused:
        reverse(moved, by=SYSTEM, comment="назад")
    assert refused.value.code == "one_account"


# --- what points at the card ----------------------------------------------------------------------------------------


def test_whatever_pointed_at_the_card_points_at_the_other(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    bill, sold, letter = make_bill(gone), make_subscription(gone), make_message(gone)
    payment = make_payment(make_account(gone), 50, bill=None)
    visit = Visit(
        branch_id=network.lesnoy.id,
        client_id=gone.id,
        service="Стрижка",
        starts_at=clock.now(),
        price=Decimal(900),
        created_at=clock.now(),
    )
    with transaction():
        db.session.add(visit)
    merge(kept, gone)
    for row in (bill, sold, letter, payment, visit):
        assert row.client_id == kept.id, row
        assert row.branch_id == network.lesnoy.id


def test_rows_stay_in_their_branch(network: Network) -> None:
    kept, gone = two(network.lesnoy, network.mira)
    account, bill, sold = make_account(gone, balance=5), make_bill(gone), make_subscription(gone)
    merge(kept, gone)
    assert {row.branch_id for row in (account, bill, sold, bill.account)} == {network.mira.id}


def test_a_bill_on_the_emptied_account_is_paid_onto_the_other(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    base = base_account(kept.id, network.lesnoy.id)
    bill = make_bill(gone, amount=Decimal("1500.00"))
    merge(kept, gone)
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    assert bill.status is BillStatus.PAID
    assert base.balance == Decimal("1500.00")


def test_a_payment_on_its_way_at_the_bank_is_credited_after_the_merge(network: Network, bank: Any) -> None:
    kept, gone = two(network.lesnoy)
    base = base_account(kept.id, network.lesnoy.id)
    payment = begin(make_bill(gone, amount=Decimal("1500.00")), bank)
    merge(kept, gone)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    assert payment.status is PaymentStatus.SUCCEEDED
    assert base.balance == Decimal("1500.00")
    assert payment.client_id == kept.id


def test_cards_merged_before_lead_to_the_last_one(network: Network) -> None:
    first, second = two(network.lesnoy)
    third = make_client(network.lesnoy)
    merge(second, first)
    merge(third, second)
    assert (first.merged_into, second.merged_into) == (third, third)


# --- the family -----------------------------------------------------------------------------------------------------


def test_those_it_paid_for_are_paid_for_by_the_card_that_stays(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    child = make_child(gone)
    merge(kept, gone)
    assert child.payer is kept
    assert (gone.family, kept.family) == ([], [child])


def test_a_child_whose_payer_is_the_other_card_pays_for_itself(network: Network) -> None:
    gone = make_client(network.lesnoy)
    kept, sister = make_child(gone), make_child(gone)
    bill = make_bill(kept)
    merge(kept, gone)
    assert kept.is_payer
    assert sister.payer is kept
    assert bill.client_id == kept.id


def test_a_card_paid_for_by_the_other_leaves_its_family(network: Network) -> None:
    kept = make_client(network.lesnoy)
    gone = make_child(kept)
    sold = make_subscription(gone)
    merge(kept, gone)
    assert sold.client_id == kept.id
    assert gone.payer is None
    assert kept.family == []


def test_two_cards_of_a_child_stay_in_the_family(network: Network) -> None:
    payer = make_client(network.lesnoy)
    kept, gone = make_child(payer), make_child(payer)
    make_subscription(gone)
    merge(kept, gone)
    assert (kept.payer, payer.family) == (payer, [kept])


def test_the_payer_of_the_card_that_stays_stays(network: Network) -> None:
    kept = make_child(make_client(network.lesnoy))
    payer = kept.payer
    gone = make_child(make_client(network.lesnoy))
    merge(kept, gone)
    assert kept.payer is payer


def test_a_card_with_money_does_not_vanish_below_another_payer(network: Network) -> None:
    kept, gone = make_child(make_client(network.lesnoy)), make_client(network.lesnoy)
    make_account(gone, balance=10)
    with pytest.raises(DomainError) as refused:
        merge(kept, gone)
    assert refused.value.code == "kept_is_paid_for"
    assert gone.merged_into_id is None


def test_a_family_in_another_branch_keeps_its_payer(network: Network) -> None:
    """Those who work there would not see who pays for the child they teach."""
    kept, gone = two(network.lesnoy, network.mira)
    make_child(gone)
    with pytest.raises(DomainError) as refused:
        merge(kept, gone)
    assert refused.value.code == "family_elsewhere"


def test_who_pays_for_himself_again_needs_a_phone_of_his_own(network: Network) -> None:
    gone = make_client(network.lesnoy)
    taken = make_client(network.lesnoy).phone
    kept = make_child(gone, phone=taken)
    with pytest.raises(DomainError) as refused:
        merge(kept, gone)
    assert refused.value.code == "phone_taken"
    db.session.rollback()
    assert (gone.status, kept.payer) == (ClientStatus.ACTIVE, gone)


# --- facts ----------------------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_taken_over(network: Network) -> None:
    kept = make_client(network.lesnoy, email="", comment="Звонить утром", birth_date=date(1990, 1, 31))
    gone = make_client(network.lesnoy, email="anna@demo.test", comment="Аллергия", birth_date=date(1991, 2, 1))
    phone = kept.phone
    merge(kept, gone)
    assert kept.email == "anna@demo.test"
    assert kept.birth_date == date(1990, 1, 31)
    assert kept.comment == "Звонить утром\nАллергия"
    assert (kept.phone, kept.extra_phone) == (phone, gone.phone)


def test_the_discount_is_taken_over_with_its_reason(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    with transaction():
        set_discount(gone, amount=Decimal("500.50"), reason="Многодетная семья", by=SYSTEM)
    merge(kept, gone)
    assert (kept.discount, kept.discount_reason) == (Decimal("500.50"), "Многодетная семья")


def test_a_discount_that_is_there_stays(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    with transaction():
        set_discount(gone, amount=Decimal(500), reason="Сотрудник", by=SYSTEM)
        set_discount(kept, amount=Decimal(100), reason="Многодетная семья", by=SYSTEM)
    merge(kept, gone)
    assert (kept.discount, kept.discount_reason) == (Decimal(100), "Многодетная семья")


def test_an_additional_phone_that_is_there_stays(network: Network) -> None:
    kept = make_client(network.lesnoy, extra_phone="+79990000001")
    gone = make_client(network.lesnoy)
    merge(kept, gone)
    assert kept.extra_phone == "+79990000001"


def test_a_card_without_a_phone_gets_the_others(network: Network) -> None:
    kept, gone = make_client(network.lesnoy, phone=""), make_client(network.lesnoy, extra_phone="+79990000002")
    merge(kept, gone)
    assert (kept.phone, kept.extra_phone) == (gone.phone, "+79990000002")


def test_a_phone_that_is_another_payers_becomes_the_additional_one(network: Network) -> None:
    gone = make_client(network.mira)
    make_client(network.lesnoy, phone="+79990000003")
    gone.phone = "+79990000003"  # of another branch: there it was free
    kept = make_client(network.lesnoy, phone="")
    merge(kept, gone)
    assert (kept.phone, kept.extra_phone) == (None, "+79990000003")


def test_values_of_own_fields_are_filled_in(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    with transaction():
        size = add_field(network.company, "client", label="Размер", type=FieldType.TEXT, by=SYSTEM)
        school = add_field(network.company, "client", label="Школа", type=FieldType.TEXT, by=SYSTEM)
        set_custom(kept, {size.key: "M"})
        set_custom(gone, {size.key: "XL", school.key: "№ 5"})
    merge(kept, gone)
    assert kept.custom == {size.key: "M", school.key: "№ 5"}


# --- for good -------------------------------------------------------------------------------------------------------


def test_the_other_card_is_in_the_archive_for_good(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    merge(kept, gone)
    assert (gone.status, gone.merged_into) == (ClientStatus.ARCHIVED, kept)
    with pytest.raises(DomainError) as refused:
        restore_client(gone, by=SYSTEM)
    assert refused.value.code == "merged"


def test_search_finds_the_card_that_stays_by_the_phone_of_the_other(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    assert gone.phone
    merge(kept, gone)
    assert find_clients(gone.phone) == [kept]


def test_imports_know_the_card_that_stays_by_the_phone_of_the_other(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    assert gone.phone
    merge(kept, gone)
    assert payers_by_phone([gone.phone]) == {gone.phone: [kept]}
    taker = make_client(network.lesnoy, phone=gone.phone)  # the number has gone to somebody else since
    assert payers_by_phone([gone.phone]) == {gone.phone: [taker]}


def test_a_bill_is_of_the_branch_of_its_account(network: Network) -> None:
    kept, gone = two(network.lesnoy, network.mira)
    account = make_account(gone)
    merge(kept, gone)
    assert make_bill(kept, account=account).branch_id == network.mira.id
    assert make_bill(kept).branch_id == network.lesnoy.id


def test_the_audit_tells_on_both_cards_and_on_each_row(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    account, bill = make_account(gone, balance=5), make_bill(gone)
    with acting(network.owner, "request:test"):
        merge(kept, gone, by=network.owner)

    def last(row: Any) -> AuditEntry:
        lines = select(AuditEntry).where(AuditEntry.entity == row.__tablename__, AuditEntry.entity_id == row.id)
        return db.session.scalars(lines.order_by(AuditEntry.id.desc())).first()

    assert last(account).changes == {"client_id": [gone.id, kept.id]}
    assert last(bill).changes == {"client_id": [gone.id, kept.id]}
    assert last(gone).changes["merged_into_id"] == [None, kept.id]
    assert last(kept).changes == {"merged_cards": [None, f"{gone.shown_name} #{gone.id}"]}
    assert {last(row).actor_name for row in (account, bill, gone, kept)} == {network.owner.name}


# --- who may, and who is first --------------------------------------------------------------------------------------


def test_a_role_without_the_permission_is_refused(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    with pytest.raises(Forbidden):
        merge(kept, gone, by=network.administrator)


def test_a_card_of_a_foreign_branch_is_not_found(network: Network) -> None:
    kept, gone = two(network.lesnoy, network.mira)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), pytest.raises(NotFound):
        merge(kept, gone, by=network.director)


def test_nothing_stays_behind_in_a_branch_out_of_sight(network: Network) -> None:
    """A card merged before has an account in another city: who does not see it does not merge it on."""
    kept, gone = two(network.lesnoy)
    elsewhere = make_client(network.mira)
    make_account(elsewhere)
    merge(gone, elsewhere)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), pytest.raises(Forbidden) as refused:
        merge(kept, gone, by=network.director)
    assert refused.value.code == "merge_out_of_sight"


@pytest.mark.parametrize("code", ["same_card", "kept_archived", "merged"])
def test_what_cannot_be_merged(network: Network, code: str) -> None:
    kept, gone = two(network.lesnoy)
    if code == "same_card":
        gone = kept
    elif code == "kept_archived":
        with transaction():
            archive_client(kept, by=SYSTEM)
    else:
        merge(make_client(network.lesnoy), gone)
    with pytest.raises(DomainError) as refused:
        merge(kept, gone)
    assert refused.value.code == code


def test_an_archived_card_can_be_merged(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    with transaction():
        archive_client(gone, by=SYSTEM)
    merge(kept, gone)
    assert gone.merged_into is kept


def test_of_two_who_merge_the_same_cards_one_wins(network: Network, in_parallel: Any) -> None:
    """A into B while B into A."""
    ids = [card.id for card in two(network.lesnoy)]
    for card_id in ids:
        make_account(db.session.get_one(Client, card_id), balance=10)

    def try_it(index: int) -> None:
        cards = [db.session.get_one(Client, card_id) for card_id in ids]
        merge(cards[index % 2], cards[1 - index % 2])

    results = in_parallel(try_it, 4)
    db.session.expire_all()
    assert sorted(str(getattr(result, "code", result)) for result in results) == ["None", *["merged"] * 3]
    cards = [db.session.get_one(Client, card_id) for card_id in ids]
    assert sorted(worth(card) for card in cards) == [0, 20]


def test_money_coming_in_meanwhile_is_never_left_behind(network: Network, in_parallel: Any) -> None:
    """Payments, new accounts and a merge at the same moment: what was taken is on the card that stays, or was refused
    with words.
    """
    kept, gone = two(network.lesnoy)
    base_account(kept.id, network.lesnoy.id)
    base, kept_id, gone_id = base_account(gone.id, network.lesnoy.id).id, kept.id, gone.id
    type_id, begun = network.account_type.id, threading.Event()

    def work(index: int) -> Decimal:
        taken = Decimal(0)
        if index == 0:
            begun.wait(30)
            merge(db.session.get_one(Client, kept_id), db.session.get_one(Client, gone_id))
            return taken
        for _ in range(6):
            with transaction():
                if index % 2:
                    top_up(db.session.get_one(Account, base), amount=Decimal(7), method=PaymentMethod.CASH, by=SYSTEM)
                else:
                    client = db.session.get_one(Client, gone_id)
                    branch = db.session.get_one(Branch, client.branch_id)
                    open_account_paid(
                        client,
                        db.session.get_one(AccountType, type_id),
                        branch=branch,
                        initial_balance=Decimal(7),
                        method=PaymentMethod.CASH,
                        by=SYSTEM,
                    )
            taken += 7
            begun.set()
        return taken

    results = in_parallel(work, 5)
    assert all(isinstance(result, Decimal | DomainError) for result in results), results
    assert not isinstance(results[0], Exception)
    db.session.expire_all()
    assert worth(gone) == 0
    assert worth(kept) == db.session.scalar(select(func.sum(Payment.amount)))
    assert db.session.scalar(select(func.count()).select_from(Account).where(Account.client_id == gone_id)) == 0


def test_a_form_sent_after_the_merge_leaves_nothing_on_the_other_card(network: Network) -> None:
    kept, gone = two(network.lesnoy)
    merge(kept, gone)
    for late in (make_account, make_bill, make_message):
        with pytest.raises(DomainError):
            late(gone)
        db.session.rollback()
    with pytest.raises(Conflict) as refused, transaction():
        db.session.add(Account(kind=AccountKind.BASE, branch_id=gone.branch_id, client=gone, opened_at=clock.now()))
    assert refused.value.code == "merged"
    for model, column in references(Client):
        assert db.session.scalar(select(func.count()).select_from(model).where(column == gone.id)) == 0


# --- any history ----------------------------------------------------------------------------------------------------


def _live_through(clients: list[Client], chance: Random) -> None:
    """Some weeks of a client: money in, debts, lessons, bills paid and not, in either card."""
    for _ in range(chance.randrange(1, 7)):
        client = chance.choice(clients)
        what = chance.randrange(6)
        sum_ = Decimal(chance.randrange(1, 500_000)) / 100
        if what == 0:
            make_account(client, balance=sum_)
        elif what == 1:
            make_payment(base_account(client.id, client.branch_id), sum_)
        elif what == 2:
            make_subscription(client, make_plan(price=sum_, lessons=chance.randrange(9)))
        elif what == 3:
            make_bill(client, amount=sum_)
        elif what == 4:
            make_child(client)
        else:
            with transaction():
                pay_bill_at_desk(make_bill(client, amount=sum_), method=PaymentMethod.CARD, by=SYSTEM)


def _by_branch() -> dict[Any, Decimal]:
    sums = select(Account.branch_id, Account.unit, func.sum(Entry.amount)).join(Entry.account)
    of_clients = sums.where(Account.client_id.is_not(None)).group_by(Account.branch_id, Account.unit)
    return {(branch_id, unit): total for branch_id, unit, total in db.session.execute(of_clients)}


@pytest.mark.parametrize("seed", range(8))
def test_whatever_has_happened_nothing_is_lost(network: Network, seed: int) -> None:
    """No entry changes, each branch's sums are the same, nothing points at the merged card, the ledger is clean."""
    chance = Random(seed)
    cards = [make_client(chance.choice([network.lesnoy, network.lesnoy, network.mira])) for _ in range(3)]
    kept = cards[0]
    for gone in cards[1:]:
        _live_through([kept, gone], chance)
        if kept.branch_id != gone.branch_id:
            for child in list(gone.family):
                child.payer_id = None
        before, sums, total = entries(), _by_branch(), worth(kept, gone)
        merge(kept, gone)
        assert entries()[: len(before)] == before
        assert _by_branch() == sums
        assert (worth(kept), worth(gone)) == (total, 0)
        for model, column in references(Client):
            left = db.session.scalar(select(func.count()).select_from(model).where(column == gone.id))
            assert left == 0, column
        assert check_ledger() == []
