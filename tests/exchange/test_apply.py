"""An import is applied once, whole or not at all, and what it leaves equals the file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.scope import Scope, scoped_to
from crm.clients.models import Client, PhoneKind
from crm.db import db
from crm.errors import Conflict, Forbidden
from crm.exchange import importing
from crm.exchange.importing import Report
from crm.exchange.models import ImportedRow, ImportRun
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from tests.exchange.messy import make_messy_clients
from tests.exchange.sheets import make_csv, make_xlsx
from tests.factories import Network, house_balance, make_account, make_client, make_payment

CLIENT_HEADER = ("ФИО родителя", "ФИО ребёнка", "Телефон", "Филиал", "Баланс", "Осталось занятий", "Комментарий")
ACCOUNT_HEADER = ("Клиент", "Телефон", "Тип счёта", "Баланс", "Открыт")
NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)


def messy(network: Network, **options: int) -> object:
    return make_messy_clients([network.lesnoy.name, network.rechnoy.name, network.mira.name], **options)


def total(kind: AccountKind) -> Decimal:
    query = select(func.coalesce(func.sum(Account.balance), 0)).where(Account.kind == kind)
    return Decimal(db.session.scalar(query) or 0)


def test_what_is_left_equals_the_figures(network: Network, do_import: Callable[..., Report]) -> None:
    file = make_messy_clients([network.lesnoy.name, network.rechnoy.name, network.mira.name])
    report = do_import("client", file.content)
    payers = db.session.scalars(select(Client).where(Client.payer_id.is_(None))).all()
    assert report.created == len(payers) == file.expected["payers"]
    assert db.session.scalar(select(func.count()).where(Client.payer_id.is_not(None))) == file.expected["students"]
    assert str(total(AccountKind.BASE)) == file.expected["balance_good"]
    assert total(AccountKind.LESSONS) == file.expected["lessons_good"]
    assert {payer.phone: payer.comment for payer in payers} == file.comments  # "=1+1", "<b>", line breaks: verbatim
    assert sum(
        house_balance(AccountKind.OPENING, branch) for branch in (network.lesnoy, network.rechnoy, network.mira)
    ) == (total(AccountKind.BASE))


def test_a_second_run_changes_nothing(
    network: Network, do_import: Callable[..., Report], row_counts: Callable[[], dict[str, int]]
) -> None:
    file = make_messy_clients([network.lesnoy.name, network.rechnoy.name, network.mira.name], rounds=1)
    first = do_import("client", file.content)
    before, balance = row_counts(), total(AccountKind.BASE)
    again = do_import("client", file.content)
    assert (again.created, again.applied_before) == (0, first.created)
    assert again.figures == first.figures == file.expected
    assert (row_counts(), total(AccountKind.BASE)) == (before, balance)


def test_killed_in_the_middle_nothing_is_left_and_the_next_run_is_complete(
    network: Network,
    do_import: Callable[..., Report],
    row_counts: Callable[[], dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = make_messy_clients([network.lesnoy.name, network.rechnoy.name, network.mira.name], rounds=1)
    before = row_counts()
    monkeypatch.setattr(importing, "BATCH", 20)
    create, calls = importing.write_batch, []

    def die_in_the_third(*args: object, **options: object) -> None:
        calls.append(1)
        create(*args, **options)  # type: ignore[arg-type]
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(importing, "write_batch", die_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        do_import("client", file.content)
    assert row_counts() == before
    monkeypatch.setattr(importing, "write_batch", create)
    assert do_import("client", file.content).created == file.expected["good"]
    assert str(total(AccountKind.BASE)) == file.expected["balance_good"]


def test_a_file_that_has_grown_adds_only_what_is_new(network: Network, do_import: Callable[..., Report]) -> None:
    line = ("Анна Первая", "", "+79180000001", "Лесной", "100,00", 0, "")
    do_import("client", make_xlsx([CLIENT_HEADER, line]))
    respelled = ("Анна  Первая", "", "8 (918) 000-00-01", "Лесной", 100.0, "", "")
    new = ("Борис Второй", "", "+79180000002", "Лесной", "-50", 0, "")
    report = do_import("client", make_xlsx([CLIENT_HEADER, new, respelled]))
    assert (report.created, report.applied_before, report.refusals) == (1, 1, [])
    assert total(AccountKind.BASE) == Decimal("50.00")


def test_balance_is_the_payers_and_lessons_are_the_childs(network: Network, do_import: Callable[..., Report]) -> None:
    lines = [
        ("Мать", "Дочь", "+79180000001", "Лесной", "-2445,48 руб.", 8, "=1+1"),
        ("Один", "", "+79180000002", "Мира", 0, 3, ""),
    ]
    do_import("client", make_xlsx([CLIENT_HEADER, *lines]))
    of = {
        (account.kind, db.session.get_one(Client, account.client_id).name): account.balance
        for account in db.session.scalars(select(Account).where(Account.client_id.is_not(None)))
    }
    assert of == {
        (AccountKind.BASE, "Мать"): Decimal("-2445.48"),
        (AccountKind.LESSONS, "Дочь"): Decimal(8),
        (AccountKind.LESSONS, "Один"): Decimal(3),
    }


def test_a_deposit_is_opened_as_of_its_day_with_its_balance(network: Network, do_import: Callable[..., Report]) -> None:
    client = make_client(network.mira, phone="+79180000001")
    content = make_csv([ACCOUNT_HEADER, ("Кто-то", "8 918 000 00 01", "депозиты", "21 276,67", "11.03.2026")])
    with clock.frozen(NOW):
        do_import("account", content)
        assert do_import("account", content).created == 0
    account = db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT)).one()
    assert (account.client_id, account.branch_id, account.account_type) == (
        client.id,
        network.mira.id,
        network.account_type,
    )
    assert account.balance == Decimal("21276.67")
    noon = datetime(2026, 3, 11, 8, tzinfo=UTC)  # noon in Samara
    assert account.opened_at == noon
    opening = db.session.scalars(select(Transaction)).one()
    assert (opening.kind, opening.happened_at) == (TransactionKind.OPENING, noon)


def test_a_corrected_line_is_not_a_second_account(network: Network, do_import: Callable[..., Report]) -> None:
    for number in (1, 2):
        make_client(network.lesnoy, phone=f"+7918000000{number}")
    lines = [("А", "+79180000001", "Депозиты", "100", ""), ("Б", "+79180000002", "Депозиты", "200", "")]
    twins = ("Б", "+79180000002", "Депозиты", "5", "")  # two accounts of one type in one file are two accounts
    do_import("account", make_csv([ACCOUNT_HEADER, *lines, twins]))
    corrected = ("А", "+79180000001", "Депозиты", "150", "")
    report = do_import("account", make_csv([ACCOUNT_HEADER, corrected, lines[1], twins]))
    assert [(refusal.line, refusal.code) for refusal in report.refusals] == [(2, "imported_before")]
    assert (report.created, report.applied_before, report.figures["imported_before"]) == (0, 2, 1)
    assert total(AccountKind.DEPOSIT) == Decimal(305)


def test_a_base_account_opens_with_a_debt_once(network: Network, do_import: Callable[..., Report]) -> None:
    """Whatever it is called, in whichever file, with whatever the client's own import had brought."""
    clients = [make_client(network.lesnoy, phone=f"+7918000000{n}") for n in (1, 2)]
    base = base_account(clients[0].id, network.lesnoy.id)
    make_payment(base, 30)
    lines = [("А", "+79180000001", "Базовый счет", "-100,50", "01.02.2026"), ("Б", "+79180000002", "BASE", "0", "")]
    twin = ("А", "+79180000001", "Base account", "7", "")
    report = do_import("account", make_csv([ACCOUNT_HEADER, *lines, twin]))
    assert [(refusal.line, refusal.code) for refusal in report.refusals] == [(4, "duplicate_line")]
    assert (report.created, report.figures["balance_good"]) == (2, "-100.50")
    assert base.balance == Decimal("-70.50")
    again = do_import("account", make_csv([ACCOUNT_HEADER, lines[0], ("Б", "+79180000002", "Базовый", "8", "")]))
    assert (again.applied_before, again.created) == (1, 1)  # nothing was opened for the second yet
    corrected = do_import("account", make_csv([ACCOUNT_HEADER, twin]))
    assert [refusal.code for refusal in corrected.refusals] == ["imported_before"]
    assert total(AccountKind.BASE) == Decimal("-62.50")
    openings = select(Transaction).where(Transaction.kind == TransactionKind.OPENING).order_by(Transaction.id)
    opening = db.session.scalars(openings).first()
    assert opening is not None
    assert opening.happened_at == datetime(2026, 2, 1, 9, tzinfo=UTC)  # noon in Moscow


