"""Excel in, from the panel: a file is uploaded, its columns matched, every line checked, applied and taken back."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import python_calamine as calamine
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.background.models import BackgroundJob, JobLine
from crm.background.operations import claim_job, execute_job
from crm.clients.merging import merge_clients
from crm.clients.models import Client, ClientStatus
from crm.db import db, transaction
from crm.exchange.models import Fate, ImportedRow, ImportLine, ImportRun, ImportUpload, UploadStatus
from crm.exchange.uploads import folder
from crm.fields.models import FieldType
from crm.fields.operations import add_field
from crm.ledger.models import Account, AccountKind, Transaction
from crm.ledger.operations import base_account
from crm.security import on_behalf_of
from tests.exchange.sheets import make_csv, make_xlsx
from tests.factories import Network, make_bill, make_client, make_payment

HEADER = ("ФИО", "Телефон", "Филиал", "Баланс", "Комментарий")
GOOD = ("Анна Первая", "+79180000001", "Лесной", "100,50", "")
OTHER = ("Борис Второй", "+79180000002", "Лесной", "-20,00", "")
BAD = ("Вера Третья", "нет", "Лесной", "7,00", "<b>")
TWIN = ("Анна Опять", "8 918 000-00-01", "Лесной", "1,00", "")
ACCOUNTS = ("Клиент", "Телефон", "Тип счёта", "Баланс")


def upload(web: Any, rows: Any, *, entity: str = "client", name: str = "клиенты.csv") -> Any:
    """The answer to a posted file of these rows, or bytes."""
    content = rows if isinstance(rows, bytes) else make_csv(rows)
    return web.post(f"/admin/{entity}/import/", data={"file": (io.BytesIO(content), name)})


def chosen(page: str) -> dict[str, str]:
    """What the selects of the matching page would send untouched."""
    found = {}
    for name, options in re.findall(r'<select[^>]*name="([^"]+)">(.*?)</select>', page, re.S):
        selected = re.search(r'value="([^"]*)" selected', options)
        found[name] = selected[1] if selected else ""
    return found


def check(web: Any, rows: Any, *, entity: str = "client", **options: str) -> str:
    """Upload and check with the suggested columns; the address of the file's page."""
    sent = upload(web, rows, entity=entity)
    assert sent.status_code == 302, errors(sent.text)
    page = web.get(sent.location).text
    assert web.post(sent.location, data={**chosen(page), **options}).status_code == 302
    return str(sent.location)


def bring_in(web: Any, rows: Any, *, entity: str = "client", **options: str) -> ImportRun:
    """Upload, check and apply."""
    web.post(check(web, rows, entity=entity, **options) + "apply/")
    return db.session.scalars(select(ImportRun).order_by(ImportRun.id.desc())).first()  # type: ignore[return-value]


def errors(page: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"alert-danger[^>]*>(.*?)</div>", page, re.S)]


def cells(answer: Any) -> list[list[Any]]:
    return calamine.load_workbook(io.BytesIO(answer.data)).get_sheet_by_index(0).to_python()


def fates(page: str) -> dict[str, str]:
    """Label of each line → fate."""
    return {
        html.unescape(label): fate
        for fate, label in re.findall(r'<tr class="fate-(\w+)"><td[^>]*>\d+</td><th[^>]*>(.*?)</th>', page)
    }


def test_who_may_not_import_sees_no_button_and_no_page(network: Network, web: Callable[..., Any]) -> None:
    assert "Импорт из Excel" in web(network.director).get("/admin/client/").text
    administrator = web(network.administrator)
    assert "Импорт из Excel" not in administrator.get("/admin/client/").text
    assert administrator.get("/admin/client/import/").status_code == 403
    assert upload(administrator, [HEADER, GOOD]).status_code == 403
    assert db.session.scalar(select(func.count(ImportUpload.id))) == 0


