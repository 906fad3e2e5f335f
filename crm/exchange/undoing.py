"""An import taken back: whatever it made, where nothing since depends on it. A job, batch by batch.

Money is reversed through the ledger, emptied accounts are closed, cards go to the archive, changed fields get their old
values; no row is deleted.
A row that cannot be taken back says why in the job's protocol, and stays as it is. An undone row gives its key back, so
the same line may be imported again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, cast

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from sqlalchemy import Table, false, or_, select, update
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, require
from crm.background.models import BackgroundJob
from crm.background.operations import Progress, executor, start_job
from crm.clients.batch import edit_clients
from crm.clients.models import Client, ClientStatus
from crm.clients.operations import ClientFacts, archive_client
from crm.db import Model, db, give_way, transaction
from crm.errors import Conflict, DomainError
from crm.exchange.importing import ledger_prefix
from crm.exchange.models import ImportedRow, ImportRun
from crm.ledger.batch import post_all
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind
from crm.ledger.operations import Cause, Line, Posting
from crm.protocol import Outcome, ProtocolLine

UNDO = "import.undo"
BATCH = 100

# What a person calls the rows of other tables that stand in the way; any other table's are “other records”.
_NAMES: dict[str, Any] = {
    "bill": _l("a bill"),
    "subscription": _l("a subscription"),
    "payment": _l("a payment"),
    "message": _l("a message"),
    "account": _l("an account"),
    "client": _l("a member of the family"),
    "merged": _l("a card merged into it"),
    "ledger_transaction": _l("a money operation"),
    "ledger_entry": _l("a money operation"),
}


def start_undo(run: ImportRun, *, by: Actor, branch_id: int | None, locale: str) -> BackgroundJob:
    """Start taking back what stands of a run. Raises Conflict when nothing does, or an undo is under way. The caller
    commits.
    """
    require(by, f"{run.entity}.import")
    # The row is locked: of two at once the second sees the first's job.
    db.session.refresh(run, with_for_update=True)
    query = select(BackgroundJob).where(BackgroundJob.kind == UNDO, BackgroundJob.entity == run.entity)
    busy = any(
        job.params.get("run") == run.id and not job.status.is_over
        for job in db.session.scalars(query.order_by(BackgroundJob.id.desc()).limit(50))
    )
    if busy or run.left <= 0:
        raise Conflict("nothing_to_undo", _("There is nothing left to undo, or the undo is under way."))
    return start_job(
        UNDO,
        by=by,
        title=_("Undo of the import “%(file)s”", file=run.file_name),
        entity=run.entity,
        params={"run": run.id, "back": f"import/run/{run.id}/"},
        branch_id=branch_id,
        locale=locale,
        total=run.left,
    )


@executor(UNDO)
def _undo(job: BackgroundJob, progress: Progress) -> None:
    run_id, entity, by = job.params["run"], job.entity, job.author
    require(by, f"{entity}.import")
    after = job.state.get("row", 0)
    undo = {"client": undo_clients, "account": undo_accounts}[entity]
    while True:
        progress.check()
        with transaction():
            query = (
                select(ImportedRow)
                .where(ImportedRow.run_id == run_id, ImportedRow.undone_at.is_(None), ImportedRow.id > after)
                .order_by(ImportedRow.id)
                .limit(BATCH)
            )
            rows = list(db.session.scalars(query))
            if not rows:
                return
            lines = undo(rows, by=job.author)
            undone = sum(line.is_done for line in lines)
            statement = update(ImportRun).where(ImportRun.id == run_id).values(undone=ImportRun.undone + undone)
            db.session.execute(statement.execution_options(synchronize_session=False))
            after = rows[-1].id
            progress.advance(len(rows), lines=lines, state={"row": after})
        give_way()


def undo_accounts(rows: Sequence[ImportedRow], *, by: Actor) -> list[ProtocolLine]:
    """Bring opened accounts back to zero and close them; base accounts, which a client always has, stay open. The
    caller commits.
    """
    accounts = _by_id(Account, [row.row_id for row in rows])
    openings = _openings(rows)
    deposits = {key: account for key, account in accounts.items() if account.kind is AccountKind.DEPOSIT}
    blocked = _blocked(Account, deposits, {key: [opening.id] for key, opening in openings.items()})
    blocked |= _moved_since({key: opening for key, opening in openings.items() if key not in deposits})
    lines = []
    good: list[ImportedRow] = []
    for row in rows:
        account = accounts.get(row.row_id)
        label = _("Line %(line)s", line=row.line) + (f": {account.client}, {account}" if account else "")
        reason = blocked.get(row.row_id) or (None if account else _("It belongs to another branch."))
        lines.append(ProtocolLine(row.row_id, label, Outcome.DONE if reason is None else Outcome.FAILED, reason))
        if reason is None:
            good.append(row)
    _reverse([openings[row.row_id] for row in good if row.row_id in openings], by=by)
    for row in good:
        if (deposit := deposits.get(row.row_id)) is not None and not deposit.is_closed:
            deposit.closed_at = clock.now()
    _release(good)
    return lines


def undo_clients(rows: Sequence[ImportedRow], *, by: Actor) -> list[ProtocolLine]:
    """Archive cards with their children's and reverse what was opened with them; put changed fields back. The caller
    commits.
    """
    children = {row.row_id: row.details["child"] for row in rows if row.details and "child" in row.details}
    clients = _by_id(Client, [*(row.row_id for row in rows), *children.values()])
    made = [row for row in rows if not _is_update(row)]
    openings = _openings(made)
    parents = {child: payer for payer, child in children.items()}
    ids = {row.row_id for row in made} | set(children.values())
    allowed = {client_id: _transactions(openings, parents.get(client_id, client_id)) for client_id in ids}
    blocked = _blocked(Client, {key: clients[key] for key in ids if key in clients}, allowed, family=children)
    lines: list[ProtocolLine] = []
    good: list[ImportedRow] = []
    for row in rows:
        client = clients.get(row.row_id)
        reason = _("It belongs to another branch.") if client is None else None
        try:
            if client is not None and _is_update(row) and client.merged_into_id is None:
                _put_back(client, row, by=by)
            elif client is not None:
                reason = blocked.get(client.id) or blocked.get(children.get(client.id, 0))
                if any(clients[key].merged_into_id for key in (client.id, children.get(client.id)) if key in clients):
                    reason = _("The card has been merged into another one.")
                if row.details is None:
                    reason = _("It was imported before imports could be undone.")
                if reason is None:
                    family = [clients[child]] if (child := children.get(client.id)) in clients else []
                    _archive([*family, client], by=by)
        except DomainError as error:
            reason = str(error)
        label = _("Line %(line)s", line=row.line) + (f": {client.name}" if client else "")
        lines.append(ProtocolLine(row.row_id, label, Outcome.DONE if reason is None else Outcome.FAILED, reason))
        if reason is None:
            good.append(row)
    _reverse([openings[row.row_id] for row in good if row.row_id in openings and not _is_update(row)], by=by)
    _release(good)
    return lines


def _is_update(row: ImportedRow) -> bool:
    return bool(row.details and "changes" in row.details)


def _by_id(model: type[Any], ids: Collection[int]) -> dict[int, Any]:
    """Rows within the scope, locked in id order."""
    query = select(model).where(model.id.in_(ids)).order_by(model.id).with_for_update(of=model, key_share=True)
    return {row.id: row for row in db.session.scalars(query)}


def _openings(rows: Sequence[ImportedRow]) -> dict[int, Transaction]:
    """The transactions that brought in what these rows had, by row id."""
    keys = {}
    for row in rows:
        for prefix in (ledger_prefix(row.run_id), f"import:{row.entity}:"):  # older versions keyed by the entity
            keys[prefix + row.key] = row.row_id
    query = select(Transaction).where(Transaction.idempotency_key.in_(keys))
    return {keys[found.idempotency_key]: found for found in db.session.scalars(query)}


def _transactions(openings: Mapping[int, Transaction], row_id: int) -> list[int]:
    return [openings[row_id].id] if row_id in openings else []


def _blocked(
    model: type[Any],
    rows: Mapping[int, Any],
    allowed: Mapping[int, Sequence[int]],
    *,
    family: Mapping[int, int] | None = None,
) -> dict[int, str]:
    """Why a row cannot be taken back: {id: reason}. allowed: the transactions of the import itself, by row.

    Whatever table points at the row is asked, also those of packages this one knows nothing of, in every branch.
    """
    found: dict[int, set[str]] = defaultdict(set)
    mine = {transaction_id for ids in allowed.values() for transaction_id in ids}
    ids = list(rows)
    for table, column in _references(model.__table__):
        selected = [table.c[column], *table.primary_key.columns]
        query = select(*selected).where(table.c[column].in_(ids))
        for row_id, key, *_rest in db.session.connection().execute(query):
            if table in {Account.__table__, Entry.__table__}:
                continue  # asked below, by what is on the accounts
            if table is Transaction.__table__ and key in mine:
                continue
            if table is Client.__table__ and (family or {}).get(row_id) == key:
                continue
            found[row_id].add("merged" if column == "merged_into_id" else table.name)
    owner = Account.client_id if model is Client else Account.id
    entries = (
        select(owner, Entry.transaction_id)
        .join(Entry, Entry.account_id == Account.id)
        .where(owner.in_(ids), Entry.transaction_id.not_in(mine))
    )
    for row in db.session.connection().execute(entries):
        found[row[0] or 0].add("ledger_entry")
    if model is Client:
        deposits = select(Account.client_id).where(Account.client_id.in_(ids), Account.account_type_id.is_not(None))
        for owner_id in db.session.connection().scalars(deposits):
            found[owner_id or 0].add("account")
    return {row_id: _since(names) for row_id, names in found.items()}


def _moved_since(openings: Mapping[int, Transaction]) -> dict[int, str]:
    """Why an account that was there before the import cannot be taken back: {id: reason}. openings: by account."""
    later = [
        (Entry.account_id == account_id) & (Entry.transaction_id > opening.id)
        for account_id, opening in openings.items()
    ]
    moved = db.session.scalars(select(Entry.account_id).where(or_(false(), *later)).distinct())
    return {account_id: _since(["ledger_entry"]) for account_id in moved}


def _since(names: Iterable[str]) -> str:
    other = _("other records")
    what = ", ".join(sorted({str(_NAMES.get(name, other)) for name in names}))
    return _("Since the import there is: %(what)s.", what=what)


def _references(target: Any) -> list[tuple[Table, str]]:
    """Every column of every table that points at `target`."""
    return [
        (table, column.name)
        for table in Model.metadata.sorted_tables
        for column in table.columns
        if any(key.column.table is target for key in column.foreign_keys)
    ]


def _archive(clients: Sequence[Client], *, by: Actor) -> None:
    for client in clients:
        if client.status is ClientStatus.ACTIVE:
            archive_client(client, by=by)


def _put_back(client: Client, row: ImportedRow, *, by: Actor) -> None:
    changes = (row.details or {})["changes"]
    for name, (_old, new) in changes.items():
        value = getattr(client, name)
        if ((value.isoformat() if isinstance(value, date) else value) or "") != (new or ""):
            raise DomainError("changed_since", _("The card has been changed since."))
    old: dict[str, Any] = {name: before or "" for name, (before, _new) in changes.items()}
    if "birth_date" in old:
        old["birth_date"] = date.fromisoformat(old["birth_date"]) if old["birth_date"] else None
    edit_clients([(client, cast(ClientFacts, old))], by=by)


def _reverse(openings: Sequence[Transaction], *, by: Actor) -> None:
    """Mirror images of these transactions, in a few statements."""
    entries: dict[int, list[Line]] = defaultdict(list)
    query = select(Entry).where(Entry.transaction_id.in_([opening.id for opening in openings])).order_by(Entry.id)
    for entry in db.session.scalars(query.options(joinedload(Entry.account))):
        entries[entry.transaction_id].append(Line(entry.account, -entry.amount))
    post_all(
        [
            Posting(
                TransactionKind.REVERSAL,
                entries[opening.id],
                branch_id=opening.branch_id,
                key=f"undo:{opening.id}",
                cause=Cause(client_id=opening.client_id),
                comment=_("Undo of an import"),
                reverses_id=opening.id,
            )
            for opening in openings
        ],
        by=by,
    )


def _release(rows: Sequence[ImportedRow]) -> None:
    """The lines may be imported again."""
    for row in rows:
        row.key, row.undone_at = f"undone:{row.id}", clock.now()
    db.session.flush()
