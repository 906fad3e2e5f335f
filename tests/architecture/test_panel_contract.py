"""The panel's contract: every view × every exposed method × every role × own and foreign rows answers what the table of
permissions says, shows nothing of another branch, and refuses what nobody has mapped to a permission.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest
from flask import Flask
from flask_admin import expose
from sqlalchemy import func, select

from crm import create_app
from crm.access.models import City, Role, RoleSettings
from crm.access.operations import may_manage
from crm.access.permissions import NETWORK_WIDE_ROLES, PERMISSIONS, RESERVED, may
from crm.access.roles import change_role
from crm.access.scope import BranchScoped
from crm.admin.base import KontoraView, permission
from crm.audit.models import AuditEntry
from crm.db import db, transaction
from crm.security import on_behalf_of
from tests.admin.world import NETWORK_WIDE, PERSONAL, one_of_each, views

ROLES = ("owner", "regional", "director", "administrator", "manager", "instructor", "support")

# What the base view exposes for every entity, and what it needs.
STANDARD = {
    "index_view": "view",
    "details_view": "view",
    "export": "export",
    "create_view": "create",
    "edit_view": "edit",
    "action_view": "view",
    "cell_view": "edit",
    "history_view": "view",
    "put_back_view": "edit",
    "layout_view": "view",
    "views_view": "view",
    "filters_view": "view",
}
# What views expose beyond it. Another method in a view wants a line here: its permission is then a decision.
OWN = {
    "client.card_view": "client.view",
    "client.archive_view": "client.archive",
    "client.wishes_view": "client.edit",
    "client.contacts_view": "client.edit",
    "client.merge_view": "client.merge",
    "client.trial_view": "lesson.enrol",
    "client.cancel_lessons_view": "lesson.enrol",
    "client.duplicates_view": "client.merge",
    "client.open_account_view": "account.open",
    "account.top_up_view": "account.top_up",
    "account.write_off_view": "account.write_off",
    "account.refund_view": "account.refund",
    "account.transfer_view": "account.transfer",
    "account.close_view": "account.close",
    "account.reopen_view": "account.close",
    "account.reverse_view": "account.reverse",
    "client.issue_bill_view": "bill.issue",
    "client.sell_view": "subscription.sell",
    "subscription.find_buyer_view": "subscription.sell",
    "subscription.freeze_view": "subscription.freeze",
    "subscription.resume_view": "subscription.freeze",
    "subscription.prolong_view": "subscription.prolong",
    "subscription.archive_view": "subscription.archive",
    "client.discount_view": "client.discount",
    "client.remove_discount_view": "client.discount",
    "client.message_view": "message.send",
    "client.password_view": "message.send",
    "client.add_lessons_view": "subscription.add_lessons",
    "client.transfer_lessons_view": "subscription.transfer_lessons",
    "subscription.recalculate_view": "subscription.recalculate",
    "subscription.return_view": "subscription.return",
    "subscription.cancel_sale_view": "subscription.cancel",
    "entry.receipt_view": "entry.view",
    "payment.refund_view": "payment.refund",
    "payment.settle_view": "payment.resolve",
    "notice.again_view": "notice.again",
    "bill.archive_view": "bill.archive",
    "bill.bundle_view": "bill.view",
    "bill.find_payer_view": "bill.issue",
    "bill.pdf_view": "bill.view",
    "bill.renew_link_view": "bill.issue",
    "bill.revoke_bundle_view": "bill.issue",
    "bill.revoke_link_view": "bill.issue",
    "bill.together_view": "bill.issue",
    "bill.pay_view": "account.top_up",
    "cashflow.totals_export": "cashflow.export",
    "cashflow.totals_view": "cashflow.view",
    "clientgroup.add_view": "clientgroup.enrol",
    "clientgroup.join_view": "clientgroup.enrol",
    "clientgroup.leave_view": "clientgroup.enrol",
    "company.licensing_view": "company.view",
    "company.preview_view": "company.view",
    "company.try_view": "company.edit",
    "contract.print_view": "contract.view",
    "holiday.remove_view": "holiday.delete",
    "field.move_view": "field.edit",
    "field.hide_view": "field.edit",
    "field.archive_view": "field.archive",
    "field.built_in_view": "field.edit",
    "lesson.plan_view": "lesson.create",
    "lesson.cancel_view": "lesson.cancel",
    "booking.remove_view": "booking.delete",
    "lesson.enrol_view": "lesson.enrol",
    "lesson.take_off_view": "lesson.enrol",
    "lesson.marks_view": "lesson.mark",
    "lesson.reopen_view": "lesson.mark",
    "mailingrule.preview_export_view": "mailingrule.export",
    "mailingrule.preview_view": "mailingrule.view",
    "mailingrule.run_view": "mailingrule.run",
    "mailingrule.selection_export_view": "mailingrule.export",
    "mailingrule.selection_view": "mailingrule.create",
    "mailingrun.again_view": "message.send",
    "mailingrun.cancel_view": "mailingrule.run",
    "mailingrun.pause_view": "mailingrule.run",
    "mailingrun.resume_view": "mailingrule.run",
    "provider.connect_view": "provider.edit",
    "provider.try_view": "provider.edit",
    "role.reset_view": "role.edit",
    "shift.report_view": "shift.view",
    "shop.check_view": "shop.edit",
    "task.finish_view": "task.edit",
    "task.mark_view": "task.edit",
    "till.move_view": "till.move",
    "till.shift_view": "till.shift",
    "till.spend_view": "till.move",
    "till.take_view": "till.move",
    "waiting.place_view": "waiting.edit",
    "user.rights_view": "user.view",
    "visit.mark_view": "visit.edit",
    "visit.pay_view": "visit.pay",
    "debtor.accrue_view": "account.debt",
    "debtor.write_off_view": "account.debt",
    "debtor.bad_debt_view": "account.bad_debt",
    "exportschedule.send_view": "exportschedule.run",
    "exportschedule.switch_view": "exportschedule.edit",
    "exportschedule.remove_view": "exportschedule.delete",
    "job.status_view": "job.view",
    "job.cancel_view": "job.view",
    "job.undo_view": "job.view",
    "job.file_view": "job.view",
    "job.protocol_view": "job.view",
    **{
        f"{entity}.{method}": f"{entity}.import"
        for entity in ("client", "account")
        for method in (
            *("import_view", "upload_view", "lines_view", "rejected_view", "apply_view", "stop_view"),
            *("result_view", "undo_view"),
        )
    },
}
TAKES_ID = {
    "details_view",
    "try_view",
    "edit_view",
    "cell_view",
    "add_view",
    "archive_view",
    "enrol_view",
    "leave_view",
    "take_off_view",
    "pay_view",
    "pdf_view",
    "renew_link_view",
    "revoke_link_view",
    "finish_view",
    "mark_view",
    "move_view",
    "shift_view",
    "spend_view",
    "take_view",
    "run_view",
    "reset_view",
    "rights_view",
    "cancel_view",
    "history_view",
    "put_back_view",
    "undo_view",
    "send_view",
    "switch_view",
    "remove_view",
    "again_view",
    "check_view",
    "preview_view",
    "preview_export_view",
    "pause_view",
    "resume_view",
    "refund_view",
    "settle_view",
}

MINE, FOREIGN = "Своё-7f3a", "Чужое-9c1d"


@dataclass(frozen=True)
class Endpoint:
    """An exposed method of a view, as Flask-Admin routes it."""

    view: KontoraView
    name: str
    rule: str
    methods: tuple[str, ...]

    @property
    def permission(self) -> str:
        entity = self.view.entity
        return OWN.get(f"{entity}.{self.name}") or f"{entity}.{STANDARD[self.name]}"

    @property
    def takes_row(self) -> bool:
        return self.name in TAKES_ID or "<id>" in self.rule

    def row_of(self, rows: dict[str, int]) -> int:
        if self.name == "print_view" or self.rule.startswith("/client/"):  # of a client
            return rows["client"]
        if self.name in {"receipt_view", "reverse_view"}:  # of all that an operation moved
            return rows["transaction"]
        return rows[self.view.entity]

    def path(self, row_id: int | None) -> str:
        path = f"/admin/{self.view.entity}{self.rule.replace('<id>', str(row_id))}"
        return f"{path}?id={row_id}" if self.name in TAKES_ID and "<id>" not in self.rule else path


def endpoints(app: Flask) -> list[Endpoint]:
    return [
        Endpoint(view, name, rule, tuple(methods) if methods else ("GET",))
        for view in views(app)
        for rule, name, methods in view._urls
    ]


def asked(client: Any, endpoint: Endpoint, method: str, row_id: int | None) -> Any:
    if method == "GET":
        return client.get(endpoint.path(row_id))
    return client.post(endpoint.path(row_id), data={"id": str(row_id or ""), "action": "archive", "confirmed": "1"})


@pytest.fixture
def rows(network: Any, app: Flask) -> tuple[dict[str, int], dict[str, int]]:
    """Own rows, of lesnoy, and foreign ones, of mira: no role but owner and support ever sees that branch. Payment
    services are asked where nobody listens.
    """
    nowhere = {"yookassa_url": "http://127.0.0.1:9", "tbank_url": "http://127.0.0.1:9"}
    app.config["SETTINGS"] = replace(app.config["SETTINGS"], **nowhere)
    return one_of_each(network.lesnoy, MINE), one_of_each(network.mira, FOREIGN)


def snapshot(network: Any) -> dict[str, Any]:
    """What there is in the foreign branch: rows by table, and lines of the audit."""
    counts = {
        model.__name__: db.session.scalar(select(func.count()).where(model.branch_id == network.mira.id))
        for model in BranchScoped.__subclasses__()
    }
    audited = select(func.count()).where(AuditEntry.branch_id == network.mira.id)
    return counts | {"audit": db.session.scalar(audited)}


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_every_exposed_method_needs_the_permission_written_here(app: Flask) -> None:
    found = {
        f"{endpoint.view.entity}.{endpoint.name}": endpoint.view.permission_for(endpoint.name)
        for endpoint in endpoints(app)
        if endpoint.name not in STANDARD
    }
    assert found == OWN
    for endpoint in endpoints(app):
        assert endpoint.view.permission_for(endpoint.name) == endpoint.permission


# What a role may is decided before a database is asked. Whose rows there are is said in SQL: the other database is
# asked as who sees some of the branches, as who sees one, and as who sees his own rows alone.
CASES = [
    *(("sqlite", role, branch) for role in ROLES for branch in ("lesnoy", None)),
    *(("postgresql", *case) for case in (("regional", None), ("director", "lesnoy"), ("instructor", None))),
]


@pytest.mark.parametrize(("dialect", "role", "branch"), CASES, indirect=["dialect"])
def test_answers_are_what_the_role_may(network: Any, web: Any, app: Flask, rows: Any, role: str, branch: Any) -> None:
    check_answers(network, web, app, rows, role, branch)


UNCHANGED: Mapping[str, bool] = MappingProxyType({})
EDITED = {
    "nothing": dict.fromkeys(PERMISSIONS, False),
    "everything": dict.fromkeys(set(PERMISSIONS) - RESERVED, True),
    "the other way round": {name: not may("manager", name) for name in set(PERMISSIONS) - RESERVED},
}


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("edited", EDITED)
def test_answers_follow_what_the_owner_has_changed(network: Any, web: Any, app: Flask, rows: Any, edited: str) -> None:
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.MANAGER)).one()
    with transaction():
        change_role(settings, permissions=EDITED[edited], fields={}, by=network.owner)
    check_answers(network, web, app, rows, "manager", "lesnoy", EDITED[edited])


def check_answers(
    network: Any,
    web: Any,
    app: Flask,
    rows: Any,
    role: str,
    branch: Any,
    changes: Mapping[str, bool] = MappingProxyType({}),
) -> None:
    """Every view × every method × own and foreign rows, as a person of this role, changed so."""
    own, foreign = rows
    user = getattr(network, role)
    client = web(user, getattr(network, branch) if branch else None)
    sees_all = user.role.value in NETWORK_WIDE_ROLES
    before, wrong = snapshot(network), []
    for endpoint in endpoints(app):
        view = endpoint.view
        # Without it one's own alone exist: in this world the instructor's.
        of_all = f"{view.entity}.all"
        is_others = of_all in PERMISSIONS and not may(user.role.value, of_all, changes) and role != "instructor"
        is_personal = view.entity in PERSONAL or is_others
        may_it = may(user.role.value, endpoint.permission, changes) or endpoint.permission == "job.view"
        for method in ("GET", "POST"):
            if method not in endpoint.methods:
                continue
            cases = [("own", endpoint.row_of(own)), ("foreign", endpoint.row_of(foreign))]
            for whose, row_id in cases if endpoint.takes_row else cases[:1]:
                is_foreign = is_personal or (
                    whose == "foreign"
                    and view.entity not in NETWORK_WIDE
                    and not (sees_all and (branch is None or view.entity in {"user", "branch"}))
                )
                if whose == "foreign" and not is_foreign:
                    continue  # the scope holds it: an own row like any other
                answer = asked(client, endpoint, method, row_id)
                text = answer.data.decode(errors="replace")
                if not may_it:
                    expected = {403}
                elif is_foreign and endpoint.takes_row:
                    expected = {404}
                    if endpoint.name in {"edit_view", "cell_view"}:
                        expected = {403, 404}  # refused before the row is looked for
                elif endpoint.name == "create_view":
                    expected = {200, 302, 422} if view.creates else {403}
                    if view.entity in {"accounttype", "plan"} and branch:
                        expected = {403}
                elif endpoint.name == "edit_view":
                    expected = {200, 302, 409, 422} if view.edits else {403}
                    if view.entity in {"accounttype", "plan"} and branch:
                        expected = {403}
                    if view.entity == "user" and not may_manage(user, Role.ADMINISTRATOR):
                        expected = {403}
                elif endpoint.name == "cell_view":  # no column is named: refused after the row is looked for
                    expected = {403}
                elif endpoint.name in {
                    *("put_back_view", "mark_view", "contacts_view", "selection_view", "selection_export_view"),
                } or (
                    method == "POST" and endpoint.name in {"views_view", "built_in_view"}
                ):  # nothing is said of what to do, or with which line
                    expected = {404}
                elif endpoint.name == "action_view":
                    with on_behalf_of(user.id, branch_id=None, locale="ru", source="test"):
                        known = {action.name for action in view.bulk_actions()}
                    expected = {404} if "archive" not in known else {200, 302}
                    if "archive" in known and not may(user.role.value, f"{view.entity}.archive", changes):
                        expected = {403}
                else:
                    expected = {200, 302, 422}
                if may_it and re.search("<(token|run|bundle)>", endpoint.rule):
                    expected = {404}  # keys of their own: tests/admin/test_import.py, test_issuing.py
                if answer.status_code not in expected:
                    wrong.append((method, endpoint.path(row_id), whose, answer.status_code, sorted(expected)))
                if FOREIGN in text and not sees_all:
                    wrong.append((method, endpoint.path(row_id), whose, "shows a foreign row"))
    assert wrong == []
    if not sees_all:
        assert snapshot(network) == before


@pytest.mark.parametrize("role", ["regional", "director", "administrator", "manager", "instructor"])
def test_nothing_of_a_foreign_branch_in_grids_exports_and_search(
    network: Any, web: Any, app: Flask, rows: Any, role: str
) -> None:
    client = web(getattr(network, role))
    shown = []
    for view in views(app):
        if not may(getattr(network, role).role.value, f"{view.entity}.view"):
            continue
        for path in ("", "?q=Чужое", "?f.status.is=active&f.status.is=pending&f.status.is=archived", "?size=200"):
            text = client.get(f"/admin/{view.entity}/{path}").text
            if FOREIGN in text:
                shown.append(view.entity + path)
    if FOREIGN in client.get("/admin/search/?q=Чужое").text:
        shown.append("search")
    assert shown == []


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_strangers_are_sent_to_sign_in(network: Any, web: Any, app: Flask, rows: Any) -> None:
    stranger = web()
    wrong = []
    for endpoint in endpoints(app):
        for method in endpoint.methods:
            if method not in {"GET", "POST"}:
                continue
            answer = asked(stranger, endpoint, method, endpoint.row_of(rows[0]))
            if answer.status_code != 302 or not answer.location.startswith("/login"):
                wrong.append((method, endpoint.path(None), answer.status_code))
    for path in ("/admin/", "/admin/search/?q=а"):
        assert stranger.get(path).location.startswith("/login?next=/admin/")
    assert wrong == []


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_an_account_switched_off_is_a_stranger(network: Any, web: Any) -> None:
    client = web(network.administrator, network.lesnoy)
    assert client.get("/admin/client/").status_code == 200
    network.administrator.is_active = False
    assert client.get("/admin/client/").location.startswith("/login")


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_post_without_its_token_does_nothing(network: Any, web: Any, app: Flask, rows: Any) -> None:
    client = web(network.owner, network.lesnoy)
    client.with_csrf = False
    count = select(func.count()).select_from(AuditEntry)
    before, answers = db.session.scalar(count), {}
    for endpoint in endpoints(app):
        if "POST" in endpoint.methods:
            answers[endpoint.path(1)] = asked(client, endpoint, "POST", endpoint.row_of(rows[0])).status_code
    for path in ("/login", "/logout", "/switch", "/language"):
        answers[path] = client.post(path, data={"branch_id": "", "language": "en"}).status_code
    assert len(answers) > 30
    assert set(answers.values()) == {400}
    assert db.session.scalar(count) == before
    assert client.get("/admin/").status_code == 200  # not signed out


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_what_flask_admin_exposes_itself_is_not_there(network: Any, web: Any, app: Flask, rows: Any) -> None:
    """Deleting, editing within the grid and looking rows up of fields: refused for everyone, changing nothing."""
    client = web(network.owner)
    for view in views(app):
        own = str(rows[0][view.entity])
        answers = [
            client.post(f"/admin/{view.entity}/delete/", data={"id": own}),
            client.get(f"/admin/{view.entity}/ajax/lookup/?name=branch&query=a"),
            client.post(f"/admin/{view.entity}/ajax/update/", data={"list_form_pk": own, "name": "x"}),
            client.post(f"/admin/{view.entity}/action/", data={"action": "delete", "rowid": own, "id": own}),
            client.get(f"/admin/{view.entity}/export/csv/"),
        ]
        assert {answer.status_code for answer in answers} <= {403, 404, 405}, view.entity
        found = {404} if view.entity in PERSONAL else {200, 302}
        assert client.get(f"/admin/{view.entity}/details/?id={own}").status_code in found


class ProbeView(KontoraView):
    entity = "probe"

    @expose("/forgotten/", methods=("GET", "POST"))
    def forgotten_view(self) -> str:
        return "open to the world"

    @expose("/mapped/")
    @permission("view")
    def mapped_view(self) -> str:
        return "for who may"

    @expose("/borrowed/")
    @permission("client.view")
    def borrowed_view(self) -> str:
        return "for who may see clients"


@pytest.fixture
def probe(app: Flask) -> Iterator[Flask]:
    """The application with one more view, as a hurried hand would write it."""
    other = create_app(app.config["SETTINGS"])
    other.config["WTF_CSRF_ENABLED"] = False
    other.extensions["admin"][0].add_view(ProbeView(City, "Probe"))
    yield other
    with other.app_context():
        db.session.remove()
        db.engine.dispose()


def fetch(app: Flask, user: Any, path: str, method: str = "GET") -> Any:
    """An answer to `user` from an application of the test's own."""
    session_user = user.get_id()
    db.session.commit()
    client = app.test_client()

    def ask() -> Any:
        with client.session_transaction(base_url="https://kontora.test") as session:
            session["_user_id"], session["_fresh"] = session_user, True
        return client.open(path, method=method, base_url="https://kontora.test")

    return contextvars.Context().run(ask)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_method_without_a_permission_is_refused_to_everybody(network: Any, probe: Flask) -> None:
    for user in network.users:
        for method in ("GET", "POST"):
            assert fetch(probe, user, "/admin/probe/forgotten/", method).status_code == 403
    assert fetch(probe, network.owner, "/admin/probe/mapped/").status_code == 200
    assert fetch(probe, network.director, "/admin/probe/mapped/").status_code == 403
    assert fetch(probe, network.instructor, "/admin/probe/borrowed/").status_code == 200
