"""Reports: what staff did, by person and day; the archived clients."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import openpyxl
import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.permissions import may
from crm.audit.models import AuditAction, AuditEntry
from crm.audit.origin import acting
from crm.clients.operations import archive_client
from crm.db import db, transaction
from tests.factories import PASSWORD, Network, make_bill, make_client

NOON = datetime(2026, 9, 2, 9, tzinfo=UTC)  # of Moscow
REPORT = "/admin/staffactions/"


@pytest.fixture
def work(network: Network) -> None:
    """On 2 September the administrator makes two clients and archives one; in mira the owner makes one."""
    with clock.frozen(NOON):
        with acting(network.administrator, "request:1"):
            first = make_client(network.lesnoy, name="Анна")
            make_client(network.lesnoy)
            with transaction():
                archive_client(first, by=network.administrator)
        with acting(network.owner, "request:2"):
            make_client(network.mira)


def rows(page: str) -> dict[tuple[str, str], list[int]]:
    """{(person, day): numbers} of the report."""
    found = {}
    for name, day, cells in re.findall(
        r'<tr><th scope="row">(.*?)</th><td class="tabular">(.*?)</td>(.*?)</tr>', page, re.DOTALL
    ):
        numbers = re.findall(r"<td[^>]*>(.*?)</td>", cells, re.DOTALL)
        found[name, day] = [int(text) if (text := re.sub("<[^>]+>|—", "", cell)) else 0 for cell in numbers]
    return found


def asked(client: Any, **args: Any) -> dict[tuple[str, str], list[int]]:
    with clock.frozen(NOON):
        answer = client.get(REPORT, query_string={name.rstrip("_"): value for name, value in args.items()})
    assert answer.status_code == 200
    return rows(answer.text)


@pytest.mark.spec("C144")
def test_what_each_person_did_on_each_day(network: Network, web: Any, work: None) -> None:
    owner = web(network.owner)
    day = "02.09.2026"
    assert asked(owner) == {
        (network.administrator.name, day): [2, 0, 1, 0, 0, 3],
        (network.owner.name, day): [1, 0, 0, 0, 0, 1],
    }
    with clock.frozen(NOON):
        page = owner.get(REPORT).text
    assert re.search(r"<tfoot>.*?>3</td>.*?>1</td>.*?>4</td></tr></tfoot>", page, re.DOTALL)
    assert "Отчёт о действиях сотрудников" in owner.get("/admin/").text


@pytest.mark.spec("C144")
def test_sign_ins_and_exports_count(network: Network, web: Any) -> None:
    with clock.frozen(NOON):
        stranger = web()
        sent = {"email": network.administrator.email, "password": PASSWORD}
        assert stranger.post("/login", data=sent).status_code == 302
        assert web(network.administrator, network.lesnoy).get("/admin/client/export/xlsx/").status_code == 200
    for asks in (network.owner, network.director):
        assert asked(web(asks))[network.administrator.name, "02.09.2026"] == [0, 0, 0, 1, 1, 2]


def test_filters_by_person_period_and_branch(network: Network, web: Any, work: None) -> None:
    owner, day = web(network.owner), "02.09.2026"
    assert set(asked(owner, person=network.owner.id)) == {(network.owner.name, day)}
    assert set(asked(owner, branch=network.lesnoy.id)) == {(network.administrator.name, day)}
    assert asked(owner, period="yesterday") == {}
    assert len(asked(owner, period="today")) == 2
    assert len(asked(owner, from_="2026-09-02", to="2026-09-02")) == 2
    assert asked(owner, from_="2026-08-01", to="2026-09-01") == {}


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "args",
    [
        *("period=x", "from=x&to=y", "from=0001-01-01&to=9999-12-31", "from=2026-09-02&to=2026-01-01", "person=x"),
        *("person=" + "9" * 18, "person=" + "9" * 40, "branch=777", "period=next_year", "from=1900-01-01"),
        *("to=2199-12-31", "from=%00"),
    ],
)
def test_odd_addresses_have_an_answer(network: Network, web: Any, args: str) -> None:
    assert web(network.owner).get(f"{REPORT}?{args}").status_code == 200


def test_each_number_leads_to_its_lines(network: Network, web: Any, work: None) -> None:
    owner = web(network.owner)
    with clock.frozen(NOON):
        page = owner.get(REPORT).text
    links = [
        (html.unescape(url), int(text)) for url, text in re.findall(r'<a href="(/admin/audit/\?[^"]+)">(\d+)</a>', page)
    ]
    assert len(links) == 5
    for url, number in links:
        log = owner.get(url).text
        assert len(re.findall("data-row", log)) == number, url


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_lines_of_the_log_lead_to_their_records(network: Network, web: Any, work: None) -> None:
    page = web(network.director, network.lesnoy).get("/admin/audit/?f.entity.has=client").text
    anna = db.session.scalar(select(AuditEntry.entity_id).where(AuditEntry.entity_label == "Анна"))
    assert f'<a href="/admin/client/details/?id={anna}">Анна</a>' in page


def test_only_what_ones_branches_did(network: Network, web: Any, work: None) -> None:
    assert set(asked(web(network.director))) == {(network.administrator.name, "02.09.2026")}
    people = web(network.director).get(REPORT).text
    assert network.administrator.name in people
    assert network.owner.name not in re.sub(r'<details class="menu user">.*?</details>', "", people, flags=re.DOTALL)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_only_what_ones_role_sees(network: Network, web: Any, work: None) -> None:
    """Support sees clients, not bills."""
    with clock.frozen(NOON), acting(network.administrator, "request:3"):
        make_bill(make_client(network.lesnoy))
    of_all, of_support = asked(web(network.owner)), asked(web(network.support))
    key = (network.administrator.name, "02.09.2026")
    assert of_all[key][0] > of_support[key][0] == 3


@pytest.mark.spec("C144")
def test_the_report_as_excel(network: Network, web: Any, work: None) -> None:
    with clock.frozen(NOON):
        answer = web(network.owner).get(f"{REPORT}export/xlsx/?period=today")
    assert answer.status_code == 200
    sheet = openpyxl.load_workbook(BytesIO(answer.data)).active
    lines = [list(line) for line in sheet.iter_rows(values_only=True)]
    assert lines[0] == [
        "День",
        "Сотрудник",
        "Создано",
        "Изменено и удалено",
        "Смены статуса",
        "Выгрузки",
        "Входы",
        "Итого",
    ]
    assert lines[1][1:] == [network.owner.name, 1, 0, 0, 0, 0, 1]
    assert lines[2][1:] == [network.administrator.name, 2, 0, 1, 0, 0, 3]
    assert lines[3] == ["Итого", None, 3, 0, 1, 0, 0, 4]
    exported = select(func.count()).where(AuditEntry.action == AuditAction.EXPORT)
    assert db.session.scalar(exported) == 1


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_reports_answer_as_the_role_may(network: Network, web: Any) -> None:
    for user in network.users:
        client, role = web(user), user.role.value
        for path, needed in (
            (REPORT, "audit.view"),
            (f"{REPORT}export/xlsx/", "audit.export"),
            ("/admin/archivedclients/", "client.view"),
        ):
            status = client.get(path).status_code
            assert status in ({200, 302} if may(role, needed) else {403}), (role, path, status)
            assert client.post(path).status_code in {403, 405}
    for path in (REPORT, f"{REPORT}export/xlsx/", "/admin/archivedclients/"):
        assert web().get(path).location.startswith("/login")


# --- archived clients -----------------------------------------------------------------------------------------------


@pytest.mark.spec("C4", "C5")
def test_archived_clients_are_a_report_whose_rows_open_the_cards(network: Network, web: Any, work: None) -> None:
    client = web(network.administrator, network.lesnoy)
    menu = re.search(r'<a href="([^"]+)"[^>]*>[^<]*<i[^>]*></i> Архивные клиенты</a>', client.get("/admin/").text)
    assert menu
    report = client.get(client.get(menu[1]).location).text
    anna = db.session.scalar(select(AuditEntry.entity_id).where(AuditEntry.entity_label == "Анна"))
    assert re.findall(r'href="(/admin/client/card/\d+/)"', report) == [f"/admin/client/card/{anna}/"]
    assert "Анна" in client.get(f"/admin/client/card/{anna}/").text
    assert f"/admin/client/card/{anna}/" not in client.get("/admin/client/").text


def test_archived_clients_of_other_branches_are_not_there(network: Network, web: Any) -> None:
    foreign = make_client(network.mira, name="Чужая")
    with transaction():
        archive_client(foreign, by=SYSTEM)
    director = web(network.director)
    assert "Чужая" not in director.get(director.get("/admin/archivedclients/").location).text


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_several_are_restored_at_once(network: Network, web: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(3)]
    with transaction():
        for row in clients[:2]:
            archive_client(row, by=SYSTEM)
    sent = {
        "action": "restore",
        "id": [row.id for row in clients],
        "confirmed": "1",
        "f.status.is": ["active", "archived"],
    }
    answer = web(network.administrator, network.lesnoy).post("/admin/client/action/", data=sent)
    assert answer.status_code in {200, 302}
    assert {row.status.value for row in clients} == {"active"}
