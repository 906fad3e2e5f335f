"""Automatic mailings: every field of a rule, the channels and what a client takes, providers, what messages cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.alter import add_check, add_reference, drop_check, drop_constraint, drop_reference, quoted, set_enum

revision = "0015"
down_revision = "0014"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)
JSONS = sa.JSON().with_variant(JSONB(), "postgresql")
EMPTY = sa.text("''")
OLD_CHANNELS = ("email", "sms")
CHANNELS = ("email", "sms", "whatsapp", "telegram", "viber", "push", "cabinet")
MESSAGE_KINDS = ("bills", "debt", "subscription", "lesson", "thanks", "personal", "birthday", "news", "service")
OLD_MESSAGE_STATUSES = ("pending", "sending", "sent", "failed", "unknown", "skipped")
MESSAGE_STATUSES = (*OLD_MESSAGE_STATUSES, "taken", "delivered", "read")
WITH_CHANNEL = ("template", "message")
WITH_MESSAGE_STATUS = ("message", "export_letter")
# By column of mailing_rule: name of its CHECK, what it allowed, what it allows.
ENUMS = {
    "kind": ("mailing_kind", ("bills",), ("bills", "debt", "subscription", "lesson", "birthday", "text")),
    "method": ("billing_method", ("subscription",), ("forecast", "subscription")),
    "accounts": ("billed_accounts", ("base",), ("base", "subscription", "all")),
}
TERMS = ("unlimited", "days_3", "days_5", "days_6", "week_1", "weeks_2", "month_end", "next_month_end", "days")
NAMED_TERMS = {3: "days_3", 5: "days_5", 6: "days_6", 7: "week_1", 14: "weeks_2"}
# What a downgrade makes of a term that has no number of days of its own.
DAYS_OF = {term: days for days, term in NAMED_TERMS.items()} | {"month_end": 15, "next_month_end": 45}
NEW_ENUMS = {  # column: (name of its CHECK, values, default)
    "period_type": ("period_type", ("current", "next"), "current"),
    "period": ("period_unit", ("day", "week", "month"), "month"),
    "term": ("payment_term", TERMS, "unlimited"),
}
TABLES = (
    *("provider", "contact", "contact_link", "client_password", "message_choice", "mailing_way", "message_charge"),
    "message_bill",
)
PLAIN = ("lessons_from", "lessons_to", "money_from", "money_to", "days", "statuses", "client_kinds", "once_on")


def upgrade() -> None:
    _create_tables()
    op.add_column("client", sa.Column("kind", sa.String(32), server_default="person", nullable=False))
    add_check("client", "ck_client_client_kind", "kind IN ('person', 'organisation')")
    op.add_column("company", sa.Column("quiet_from", sa.Time(), nullable=True))
    op.add_column("company", sa.Column("quiet_to", sa.Time(), nullable=True))
    _add_switch("company", "asks_consent")
    _extend_rules()
    set_enum("mailing_run", "status", "ck_mailing_run_run_status", ("planned", "running", "paused", "done", "cancelled"))
    op.drop_index(op.f("ix_mailing_run_status_lease_until"), table_name="mailing_run")
    op.create_index(op.f("ix_mailing_run_status"), "mailing_run", ["status"])
    op.drop_column("mailing_run", "lease_until")
    # One under way has lines of those alone who are done: those of who waits are written when it goes on.
    op.execute("UPDATE mailing_run SET started_at = NULL WHERE status = 'running'")
    set_enum("mailing_run_line", "result", "ck_mailing_run_line_run_result", ("waiting", "issued", "skipped", "failed"))
    # Messages tell of all the bills of a line.
    drop_constraint("mailing_run_line", "fk_mailing_run_line_bill_id_bill", "foreignkey")
    op.drop_column("mailing_run_line", "bill_id")
    op.add_column("mailing_run_line", sa.Column("done_at", INSTANT, nullable=True))
    op.create_index(op.f("ix_mailing_run_line_client_id"), "mailing_run_line", ["client_id"])
    op.create_index(op.f("ix_mailing_run_line_run_id_result_id"), "mailing_run_line", ["run_id", "result", "id"])
    for table in WITH_CHANNEL:
        set_enum(table, "channel", f"ck_{table}_channel", CHANNELS)
    for table in WITH_MESSAGE_STATUS:
        set_enum(table, "status", f"ck_{table}_message_status", MESSAGE_STATUSES)
    op.add_column("message", sa.Column("kind", sa.String(32), server_default="personal", nullable=False))
    add_check("message", "ck_message_message_kind", f"kind IN ({quoted(MESSAGE_KINDS)})")
    op.execute("UPDATE message SET kind = 'bills' WHERE run_id IS NOT NULL")
    op.execute("UPDATE message SET kind = 'thanks' WHERE dedupe_key LIKE 'thanks:%'")
    op.execute("UPDATE message SET kind = 'service' WHERE dedupe_key LIKE 'payment-code:%'")
    op.add_column("message", sa.Column("cost", sa.BigInteger(), nullable=True))
    # Of messages written before nobody knows them: they stay in sight.
    op.add_column("message", sa.Column("tags", JSONS, server_default=sa.text("'[]'"), nullable=False))
    add_reference("message", "line_id", "mailing_run_line")
    op.create_index(op.f("ix_message_line_id"), "message", ["line_id"])
    op.create_index(op.f("ix_message_external_id"), "message", ["external_id"])


def downgrade() -> None:
    """Rules of other kinds are switched off and bill subscriptions, by their first way; the other ways are lost, and
    so is which bills a message of several tells of besides the first.
    """
    for name in ("external_id", "line_id"):
        op.drop_index(op.f(f"ix_message_{name}"), "message")
    drop_reference("message", "line_id", "mailing_run_line")
    op.drop_column("message", "tags")
    op.drop_column("message", "cost")
    drop_check("message", "ck_message_message_kind")
    op.drop_column("message", "kind")
    # To what the other channels know a client by nothing else is sent.
    op.execute(
        "UPDATE message SET status = 'skipped', lease_until = NULL "
        "WHERE status IN ('pending', 'taken') AND channel NOT IN ('email', 'sms')"
    )
    for table in reversed(WITH_MESSAGE_STATUS):
        op.execute(f"UPDATE {table} SET status = 'pending' WHERE status = 'taken'")
        op.execute(f"UPDATE {table} SET status = 'sent' WHERE status IN ('delivered', 'read')")
        set_enum(table, "status", f"ck_{table}_message_status", OLD_MESSAGE_STATUSES)
    for table in reversed(WITH_CHANNEL):
        op.execute(f"UPDATE {table} SET channel = 'sms' WHERE channel NOT IN ('email', 'sms')")
        set_enum(table, "channel", f"ck_{table}_channel", OLD_CHANNELS)
    op.drop_index(op.f("ix_mailing_run_line_run_id_result_id"), "mailing_run_line")
    op.drop_index(op.f("ix_mailing_run_line_client_id"), "mailing_run_line")
    op.drop_column("mailing_run_line", "done_at")
    add_reference("mailing_run_line", "bill_id", "bill")
    op.execute(
        "UPDATE mailing_run_line SET bill_id = told.bill_id FROM (SELECT run_id, client_id, MIN(bill_id) AS bill_id "
        "FROM message WHERE run_id IS NOT NULL AND bill_id IS NOT NULL GROUP BY run_id, client_id) AS told "
        "WHERE told.run_id = mailing_run_line.run_id AND told.client_id = mailing_run_line.client_id"
    )
    op.execute("DELETE FROM mailing_run_line WHERE result = 'waiting'")
    set_enum("mailing_run_line", "result", "ck_mailing_run_line_run_result", ("issued", "skipped", "failed"))
    op.add_column("mailing_run", sa.Column("lease_until", INSTANT, nullable=True))
    op.drop_index(op.f("ix_mailing_run_status"), "mailing_run")
    op.create_index(op.f("ix_mailing_run_status_lease_until"), "mailing_run", ["status", "lease_until"])
    op.execute("UPDATE mailing_run SET status = 'done' WHERE status IN ('paused', 'cancelled')")
    # All rules bill afterwards: who was to be greeted is not billed instead.
    op.execute(
        "UPDATE mailing_run SET status = 'done' WHERE status IN ('planned', 'running') "
        "AND rule_id IN (SELECT id FROM mailing_rule WHERE kind <> 'bills')"
    )
    op.execute("UPDATE mailing_run SET lease_until = planned_at WHERE status = 'running'")  # free for any worker
    set_enum("mailing_run", "status", "ck_mailing_run_run_status", ("planned", "running", "done"))
    _shorten_rules()
    for name in ("asks_consent", "quiet_to", "quiet_from"):
        op.drop_column("company", name)
    drop_check("client", "ck_client_client_kind")
    op.drop_column("client", "kind")
    for table in reversed(TABLES):
        op.drop_table(table)


def _extend_rules() -> None:
    for column, (name, _old, new) in ENUMS.items():
        set_enum("mailing_rule", column, f"ck_mailing_rule_{name}", new)
    op.execute("UPDATE mailing_rule SET accounts = 'all'")  # what «base» did: a bill for each account
    for column, (name, values, default) in NEW_ENUMS.items():
        op.add_column("mailing_rule", sa.Column(column, sa.String(32), server_default=default, nullable=False))
        add_check("mailing_rule", f"ck_mailing_rule_{name}", f"{column} IN ({quoted(values)})")
    op.execute("UPDATE mailing_rule SET term = 'days' WHERE term_days IS NOT NULL")
    for days, term in NAMED_TERMS.items():
        op.execute(f"UPDATE mailing_rule SET term = '{term}', term_days = NULL WHERE term_days = {days}")
    for name in ("is_selected", "issues_again", "attended_only", "lesson_only"):
        _add_switch("mailing_rule", name)
    for name, kind in (
        *(("lessons_from", sa.Integer()), ("lessons_to", sa.Integer())),
        *(("money_from", sa.BigInteger()), ("money_to", sa.BigInteger()), ("once_on", sa.Date())),
    ):
        op.add_column("mailing_rule", sa.Column(name, kind, nullable=True))
    op.add_column("mailing_rule", sa.Column("days", sa.Integer(), server_default="0", nullable=False))
    add_check("mailing_rule", "ck_mailing_rule_days", "days BETWEEN 0 AND 366")
    for name in ("statuses", "client_kinds"):
        op.add_column("mailing_rule", sa.Column(name, JSONS, server_default=sa.text("'[]'"), nullable=False))
    for name in ("subject", "lesson_type"):
        add_reference("mailing_rule", f"{name}_id", name)
    # A bill went to active clients only.
    op.execute("UPDATE mailing_rule SET statuses = '[\"active\"]'")
    op.execute(
        "INSERT INTO mailing_way (rule_id, position, channel, template_id) "
        "SELECT id, 0, channel, template_id FROM mailing_rule"
    )
    drop_constraint("mailing_rule", "fk_mailing_rule_template_id_template", "foreignkey")
    drop_constraint("mailing_rule", "ck_mailing_rule_channel", "check")
    op.drop_column("mailing_rule", "template_id")
    op.drop_column("mailing_rule", "channel")


def _shorten_rules() -> None:
    # A rule whose texts are its own needs a template to stand for them.
    first = "FROM mailing_way WHERE mailing_way.rule_id = mailing_rule.id ORDER BY position LIMIT 1"
    op.execute(
        "INSERT INTO template (name, channel, subject, body, is_thanks, version) "
        "SELECT 'Текст рассылки ' || rule_id, CASE channel WHEN 'email' THEN 'email' ELSE 'sms' END, subject, body, "
        "false, 1 FROM mailing_way WHERE template_id IS NULL AND position = 0"
    )
    op.execute(
        "UPDATE mailing_way SET template_id = (SELECT id FROM template WHERE name = 'Текст рассылки ' || rule_id) "
        "WHERE template_id IS NULL AND position = 0"
    )
    op.add_column("mailing_rule", sa.Column("channel", sa.String(32), server_default="email", nullable=False))
    add_check("mailing_rule", "ck_mailing_rule_channel", "channel IN ('email', 'sms')")
    add_reference("mailing_rule", "template_id", "template")
    op.execute(f"UPDATE mailing_rule SET template_id = (SELECT template_id {first})")
    op.execute(f"UPDATE mailing_rule SET channel = 'sms' WHERE (SELECT channel {first}) <> 'email'")
    op.execute("UPDATE mailing_rule SET is_active = false WHERE kind <> 'bills' OR once_on IS NOT NULL")
    op.execute("UPDATE mailing_rule SET kind = 'bills', method = 'subscription', accounts = 'base'")
    for term, days in DAYS_OF.items():
        op.execute(f"UPDATE mailing_rule SET term_days = {days} WHERE term = '{term}'")
    for name in ("lesson_type", "subject"):
        drop_reference("mailing_rule", f"{name}_id", name)
    drop_constraint("mailing_rule", "ck_mailing_rule_days", "check")
    for column, (name, _values, _default) in reversed(NEW_ENUMS.items()):
        drop_constraint("mailing_rule", f"ck_mailing_rule_{name}", "check")
        op.drop_column("mailing_rule", column)
    for name in ("is_selected", "issues_again", "attended_only", "lesson_only", *PLAIN):
        op.drop_column("mailing_rule", name)
    for column, (name, old, _new) in ENUMS.items():
        set_enum("mailing_rule", column, f"ck_mailing_rule_{name}", old)


def _add_switch(table: str, name: str) -> None:
    op.add_column(table, sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False))


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=32)


def _create_tables() -> None:
    op.create_table(
        "provider",
        sa.Column("id", BIG, nullable=False),
        sa.Column("company_id", BIG, nullable=False),
        sa.Column("channel", _enum("channel", *CHANNELS), nullable=False),
        sa.Column("kind", _enum("provider_kind", "http", "smsru", "telegram", "viber", "whatsapp"), nullable=False),
        sa.Column("url", sa.String(500), server_default=EMPTY, nullable=False),
        sa.Column("secret", sa.String(1000), nullable=False),
        sa.Column("sender", sa.String(100), server_default=EMPTY, nullable=False),
        sa.Column("options", JSONS, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("per_minute", sa.Integer(), nullable=True),
        sa.Column("counted_minute", INSTANT, nullable=True),
        sa.Column("counted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=True),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["company_id"], ["company.id"], name=op.f("fk_provider_company_id_company")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider")),
        sa.UniqueConstraint("company_id", "channel", name=op.f("uq_provider_company_id_channel")),
        sa.UniqueConstraint("token", name=op.f("uq_provider_token")),
    )
    op.create_table(
        "contact",
        sa.Column("id", BIG, nullable=False),
        sa.Column("client_id", BIG, nullable=False),
        sa.Column("channel", _enum("channel", *CHANNELS), nullable=False),
        sa.Column("address", sa.Text(), server_default=EMPTY, nullable=False),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("linked_at", INSTANT, nullable=True),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_contact_client_id_client")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contact")),
        sa.UniqueConstraint("client_id", "channel", name=op.f("uq_contact_client_id_channel")),
    )
    op.create_table(
        "contact_link",
        sa.Column("id", BIG, nullable=False),
        sa.Column("client_id", BIG, nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_contact_link_client_id_client")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contact_link")),
        sa.UniqueConstraint("client_id", name=op.f("uq_contact_link_client_id")),
        sa.UniqueConstraint("token", name=op.f("uq_contact_link_token")),
    )
    op.create_table(
        "client_password",
        sa.Column("id", BIG, nullable=False),
        sa.Column("client_id", BIG, nullable=False),
        sa.Column("password_hash", sa.String(200), nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_client_password_client_id_client")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client_password")),
        sa.UniqueConstraint("client_id", name=op.f("uq_client_password_client_id")),
    )
    op.create_table(
        "message_choice",
        sa.Column("id", BIG, nullable=False),
        sa.Column("client_id", BIG, nullable=False),
        sa.Column("kind", _enum("message_kind", *MESSAGE_KINDS), nullable=False),
        sa.Column("is_allowed", sa.Boolean(), nullable=False),
        sa.Column("decided_at", INSTANT, nullable=False),
        sa.Column("decided_by", sa.String(200), server_default=EMPTY, nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_message_choice_client_id_client")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message_choice")),
        sa.UniqueConstraint("client_id", "kind", name=op.f("uq_message_choice_client_id_kind")),
    )
    op.create_table(
        "mailing_way",
        sa.Column("id", BIG, nullable=False),
        sa.Column("rule_id", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("channel", _enum("channel", *CHANNELS), nullable=False),
        sa.Column("template_id", BIG, nullable=True),
        sa.Column("subject", sa.String(200), server_default=EMPTY, nullable=False),
        sa.Column("body", sa.Text(), server_default=EMPTY, nullable=False),
        sa.ForeignKeyConstraint(["rule_id"], ["mailing_rule.id"], name=op.f("fk_mailing_way_rule_id_mailing_rule")),
        sa.ForeignKeyConstraint(["template_id"], ["template.id"], name=op.f("fk_mailing_way_template_id_template")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mailing_way")),
        sa.UniqueConstraint("rule_id", "channel", name=op.f("uq_mailing_way_rule_id_channel")),
        sa.UniqueConstraint("rule_id", "position", name=op.f("uq_mailing_way_rule_id_position")),
    )
    op.create_index(op.f("ix_mailing_way_template_id"), "mailing_way", ["template_id"])
    op.create_table(
        "message_charge",
        sa.Column("id", BIG, nullable=False),
        sa.Column("company_id", BIG, nullable=False),
        sa.Column("message_id", BIG, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["company_id"], ["company.id"], name=op.f("fk_message_charge_company_id_company")),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name=op.f("fk_message_charge_message_id_message")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message_charge")),
        sa.UniqueConstraint("message_id", name=op.f("uq_message_charge_message_id")),
    )
    op.create_index(op.f("ix_message_charge_company_id_at"), "message_charge", ["company_id", "at"])
    op.create_table(
        "message_bill",
        sa.Column("message_id", BIG, nullable=False),
        sa.Column("bill_id", BIG, nullable=False),
        sa.ForeignKeyConstraint(["bill_id"], ["bill.id"], name=op.f("fk_message_bill_bill_id_bill")),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name=op.f("fk_message_bill_message_id_message")),
        sa.PrimaryKeyConstraint("message_id", "bill_id", name=op.f("pk_message_bill")),
    )
    op.create_index(op.f("ix_message_bill_bill_id"), "message_bill", ["bill_id"])
