"""Lessons: dictionaries, groups, the schedule, attendance, tasks; lessons left are counted per subscription."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.alter import (
    add_check,
    add_reference,
    drop_check,
    drop_reference,
    let_be_null,
    refuse_null,
    set_check,
    set_enum,
)

revision = "0013"
down_revision = "0012"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)
OLD_ACCOUNT_KINDS = (
    *("base", "deposit", "lessons", "cash", "terminal", "acquiring", "bank", "revenue", "opening", "service"),
    *("discounts", "bad_debt", "cash_difference", "other", "settlement"),
)
ACCOUNT_KINDS = (*OLD_ACCOUNT_KINDS, "subscription", "attended")
OLD_TRANSACTION_KINDS = (
    *("opening", "top_up", "write_off", "refund", "sale", "discount", "visit", "transfer", "debt", "debt_write_off"),
    *("bad_debt", "cash_count", "cash_move", "cash_other", "reversal"),
)
TRANSACTION_KINDS = (*OLD_TRANSACTION_KINDS, "lesson", "grant", "lessons_transfer", "return")
OLD_STATUSES = ("active", "archived")
STATUSES = (*OLD_STATUSES, "frozen", "returned", "canceled")
CHARGES = "charge IN ('at_sale', 'per_lesson')"
ACCOUNTS = "account IN ('base', 'separate')"
OF_A_CLIENT = "kind IN ('base','lessons') AND closed_at IS NULL"
TABLES = (
    *("lesson_type", "subject", "plan_lesson_type", "plan_subject", "holiday", "lesson_series", "plan_branch", "room"),
    *("client_group", "preferred_lesson", "waiting", "group_member", "lesson", "subscription_freeze", "booking", "task", "attendance", "trial"),
)


def upgrade() -> None:
    _create_tables()
    add_reference("account", "subscription_id", "subscription")
    add_reference("account", "lesson_type_id", "lesson_type")
    set_enum("account", "kind", "ck_account_account_kind", ACCOUNT_KINDS)
    _forgive_owed_lessons()
    set_check("account", "ck_account_floor", "kind NOT IN ('deposit', 'lessons') OR balance >= 0")
    _renew_index(f"{OF_A_CLIENT} AND subscription_id IS NULL AND lesson_type_id IS NULL")
    for name, columns, where in (
        (
            "uq_account_client_lesson_type",
            ["client_id", "branch_id", "lesson_type_id"],
            "lesson_type_id IS NOT NULL AND closed_at IS NULL",
        ),
        ("uq_account_subscription_kind", ["subscription_id", "kind"], "subscription_id IS NOT NULL"),
    ):
        _unique(name, columns, where)
    add_reference("ledger_transaction", "lesson_id", "lesson")
    op.create_index(op.f("ix_ledger_transaction_lesson_id"), "ledger_transaction", ["lesson_id"])
    set_enum("ledger_transaction", "kind", "ck_ledger_transaction_transaction_kind", TRANSACTION_KINDS)
    hours = sa.JSON().with_variant(JSONB(), "postgresql")
    op.add_column("branch", sa.Column("working_hours", hours, server_default=sa.text("'{}'"), nullable=False))
    op.add_column("client", sa.Column("discount", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("client", sa.Column("discount_reason", sa.Text(), server_default=sa.text("''"), nullable=False))
    add_check("client", "ck_client_discount", "discount >= 0")
    for name, is_on in (("has_waiting_list", True), ("has_parallel_rooms", False), ("binds_instructor", True)):
        _add_switch("company", name, is_on=is_on)
    _add_switch("employee", "teaches", is_on=True)
    for table in ("plan", "subscription"):
        op.add_column(table, sa.Column("charge", sa.String(32), server_default="at_sale", nullable=False))
        add_check(table, f"ck_{table}_charge_moment", CHARGES)
        op.add_column(table, sa.Column("account", sa.String(32), server_default="base", nullable=False))
        add_check(table, f"ck_{table}_plan_account", ACCOUNTS)
        _add_switch(table, "is_trial", is_on=False)
        let_be_null(table, "lessons")
    op.add_column("plan", sa.Column("position", sa.Integer(), server_default="0", nullable=False))
    add_check("plan", "ck_plan_per_lesson", "charge <> 'per_lesson' OR lessons > 0")
    op.add_column("subscription", sa.Column("client_discount", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("subscription", sa.Column("frozen_on", sa.Date(), nullable=True))
    add_reference("subscription", "replaces_id", "subscription")
    op.create_index(op.f("ix_subscription_replaces_id"), "subscription", ["replaces_id"])
    op.add_column("subscription", sa.Column("version", sa.Integer(), server_default="1", nullable=False))
    set_enum("subscription", "status", "ck_subscription_subscription_status", STATUSES)
    _split_lessons()


def downgrade() -> None:
    """Possible as long as no subscription has money of its own and none of the new operations was carried out; further
    back than 0012 where no subscription was sold.
    """
    _join_lessons()
    set_enum("subscription", "status", "ck_subscription_subscription_status", OLD_STATUSES)
    op.drop_column("subscription", "version")
    op.drop_index(op.f("ix_subscription_replaces_id"), "subscription")
    drop_reference("subscription", "replaces_id", "subscription")
    op.drop_column("subscription", "frozen_on")
    op.drop_column("subscription", "client_discount")
    drop_check("plan", "ck_plan_per_lesson")
    op.drop_column("plan", "position")
    for table in ("subscription", "plan"):
        op.execute(f"UPDATE {table} SET lessons = 0 WHERE lessons IS NULL")
        refuse_null(table, "lessons")
        op.drop_column(table, "is_trial")
        drop_check(table, f"ck_{table}_plan_account")
        op.drop_column(table, "account")
        drop_check(table, f"ck_{table}_charge_moment")
        op.drop_column(table, "charge")
    op.drop_column("employee", "teaches")
    for name in ("binds_instructor", "has_parallel_rooms", "has_waiting_list"):
        op.drop_column("company", name)
    drop_check("client", "ck_client_discount")
    op.drop_column("client", "discount_reason")
    op.drop_column("client", "discount")
    op.drop_column("branch", "working_hours")
    set_enum("ledger_transaction", "kind", "ck_ledger_transaction_transaction_kind", OLD_TRANSACTION_KINDS)
    op.drop_index(op.f("ix_ledger_transaction_lesson_id"), "ledger_transaction")
    drop_reference("ledger_transaction", "lesson_id", "lesson")
    op.drop_index("uq_account_subscription_kind", "account")
    op.drop_index("uq_account_client_lesson_type", "account")
    _renew_index(OF_A_CLIENT)
    set_check("account", "ck_account_floor", "kind <> 'deposit' OR balance >= 0")
    set_enum("account", "kind", "ck_account_account_kind", OLD_ACCOUNT_KINDS)
    drop_reference("account", "lesson_type_id", "lesson_type")
    drop_reference("account", "subscription_id", "subscription")
    for table in reversed(TABLES):
        op.drop_table(table)


def _add_switch(table: str, name: str, *, is_on: bool) -> None:
    default = sa.true() if is_on else sa.false()
    op.add_column(table, sa.Column(name, sa.Boolean(), server_default=default, nullable=False))


def _renew_index(where: str) -> None:
    op.drop_index("uq_account_client_kind", "account")
    _unique("uq_account_client_kind", ["client_id", "branch_id", "kind"], where)


def _unique(name: str, columns: list[str], where: str) -> None:
    op.create_index(
        name, "account", columns, unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )


# --- lessons left ---------------------------------------------------------------------------------------------------
# A client had one count of lessons in a branch. What his subscriptions granted, and nobody could have used before there
# were lessons, goes over to an account of each, by a transfer like any other: what was posted stays as it is. Lessons
# owed, which imports brought, are taken from what the oldest subscriptions granted; what is owed beyond is granted.


def _forgive_owed_lessons() -> None:
    op.execute(
        "INSERT INTO account (branch_id, kind, unit, opened_at, balance, credited, debited, custom) "
        "SELECT branch_id, 'service', 'lesson', CURRENT_TIMESTAMP, 0, 0, 0, '{}' FROM account o "
        "WHERE kind = 'lessons' AND balance < 0 AND NOT EXISTS (SELECT 1 FROM account h WHERE "
        "h.branch_id = o.branch_id AND h.kind = 'service' AND h.unit = 'lesson' AND h.client_id IS NULL) "
        "GROUP BY branch_id"
    )
    _transfer(
        "SELECT h.id AS from_id, o.id AS to_id, CAST(NULL AS BIGINT) AS subscription_id, o.branch_id, o.client_id, "
        "-o.balance AS amount, CAST(NULL AS BIGINT) AS from_left, 0 AS to_left "
        "FROM account o JOIN account h ON h.branch_id = o.branch_id AND h.kind = 'service' AND h.unit = 'lesson' "
        "AND h.client_id IS NULL WHERE o.kind = 'lessons' AND o.balance < 0",
        comment="Занятия в долг списаны",
    )


def _split_lessons() -> None:
    op.execute(
        "CREATE TABLE moving AS SELECT s.id AS subscription_id, s.branch_id, s.client_id, s.sold_at AS opened_at, "
        "a.id AS whole_id, a.balance AS before, s.lessons * 100 AS amount, "
        "sum(s.lessons * 100) OVER (PARTITION BY a.id ORDER BY s.id) AS gone, "
        "sum(s.lessons * 100) OVER (PARTITION BY a.id) - a.balance AS owed "
        "FROM subscription s JOIN account a ON a.client_id = s.client_id AND a.branch_id = s.branch_id "
        "AND a.kind = 'lessons' AND a.closed_at IS NULL AND a.subscription_id IS NULL WHERE s.lessons > 0"
    )
    op.execute("UPDATE moving SET gone = gone - owed WHERE owed > 0")
    op.execute("DELETE FROM moving WHERE gone <= 0")
    op.execute("UPDATE moving SET amount = gone WHERE gone < amount")
    op.execute(
        "INSERT INTO account (branch_id, kind, unit, client_id, subscription_id, opened_at, balance, credited, "
        "debited, custom) SELECT branch_id, 'lessons', 'lesson', client_id, subscription_id, opened_at, 0, 0, 0, '{}' "
        "FROM moving ORDER BY subscription_id"
    )
    _transfer(
        "SELECT m.whole_id AS from_id, a.id AS to_id, m.subscription_id, m.branch_id, m.client_id, m.amount, "
        "m.before - m.gone AS from_left, m.amount AS to_left "
        "FROM moving m JOIN account a ON a.subscription_id = m.subscription_id AND a.kind = 'lessons'"
    )
    op.execute("DROP TABLE moving")


def _join_lessons() -> None:
    parts = "kind = 'lessons' AND (subscription_id IS NOT NULL OR lesson_type_id IS NOT NULL) AND closed_at IS NULL"
    op.execute(
        "INSERT INTO account (branch_id, kind, unit, client_id, opened_at, balance, credited, debited, custom) "
        "SELECT p.branch_id, 'lessons', 'lesson', p.client_id, min(p.opened_at), 0, 0, 0, '{}' FROM account p "
        "WHERE EXISTS (SELECT 1 FROM account q WHERE q.id = p.id AND " + parts.replace("kind", "q.kind") + ") "
        "AND NOT EXISTS (SELECT 1 FROM account w WHERE w.client_id = p.client_id AND w.branch_id = p.branch_id "
        "AND w.kind = 'lessons' AND w.subscription_id IS NULL AND w.lesson_type_id IS NULL AND w.closed_at IS NULL) "
        "GROUP BY p.branch_id, p.client_id"
    )
    _transfer(
        "SELECT p.id AS from_id, w.id AS to_id, p.subscription_id, p.branch_id, p.client_id, p.balance AS amount, "
        "0 AS from_left, w.balance + sum(p.balance) OVER (PARTITION BY w.id ORDER BY p.id) AS to_left "
        "FROM account p JOIN account w ON w.client_id = p.client_id AND w.branch_id = p.branch_id "
        "AND w.kind = 'lessons' AND w.subscription_id IS NULL AND w.lesson_type_id IS NULL AND w.closed_at IS NULL "
        "WHERE p.kind = 'lessons' AND (p.subscription_id IS NOT NULL OR p.lesson_type_id IS NOT NULL) "
        "AND p.closed_at IS NULL AND p.balance > 0"
    )
    op.execute(f"UPDATE account SET closed_at = CURRENT_TIMESTAMP WHERE {parts}")


def _transfer(moves: str, comment: str = "") -> None:
    """Post a transfer for each row of (from_id, to_id, subscription_id, branch_id, client_id, amount, from_left,
    to_left): what is left on the two accounts after it, NULL on one of the house.
    """
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:  # entries balance once both are there
        op.execute("SET CONSTRAINTS ALL DEFERRED")
    op.execute(f"CREATE TABLE move AS {moves}")
    op.execute(
        "INSERT INTO ledger_transaction (kind, happened_at, branch_id, author_name, client_id, subscription_id, "
        "comment, idempotency_key) SELECT 'transfer', CURRENT_TIMESTAMP, branch_id, 'system', client_id, "
        f"subscription_id, '{comment}', 'migration 0013:' || from_id || ':' || to_id FROM move ORDER BY from_id, to_id"
    )
    for account, sign, left in (("from_id", "-", "from_left"), ("to_id", "", "to_left")):
        op.execute(
            "INSERT INTO ledger_entry (transaction_id, account_id, amount, balance_after) "
            f"SELECT t.id, m.{account}, {sign}m.amount, m.{left} FROM move m JOIN ledger_transaction t "
            "ON t.idempotency_key = 'migration 0013:' || m.from_id || ':' || m.to_id ORDER BY m.from_id, m.to_id"
        )
        moved = f"(SELECT sum(m.amount) FROM move m WHERE m.{account} = account.id)"
        column = "debited" if sign else "credited"
        op.execute(
            f"UPDATE account SET {column} = {column} + {moved}, balance = balance {sign or '+'} {moved} "
            f"WHERE client_id IS NOT NULL AND id IN (SELECT {account} FROM move)"
        )
    if is_postgresql:  # a table with checks to come cannot be altered
        op.execute("SET CONSTRAINTS ALL IMMEDIATE")
    op.execute("DROP TABLE move")


def _create_tables() -> None:
    op.create_table('lesson_type',
    sa.Column('id', BIG, nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('format', sa.Enum('individual', 'group', 'other', name='lesson_format', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('single_price', sa.BigInteger(), nullable=False),
    sa.Column('duration_minutes', sa.Integer(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('is_archived', sa.Boolean(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.CheckConstraint('duration_minutes > 0', name=op.f('ck_lesson_type_duration')),
    sa.CheckConstraint('single_price >= 0', name=op.f('ck_lesson_type_single_price')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_lesson_type')),
    sa.UniqueConstraint('name', name=op.f('uq_lesson_type_name'))
    )
    op.create_table('subject',
    sa.Column('id', BIG, nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('is_archived', sa.Boolean(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_subject')),
    sa.UniqueConstraint('name', name=op.f('uq_subject_name'))
    )
    op.create_table('plan_lesson_type',
    sa.Column('plan_id', BIG, nullable=False),
    sa.Column('lesson_type_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['lesson_type_id'], ['lesson_type.id'], name=op.f('fk_plan_lesson_type_lesson_type_id_lesson_type')),
    sa.ForeignKeyConstraint(['plan_id'], ['plan.id'], name=op.f('fk_plan_lesson_type_plan_id_plan'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('plan_id', 'lesson_type_id', name=op.f('pk_plan_lesson_type'))
    )
    op.create_table('plan_subject',
    sa.Column('plan_id', BIG, nullable=False),
    sa.Column('subject_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['plan_id'], ['plan.id'], name=op.f('fk_plan_subject_plan_id_plan'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['subject_id'], ['subject.id'], name=op.f('fk_plan_subject_subject_id_subject')),
    sa.PrimaryKeyConstraint('plan_id', 'subject_id', name=op.f('pk_plan_subject'))
    )
    op.create_table('holiday',
    sa.Column('id', BIG, nullable=False),
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_holiday_branch_id_branch')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_holiday')),
    sa.UniqueConstraint('branch_id', 'day', name=op.f('uq_holiday_branch_id_day'))
    )
    op.create_table('lesson_series',
    sa.Column('id', BIG, nullable=False),
    sa.Column('rule', sa.JSON(), nullable=False),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_lesson_series_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_lesson_series_branch_id_branch')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_lesson_series'))
    )
    op.create_index(op.f('ix_lesson_series_branch_id'), 'lesson_series', ['branch_id'])
    op.create_table('plan_branch',
    sa.Column('plan_id', BIG, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_plan_branch_branch_id_branch')),
    sa.ForeignKeyConstraint(['plan_id'], ['plan.id'], name=op.f('fk_plan_branch_plan_id_plan'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('plan_id', 'branch_id', name=op.f('pk_plan_branch'))
    )
    op.create_table('room',
    sa.Column('id', BIG, nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('capacity', sa.Integer(), nullable=True),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('is_archived', sa.Boolean(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.CheckConstraint('capacity IS NULL OR capacity > 0', name=op.f('ck_room_capacity')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_room_branch_id_branch')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_room')),
    sa.UniqueConstraint('branch_id', 'name', name=op.f('uq_room_branch_id_name'))
    )
    op.create_index(op.f('ix_room_branch_id'), 'room', ['branch_id'])
    op.create_table('client_group',
    sa.Column('id', BIG, nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('lesson_type_id', BIG, nullable=False),
    sa.Column('subject_id', BIG, nullable=True),
    sa.Column('instructor_id', BIG, nullable=True),
    sa.Column('room_id', BIG, nullable=True),
    sa.Column('capacity', sa.Integer(), nullable=True),
    sa.Column('comment', sa.Text(), nullable=False),
    sa.Column('is_archived', sa.Boolean(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.CheckConstraint('capacity IS NULL OR capacity > 0', name=op.f('ck_client_group_capacity')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_client_group_branch_id_branch')),
    sa.ForeignKeyConstraint(['instructor_id'], ['employee.id'], name=op.f('fk_client_group_instructor_id_employee')),
    sa.ForeignKeyConstraint(['lesson_type_id'], ['lesson_type.id'], name=op.f('fk_client_group_lesson_type_id_lesson_type')),
    sa.ForeignKeyConstraint(['room_id'], ['room.id'], name=op.f('fk_client_group_room_id_room')),
    sa.ForeignKeyConstraint(['subject_id'], ['subject.id'], name=op.f('fk_client_group_subject_id_subject')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_client_group')),
    sa.UniqueConstraint('branch_id', 'name', name=op.f('uq_client_group_branch_id_name'))
    )
    op.create_index(op.f('ix_client_group_branch_id'), 'client_group', ['branch_id'])
    op.create_table('preferred_lesson',
    sa.Column('id', BIG, nullable=False),
    sa.Column('client_id', BIG, nullable=False),
    sa.Column('lesson_type_id', BIG, nullable=True),
    sa.Column('subject_id', BIG, nullable=True),
    sa.Column('wish', sa.Text(), nullable=False),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_preferred_lesson_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_preferred_lesson_branch_id_branch')),
    sa.ForeignKeyConstraint(['client_id'], ['client.id'], name=op.f('fk_preferred_lesson_client_id_client')),
    sa.ForeignKeyConstraint(['lesson_type_id'], ['lesson_type.id'], name=op.f('fk_preferred_lesson_lesson_type_id_lesson_type')),
    sa.ForeignKeyConstraint(['subject_id'], ['subject.id'], name=op.f('fk_preferred_lesson_subject_id_subject')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_preferred_lesson'))
    )
    op.create_index(op.f('ix_preferred_lesson_branch_id'), 'preferred_lesson', ['branch_id'])
    op.create_index(op.f('ix_preferred_lesson_client_id_id'), 'preferred_lesson', ['client_id', 'id'])
    op.create_table('waiting',
    sa.Column('id', BIG, nullable=False),
    sa.Column('client_id', BIG, nullable=False),
    sa.Column('instructor_id', BIG, nullable=True),
    sa.Column('comment', sa.Text(), nullable=False),
    sa.Column('added_at', INSTANT, nullable=False),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_waiting_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_waiting_branch_id_branch')),
    sa.ForeignKeyConstraint(['client_id'], ['client.id'], name=op.f('fk_waiting_client_id_client')),
    sa.ForeignKeyConstraint(['instructor_id'], ['employee.id'], name=op.f('fk_waiting_instructor_id_employee')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_waiting')),
    sa.UniqueConstraint('client_id', name=op.f('uq_waiting_client_id'))
    )
    op.create_index(op.f('ix_waiting_branch_id'), 'waiting', ['branch_id'])
    op.create_table('group_member',
    sa.Column('id', BIG, nullable=False),
    sa.Column('group_id', BIG, nullable=False),
    sa.Column('client_id', BIG, nullable=False),
    sa.Column('joined_on', sa.Date(), nullable=False),
    sa.Column('left_on', sa.Date(), nullable=True),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('branch_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_group_member_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_group_member_branch_id_branch')),
    sa.ForeignKeyConstraint(['client_id'], ['client.id'], name=op.f('fk_group_member_client_id_client')),
    sa.ForeignKeyConstraint(['group_id'], ['client_group.id'], name=op.f('fk_group_member_group_id_client_group')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_group_member'))
    )
    op.create_index(op.f('ix_group_member_branch_id'), 'group_member', ['branch_id'])
    op.create_index(op.f('ix_group_member_client_id_id'), 'group_member', ['client_id', 'id'])
    op.create_index(op.f('ix_group_member_group_id'), 'group_member', ['group_id'])
    op.create_index('uq_group_member_group_id_client_id', 'group_member', ['group_id', 'client_id'], unique=True, sqlite_where=sa.text('left_on IS NULL'), postgresql_where=sa.text('left_on IS NULL'))
    op.create_table('lesson',
    sa.Column('id', BIG, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.Column('series_id', BIG, nullable=True),
    sa.Column('group_id', BIG, nullable=True),
    sa.Column('lesson_type_id', BIG, nullable=False),
    sa.Column('subject_id', BIG, nullable=True),
    sa.Column('room_id', BIG, nullable=True),
    sa.Column('instructor_id', BIG, nullable=True),
    sa.Column('starts_at', INSTANT, nullable=False),
    sa.Column('ends_at', INSTANT, nullable=False),
    sa.Column('capacity', sa.Integer(), nullable=True),
    sa.Column('takes_nobody', sa.Boolean(), nullable=False),
    sa.Column('topic', sa.Text(), nullable=False),
    sa.Column('status', sa.Enum('planned', 'held', 'canceled', name='lesson_status', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.CheckConstraint('capacity IS NULL OR capacity > 0', name=op.f('ck_lesson_capacity')),
    sa.CheckConstraint('ends_at > starts_at', name=op.f('ck_lesson_period')),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_lesson_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_lesson_branch_id_branch')),
    sa.ForeignKeyConstraint(['group_id'], ['client_group.id'], name=op.f('fk_lesson_group_id_client_group')),
    sa.ForeignKeyConstraint(['instructor_id'], ['employee.id'], name=op.f('fk_lesson_instructor_id_employee')),
    sa.ForeignKeyConstraint(['lesson_type_id'], ['lesson_type.id'], name=op.f('fk_lesson_lesson_type_id_lesson_type')),
    sa.ForeignKeyConstraint(['room_id'], ['room.id'], name=op.f('fk_lesson_room_id_room')),
    sa.ForeignKeyConstraint(['series_id'], ['lesson_series.id'], name=op.f('fk_lesson_series_id_lesson_series')),
    sa.ForeignKeyConstraint(['subject_id'], ['subject.id'], name=op.f('fk_lesson_subject_id_subject')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_lesson'))
    )
    op.create_index(op.f('ix_lesson_branch_id_starts_at'), 'lesson', ['branch_id', 'starts_at'])
    op.create_index(op.f('ix_lesson_group_id_starts_at'), 'lesson', ['group_id', 'starts_at'])
    op.create_index(op.f('ix_lesson_instructor_id_starts_at'), 'lesson', ['instructor_id', 'starts_at'])
    op.create_index(op.f('ix_lesson_room_id_starts_at'), 'lesson', ['room_id', 'starts_at'])
    op.create_index(op.f('ix_lesson_series_id'), 'lesson', ['series_id'])
    op.create_index(op.f('ix_lesson_starts_at_id'), 'lesson', ['starts_at', 'id'])
    op.create_index(op.f('ix_lesson_status_id'), 'lesson', ['status', 'id'])
    op.create_table('subscription_freeze',
    sa.Column('id', BIG, nullable=False),
    sa.Column('subscription_id', BIG, nullable=False),
    sa.Column('from_on', sa.Date(), nullable=False),
    sa.Column('planned_until', sa.Date(), nullable=True),
    sa.Column('until_on', sa.Date(), nullable=True),
    sa.Column('days', sa.Integer(), nullable=False),
    sa.Column('comment', sa.Text(), nullable=False),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('author_name', sa.String(length=200), nullable=False),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_subscription_freeze_author_id_user')),
    sa.ForeignKeyConstraint(['subscription_id'], ['subscription.id'], name=op.f('fk_subscription_freeze_subscription_id_subscription')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_subscription_freeze'))
    )
    op.create_index(op.f('ix_subscription_freeze_subscription_id'), 'subscription_freeze', ['subscription_id'])
    op.create_table('booking',
    sa.Column('id', BIG, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.Column('room_id', BIG, nullable=False),
    sa.Column('lesson_id', BIG, nullable=True),
    sa.Column('starts_at', INSTANT, nullable=False),
    sa.Column('ends_at', INSTANT, nullable=False),
    sa.Column('comment', sa.Text(), nullable=False),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.CheckConstraint('ends_at > starts_at', name=op.f('ck_booking_period')),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_booking_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_booking_branch_id_branch')),
    sa.ForeignKeyConstraint(['lesson_id'], ['lesson.id'], name=op.f('fk_booking_lesson_id_lesson')),
    sa.ForeignKeyConstraint(['room_id'], ['room.id'], name=op.f('fk_booking_room_id_room')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_booking'))
    )
    op.create_index(op.f('ix_booking_branch_id_starts_at'), 'booking', ['branch_id', 'starts_at'])
    op.create_index(op.f('ix_booking_lesson_id'), 'booking', ['lesson_id'])
    op.create_index(op.f('ix_booking_room_id_starts_at'), 'booking', ['room_id', 'starts_at'])
    op.create_table('task',
    sa.Column('id', BIG, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.Column('kind', sa.Enum('call', 'correction', 'other', name='task_kind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('status', sa.Enum('open', 'done', 'canceled', name='task_status', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('client_id', BIG, nullable=True),
    sa.Column('lesson_id', BIG, nullable=True),
    sa.Column('text', sa.Text(), nullable=False),
    sa.Column('due_on', sa.Date(), nullable=False),
    sa.Column('assignee_id', BIG, nullable=True),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('author_name', sa.String(length=200), nullable=False),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('done_at', INSTANT, nullable=True),
    sa.Column('done_by_id', BIG, nullable=True),
    sa.Column('result', sa.Text(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['assignee_id'], ['user.id'], name=op.f('fk_task_assignee_id_user')),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_task_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_task_branch_id_branch')),
    sa.ForeignKeyConstraint(['client_id'], ['client.id'], name=op.f('fk_task_client_id_client')),
    sa.ForeignKeyConstraint(['done_by_id'], ['user.id'], name=op.f('fk_task_done_by_id_user')),
    sa.ForeignKeyConstraint(['lesson_id'], ['lesson.id'], name=op.f('fk_task_lesson_id_lesson')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_task'))
    )
    op.create_index(op.f('ix_task_assignee_id'), 'task', ['assignee_id'])
    op.create_index(op.f('ix_task_branch_id_status_due_on'), 'task', ['branch_id', 'status', 'due_on'])
    op.create_index(op.f('ix_task_client_id_id'), 'task', ['client_id', 'id'])
    op.create_index(op.f('ix_task_lesson_id'), 'task', ['lesson_id'])
    op.create_table('attendance',
    sa.Column('id', BIG, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.Column('lesson_id', BIG, nullable=False),
    sa.Column('client_id', BIG, nullable=False),
    sa.Column('mark', sa.Enum('planned', 'present', 'absent', 'excused', 'canceled', name='mark', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('is_trial', sa.Boolean(), nullable=False),
    sa.Column('by_group', sa.Boolean(), nullable=False),
    sa.Column('subscription_id', BIG, nullable=True),
    sa.Column('transaction_id', BIG, nullable=True),
    sa.Column('price', sa.BigInteger(), nullable=True),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('marked_at', INSTANT, nullable=True),
    sa.Column('marked_by_id', BIG, nullable=True),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_attendance_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_attendance_branch_id_branch')),
    sa.ForeignKeyConstraint(['client_id'], ['client.id'], name=op.f('fk_attendance_client_id_client')),
    sa.ForeignKeyConstraint(['lesson_id'], ['lesson.id'], name=op.f('fk_attendance_lesson_id_lesson')),
    sa.ForeignKeyConstraint(['marked_by_id'], ['user.id'], name=op.f('fk_attendance_marked_by_id_user')),
    sa.ForeignKeyConstraint(['subscription_id'], ['subscription.id'], name=op.f('fk_attendance_subscription_id_subscription')),
    sa.ForeignKeyConstraint(['transaction_id'], ['ledger_transaction.id'], name=op.f('fk_attendance_transaction_id_ledger_transaction')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_attendance')),
    sa.UniqueConstraint('lesson_id', 'client_id', name=op.f('uq_attendance_lesson_id_client_id')),
    sqlite_autoincrement=True
    )
    op.create_index(op.f('ix_attendance_branch_id_id'), 'attendance', ['branch_id', 'id'])
    op.create_index(op.f('ix_attendance_client_id_id'), 'attendance', ['client_id', 'id'])
    op.create_index(op.f('ix_attendance_mark_id'), 'attendance', ['mark', 'id'])
    op.create_index(op.f('ix_attendance_subscription_id_id'), 'attendance', ['subscription_id', 'id'])
    op.create_index(op.f('ix_attendance_transaction_id'), 'attendance', ['transaction_id'])
    op.create_table('trial',
    sa.Column('id', BIG, nullable=False),
    sa.Column('payer_id', BIG, nullable=False),
    sa.Column('attendance_id', BIG, nullable=False),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('branch_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['attendance_id'], ['attendance.id'], name=op.f('fk_trial_attendance_id_attendance')),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_trial_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_trial_branch_id_branch')),
    sa.ForeignKeyConstraint(['payer_id'], ['client.id'], name=op.f('fk_trial_payer_id_client')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_trial')),
    sa.UniqueConstraint('attendance_id', name=op.f('uq_trial_attendance_id')),
    sa.UniqueConstraint('payer_id', name=op.f('uq_trial_payer_id'))
    )
    op.create_index(op.f('ix_trial_branch_id'), 'trial', ['branch_id'])