def test_a_balance_brought_in_with_the_client_is_not_brought_in_again(
    network: Network, do_import: Callable[..., Report]
) -> None:
    do_import("client", make_csv([CLIENT_HEADER, ("А", "", "+79180000001", "Лесной", "-5", "0", "")]))
    report = do_import("account", make_csv([ACCOUNT_HEADER, ("А", "+79180000001", "Базовый счёт", "-5", "")]))
    assert [refusal.code for refusal in report.refusals] == ["imported_before"]
    assert total(AccountKind.BASE) == Decimal(-5)


def test_a_deposit_is_never_brought_in_as_a_debt(network: Network, do_import: Callable[..., Report]) -> None:
    make_client(network.lesnoy, phone="+79180000001")
    report = do_import("account", make_csv([ACCOUNT_HEADER, ("А", "+79180000001", "Депозиты", "-0,01", "")]))
    assert [(refusal.column, refusal.code) for refusal in report.refusals] == [("Баланс", "bad_balance")]
    assert report.created == 0


def test_an_account_opened_at_the_desk_is_no_import(network: Network, do_import: Callable[..., Report]) -> None:
    make_account(make_client(network.lesnoy, phone="+79180000001"), network.account_type, balance=10)
    report = do_import("account", make_csv([ACCOUNT_HEADER, ("А", "+79180000001", "Депозиты", "100", "")]))
    assert (report.created, total(AccountKind.DEPOSIT)) == (1, Decimal(110))