def test_the_lines_are_told_apart_and_nothing_is_changed(network: Network, web: Callable[..., Any]) -> None:
    make_client(network.lesnoy, name="Глеб Здешний", phone="+79180000004")
    known = ("Глеб", "+79180000004", "Лесной", "5,00", "")
    director = web(network.director)
    page = director.get(check(director, [HEADER, GOOD, OTHER, BAD, TWIN, known])).text
    assert fates(page) == {
        "Анна Первая": "create",
        "Борис Второй": "create",
        "Вера Третья": "error",
        "Анна Опять": "duplicate",
        "Глеб": "duplicate",
    }
    assert "<strong>Телефон:</strong> «нет» — не номер телефона" in html.unescape(page)
    assert db.session.scalar(select(func.count(Client.id))) == 1
    assert list(db.session.scalars(select(Transaction))) == []


def test_totals_of_the_money_columns_come_to_the_file(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    page = director.get(check(director, [HEADER, GOOD, OTHER, BAD, TWIN])).text
    rows = re.findall(
        r'<tr[^>]*><th scope="row">(?:<a[^>]*>)?(.*?)(?:</a>)?</th>\s*<td[^>]*>(\d+)</td><td[^>]*>(.*?)</td>', page
    )
    found = {name: (int(count), total.replace("\xa0", " ")) for name, count, total in rows}
    assert found["Будут созданы"] == (2, "80,50")
    assert found["Ошибки"] == (1, "7,00")
    assert found["Дубликаты"] == (1, "1,00")
    assert found["В файле"] == (4, "88,50")


def test_lines_are_shown_by_fate_and_given_as_excel(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    address = check(director, [HEADER, GOOD, OTHER, BAD])
    assert fates(director.get(address + "?fate=error").text) == {"Вера Третья": "error"}
    rows = cells(director.get(address + "lines.xlsx"))
    assert [row[1] for row in rows[1:]] == ["Анна Первая", "Борис Второй", "Вера Третья"]
    assert len(cells(director.get(address + "lines.xlsx?fate=error"))) == 2


@pytest.mark.spec("A14")
def test_an_applied_file_says_what_came_of_it(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    address = check(director, [HEADER, GOOD, OTHER, BAD])
    assert "Импортировать 2 строки" in director.get(address).text
    assert director.post(address + "apply/").status_code == 302
    result = director.get(director.get(address).location)
    assert result.status_code == 200
    assert "клиенты.csv" in result.text
    run = db.session.scalars(select(ImportRun)).one()
    assert (run.created, run.author_id) == (2, network.director.id)
    assert {client.name for client in db.session.scalars(select(Client))} == {"Анна Первая", "Борис Второй"}
    assert not (folder() / address.rstrip("/").rsplit("/", 1)[1]).exists()


@pytest.mark.spec("A13", "A14")
def test_accounts_are_brought_in_by_staff_and_their_totals_equal_the_file(
    network: Network, web: Callable[..., Any]
) -> None:
    sums = [Decimal(n * 137) / 100 for n in range(1, 31)]
    for n in range(1, 31):
        make_client(network.lesnoy, name=f"Клиент {n}", phone=f"+7918{n:07d}")
    rows = [
        (f"Клиент {n}", f"+7918{n:07d}", "Депозиты", f"{value:.2f}".replace(".", ","))
        for n, value in enumerate(sums, 1)
    ]
    director = web(network.director)
    address = check(director, [ACCOUNTS, *rows], entity="account")
    shown = f"{sum(sums):.2f}".replace(".", ",")
    assert shown in director.get(address).text.replace("\xa0", "")
    director.post(address + "apply/")
    total = db.session.scalar(select(func.sum(Account.balance)).where(Account.kind == AccountKind.DEPOSIT))
    assert total == sum(sums)
    assert shown in director.get(director.get(address).location).text.replace("\xa0", "")


@pytest.mark.spec("A13", "A14")
def test_a_workbook_of_accounts_and_debts_comes_in_to_the_kopeck_and_goes_out_again(
    network: Network, web: Callable[..., Any]
) -> None:
    """Dry run, import, the list of accounts and the undo all say the sums of the file."""
    sums = [Decimal(n * 137) / 100 for n in range(1, 31)]
    debts = [Decimal(-n * 251) / 100 for n in range(1, 11)]
    for n in range(1, 31):
        make_client(network.lesnoy, name=f"Клиент {n}", phone=f"+7918{n:07d}")
    rows = [(f"Клиент {n}", f"8918{n:07d}", "депозиты", float(value)) for n, value in enumerate(sums, 1)]
    rows += [(f"Клиент {n}", f"+7918{n:07d}", "Базовый счёт", float(value)) for n, value in enumerate(debts, 1)]
    whole, content = f"{sum(sums) + sum(debts):.2f}".replace(".", ","), make_xlsx([ACCOUNTS, *rows])
    director = web(network.director)

    def listed() -> str:
        page = director.get("/admin/account/").text.replace("\xa0", "")
        return str(re.search(r"<tfoot.*?</tfoot>", page, re.S)[0])  # type: ignore[index]

    address = check(director, content, entity="account")
    assert whole in director.get(address).text.replace("\xa0", "")
    assert db.session.scalar(select(func.count()).select_from(Transaction)) == 0
    director.post(address + "apply/")
    assert whole in listed()
    bring_in(director, content, entity="account")  # once more: nothing is new
    assert whole in listed()
    by_kind = dict(
        db.session.execute(
            select(Account.kind, func.sum(Account.balance)).where(Account.client_id.is_not(None)).group_by(Account.kind)
        ).all()
    )
    assert by_kind == {AccountKind.DEPOSIT: sum(sums), AccountKind.BASE: sum(debts)}
    run = db.session.scalars(select(ImportRun).order_by(ImportRun.id)).first()
    assert run is not None
    director.post(f"/admin/account/import/run/{run.id}/undo/")
    accounts = db.session.scalars(select(Account).where(Account.client_id.is_not(None))).all()
    db.session.expire_all()
    assert {account.balance for account in accounts} == {0}
    assert {account.is_closed for account in accounts if account.kind is AccountKind.DEPOSIT} == {True}
    assert {account.is_closed for account in accounts if account.kind is AccountKind.BASE} == {False}
    bring_in(director, content, entity="account")
    assert whole in listed()


@pytest.mark.spec("A23")
def test_no_column_is_an_author_and_the_author_is_who_imports(network: Network, web: Callable[..., Any]) -> None:
    make_client(network.lesnoy, phone="+79180000001")
    header = (*ACCOUNTS, "Автор", "author", "author_id")
    rows = [
        ("", "+79180000001", name, "5", network.owner.name, network.owner.name, network.owner.id)
        for name in ("Депозиты", "Базовый счёт")
    ]
    director = web(network.director)
    sent = upload(director, [header, *rows], entity="account")
    page = director.get(sent.location).text
    assert "author" not in re.findall(r'<option value="([^"]*)"', page)
    forged = [value or "author_id" for value in chosen(page).values()]
    assert forged.count("author_id") == 3
    director.post(sent.location, data=dict(zip(chosen(page), forged, strict=True)))
    director.post(sent.location + "apply/")
    posted = db.session.scalars(select(Transaction)).all()
    assert len(posted) == 2
    assert {(row.author_id, row.author_name) for row in posted} == {(network.director.id, network.director.name)}
    deposit = db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT)).one()
    assert deposit.author_id == network.director.id


def test_an_undo_of_accounts_closes_them(network: Network, web: Callable[..., Any]) -> None:
    make_client(network.lesnoy, phone="+79180000001")
    director = web(network.director)
    run = bring_in(director, [ACCOUNTS, ("", "+79180000001", "Депозиты", "0")], entity="account")
    director.post(f"/admin/account/import/run/{run.id}/undo/")
    account = db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT)).one()
    db.session.refresh(account)
    assert account.is_closed


