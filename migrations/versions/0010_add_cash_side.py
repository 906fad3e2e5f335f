"""The cash side: tills and shifts, visits; closed accounts, discounts, merged cards; more kinds of operations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.alter import add_check, add_reference, drop_check, drop_reference, quoted, set_enum

revision = "0010"
down_revision = "0009"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)
TILLS = ("cash", "terminal", "acquiring", "bank")
OLD_ACCOUNT_KINDS = ("base", "deposit", "lessons", *TILLS, "revenue", "opening", "service")
ACCOUNT_KINDS = (*OLD_ACCOUNT_KINDS, "discounts", "bad_debt", "cash_difference", "other", "settlement")
OLD_TRANSACTION_KINDS = ("opening", "top_up", "write_off", "sale", "transfer", "reversal")
TRANSACTION_KINDS = (
    *("opening", "top_up", "write_off", "refund", "sale", "discount", "visit", "transfer", "debt", "debt_write_off"),
    *("bad_debt", "cash_count", "cash_move", "cash_other", "reversal"),
)
CLIENT_KINDS = "kind IN ('base','lessons')"


def upgrade() -> None:
    _create_tills()
    _create_visits()
    op.add_column("account", sa.Column("closed_at", INSTANT, nullable=True))
    set_enum("account", "kind", "ck_account_account_kind", ACCOUNT_KINDS)
    add_check("account", "ck_account_closed", "closed_at IS NULL OR balance = 0")
    _renew_indexes(
        ("client_id", "branch_id", "kind"),
        f"{CLIENT_KINDS} AND closed_at IS NULL",
        f"client_id IS NULL AND kind NOT IN ({quoted(TILLS)})",
    )
    add_reference("ledger_transaction", "visit_id", "visit")
    op.create_index(op.f("ix_ledger_transaction_visit_id"), "ledger_transaction", ["visit_id"])
    set_enum("ledger_transaction", "kind", "ck_ledger_transaction_transaction_kind", TRANSACTION_KINDS)
    set_enum("payment", "status", "ck_payment_payment_status", ("pending", "succeeded", "canceled", "reversed"))
    op.add_column("subscription", sa.Column("discount", sa.BigInteger(), nullable=False, server_default="0"))
    add_check("subscription", "ck_subscription_discount", "discount >= 0 AND discount <= price")
    add_reference("client", "merged_into_id", "client")
    op.create_index(op.f("ix_client_merged_into_id"), "client", ["merged_into_id"])
    # The account of money each branch had of a kind becomes its first till.
    op.execute(
        "INSERT INTO till (branch_id, kind, name, account_id, uses_shifts, position, is_archived, version) "
        "SELECT branch_id, kind, '', id, false, 0, false, 1 FROM account "
        f"WHERE client_id IS NULL AND kind IN ({quoted(TILLS)})"
    )


def downgrade() -> None:
    """Possible as long as nothing new has been used: no operation of the new kinds, one till of a kind in a branch."""
    op.drop_index(op.f("ix_client_merged_into_id"), "client")
    drop_reference("client", "merged_into_id", "client")
    drop_check("subscription", "ck_subscription_discount")
    op.drop_column("subscription", "discount")
    set_enum("payment", "status", "ck_payment_payment_status", ("pending", "succeeded", "canceled"))
    set_enum("ledger_transaction", "kind", "ck_ledger_transaction_transaction_kind", OLD_TRANSACTION_KINDS)
    op.drop_index(op.f("ix_ledger_transaction_visit_id"), "ledger_transaction")
    drop_reference("ledger_transaction", "visit_id", "visit")
    _renew_indexes(("client_id", "kind"), CLIENT_KINDS, "client_id IS NULL")
    drop_check("account", "ck_account_closed")
    set_enum("account", "kind", "ck_account_account_kind", OLD_ACCOUNT_KINDS)
    op.drop_column("account", "closed_at")
    for table in ("visit", "shift", "till"):
        op.drop_table(table)


def _renew_indexes(client_columns: tuple[str, ...], of_clients: str, of_houses: str) -> None:
    op.drop_index("uq_account_client_kind", "account")
    op.drop_index("uq_account_house_kind", "account")
    for name, columns, where in (
        ("uq_account_client_kind", client_columns, of_clients),
        ("uq_account_house_kind", ("branch_id", "kind", "unit"), of_houses),
    ):
        op.create_index(
            name, "account", columns, unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )


def _create_tills() -> None:
    op.create_table(
        "till",
        sa.Column("id", BIG, nullable=False),
        sa.Column("branch_id", BIG, nullable=False),
        sa.Column(
            "kind",
            sa.Enum(*TILLS, name="till_kind", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("account_id", BIG, nullable=False),
        sa.Column("uses_shifts", sa.Boolean(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("is_archived", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["branch_id"], ["branch.id"], name=op.f("fk_till_branch_id_branch")),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_till_account_id_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_till")),
        sa.UniqueConstraint("account_id", name=op.f("uq_till_account_id")),
        sa.UniqueConstraint("branch_id", "kind", "name", name=op.f("uq_till_branch_id_kind_name")),
    )
    op.create_table(
        "shift",
        sa.Column("id", BIG, nullable=False),
        sa.Column("branch_id", BIG, nullable=False),
        sa.Column("till_id", BIG, nullable=False),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("opened_by_id", BIG, nullable=True),
        sa.Column("opened_by_name", sa.String(200), nullable=False),
        sa.Column("opening_expected", sa.BigInteger(), nullable=False),
        sa.Column("opening_counted", sa.BigInteger(), nullable=False),
        sa.Column("opening_comment", sa.Text(), nullable=False),
        sa.Column("from_entry_id", BIG, nullable=False),
        sa.Column("closed_at", INSTANT, nullable=True),
        sa.Column("closed_by_id", BIG, nullable=True),
        sa.Column("closed_by_name", sa.String(200), nullable=False),
        sa.Column("closing_expected", sa.BigInteger(), nullable=True),
        sa.Column("closing_counted", sa.BigInteger(), nullable=True),
        sa.Column("closing_comment", sa.Text(), nullable=False),
        sa.Column("to_entry_id", BIG, nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint("opening_counted >= 0", name=op.f("ck_shift_opening_counted")),
        sa.CheckConstraint(
            "closing_counted IS NULL OR closing_counted >= 0", name=op.f("ck_shift_closing_counted")
        ),
        sa.ForeignKeyConstraint(["branch_id"], ["branch.id"], name=op.f("fk_shift_branch_id_branch")),
        sa.ForeignKeyConstraint(["till_id"], ["till.id"], name=op.f("fk_shift_till_id_till")),
        sa.ForeignKeyConstraint(["opened_by_id"], ["user.id"], name=op.f("fk_shift_opened_by_id_user")),
        sa.ForeignKeyConstraint(["closed_by_id"], ["user.id"], name=op.f("fk_shift_closed_by_id_user")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shift")),
    )
    op.create_index(
        "uq_shift_till_id_open",
        "shift",
        ["till_id"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    for column in ("till_id", "branch_id", "opened_at", "closed_at"):
        op.create_index(op.f(f"ix_shift_{column}_id"), "shift", [column, "id"])


def _create_visits() -> None:
    op.create_table(
        "visit",
        sa.Column("id", BIG, nullable=False),
        sa.Column("branch_id", BIG, nullable=False),
        sa.Column("client_id", BIG, nullable=False),
        sa.Column("employee_id", BIG, nullable=True),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("starts_at", INSTANT, nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                *("planned", "came", "missed", "canceled"),
                name="visit_status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("paid_at", INSTANT, nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("author_id", BIG, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint("price >= 0", name=op.f("ck_visit_price")),
        sa.ForeignKeyConstraint(["branch_id"], ["branch.id"], name=op.f("fk_visit_branch_id_branch")),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_visit_client_id_client")),
        sa.ForeignKeyConstraint(["employee_id"], ["employee.id"], name=op.f("fk_visit_employee_id_employee")),
        sa.ForeignKeyConstraint(["author_id"], ["user.id"], name=op.f("fk_visit_author_id_user")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_visit")),
    )
    for column in ("branch_id", "client_id", "employee_id", "starts_at", "status", "paid_at", "price"):
        op.create_index(op.f(f"ix_visit_{column}_id"), "visit", [column, "id"])