def test_a_phone_two_branches_know_says_not_whose_account_it_is(
    network: Network, do_import: Callable[..., Report]
) -> None:
    for branch in (network.lesnoy, network.rechnoy):  # each desk sees its own branch only
        with scoped_to(Scope(frozenset({branch.id}))):
            make_client(branch, phone="+79180000001")
    report = do_import("account", make_csv([ACCOUNT_HEADER, ("А", "+79180000001", "Депозиты", "100", "")]))
    assert (report.created, [refusal.code for refusal in report.refusals]) == (0, ["ambiguous_phone"])
    assert total(AccountKind.DEPOSIT) == 0


def test_today_is_the_day_of_the_lines_branch(network: Network, do_import: Callable[..., Report]) -> None:
    header = ("ФИО родителя", "ФИО ребёнка", "Телефон", "Филиал", "Дата рождения ребёнка")
    lines = [
        ("А", "Сын", "+79180000001", "Лесной", "21.11.2026"),
        ("Б", "Дочь", "+79180000002", "Мира", "21.11.2026"),
        ("В", "Дочь", "+79180000003", "Лесной", "20.11.2026"),
    ]
    with clock.frozen(datetime(2026, 11, 20, 20, 30, tzinfo=UTC)):  # the 21st in Samara, not yet in Moscow
        report = do_import("client", make_xlsx([header, *lines]))
        assert [(refusal.line, refusal.code) for refusal in report.refusals] == [(2, "bad_date")]
        assert report.created == 2
        lines = [("", f"+7918000000{n}", "Депозиты", 5, "21.11.2026") for n in (2, 3)]
        report = do_import("account", make_xlsx([ACCOUNT_HEADER, *lines]))
        assert [(refusal.line, refusal.code) for refusal in report.refusals] == [(3, "bad_date")]
    account = db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT)).one()
    assert account.opened_at == datetime(2026, 11, 20, 20, 30, tzinfo=UTC)


def test_totals_of_the_accounts_equal_the_file(network: Network, do_import: Callable[..., Report]) -> None:
    sums = [Decimal(n * 137) / 100 for n in range(1, 41)]
    clients = [(f"Клиент {n}", "", f"+7918{n:07d}", "Лесной", 0, 0, "") for n in range(1, 41)]
    do_import("client", make_xlsx([CLIENT_HEADER, *clients]))
    rows = [(f"Клиент {n}", f"+7918{n:07d}", "Депозиты", float(value), "2025-07-05") for n, value in enumerate(sums, 1)]
    report = do_import("account", make_xlsx([ACCOUNT_HEADER, *rows]))
    assert (report.created, report.figures["accounts_total"]) == (40, str(sum(sums)))
    assert total(AccountKind.DEPOSIT) == sum(sums)


