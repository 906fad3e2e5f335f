"""«Возврат»: a subscription is given back, and what was not used of it is paid back."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Role
from crm.access.roles import change_role
from crm.catalogue.models import LessonType
from crm.clients import merging
from crm.clients.merging import merge_clients
from crm.clients.models import Client
from crm.db import db, transaction
from crm.debts.operations import write_off_bad_debt
from crm.debts.queries import debts_of_subscriptions, unpaid_charges
from crm.errors import Conflict, DomainError, Forbidden
from crm.ledger.models import Account, AccountKind, TransactionKind
from crm.ledger.operations import base_account
from crm.payments.desk import refusal_of_reversal
from crm.payments.models import PaymentMethod
from crm.sales import canceling, recalculation, returning
from crm.sales.returning import (
    Returned,
    ReturnWay,
    check_returnable,
    priced_by,
    refund_for,
    return_subscription,
    ways_of_return,
)
from crm.sales.worth import Worth, worth_of
from crm.schedule.models import Attendance, Mark
from crm.subscriptions.freezing import freeze_subscription, open_freeze_of
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription, SubscriptionStatus
from crm.tills.models import TillKind
from crm.visits.models import WayToPay
from crm.visits.operations import pay_visit
from tests.access.test_roles import settings_of
from tests.admin.test_grids import plain
from tests.admin.test_hidden_fields import hide
from tests.admin.world import errors, fields, send
from tests.factories import (
    house_balance,
    make_account,
    make_client,
    make_lesson,
    make_lesson_type,
    make_payment,
    make_plan,
    make_subscription,
    make_till,
    make_visit,
)
from tests.sales.conftest import attend, base_of, lessons_agree, used_subscription


@pytest.fixture
def sold(client: Any, plan: Any, group_type: Any) -> Subscription:
    """3 of 8 lessons left of 4 000, a single visit is 700."""
    return used_subscription(client, plan, group_type, used=5)


def give_back(network: Any, sold: Subscription, way: ReturnWay | None = ReturnWay.CASH, **changes: Any) -> Returned:
    with transaction():
        return return_subscription(sold, way=way, by=network.director, **changes)


@pytest.mark.spec("X3", "C73")
@pytest.mark.parametrize(
    ("cost", "unpaid", "used_value", "refund"),
    [
        ("4000", "0", "3500", "500"),
        ("4000", "0", "4900", "0"),
        ("4000", "1000", "2800", "200"),
        ("4000", "4000", "0", "0"),
        ("0.03", "0", "0.01", "0.02"),
    ],
)
def test_refund_is_what_was_paid_less_what_was_used_and_never_below_zero(
    cost: str, unpaid: str, used_value: str, refund: str
) -> None:
    worth = Worth(lessons=8, left=3, used=5, cost=Decimal(cost), unpaid=Decimal(unpaid))
    assert refund_for(worth, Decimal(used_value)) == Decimal(refund)


@pytest.mark.spec("C69", "C73", "W5", "X3")
def test_the_unused_part_is_paid_back(network: Any, client: Any, sold: Subscription) -> None:
    figures = check_returnable(sold)
    assert (figures.worth.used, figures.single_price) == (5, 700)
    assert (figures.used_value, figures.refund) == (3500, 500)
    done = give_back(network, sold, comment="Переезд")
    assert done.returned is not None
    assert done.paid_back is not None
    assert (done.returned.kind, done.paid_back.kind) == (TransactionKind.RETURN, TransactionKind.REFUND)
    assert done.paid_back.comment == "Переезд"
    assert (sold.status, sold.lessons_left) == (SubscriptionStatus.RETURNED, 0)
    assert base_of(client) == 0
    assert house_balance(AccountKind.CASH, network.lesnoy) == 3500
    assert -house_balance(AccountKind.REVENUE, network.lesnoy) == 3500
    assert lessons_agree()


@pytest.mark.spec("W5", "X3")
def test_used_for_more_than_was_paid_nothing_is_paid_back(
    network: Any, client: Any, sold: Subscription, group_type: Any
) -> None:
    attend(client, group_type, 2)
    db.session.refresh(sold)
    figures = check_returnable(sold)
    assert (figures.used_value, figures.refund) == (4900, 0)
    done = give_back(network, sold, None)
    assert done.paid_back is None
    assert (base_of(client), sold.status) == (0, SubscriptionStatus.RETURNED)
    assert lessons_agree()


@pytest.mark.spec("C69")
def test_of_one_that_was_not_used_everything_is_paid_back(network: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan, discount=Decimal("0.01"))
    make_payment(base_account(client.id, client.branch_id), Decimal("3999.99"))
    done = give_back(network, sold)
    assert done.paid_back is not None
    assert house_balance(AccountKind.CASH, network.lesnoy) == 0
    assert base_of(client) == 0


@pytest.mark.spec("C74")
def test_both_sums_are_corrected_by_hand(network: Any, client: Any, sold: Subscription) -> None:
    give_back(network, sold, used_value=Decimal("3000.50"), amount=Decimal("999.50"))
    assert base_of(client) == 0
    assert house_balance(AccountKind.CASH, network.lesnoy) == Decimal("3000.50")


@pytest.mark.spec("C74")
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": Decimal("4000.01")}, "amount"),
        ({"amount": Decimal("-0.01")}, "amount"),
        ({"used_value": Decimal(-1)}, "used_value"),
        ({"way": None}, "way"),
        ({"way": ReturnWay.CARD}, "way"),  # there is no terminal
    ],
)
def test_refused_beside_the_field(network: Any, sold: Subscription, changes: Any, field: str) -> None:
    with pytest.raises(DomainError) as refused:
        give_back(network, sold, **changes)
    assert refused.value.field == field
    assert sold.status is SubscriptionStatus.ACTIVE


@pytest.mark.spec("X3")
def test_what_was_used_beyond_what_was_paid_remains_a_debt(
    network: Any, client: Any, plan: Any, group_type: Any
) -> None:
    sold = used_subscription(client, plan, group_type, used=5, paid=1000)
    assert check_returnable(sold).refund == 0
    give_back(network, sold, None)
    assert base_of(client) == -2500  # 3 500 used, 1 000 paid
    assert debts_of_subscriptions([sold.id]) == {sold.id: Decimal(2500)}


def test_a_part_paid_is_paid_back_and_no_debt_is_left(network: Any, client: Any, plan: Any, group_type: Any) -> None:
    sold = used_subscription(client, plan, group_type, used=2, paid=3000)
    figures = check_returnable(sold)
    assert (figures.worth.paid, figures.refund) == (3000, 1600)
    give_back(network, sold)
    assert base_of(client) == 0
    assert house_balance(AccountKind.CASH, network.lesnoy) == 1400


@pytest.mark.parametrize("used", [0, 5])
def test_a_debt_that_was_written_off_is_not_paid_back(
    network: Any, client: Any, plan: Any, group_type: Any, used: int
) -> None:
    with transaction():
        pay_visit(make_visit(client, price=Decimal(300)), WayToPay.DEBT, by=SYSTEM)
    sold = used_subscription(client, plan, group_type, used=used, paid=1000)  # 300 of it for the visit
    with transaction():
        write_off_bad_debt(base_account(client.id, client.branch_id), by=network.director)
    figures = check_returnable(sold)
    assert (figures.worth.paid, figures.worth.unpaid, figures.worth.forgiven) == (700, 0, 3300)
    assert figures.refund == (0 if used else 700)
    with pytest.raises(DomainError) as refused:
        give_back(network, sold, amount=Decimal("700.01"))
    assert refused.value.field == "amount"
    give_back(network, sold)
    assert base_of(client) == 0
    assert house_balance(AccountKind.CASH, network.lesnoy) == (1000 if used else 300)


@pytest.fixture(params=["charge by charge", "in one sum"])
def merge(request: Any, network: Any, monkeypatch: Any) -> Callable[[Client, Client], None]:
    """merge(kept, gone): their cards become one, and the debt goes over as it does now, or as it did once."""
    if request.param == "in one sum":
        monkeypatch.setattr(merging, "BEFORE_EMPTYING", [])

    def merge(kept: Client, gone: Client) -> None:
        with transaction():
            merge_clients(kept, gone, by=network.director)
        db.session.expire_all()

    return merge


def forgive(network: Any, client: Client, amount: int | None = None) -> None:
    with transaction():
        account = base_account(client.id, client.branch_id)
        write_off_bad_debt(account, amount=Decimal(amount) if amount else None, by=network.director)


@pytest.mark.parametrize("forgiven", ["before", "after"])
def test_what_was_forgiven_is_not_paid_back_of_merged_cards(
    network: Any, client: Any, plan: Any, merge: Any, forgiven: str
) -> None:
    gone = make_client(network.lesnoy)
    make_payment(make_account(make_client(network.lesnoy)), 9000)  # there is cash of others
    base_account(client.id, client.branch_id)
    sold = make_subscription(gone, plan)
    if forgiven == "before":
        forgive(network, gone)
    merge(client, gone)
    if forgiven == "after":
        forgive(network, client)
    worth = check_returnable(sold).worth
    assert (worth.cost, worth.unpaid, worth.forgiven, worth.paid) == (4000, 0, 4000, 0)
    with pytest.raises(DomainError) as refused:
        give_back(network, sold, amount=Decimal(1))
    assert refused.value.field == "amount"
    assert give_back(network, sold).paid_back is None
    assert base_of(client) == 0


def test_of_several_debts_of_merged_cards_each_is_forgiven_by_itself(
    network: Any, client: Any, plan: Any, merge: Any
) -> None:
    gone, last = make_client(network.lesnoy), make_client(network.lesnoy)
    for one in (client, last):
        base_account(one.id, one.branch_id)
    older, newer = make_subscription(gone, plan), make_subscription(gone, plan)
    make_payment(base_account(gone.id, gone.branch_id), 1000)
    forgive(network, gone, 500)  # of the older one
    merge(client, gone)
    forgive(network, client, 1500)
    merge(last, client)
    make_payment(base_account(last.id, last.branch_id), 3000)
    forgive(network, last)
    # 1 000 + 1 000 of the older one were paid, then 2 000 of the newer one.
    assert (worth_of(older).forgiven, worth_of(older).paid) == (2000, 2000)
    assert (worth_of(newer).forgiven, worth_of(newer).paid) == (2000, 2000)
    give_back(network, older, ReturnWay.KEEP)
    give_back(network, newer, ReturnWay.KEEP)
    assert base_of(last) == 4000


def test_a_debt_written_off_for_something_else_takes_nothing_away(
    network: Any, client: Any, plan: Any, group_type: Any
) -> None:
    sold = used_subscription(client, plan, group_type, used=5)
    with transaction():
        pay_visit(make_visit(client, price=Decimal(300)), WayToPay.DEBT, by=SYSTEM)
        write_off_bad_debt(base_account(client.id, client.branch_id), by=network.director)
    assert (check_returnable(sold).worth.paid, check_returnable(sold).refund) == (4000, 500)


def test_a_return_lessens_its_own_charge_not_an_older_debt(network: Any, client: Any, plan: Any) -> None:
    older = make_subscription(client, plan)
    newer = make_subscription(client, plan)
    give_back(network, newer, None)
    account = base_account(client.id, client.branch_id)
    assert account.balance == -4000
    assert [(one.subscription_id, one.unpaid) for one in unpaid_charges([account.id])[account.id]] == [
        (older.id, Decimal(4000))
    ]


def test_other_debts_are_not_paid_out(network: Any, client: Any, sold: Subscription) -> None:
    with transaction():
        pay_visit(make_visit(client, price=Decimal(300)), WayToPay.DEBT, by=network.administrator)
    with pytest.raises(DomainError, match="200,00") as refused:
        give_back(network, sold)
    assert refused.value.field == "amount"
    give_back(network, sold, ReturnWay.KEEP)
    assert base_of(client) == 200


def test_a_cash_desk_that_is_empty_pays_nothing_back(network: Any, client: Any, plan: Any, group_type: Any) -> None:
    sold = make_subscription(client, plan)
    make_payment(base_account(client.id, client.branch_id), 4000, method=PaymentMethod.CARD)
    with pytest.raises(DomainError) as refused:
        give_back(network, sold)
    assert refused.value.code == "till_short"
    assert sold.status is SubscriptionStatus.ACTIVE


@pytest.mark.spec("C75")
def test_cashless_only_where_there_is_a_till_of_the_kind(network: Any, sold: Subscription) -> None:
    assert ways_of_return(network.lesnoy.id) == [ReturnWay.CASH, ReturnWay.KEEP]
    make_till(network.lesnoy, kind=TillKind.TERMINAL)
    make_till(network.rechnoy, kind=TillKind.BANK)
    assert ways_of_return(network.lesnoy.id) == [ReturnWay.CASH, ReturnWay.CARD, ReturnWay.KEEP]
    give_back(network, sold, ReturnWay.CARD)
    assert house_balance(AccountKind.TERMINAL, network.lesnoy) == -500


def test_a_deposit_gets_its_money_back(network: Any, client: Any, plan: Any, group_type: Any) -> None:
    deposit = make_account(client, balance=4000)
    sold = used_subscription(client, plan, group_type, used=5, account=deposit)
    give_back(network, sold, ReturnWay.KEEP)
    assert (deposit.balance, base_of(client)) == (500, 0)


def test_an_account_of_its_own_is_left_empty(network: Any, client: Any, group_type: Any) -> None:
    sold = make_subscription(client, make_plan(account=PlanAccount.SEPARATE, lesson_types=[group_type]))
    own = db.session.scalars(select(Account).where(Account.kind == AccountKind.SUBSCRIPTION)).one()
    make_payment(own, 4100)
    give_back(network, sold, ReturnWay.KEEP)
    assert (own.balance, base_of(client)) == (0, 4100)


def test_of_one_paid_lesson_by_lesson_only_lessons_go_back(network: Any, client: Any, group_type: Any) -> None:
    plan = make_plan(charge=ChargeMoment.PER_LESSON, lesson_types=[group_type])
    sold = used_subscription(client, plan, group_type, used=2, paid=1000)
    figures = check_returnable(sold)
    assert (figures.worth.paid, figures.used_value, figures.refund) == (0, 0, 0)
    give_back(network, sold, None)
    assert (sold.lessons_left, base_of(client)) == (0, 0)
    assert lessons_agree()


def test_an_unlimited_one_counts_the_lessons_attended(network: Any, client: Any, group_type: Any) -> None:
    sold = used_subscription(client, make_plan(lessons=None, lesson_types=[group_type]), group_type, used=3)
    figures = check_returnable(sold)
    assert (figures.worth.used, figures.used_value, figures.refund) == (3, 2100, 1900)
    give_back(network, sold)
    assert house_balance(AccountKind.CASH, network.lesnoy) == 2100


def test_of_several_types_the_dearest_is_counted(network: Any, client: Any) -> None:
    cheap, dear = make_lesson_type(), make_lesson_type(single_price=Decimal("1200.50"))
    assert priced_by(make_subscription(client, make_plan(lesson_types=[cheap, dear]))) is dear
    anything = used_subscription(client, make_plan(), cheap, used=1)
    assert priced_by(anything) is cheap  # of those attended


def test_planned_lessons_stay_planned(network: Any, client: Any, sold: Subscription, group_type: LessonType) -> None:
    lesson = make_lesson(
        network.lesnoy, client, lesson_type_id=group_type.id, starts_at=clock.now() + timedelta(days=3)
    )
    give_back(network, sold)
    assert db.session.scalars(select(Attendance.mark).where(Attendance.lesson_id == lesson.id)).one() is Mark.PLANNED


def test_nothing_left_twice_and_not_undone(network: Any, client: Any, sold: Subscription, group_type: Any) -> None:
    done = give_back(network, sold)
    assert done.returned is not None
    assert "не сторнируется" in str(refusal_of_reversal(done.returned))
    with pytest.raises(Conflict):
        give_back(network, sold)
    empty = used_subscription(client, make_plan(lessons=1, lesson_types=[group_type]), group_type, used=1)
    with pytest.raises(DomainError) as refused:
        give_back(network, empty)
    assert refused.value.code == "nothing_left"


def test_a_freeze_ends_with_it(network: Any, sold: Subscription) -> None:
    with transaction():
        freeze_subscription(sold, from_on=clock.today(network.lesnoy) + timedelta(days=2), by=network.director)
    give_back(network, sold)
    assert open_freeze_of(sold) is None


def test_a_frozen_one_is_returned_by_who_may_not_freeze(network: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan)
    make_payment(base_account(client.id, client.branch_id), 4000)
    with transaction():
        freeze_subscription(sold, from_on=sold.starts_on, by=SYSTEM)
        change_role(settings_of(Role.DIRECTOR), permissions={"subscription.freeze": False}, fields={}, by=SYSTEM)
    give_back(network, sold, ReturnWay.KEEP)
    assert (sold.status, open_freeze_of(sold)) == (SubscriptionStatus.RETURNED, None)


def test_of_two_at_once_one_wins(network: Any, client: Any, sold: Subscription, in_parallel: Any) -> None:
    sold_id = sold.id

    def one(_number: int) -> None:
        with transaction():
            return_subscription(db.session.get_one(Subscription, sold_id), way=ReturnWay.CASH, by=SYSTEM)

    results = in_parallel(one, 4)
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, Conflict) for result in results)
    assert house_balance(AccountKind.CASH, network.lesnoy) == 3500


# On SQLite one writes at a time.
@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("module", [returning, recalculation, canceling])
def test_a_debt_written_off_meanwhile(
    network: Any, client: Any, plan: Any, in_parallel: Any, monkeypatch: Any, module: Any, dialect: str
) -> None:
    base = base_account(client.id, client.branch_id)
    ids = make_subscription(client, plan).id, plan.id, base.id
    begun, forgiven = threading.Event(), threading.Event()
    archive = module.archive_bills_for

    def slowly(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        forgiven.wait(10)
        return archive(*args, **kwargs)

    monkeypatch.setattr(module, "archive_bills_for", slowly)

    def work(index: int) -> None:
        if index == 0:
            with transaction():
                sold = db.session.get_one(Subscription, ids[0])
                if module is returning:
                    return_subscription(sold, by=SYSTEM)
                elif module is recalculation:
                    recalculation.recalculate(sold, db.session.get_one(Plan, ids[1]), by=SYSTEM)
                else:
                    canceling.cancel_sale(sold, by=SYSTEM)
        else:
            begun.wait(10)
            with transaction():
                write_off_bad_debt(db.session.get_one(Account, ids[2]), by=SYSTEM)
            forgiven.set()

    refused, done = in_parallel(work, 2)
    assert done is None
    assert refused.code == ("forgiven" if module is canceling else "figures_changed")
    db.session.expire_all()
    assert (base.balance, db.session.get_one(Subscription, ids[0]).status) == (0, SubscriptionStatus.ACTIVE)


@pytest.mark.spec("C70", "C135", "C136")
@pytest.mark.parametrize("role", ["administrator", "manager", "instructor"])
def test_only_the_director_returns(network: Any, web: Any, sold: Subscription, role: str) -> None:
    user = getattr(network, role)
    with pytest.raises(Forbidden):
        return_subscription(sold, way=ReturnWay.CASH, by=user)
    page = web(user, network.lesnoy)
    path = f"/admin/subscription/{sold.id}/return/"
    assert page.get(path).status_code == page.post(path, data={"amount": "1"}).status_code == 403
    assert path not in page.get(f"/admin/subscription/details/?id={sold.id}").text


@pytest.mark.spec("C56", "C57", "C70", "C71", "C72", "C73", "C74", "C75", "C76", "C135", "X3")
def test_on_the_screen(network: Any, web: Any, client: Any, sold: Subscription) -> None:
    page = web(network.director, network.lesnoy)
    path = f"/admin/subscription/{sold.id}/return/"
    card = page.get(f"/admin/client/card/{client.id}/?tab=subscriptions").text
    assert f"/admin/subscription/details/?id={sold.id}" in card
    assert re.search(rf'href="{path}"[^>]*>\s*Возврат<', page.get(f"/admin/subscription/details/?id={sold.id}").text)
    shown = page.get(path).text
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", shown.replace("\xa0", " ")))
    assert "Остаток занятий 3 " in plain
    assert "4 000,00 / 8 × 3 = 1 500,00" in plain
    assert "5 × 700,00 = 3 500,00" in plain
    assert "4 000,00 − 3 500,00 = 500,00" in plain
    assert "Наличный" in plain
    assert "Безналичный" not in plain
    # Without script: the sum is reckoned anew by a button.
    anew = page.post(path, data={**fields(shown), "used_value": "3000", "reckon": "1"})
    assert (anew.status_code, fields(anew.text)["amount"]) == (200, "1000,00")
    assert base_of(client) == 0
    answer = page.post(path, data={**fields(anew.text), "way": "cash", "comment": "Уезжает в Тверь"})
    assert answer.status_code == 302
    again = page.post(path, data={**fields(anew.text), "way": "cash", "comment": "Уезжает в Тверь"})
    assert again.location == answer.location  # sent twice, done once
    assert house_balance(AccountKind.CASH, network.lesnoy) == 3000
    assert "Уезжает в Тверь" in page.get("/admin/cashflow/").text
    history = page.get(f"/admin/client/card/{client.id}/?tab=history").text
    assert "Возврат абонемента" in history
    assert "Возврат клиенту" in history
    assert "Возврат абонемента" in page.get(f"/admin/client/card/{client.id}/?tab=options").text


def test_refused_on_the_screen(network: Any, web: Any, sold: Subscription) -> None:
    page = web(network.director, network.lesnoy)
    answer = send(page, f"/admin/subscription/{sold.id}/return/", amount="4000,01")
    assert answer.status_code == 422
    assert "не больше оплаченного" in errors(answer.text)["amount"]


def test_what_is_owed_is_not_told_to_whom_balances_are_hidden_from(
    network: Any, web: Any, client: Any, plan: Any, group_type: Any
) -> None:
    sold = used_subscription(client, plan, group_type, used=0, paid=Decimal("2987.65"))
    dearer = make_plan(price=Decimal(6000))
    with transaction():
        pay_visit(make_visit(client, price=Decimal("333.30")), WayToPay.DEBT, by=network.administrator)
    hide("account.balance", role=Role.DIRECTOR)
    path = f"/admin/subscription/{sold.id}/"
    for person, is_told in ((network.owner, True), (network.director, False)):
        page = web(person, network.lesnoy)
        shown = plain(page.get(f"{path}return/").text)
        assert "Оплачено" in shown
        assert "2 987,65" in shown
        assert ("1 012,35" in shown) is is_told
        assert ("1 012,35" in plain(page.get(f"{path}recalculate/?plan={dearer.id}").text)) is is_told
        refused = send(page, f"{path}return/", way="cash")
        assert refused.status_code == 422
        assert ("2 654,35" in errors(refused.text)["amount"].replace("\xa0", " ")) is is_told
