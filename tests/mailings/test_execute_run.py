"""What a run does for each payer, and that doing it again changes nothing."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import unescape

import pytest
from sqlalchemy import event, func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, scoped_to
from crm.bills.models import Bill, BillMethod, BillStatus
from crm.bills.operations import archive_bill
from crm.clients.merging import merge_clients
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import Forbidden
from crm.ledger.operations import base_account
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    MailingKind,
    MailingRun,
    MailingRunLine,
    Message,
    RunResult,
    RunStatus,
    Term,
)
from crm.mailings.running import execute_run
from crm.mailings.runs import pause_run, plan_due_runs, resume_run, run_now
from crm.payments.models import Attention, PaymentMethod
from crm.payments.operations import pay_bill_at_desk
from crm.payments.outcomes import accept_notice
from crm.payments.refunds import refund_payment
from crm.sales.canceling import cancel_sale
from crm.subscriptions.models import PlanAccount
from tests.bank import bank, begin, pay_at  # noqa: F401
from tests.factories import (
    make_account,
    make_bill,
    make_child,
    make_client,
    make_lesson,
    make_payment,
    make_plan,
    make_rule,
    make_subscription,
    make_template,
)
from tests.schedule.conftest import statements  # noqa: F401

NOON = datetime(2027, 3, 10, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _march():
    with clock.frozen(NOON):
        yield


def run(rule, by=SYSTEM):
    """A run of `rule`, carried out; its lines by payer."""
    with transaction():
        planned = run_now(rule, by=by)
    assert execute_run(planned.id, by=SYSTEM)
    db.session.expire_all()
    assert planned.status is RunStatus.DONE
    assert planned.total == len(planned.lines)
    return {line.client_id: line for line in planned.lines}


def later(**delta):
    return clock.frozen(clock.now() + timedelta(**delta))


def bills_of(line):
    """The bills the messages of a line tell of."""
    messages = db.session.scalars(select(Message).where(Message.line_id == line.id).order_by(Message.id))
    return [bill for message in messages for bill in message.bills]


def count(model):
    return db.session.scalar(select(func.count()).select_from(model))


def only(model):
    return db.session.scalars(select(model)).one()


@pytest.mark.spec("B3", "B66", "B68")
def test_one_bill_on_the_base_account_for_all_subscriptions_of_the_family(network):
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    make_subscription(payer, make_plan(price=Decimal("4000.00")))
    make_subscription(child, make_plan(price=Decimal("2500.50")))
    run(make_rule(network.lesnoy, term=Term.DAYS, term_days=5, is_repeatable=True))
    bill = only(Bill)
    assert (bill.client_id, bill.amount, bill.method) == (payer.id, Decimal("6500.50"), BillMethod.SUBSCRIPTION)
    assert bill.account == base_account(payer.id, network.lesnoy.id)
    assert (bill.period_from, bill.period_to) == (date(2027, 3, 1), date(2027, 3, 31))
    assert (bill.payable_from, bill.payable_until, bill.is_repeatable) == (date(2027, 3, 10), date(2027, 3, 15), True)


@pytest.mark.spec("B66")
@pytest.mark.parametrize("paid", [1000, 9000])
def test_the_sum_is_the_cost_whatever_the_balance(network, paid):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal("4000.00")))
    make_payment(base_account(payer.id, network.lesnoy.id), paid)
    run(make_rule(network.lesnoy))
    assert only(Bill).amount == Decimal("4000.00")


def test_a_bill_asks_for_the_price_less_the_discount(network):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal("4000.00")), discount=Decimal("499.99"))
    make_subscription(payer, make_plan(price=Decimal("100.00")))
    run(make_rule(network.lesnoy))
    assert only(Bill).amount == Decimal("3600.01")


def test_what_a_deposit_paid_for_at_the_sale_is_not_asked_for_again(network):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal(900)), account=make_account(payer, balance=900))
    run(make_rule(network.lesnoy))
    assert count(Bill) == 0
    make_subscription(payer, make_plan(price=Decimal(50)))
    run(make_rule(network.lesnoy))
    assert only(Bill).amount == 50


def test_what_is_kept_on_an_account_of_its_own_is_billed_to_it(network):
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    plan = make_plan(price=Decimal(3000), account=PlanAccount.SEPARATE)
    own, childs = make_subscription(payer, plan), make_subscription(child, plan)
    usual = make_subscription(child, make_plan(price=Decimal(4000)))
    line = run(make_rule(network.lesnoy))[payer.id]
    bills = list(db.session.scalars(select(Bill).order_by(Bill.id)))
    assert [bill.subscriptions for bill in bills] == [[usual], [own], [childs]]
    assert [bill.amount for bill in bills] == [4000, 3000, 3000]
    assert [bill.account.subscription_id for bill in bills] == [None, own.id, childs.id]
    assert (line.reason, bills_of(line)) == ("", bills)
    assert {letter.bill_id for letter in db.session.scalars(select(Message))} == {bill.id for bill in bills}
    make_payment(bills[1].account, 3000, bill=bills[1])
    assert (bills[1].account.balance, bills[1].status) == (0, BillStatus.PAID)


def test_an_unpaid_bill_stands_in_the_way_of_its_own_account_only(network):
    payer = make_client(network.lesnoy)
    rule = make_rule(network.lesnoy)
    make_subscription(payer, make_plan(account=PlanAccount.SEPARATE))
    (first,) = bills_of(run(rule)[payer.id])
    usual = make_subscription(payer, make_plan(price=Decimal(500)))
    with later(minutes=1):
        line = run(rule)[payer.id]
    (bill,) = bills_of(line)
    assert (bill.subscriptions, bill.account) == ([usual], base_account(payer.id, network.lesnoy.id))
    assert first.title in line.reason
    with later(minutes=2):
        assert run(rule)[payer.id].result is RunResult.SKIPPED
    assert count(Bill) == 2


@pytest.mark.spec("B103", "B108", "B110", "B111")
def test_the_letter_carries_the_tags_of_its_bill(network):
    payer = make_client(network.lesnoy, name="Анна Лесная", email="anna@demo.test")
    make_subscription(payer)
    template = make_template(subject="Счёт для {customer.name}", body="{bill.amount}\n{bill.url}")
    run(make_rule(network.lesnoy, template=template))
    bill, letter = only(Bill), only(Message)
    assert (letter.bill_id, letter.recipient, letter.subject) == (bill.id, "anna@demo.test", "Счёт для Анна Лесная")
    assert letter.body.replace("\xa0", " ") == f"4 000,00\nhttps://kontora.test/pay/{bill.token}"


def test_only_payers_of_the_branch_with_a_subscription_in_the_month(network):
    here, elsewhere, none, gone, past = (
        make_client(branch)
        for branch in (network.lesnoy, network.rechnoy, network.lesnoy, network.lesnoy, network.lesnoy)
    )
    for client in (here, elsewhere, gone):
        make_subscription(client)
    make_subscription(past, starts_on=date(2027, 1, 1))
    with transaction():
        archive_client(gone, by=SYSTEM)
    lines = run(make_rule(network.lesnoy))
    assert set(lines) == {here.id}
    assert none.id not in lines


def test_a_payer_without_an_address_is_skipped_and_the_line_says_why(network):
    payer = make_client(network.lesnoy, email="")
    make_subscription(payer)
    line = run(make_rule(network.lesnoy))[payer.id]
    assert line.result is RunResult.SKIPPED
    assert line.reason
    assert (count(Bill), count(Message)) == (0, 0)


def test_a_free_subscription_makes_no_bill(network):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal(0)))
    assert run(make_rule(network.lesnoy))[payer.id].result is RunResult.SKIPPED
    assert count(Bill) == 0


@pytest.mark.parametrize("fate", ["unpaid", "archived", "expired", "paid"])
def test_only_an_unpaid_bill_that_can_be_paid_blocks(network, fate):
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    with clock.frozen(NOON - timedelta(days=9)):
        earlier = make_bill(payer, payable_until=date(2027, 3, 9 if fate == "expired" else 10))
    if fate == "archived":
        with transaction():
            archive_bill(earlier, by=SYSTEM)
    if fate == "paid":
        make_payment(base_account(payer.id, network.lesnoy.id), 1500, bill=earlier)
    line = run(make_rule(network.lesnoy))[payer.id]
    assert line.result is (RunResult.SKIPPED if fate == "unpaid" else RunResult.ISSUED)
    assert (earlier.title in line.reason) == (fate == "unpaid")


@pytest.mark.spec("B3")
def test_running_again_in_the_same_period_changes_nothing(network):
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    rule = make_rule(network.lesnoy)
    run(rule)
    bill = only(Bill)
    make_payment(base_account(payer.id, network.lesnoy.id), 4000, bill=bill)
    with later(days=1):
        line = run(rule)[payer.id]
    assert line.result is RunResult.SKIPPED
    assert bill.title in line.reason
    assert (count(Bill), count(Message)) == (1, 1)


@pytest.mark.spec("B3", "B66")
def test_a_subscription_is_billed_once_however_many_months_it_touches(network):
    payer = make_client(network.lesnoy)
    long = make_subscription(payer, make_plan(price=Decimal("4000.00")), starts_on=date(2027, 3, 20))
    rule = make_rule(network.lesnoy)
    run(rule)
    bill = only(Bill)
    assert bill.subscriptions == [long]
    make_payment(base_account(payer.id, network.lesnoy.id), 4000, bill=bill)
    with clock.frozen(datetime(2027, 4, 1, 9, tzinfo=UTC)):
        line = run(rule)[payer.id]
        assert (line.result, count(Bill)) == (RunResult.SKIPPED, 1)
        assert line.reason
        assert run(make_rule(network.lesnoy))[payer.id].result is RunResult.SKIPPED
        fresh = make_subscription(make_child(payer), make_plan(price=Decimal("2500.00")), starts_on=date(2027, 4, 5))
        with later(minutes=1):
            line = run(rule)[payer.id]
        (bill,) = bills_of(line)
        assert (bill.amount, bill.subscriptions) == (Decimal("2500.00"), [fresh])


@pytest.mark.parametrize("fate", ["archived", "expired"])
def test_what_a_bill_that_was_not_paid_asked_for_is_asked_for_again(network, fate):
    """W8: in the same month by the same rule, and next month, when it touches that as well."""
    payer = make_client(network.lesnoy)
    subscription = make_subscription(payer)
    rule = make_rule(network.lesnoy, term=Term.DAYS, term_days=3)
    for at in (NOON, NOON + timedelta(days=4), datetime(2027, 4, 1, 9, tzinfo=UTC)):
        with clock.frozen(at):
            (bill,) = bills_of(run(rule)[payer.id])
            assert bill is not None
            assert bill.subscriptions == [subscription]
            with later(minutes=1):
                assert run(rule)[payer.id].result is RunResult.SKIPPED, "it can be paid"
            if fate == "archived":
                with transaction():
                    archive_bill(bill, by=SYSTEM)
    keys = [bill.dedupe_key for bill in db.session.scalars(select(Bill).order_by(Bill.id))]
    assert keys[1] == f"{keys[0]}:2"
    assert keys[2] != f"{keys[0]}:3"
    assert len(keys) == count(Message) == 3


def test_a_bill_archived_while_it_was_being_paid_is_not_asked_for_again(network):
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    rule = make_rule(network.lesnoy)
    (bill,) = bills_of(run(rule)[payer.id])
    with transaction():
        archive_bill(bill, by=SYSTEM)
    make_payment(base_account(payer.id, network.lesnoy.id), 4000, bill=bill)
    for at in (NOON + timedelta(days=1), datetime(2027, 4, 1, 9, tzinfo=UTC)):
        with clock.frozen(at):
            assert run(rule)[payer.id].result is RunResult.SKIPPED


@pytest.mark.parametrize("is_given_back", [False, True])
def test_nor_is_one_paid_at_the_bank_after_it_was_archived(network, bank, is_given_back):  # noqa: F811
    """The money is on the base account, for a person to look at; given back, it is asked for again."""
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    rule = make_rule(network.lesnoy)
    (bill,) = bills_of(run(rule)[payer.id])
    payment = begin(bill, bank)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    assert (payment.attention, bill.paid_amount) == (Attention.DEAD_BILL, 0)
    if is_given_back:
        make_payment(payment.account, 4000)  # what has come is for the subscription, else nothing could go back
        with transaction():
            refund_payment(payment, payment.amount, "Не нужен", by=SYSTEM)
    with clock.frozen(NOON + timedelta(days=1)):
        assert run(rule)[payer.id].result is (RunResult.ISSUED if is_given_back else RunResult.SKIPPED)


def test_a_part_of_an_archived_bill_does_not_keep_the_next_one_back(network):
    network.lesnoy.company.takes_part_payments = True
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    rule = make_rule(network.lesnoy)
    (bill,) = bills_of(run(rule)[payer.id])
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, amount=Decimal(1000), by=SYSTEM)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    with clock.frozen(NOON + timedelta(days=1)):
        (again,) = bills_of(run(rule)[payer.id])
    assert (again.amount, again.dedupe_key) == (4000, f"{bill.dedupe_key}:2")


def test_a_run_that_rests_or_is_done_is_left_alone(network):
    make_subscription(make_client(network.lesnoy))
    with transaction():
        planned = run_now(make_rule(network.lesnoy), by=SYSTEM)
        pause_run(planned, by=SYSTEM)
    assert not execute_run(planned.id, by=SYSTEM)
    assert (count(Bill), planned.status) == (0, RunStatus.PAUSED)
    with transaction():
        resume_run(planned, by=SYSTEM)
    assert execute_run(planned.id, by=SYSTEM)
    assert not execute_run(planned.id, by=SYSTEM)
    assert count(Bill) == 1


def test_a_long_run_goes_on_in_turns(network):
    for _ in range(5):
        make_subscription(make_client(network.lesnoy))
    with transaction():
        planned = run_now(make_rule(network.lesnoy), by=SYSTEM)
    assert [execute_run(planned.id, by=SYSTEM, limit=2) for _ in range(4)] == [False, False, True, False]
    db.session.expire_all()
    assert (planned.status, planned.total) == (RunStatus.DONE, 5)
    assert {line.result for line in planned.lines} == {RunResult.ISSUED}
    assert (count(Bill), count(Message), count(MailingRunLine)) == (5, 5, 5)


def test_workers_share_a_run_and_no_line_is_done_twice(network, in_parallel):
    for _ in range(12):
        make_subscription(make_client(network.lesnoy))
    with transaction():
        run_id = run_now(make_rule(network.lesnoy), by=SYSTEM).id

    def work(_index):
        while db.session.get_one(MailingRun, run_id, populate_existing=True).status is not RunStatus.DONE:
            db.session.commit()
            execute_run(run_id, by=SYSTEM, limit=3)

    in_parallel(work, times=3)
    assert (count(Bill), count(Message), count(MailingRunLine)) == (12, 12, 12)


def test_a_worker_that_died_leaves_its_lines_to_the_others(network):
    """What it had not committed is not there; the lines wait as they did."""
    make_subscription(make_client(network.lesnoy))
    make_subscription(make_client(network.lesnoy))
    with transaction():
        planned = run_now(make_rule(network.lesnoy), by=SYSTEM)

    class Killed(BaseException):
        pass

    def die(_connection, _cursor, statement, *_given):
        if statement.startswith("INSERT INTO message "):
            raise Killed

    event.listen(db.engine, "before_cursor_execute", die)
    try:
        with pytest.raises(Killed):
            execute_run(planned.id, by=SYSTEM)
    finally:
        event.remove(db.engine, "before_cursor_execute", die)
    db.session.expire_all()
    assert (count(Bill), {line.result for line in planned.lines}) == (0, {RunResult.WAITING})
    assert execute_run(planned.id, by=SYSTEM)
    assert (count(Bill), count(Message)) == (2, 2)


def test_a_worker_killed_between_batches_leaves_what_it_committed(network, in_parallel):
    """The next ones go on from there; nobody is billed or written to twice."""
    for _ in range(6):
        make_subscription(make_client(network.lesnoy))
    with transaction():
        planned = run_now(make_rule(network.lesnoy), by=SYSTEM)
    assert not execute_run(planned.id, by=SYSTEM, limit=2)

    class Killed(BaseException):
        pass

    def die(_connection, _cursor, statement, *_given):
        if statement.startswith("INSERT INTO message "):
            raise Killed

    event.listen(db.engine, "before_cursor_execute", die)
    try:
        with pytest.raises(Killed):
            execute_run(planned.id, by=SYSTEM, limit=2)
    finally:
        event.remove(db.engine, "before_cursor_execute", die)
    db.session.expire_all()
    run_id = planned.id
    assert (count(Bill), count(Message)) == (2, 2)
    db.session.commit()
    in_parallel(lambda _index: execute_run(run_id, by=SYSTEM), times=2)
    db.session.expire_all()
    assert (planned.status, count(Bill), count(Message), count(MailingRunLine)) == (RunStatus.DONE, 6, 6, 6)
    assert {line.result for line in planned.lines} == {RunResult.ISSUED}


@pytest.mark.spec("B60", "X22")
@pytest.mark.parametrize("how", ["switched off", "trial ended"])
def test_the_option_that_ends_in_the_middle_ends_the_run_and_its_page_says_so(network, web, how):
    """The trial ends with its last day at the branch."""
    for _ in range(3):
        make_subscription(make_client(network.lesnoy))
    if how == "trial ended":
        with transaction():
            network.company.mailings_until = date(2027, 3, 10)
    with transaction():
        planned = run_now(make_rule(network.lesnoy), by=SYSTEM)
    assert not execute_run(planned.id, by=SYSTEM, limit=1)
    if how == "switched off":
        with transaction():
            network.company.has_mailings = False
    with clock.frozen(datetime(2027, 3, 10, 21, tzinfo=UTC)):  # midnight in Moscow
        assert execute_run(planned.id, by=SYSTEM)
        assert not execute_run(planned.id, by=SYSTEM)
        db.session.expire_all()
        assert (planned.status, count(Bill), count(Message)) == (RunStatus.DONE, 1, 1)
        assert [line.result for line in planned.lines].count(RunResult.SKIPPED) == 2
        assert network.company.name in planned.note
        assert planned.note in unescape(web(network.director).get(f"/admin/mailingrun/details/?id={planned.id}").text)


@pytest.mark.spec("B60", "X22")
def test_a_trial_good_until_today_lasts_until_midnight_of_the_branch(network):
    make_subscription(make_client(network.mira))
    with transaction():
        network.company.mailings_until = date(2027, 3, 10)
        planned = run_now(make_rule(network.mira), by=SYSTEM)
    with clock.frozen(datetime(2027, 3, 10, 19, 59, tzinfo=UTC)):
        assert execute_run(planned.id, by=SYSTEM)
    assert count(Bill) == 1


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        (MailingKind.BILLS, {"method": BillingMethod.SUBSCRIPTION}),
        (MailingKind.BILLS, {"method": BillingMethod.FORECAST}),
        (MailingKind.BILLS, {"accounts": BilledAccounts.SUBSCRIPTION}),
        (MailingKind.DEBT, {}),
        (MailingKind.SUBSCRIPTION, {"days": 7}),
        (MailingKind.LESSON, {}),
    ],
)
def test_as_many_statements_for_many_as_for_few(network, statements, kind, facts):  # noqa: F811
    plan = make_plan(price=Decimal(500), duration_days=5)
    template = make_template(body="{bill.url}" if kind is MailingKind.BILLS else "Здравствуйте, {customer.name}")
    runs, counts = [], []
    # The first begins the year's numbers.
    for branch, many in ((network.mira, 1), (network.lesnoy, 3), (network.rechnoy, 12)):
        for _ in range(many):
            child = make_child(make_client(branch))
            make_subscription(child, plan)
            make_lesson(branch, child)
        with transaction():
            runs.append((run_now(make_rule(branch, kind=kind, template=template, **facts), by=SYSTEM).id, many))
    for run_id, many in runs:
        db.session.remove()
        with statements() as sent:
            assert execute_run(run_id, by=SYSTEM)
        results = db.session.scalars(select(MailingRunLine.result).where(MailingRunLine.run_id == run_id)).all()
        assert results == [RunResult.ISSUED] * many
        counts.append(len([one for one in sent if not one.startswith(("BEGIN", "PRAGMA"))]))
    assert counts[1] >= counts[2]  # twenty rows and more go to the driver, unseen here


def test_two_rules_at_once_bill_a_payer_once(network, in_parallel):
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    rules = [make_rule(network.lesnoy) for _ in range(4)]
    with transaction():
        ids = [run_now(rule, by=SYSTEM).id for rule in rules]
    assert in_parallel(lambda index: execute_run(ids[index], by=SYSTEM), times=4) == [True] * 4
    assert (count(Bill), count(Message)) == (1, 1)
    results = sorted(line.result.value for line in db.session.scalars(select(MailingRunLine)))
    assert results == ["issued", "skipped", "skipped", "skipped"]


# On SQLite one writes at a time.
@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_what_is_being_returned_at_this_moment_is_not_billed(network, app, dialect):
    sold = make_subscription(make_client(network.lesnoy))
    with transaction():
        run_id = run_now(make_rule(network.lesnoy), by=SYSTEM).id

    def execute():
        with app.app_context(), scoped_to(EVERYWHERE):
            execute_run(run_id, by=SYSTEM)

    with transaction():
        cancel_sale(sold, by=SYSTEM)
        running_one = threading.Thread(target=execute)
        running_one.start()
        running_one.join(1)
        assert running_one.is_alive()  # waits for the return
    running_one.join(30)
    db.session.expire_all()
    assert (count(Bill), only(MailingRunLine).result) == (0, RunResult.SKIPPED)


def test_one_broken_card_does_not_keep_the_others_from_their_bills(network):
    good, broken = make_client(network.lesnoy), make_client(network.lesnoy)
    make_subscription(good)
    make_subscription(broken, make_plan(price=Decimal("200000000.00")))
    lines = run(make_rule(network.lesnoy))
    assert lines[good.id].result is RunResult.ISSUED
    assert lines[broken.id].result is RunResult.FAILED
    assert lines[broken.id].reason
    assert only(Bill).client_id == good.id


def test_run_now_needs_the_permission_and_clicking_twice_is_one_run(network):
    rule = make_rule(network.lesnoy)
    with pytest.raises(Forbidden), transaction():
        run_now(rule, by=network.administrator)
    with transaction():
        first = run_now(rule, by=network.director)
    with later(seconds=1), transaction():
        assert run_now(rule, by=network.director) is first
    assert (first.is_manual, first.author_id, count(MailingRun)) == (True, network.director.id, 1)


@pytest.mark.parametrize("is_manual", [False, True])
def test_a_rule_switched_off_ends_the_run_the_clock_had_planned(network, web, is_manual):
    make_subscription(make_client(network.lesnoy))
    rule = make_rule(network.lesnoy)
    with later(days=1):
        with transaction():
            planned = run_now(rule, by=SYSTEM) if is_manual else plan_due_runs(now=clock.now())[0]
            rule.is_active = False
        assert execute_run(planned.id, by=SYSTEM)
        db.session.expire_all()
        assert planned.status is RunStatus.DONE
        assert count(Bill) == int(is_manual)
        assert bool(planned.note) != is_manual
        page = web(network.director).get(f"/admin/mailingrun/details/?id={planned.id}").text
        assert ("alert-warning" in page) != is_manual


def test_the_month_is_that_of_the_planned_moment(network):
    payer = make_client(network.mira)
    make_subscription(payer)
    with clock.frozen(datetime(2027, 3, 31, 19, 59, tzinfo=UTC)), transaction():  # 23:59 in Samara
        planned = run_now(make_rule(network.mira), by=SYSTEM)
    with clock.frozen(datetime(2027, 3, 31, 20, 5, tzinfo=UTC)):
        execute_run(planned.id, by=SYSTEM)
    bill = only(Bill)
    assert (bill.period_from, bill.period_to, bill.payable_from) == (
        date(2027, 3, 1),
        date(2027, 3, 31),
        date(2027, 4, 1),
    )


def merge(kept, gone):
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)


def test_a_merged_client_is_billed_by_each_branch_for_what_it_gives(network):
    """On the base account there, with the letter in the branch's own list; one branch's bill is not the other's."""
    kept, gone = make_client(network.lesnoy), make_client(network.mira)
    make_subscription(kept, make_plan(price=Decimal("4000.00")))
    make_subscription(gone, make_plan(price=Decimal("2500.00")))
    merge(kept, gone)
    for branch, price in ((network.lesnoy, Decimal("4000.00")), (network.mira, Decimal("2500.00"))):
        line = run(make_rule(branch))[kept.id]
        (bill,) = bills_of(line)
        assert (bill.amount, bill.branch_id, bill.account.branch_id) == (price, branch.id, branch.id)
        letter = db.session.scalars(select(Message).where(Message.bill_id == bill.id)).one()
        assert (letter.branch_id, letter.recipient) == (branch.id, kept.email)


def test_a_subscription_billed_on_the_card_that_was_merged_is_not_billed_again(network):
    kept, gone = make_client(network.lesnoy), make_client(network.lesnoy)
    make_subscription(kept)
    make_subscription(gone)
    rule = make_rule(network.lesnoy)
    run(rule)
    merge(kept, gone)
    with later(days=1):
        assert {line.result for line in run(rule).values()} == {RunResult.SKIPPED}
    assert count(Bill) == 2


def test_a_card_merged_in_the_middle_of_a_run_is_billed_once(network):
    first, gone, kept = (make_client(network.lesnoy) for _ in range(3))
    for client in (first, gone, kept):
        make_subscription(client, make_plan(price=Decimal("100.00")))
    with transaction():
        planned = run_now(make_rule(network.lesnoy), by=SYSTEM)
    assert not execute_run(planned.id, by=SYSTEM, limit=1)
    merge(kept, gone)
    assert execute_run(planned.id, by=SYSTEM)
    amounts = {bill.client_id: bill.amount for bill in db.session.scalars(select(Bill))}
    assert amounts == {first.id: Decimal("100.00"), kept.id: Decimal("200.00")}