def test_an_undo_leaves_a_base_account_that_moved_since(network: Network, web: Callable[..., Any]) -> None:
    base = base_account(make_client(network.lesnoy, phone="+79180000001").id, network.lesnoy.id)
    make_payment(base, 7)  # before the import: in nobody's way
    make_client(network.lesnoy, phone="+79180000002")
    director = web(network.director)
    rows = [("", f"+7918000000{n}", "Base account", "-50") for n in (1, 2)]
    run = bring_in(director, [ACCOUNTS, *rows], entity="account")
    other = db.session.scalars(select(Account).where(Account.kind == AccountKind.BASE, Account.id != base.id)).one()
    make_payment(other, 10)
    director.post(f"/admin/account/import/run/{run.id}/undo/")
    db.session.expire_all()
    assert (base.balance, other.balance) == (7, -40)
    assert [line.reason is None for line in db.session.scalars(select(JobLine).order_by(JobLine.id))] == [True, False]


def test_an_undo_leaves_cards_that_were_merged_since(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    run = bring_in(director, [HEADER, GOOD, OTHER])
    anna, boris = db.session.scalars(select(Client).order_by(Client.name))
    with transaction():
        merge_clients(anna, boris, by=SYSTEM)
    director.post(f"/admin/client/import/run/{run.id}/undo/")
    lines = {line.row_id: line.reason for line in db.session.scalars(select(JobLine))}
    assert "объединена" in lines[boris.id]
    assert "объединённая" in lines[anna.id]
    db.session.expire_all()
    base = db.session.scalars(select(Account).where(Account.closed_at.is_(None), Account.client_id == anna.id)).one()
    assert base.balance == Decimal("80.50")


def test_a_second_click_and_the_same_file_again_count_nothing_twice(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    address = check(director, [HEADER, GOOD, OTHER])
    for _ in range(2):
        assert director.post(address + "apply/").status_code == 302
    assert bring_in(director, [HEADER, GOOD, OTHER]).created == 0
    assert db.session.scalar(select(func.count(Client.id))) == 2
    total = db.session.scalar(select(func.sum(Account.balance)).where(Account.kind == AccountKind.BASE))
    assert total == Decimal("80.50")


def test_two_clicks_at_once_bring_a_file_in_once(
    network: Network, web: Callable[..., Any], in_parallel: Callable[..., list[Any]]
) -> None:
    director = web(network.director)
    address = check(director, [HEADER, GOOD, OTHER])
    browsers = [web(network.director) for _ in range(4)]
    answers = in_parallel(lambda n: browsers[n].post(address + "apply/").status_code, 4)
    assert answers == [302] * 4
    assert db.session.scalar(select(func.count(Client.id))) == 2


def test_two_people_with_one_file_at_once(
    network: Network, web: Callable[..., Any], in_parallel: Callable[..., list[Any]]
) -> None:
    browsers = [web(network.director), web(network.owner)]
    addresses = [check(browser, [HEADER, GOOD, OTHER]) for browser in browsers]
    in_parallel(lambda n: browsers[n].post(addresses[n] + "apply/").status_code, 2)
    assert db.session.scalar(select(func.count(Client.id))) == 2
    assert sum(run.created for run in db.session.scalars(select(ImportRun))) == 2


def test_rejected_lines_come_as_a_file_that_is_mended_and_sent_again(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    address = check(director, [HEADER, GOOD, BAD])
    director.post(address + "apply/")
    header, line = cells(director.get(address + "rejected.xlsx"))
    assert tuple(header[:5]) == HEADER
    assert tuple(line[:5]) == BAD
    assert "не номер телефона" in line[5]
    line[1] = "+79180000003"
    assert bring_in(director, make_xlsx([header, line])).created == 1
    assert {client.comment for client in db.session.scalars(select(Client))} == {"", "<b>"}


def test_columns_of_unknown_names_are_matched_and_the_choice_is_remembered(
    network: Network, web: Callable[..., Any]
) -> None:
    director = web(network.director, network.lesnoy)
    rows = [("Контакт", "Связь", "Долг", "Размер"), ("Анна", "+79180000001", "5,00", "38")]
    first = upload(director, rows)
    page = director.get(first.location).text
    assert chosen(page) == {f"column-{n}": "" for n in range(4)}
    assert "+79180000001" in page  # samples
    assert director.post(first.location, data={"column-0": "name"}).status_code == 422  # no phone
    told = {"column-0": "name", "column-1": "phone", "column-2": "balance"}
    assert director.post(first.location, data=told).status_code == 302
    again = director.get(upload(director, rows).location).text
    assert chosen(again) == {**told, "column-3": ""}
    other = web(network.owner, network.lesnoy)
    assert chosen(other.get(upload(other, rows).location).text)["column-0"] == ""


def test_two_columns_cannot_be_one_field(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    sent = upload(director, [HEADER, GOOD])
    answer = director.post(sent.location, data={**chosen(director.get(sent.location).text), "column-4": "name"})
    assert answer.status_code == 422
    assert "означают одно и то же" in errors(answer.text)[0]


def test_an_update_changes_the_cards_found_by_phone_and_no_blank_cell_does(
    network: Network, web: Callable[..., Any]
) -> None:
    client = make_client(network.lesnoy, name="Анна", phone="+79180000001", email="a@demo.test", comment="старое")
    rows = [
        ("ФИО", "Телефон", "Филиал", "E-mail", "Комментарий", "Баланс"),
        ("Анна", "8 918 000-00-01", "Лесной", "", "новое", "900"),
    ]
    director = web(network.director)
    address = check(director, rows, is_updating="y")
    page = director.get(address).text
    assert fates(page) == {"Анна": "update"}
    assert "<del>старое</del> → новое" in page
    director.post(address + "apply/")
    db.session.refresh(client)
    assert (client.comment, client.email) == ("новое", "a@demo.test")
    assert list(db.session.scalars(select(Transaction))) == []
    assert "новое" in web(network.director).get(f"/admin/client/card/{client.id}/").text  # history
    assert fates(director.get(check(director, rows, is_updating="y")).text) == {"Анна": "skip"}


def test_an_undo_takes_back_everything_and_the_file_may_be_imported_again(
    network: Network, web: Callable[..., Any]
) -> None:
    director = web(network.director)
    run = bring_in(director, [HEADER, GOOD, OTHER])
    assert director.post(f"/admin/client/import/run/{run.id}/undo/").status_code == 302
    assert {client.status for client in db.session.scalars(select(Client))} == {ClientStatus.ARCHIVED}
    assert {
        account.balance for account in db.session.scalars(select(Account).where(Account.client_id.is_not(None)))
    } == {0}
    db.session.refresh(run)
    assert (run.undone, run.left) == (2, 0)
    assert bring_in(director, [HEADER, GOOD, OTHER]).created == 2
    total = db.session.scalar(select(func.sum(Account.balance)).where(Account.kind == AccountKind.BASE))
    assert total == Decimal("80.50")


def test_an_undo_leaves_what_something_depends_on_and_says_why(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    run = bring_in(director, [HEADER, GOOD, OTHER])
    anna = db.session.scalars(select(Client).where(Client.name == "Анна Первая")).one()
    make_bill(anna)
    director.post(f"/admin/client/import/run/{run.id}/undo/")
    lines = {line.row_id: line.reason for line in db.session.scalars(select(JobLine))}
    assert "счёт на оплату" in lines[anna.id]
    assert [error for row_id, error in lines.items() if row_id != anna.id] == [None]
    assert anna.status is ClientStatus.ACTIVE
    base = db.session.scalars(select(Account).where(Account.client_id == anna.id)).one()
    assert base.balance == Decimal("100.50")


def test_an_undo_of_accounts_stops_before_money_that_moved(network: Network, web: Callable[..., Any]) -> None:
    for n in (1, 2):
        make_client(network.lesnoy, phone=f"+7918000000{n}")
    rows = [("", f"+7918000000{n}", "Депозиты", "50") for n in (1, 2)]
    director = web(network.director)
    run = bring_in(director, [ACCOUNTS, *rows], entity="account")
    first, second = db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT).order_by(Account.id))
    make_payment(first, 10)
    director.post(f"/admin/account/import/run/{run.id}/undo/")
    db.session.refresh(first)
    db.session.refresh(second)
    assert (first.balance, second.balance) == (60, 0)
    assert [line.reason is None for line in db.session.scalars(select(JobLine).order_by(JobLine.id))] == [False, True]


def test_an_undone_update_puts_back_only_what_is_unchanged_since(network: Network, web: Callable[..., Any]) -> None:
    for n in (1, 2):
        make_client(network.lesnoy, name=f"Клиент {n}", phone=f"+7918000000{n}", comment="старое")
    rows = [HEADER, *((f"Клиент {n}", f"+7918000000{n}", "Лесной", "", "новое") for n in (1, 2))]
    director = web(network.director)
    run = bring_in(director, rows, is_updating="y")
    first, second = db.session.scalars(select(Client).order_by(Client.id))
    second.comment = "поправлено"
    db.session.commit()
    director.post(f"/admin/client/import/run/{run.id}/undo/")
    db.session.refresh(first)
    db.session.refresh(second)
    assert (first.comment, second.comment) == ("старое", "поправлено")


def test_a_large_file_is_a_job_that_goes_on_where_it_was_killed(
    network: Network, web: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [(f"Клиент {n}", f"+7918{n:07d}", "Лесной", "10", "") for n in range(1, 701)]
    director = web(network.director)
    address = check(director, [HEADER, *lines, lines[0]])
    job = db.session.scalars(select(BackgroundJob)).one()
    assert "<progress" in director.get(address).text
    work(job, network)
    assert db.session.scalar(select(func.count(ImportLine.id)).where(ImportLine.fate == Fate.CREATE)) == 700
    director.post(address + "apply/")
    job = db.session.scalars(select(BackgroundJob).order_by(BackgroundJob.id.desc())).first()
    monkeypatch.setattr("crm.exchange.importing.BATCH", 300)
    from crm.exchange import uploads

    keep, calls = uploads.insert_rows, []

    def die_in_the_second(*arguments: Any) -> None:
        calls.append(1)
        keep(*arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(uploads, "insert_rows", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        work(job, network)
    db.session.rollback()
    assert db.session.scalar(select(func.count(Client.id))) == 300
    assert "<progress" in director.get(address).text
    monkeypatch.setattr(uploads, "insert_rows", keep)
    with on_behalf_of(network.director.id, branch_id=None, locale="ru", source="test"):
        execute_job(job.id)
    assert db.session.scalar(select(func.count(Client.id))) == 700
    run = db.session.scalars(select(ImportRun)).one()
    assert (run.created, run.figures["fates"]) == (700, {"create": 700, "duplicate": 1})
    assert db.session.scalar(select(func.count(ImportLine.id))) == 701


def test_a_stopped_import_keeps_what_is_in_and_can_go_on(
    network: Network, web: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [(f"Клиент {n}", f"+7918{n:07d}", "Лесной", "10", "") for n in range(1, 701)]
    director = web(network.director)
    address = check(director, [HEADER, *lines])
    work(db.session.scalars(select(BackgroundJob)).one(), network)
    director.post(address + "apply/")
    job = db.session.scalars(select(BackgroundJob).order_by(BackgroundJob.id.desc())).first()
    from crm.exchange import uploads

    write = uploads.write_batch

    def and_stop(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        db.session.get_one(BackgroundJob, job.id).is_cancel_requested = True

    monkeypatch.setattr(uploads, "write_batch", and_stop)
    work(job, network)
    monkeypatch.setattr(uploads, "write_batch", write)
    assert db.session.scalar(select(func.count(Client.id))) == 400
    assert db.session.scalars(select(ImportUpload)).one().status is UploadStatus.STOPPED
    page = director.get(address).text
    assert "остановлен" in page
    director.post(address + "apply/")
    work(db.session.scalars(select(BackgroundJob).order_by(BackgroundJob.id.desc())).first(), network)
    assert db.session.scalar(select(func.count(Client.id))) == 700
    assert [run.created for run in db.session.scalars(select(ImportRun).order_by(ImportRun.id))] == [400, 300]


def work(job: Any, network: Network) -> None:
    """What a worker does with a job of the director's."""
    job_id, author_id = job.id, job.author_id
    assert claim_job(job_id)
    with on_behalf_of(author_id, branch_id=None, locale="ru", source="test"):
        execute_job(job_id)
    db.session.expire_all()


@pytest.mark.parametrize("entity", ["client", "account"])
def test_a_file_is_its_senders_alone(network: Network, web: Callable[..., Any], entity: str) -> None:
    rows = [HEADER, GOOD] if entity == "client" else [ACCOUNTS, ("", "+79180000001", "Депозиты", "5")]
    director, owner = web(network.director), web(network.owner)
    address = check(director, rows, entity=entity)
    for path in ("", "lines.xlsx", "rejected.xlsx"):
        assert owner.get(address + path).status_code == 404
    for path in ("", "apply/", "stop/"):
        assert owner.post(address + path).status_code == 404
    run = bring_in(owner, rows, entity=entity)
    assert director.get(f"/admin/{entity}/import/run/{run.id}/").status_code == 404
    assert director.post(f"/admin/{entity}/import/run/{run.id}/undo/").status_code == 404
    assert director.get(f"/admin/{entity}/import/run/{10**30}/").status_code == 404


def test_lines_of_a_foreign_branch_are_errors(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    foreign = ("Чужой", "+79180000009", "Мира", "1", "")
    page = director.get(check(director, [HEADER, GOOD, foreign])).text
    assert fates(page) == {"Анна Первая": "create", "Чужой": "error"}


def test_within_a_branch_a_file_need_not_name_it(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director, network.lesnoy)
    assert bring_in(director, [("ФИО", "Телефон"), ("Анна", "+79180000001")]).created == 1
    assert db.session.scalars(select(Client)).one().branch_id == network.lesnoy.id


def test_imported_rows_remember_the_child(network: Network, web: Callable[..., Any]) -> None:
    director = web(network.director)
    rows = [("ФИО", "Ребёнок", "Телефон", "Филиал", "Осталось занятий"), ("Мать", "Дочь", "+79180000001", "Лесной", 8)]
    run = bring_in(director, rows)
    child = db.session.scalars(select(Client).where(Client.payer_id.is_not(None))).one()
    assert db.session.scalars(select(ImportedRow)).one().details == {"child": child.id}
    director.post(f"/admin/client/import/run/{run.id}/undo/")
    assert {client.status for client in db.session.scalars(select(Client))} == {ClientStatus.ARCHIVED}
    assert db.session.scalar(select(func.sum(Account.balance)).where(Account.kind == AccountKind.LESSONS)) == 0


def test_fields_of_the_companys_own_are_columns_too(network: Network, web: Callable[..., Any]) -> None:
    with transaction():
        add_field(network.company, "client", label="Рост, см", type=FieldType.NUMBER, by=SYSTEM)
        add_field(network.company, "client", label="Пояс", type=FieldType.CHOICE, options=["Белый", "Синий"], by=SYSTEM)
    rows = [(*HEADER, "Рост см", "Пояс"), (*GOOD, "141,5", "синий"), (*OTHER, "", "Красный")]
    director = web(network.director)
    page = director.get(check(director, rows)).text
    assert fates(page) == {"Анна Первая": "create", "Борис Второй": "error"}
    assert bring_in(director, rows).created == 1
    card = web(network.director).get(f"/admin/client/card/{db.session.scalars(select(Client)).one().id}/").text
    assert "141,5" in card
    assert "Синий" in card