@pytest.mark.spec("A23")
def test_the_author_is_who_imports_whatever_the_file_says(network: Network, do_import: Callable[..., Report]) -> None:
    header = (*CLIENT_HEADER, "Автор", "author_id", "Сотрудник")
    line = ("Анна", "", "+79180000001", "Лесной", 100, 1, "", "Хакер", network.manager.id, "Кто-то")
    do_import("client", make_xlsx([header, line]), by=network.director)
    opening = db.session.scalars(select(Transaction)).one()
    assert (opening.author_id, opening.author_name) == (network.director.id, network.director.name)
    account = make_csv([(*ACCOUNT_HEADER, "Автор"), ("А", "+79180000001", "Депозиты", "5", "01.02.2025", "Хакер")])
    do_import("account", account, by=network.director)
    deposit = db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT)).one()
    assert deposit.author_id == network.director.id
    assert {run.author_id for run in db.session.scalars(select(ImportRun))} == {network.director.id}


def test_branches_outside_the_scope_are_unknown(network: Network, do_import: Callable[..., Report]) -> None:
    lines = [("Анна", "", "+79180000001", "Лесной", 1, 0, ""), ("Борис", "", "+79180000002", "Мира", 1, 0, "")]
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        report = do_import("client", make_xlsx([CLIENT_HEADER, *lines]), by=network.director)
    assert (report.created, [refusal.code for refusal in report.refusals]) == (1, ["unknown_branch"])


def test_who_may_not_import_leaves_nothing(
    network: Network, do_import: Callable[..., Report], row_counts: Callable[[], dict[str, int]]
) -> None:
    before = row_counts()
    with pytest.raises(Forbidden):
        do_import(
            "client", make_xlsx([CLIENT_HEADER, ("А", "", "+79180000001", "Лесной", 1, 0, "")]), by=network.manager
        )
    assert row_counts() == before


def test_a_run_and_its_lines_are_on_record(network: Network, do_import: Callable[..., Report]) -> None:
    do_import(
        "client",
        make_xlsx([CLIENT_HEADER, (), ("А", "", "+79180000001", "Лесной", 1, 0, "")]),
        file_name="Клиенты.xlsx",
    )
    run = db.session.scalars(select(ImportRun)).one()
    assert (run.entity, run.file_name, run.created) == ("client", "Клиенты.xlsx", 1)
    row = db.session.scalars(select(ImportedRow)).one()
    client = db.session.scalars(select(Client)).one()
    assert (row.run_id, row.line, row.row_id) == (run.id, 3, client.id)


def test_one_file_imported_twice_at_the_same_moment_comes_in_once(
    network: Network, do_import: Callable[..., Report], in_parallel: Callable[..., list[object]]
) -> None:
    lines = [(f"Клиент {n}", "", f"+7918{n:07d}", "Лесной", 10, 1, "") for n in range(1, 31)]
    content = make_xlsx([CLIENT_HEADER, *lines])
    results = in_parallel(lambda _n: do_import("client", content), 4)
    created = [result.created for result in results if isinstance(result, Report)]
    assert sum(created) == 30
    assert all(isinstance(result, Report | Conflict) for result in results), results
    assert total(AccountKind.BASE) == 300


@pytest.mark.spec("B39")
def test_types_of_phones_come_in_by_their_names(network: Network, do_import: Callable[..., Report]) -> None:
    header = ("ФИО", "Телефон", "Тип телефона", "Доп. телефон", "Тип доп. телефона", "Филиал")
    rows = [
        ("Анна", "+79180000001", "Мобильный", "84950000001", "рабочий", network.lesnoy.name),
        ("Борис", "+74950000002", "городской", "", "", network.lesnoy.name),
        ("Вера", "+79180000003", "", "", "", network.lesnoy.name),
    ]
    do_import("client", make_csv([header, *rows]))
    kinds = db.session.execute(select(Client.name, Client.phone_kind, Client.extra_phone_kind).order_by(Client.name))
    assert [tuple(row) for row in kinds] == [
        ("Анна", PhoneKind.MOBILE, PhoneKind.WORK),
        ("Борис", PhoneKind.HOME, PhoneKind.MOBILE),
        ("Вера", PhoneKind.MOBILE, PhoneKind.MOBILE),
    ]
