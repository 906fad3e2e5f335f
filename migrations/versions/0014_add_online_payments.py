"""Online payments: shops, stored notices, refunds; how a bill's sum was found; several bills under one link."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.alter import add_check, add_reference, drop_check, drop_reference, quoted, set_enum

revision = "0014"
down_revision = "0013"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)
OLD_METHODS = ("manual", "subscription")
METHODS = (*OLD_METHODS, "forecast")
OLD_CHANNELS = ("email",)
CHANNELS = (*OLD_CHANNELS, "sms")
PHONE_KINDS = ("mobile", "home", "work", "other")
ATTENTION = ("wrong_sum", "wrong_currency", "dead_bill", "paid_twice", "refund_failed", "refunded_elsewhere")
WITH_CHANNEL = ("template", "mailing_rule", "message")
OLD_MESSAGE_STATUSES = ("pending", "sending", "sent", "failed", "unknown")
MESSAGE_STATUSES = (*OLD_MESSAGE_STATUSES, "skipped")
WITH_MESSAGE_STATUS = ("message", "export_letter")
TABLES = (
    "shop",
    "bill_bundle",
    "bill_bundle_bill",
    "bill_line",
    "payment_code",
    "gateway_notice",
    "payment_event",
    "refund",
    "demo_bank_refund",
)


def upgrade() -> None:
    _create_tables()
    op.add_column(
        "demo_bank_payment", sa.Column("reference", sa.String(100), server_default=sa.text("''"), nullable=False)
    )
    op.add_column("demo_bank_payment", sa.Column("decided_at", INSTANT, nullable=True))
    set_enum("bill", "method", "ck_bill_bill_method", METHODS)
    op.add_column("bill", sa.Column("paid_amount", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("bill", sa.Column("purpose", sa.String(160), server_default=sa.text("''"), nullable=False))
    op.add_column("bill", sa.Column("link_revoked_at", INSTANT, nullable=True))
    add_check("bill", "ck_bill_paid_amount", "paid_amount >= 0")
    _sum_payments()
    for name in ("phone_kind", "extra_phone_kind"):
        op.add_column("client", sa.Column(name, sa.String(32), server_default="mobile", nullable=False))
        add_check("client", f"ck_client_{name}", f"{name} IN ({quoted(PHONE_KINDS)})")
    _add_switch("company", "takes_part_payments", sa.false())
    _add_switch("company", "takes_overpayments", sa.false())
    _add_switch("company", "takes_deposits", sa.true())
    _add_switch("company", "has_mailings", sa.true())
    op.add_column("company", sa.Column("mailings_until", sa.Date(), nullable=True))
    op.add_column("company", sa.Column("mailings_tried_at", INSTANT, nullable=True))
    _add_switch("template", "is_thanks", sa.false())
    for table in WITH_CHANNEL:
        set_enum(table, "channel", f"ck_{table}_channel", CHANNELS)
    for table in WITH_MESSAGE_STATUS:
        set_enum(table, "status", f"ck_{table}_message_status", MESSAGE_STATUSES)
    op.add_column("message", sa.Column("secret", sa.String(1000), nullable=True))
    op.add_column("message", sa.Column("external_id", sa.String(100), server_default=sa.text("''"), nullable=False))
    op.add_column("payment", sa.Column("refunded", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("payment", sa.Column("nonce", sa.String(8), server_default=sa.text("''"), nullable=False))
    op.add_column("payment", sa.Column("asking_until", INSTANT, nullable=True))
    op.add_column("payment", sa.Column("reported_amount", sa.BigInteger(), nullable=True))
    op.add_column("payment", sa.Column("reported_currency", sa.String(3), nullable=True))
    op.add_column("payment", sa.Column("attention", sa.String(32), nullable=True))
    op.add_column("payment", sa.Column("attention_closed_at", INSTANT, nullable=True))
    add_check("payment", "ck_payment_refunded", "refunded >= 0 AND refunded <= amount")
    add_check("payment", "ck_payment_attention", f"attention IN ({quoted(ATTENTION)})")
    add_reference("payment", "shop_id", "shop")
    add_reference("payment", "order_id", "payment")
    add_reference("payment", "bundle_id", "bill_bundle")
    op.create_index(op.f("ix_payment_attention_attention_closed_at"), "payment", ["attention", "attention_closed_at"])
    op.create_index(op.f("ix_payment_order_id"), "payment", ["order_id"])
    op.create_index(op.f("ix_payment_bundle_id"), "payment", ["bundle_id"])


def downgrade() -> None:
    """Bills by the forecast become bills by hand; what was told by SMS is told as letters, what was skipped failed."""
    for name in ("order_id", "bundle_id"):
        op.drop_index(op.f(f"ix_payment_{name}"), "payment")
    op.drop_index(op.f("ix_payment_attention_attention_closed_at"), "payment")
    drop_reference("payment", "bundle_id", "bill_bundle")
    drop_reference("payment", "order_id", "payment")
    drop_reference("payment", "shop_id", "shop")
    for name in ("attention", "refunded"):
        drop_check("payment", f"ck_payment_{name}")
    for name in ("attention_closed_at", "attention", "reported_currency", "reported_amount"):
        op.drop_column("payment", name)
    for name in ("asking_until", "nonce", "refunded"):
        op.drop_column("payment", name)
    op.drop_column("message", "external_id")
    op.drop_column("message", "secret")
    for table in reversed(WITH_MESSAGE_STATUS):
        op.execute(f"UPDATE {table} SET status = 'failed' WHERE status = 'skipped'")
        set_enum(table, "status", f"ck_{table}_message_status", OLD_MESSAGE_STATUSES)
    for table in reversed(WITH_CHANNEL):
        op.execute(f"UPDATE {table} SET channel = 'email' WHERE channel = 'sms'")
        set_enum(table, "channel", f"ck_{table}_channel", OLD_CHANNELS)
    op.drop_column("template", "is_thanks")
    for name in ("mailings_tried_at", "mailings_until", "has_mailings"):
        op.drop_column("company", name)
    for name in ("takes_deposits", "takes_overpayments", "takes_part_payments"):
        op.drop_column("company", name)
    for name in ("extra_phone_kind", "phone_kind"):
        drop_check("client", f"ck_client_{name}")
        op.drop_column("client", name)
    drop_check("bill", "ck_bill_paid_amount")
    for name in ("link_revoked_at", "purpose", "paid_amount"):
        op.drop_column("bill", name)
    op.execute("UPDATE bill SET method = 'manual' WHERE method = 'forecast'")
    set_enum("bill", "method", "ck_bill_bill_method", OLD_METHODS)
    for table in reversed(TABLES):
        op.drop_table(table)
    for name in ("decided_at", "reference"):
        op.drop_column("demo_bank_payment", name)


def _add_switch(table: str, name: str, default: sa.ColumnElement[bool]) -> None:
    op.add_column(table, sa.Column(name, sa.Boolean(), server_default=default, nullable=False))


def _sum_payments() -> None:
    """What was credited for each bill; a bill noted as paid without a payment counts as paid in full."""
    paid = "SELECT SUM(amount) FROM payment WHERE payment.bill_id = bill.id AND payment.status = 'succeeded'"
    op.execute(
        f"UPDATE bill SET paid_amount = COALESCE(({paid}), amount) WHERE status = 'paid' OR payments_count > 0"  # noqa: S608
    )


def _create_tables() -> None:
    op.create_table('shop',
    sa.Column('id', BIG, nullable=False),
    sa.Column('company_id', BIG, nullable=False),
    sa.Column('branch_id', BIG, nullable=True),
    sa.Column('gateway', sa.Enum('yookassa', 'tbank', name='gateway_kind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('shop_id', sa.String(length=100), nullable=False),
    sa.Column('secret', sa.String(1000), nullable=False),
    sa.Column('options', sa.JSON().with_variant(JSONB(), 'postgresql'), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('is_active', sa.Boolean(), nullable=False),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_shop_branch_id_branch')),
    sa.ForeignKeyConstraint(['company_id'], ['company.id'], name=op.f('fk_shop_company_id_company')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_shop'))
    )
    op.create_index(op.f('ix_shop_branch_id'), 'shop', ['branch_id'])
    op.create_index(op.f('ix_shop_company_id'), 'shop', ['company_id'])
    op.create_table('bill_bundle',
    sa.Column('id', BIG, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.Column('client_id', BIG, nullable=False),
    sa.Column('token', sa.String(length=64), nullable=False),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('link_revoked_at', INSTANT, nullable=True),
    sa.Column('author_id', BIG, nullable=True),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_bill_bundle_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_bill_bundle_branch_id_branch')),
    sa.ForeignKeyConstraint(['client_id'], ['client.id'], name=op.f('fk_bill_bundle_client_id_client')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_bill_bundle')),
    sa.UniqueConstraint('token', name=op.f('uq_bill_bundle_token'))
    )
    op.create_index(op.f('ix_bill_bundle_branch_id'), 'bill_bundle', ['branch_id'])
    op.create_index(op.f('ix_bill_bundle_client_id'), 'bill_bundle', ['client_id'])
    op.create_table('bill_bundle_bill',
    sa.Column('bundle_id', BIG, nullable=False),
    sa.Column('bill_id', BIG, nullable=False),
    sa.ForeignKeyConstraint(['bill_id'], ['bill.id'], name=op.f('fk_bill_bundle_bill_bill_id_bill')),
    sa.ForeignKeyConstraint(['bundle_id'], ['bill_bundle.id'], name=op.f('fk_bill_bundle_bill_bundle_id_bill_bundle'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('bundle_id', 'bill_id', name=op.f('pk_bill_bundle_bill'))
    )
    op.create_index(op.f('ix_bill_bundle_bill_bill_id'), 'bill_bundle_bill', ['bill_id'])
    op.create_table('bill_line',
    sa.Column('id', BIG, nullable=False),
    sa.Column('bill_id', BIG, nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('kind', sa.Enum('lesson', 'subscription', 'balance', name='bill_line_kind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('day', sa.Date(), nullable=True),
    sa.Column('student', sa.String(length=200), nullable=False),
    sa.Column('title', sa.String(length=300), nullable=False),
    sa.Column('note', sa.String(length=300), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['bill_id'], ['bill.id'], name=op.f('fk_bill_line_bill_id_bill')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_bill_line'))
    )
    op.create_index(op.f('uq_bill_line_bill_id_position'), 'bill_line', ['bill_id', 'position'], unique=True)
    op.create_table('payment_code',
    sa.Column('id', BIG, nullable=False),
    sa.Column('bill_id', BIG, nullable=True),
    sa.Column('bundle_id', BIG, nullable=True),
    sa.Column('code_hash', sa.String(length=100), nullable=False),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('expires_at', INSTANT, nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('used_at', INSTANT, nullable=True),
    sa.ForeignKeyConstraint(['bill_id'], ['bill.id'], name=op.f('fk_payment_code_bill_id_bill')),
    sa.ForeignKeyConstraint(['bundle_id'], ['bill_bundle.id'], name=op.f('fk_payment_code_bundle_id_bill_bundle')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_payment_code'))
    )
    op.create_index(op.f('ix_payment_code_bill_id_id'), 'payment_code', ['bill_id', 'id'])
    op.create_index(op.f('ix_payment_code_bundle_id_id'), 'payment_code', ['bundle_id', 'id'])
    op.create_index(op.f('ix_payment_code_created_at'), 'payment_code', ['created_at'])
    op.create_table('gateway_notice',
    sa.Column('id', BIG, nullable=False),
    sa.Column('gateway', sa.String(length=40), nullable=False),
    sa.Column('external_id', sa.String(length=100), nullable=False),
    sa.Column('event', sa.String(length=60), nullable=False),
    sa.Column('body', sa.Text(), nullable=False),
    sa.Column('digest', sa.String(length=64), nullable=False),
    sa.Column('status', sa.Enum('new', 'working', 'done', 'ignored', 'unknown', 'held', 'failed', name='notice_status', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('received_at', INSTANT, nullable=False),
    sa.Column('repeats', sa.Integer(), nullable=False),
    sa.Column('payment_id', BIG, nullable=True),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('next_try_at', INSTANT, nullable=False),
    sa.Column('lease_until', INSTANT, nullable=True),
    sa.Column('result', sa.String(length=500), nullable=False),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_gateway_notice_payment_id_payment')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_gateway_notice')),
    sa.UniqueConstraint('digest', name=op.f('uq_gateway_notice_digest'))
    )
    op.create_index(op.f('ix_gateway_notice_external_id_id'), 'gateway_notice', ['external_id', 'id'])
    op.create_index(op.f('ix_gateway_notice_gateway_id'), 'gateway_notice', ['gateway', 'id'])
    op.create_index(op.f('ix_gateway_notice_payment_id_id'), 'gateway_notice', ['payment_id', 'id'])
    op.create_index(op.f('ix_gateway_notice_received_at_id'), 'gateway_notice', ['received_at', 'id'])
    op.create_index(op.f('ix_gateway_notice_status_next_try_at'), 'gateway_notice', ['status', 'next_try_at'])
    op.create_table('payment_event',
    sa.Column('id', BIG, nullable=False),
    sa.Column('payment_id', BIG, nullable=False),
    sa.Column('notice_id', BIG, nullable=True),
    sa.Column('at', INSTANT, nullable=False),
    sa.Column('kind', sa.Enum('started', 'notice', 'asked', 'credited', 'canceled', 'held', 'resolved', 'refund', 'repeated', name='payment_event_kind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('detail', sa.String(length=500), nullable=False),
    sa.Column('author_name', sa.String(length=200), nullable=False),
    sa.ForeignKeyConstraint(['notice_id'], ['gateway_notice.id'], name=op.f('fk_payment_event_notice_id_gateway_notice')),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_payment_event_payment_id_payment')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_payment_event'))
    )
    op.create_index(op.f('ix_payment_event_notice_id'), 'payment_event', ['notice_id'])
    op.create_index(op.f('ix_payment_event_payment_id_id'), 'payment_event', ['payment_id', 'id'])
    op.create_table('refund',
    sa.Column('id', BIG, nullable=False),
    sa.Column('branch_id', BIG, nullable=False),
    sa.Column('payment_id', BIG, nullable=False),
    sa.Column('account_id', BIG, nullable=False),
    sa.Column('transaction_id', BIG, nullable=True),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('status', sa.Enum('pending', 'succeeded', 'failed', name='refund_status', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('external_id', sa.String(length=100), nullable=True),
    sa.Column('nonce', sa.String(length=8), nullable=False),
    sa.Column('reason', sa.String(length=250), nullable=False),
    sa.Column('error', sa.String(length=500), nullable=False),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.Column('finished_at', INSTANT, nullable=True),
    sa.Column('next_poll_at', INSTANT, nullable=True),
    sa.Column('author_id', BIG, nullable=True),
    sa.Column('author_name', sa.String(length=200), nullable=False),
    sa.CheckConstraint('amount > 0', name=op.f('ck_refund_amount')),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], name=op.f('fk_refund_account_id_account')),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_refund_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_refund_branch_id_branch')),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_refund_payment_id_payment')),
    sa.ForeignKeyConstraint(['transaction_id'], ['ledger_transaction.id'], name=op.f('fk_refund_transaction_id_ledger_transaction')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_refund'))
    )
    op.create_index(op.f('ix_refund_account_id'), 'refund', ['account_id'])
    op.create_index(op.f('ix_refund_branch_id'), 'refund', ['branch_id'])
    op.create_index(op.f('ix_refund_payment_id_id'), 'refund', ['payment_id', 'id'])
    op.create_index(op.f('ix_refund_status_next_poll_at'), 'refund', ['status', 'next_poll_at'])
    op.create_index(op.f('ix_refund_transaction_id'), 'refund', ['transaction_id'])
    op.create_table('demo_bank_refund',
    sa.Column('id', sa.String(length=40), nullable=False),
    sa.Column('payment_id', sa.String(length=40), nullable=False),
    sa.Column('idempotence_key', sa.String(length=100), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('created_at', INSTANT, nullable=False),
    sa.CheckConstraint('amount > 0', name=op.f('ck_demo_bank_refund_amount')),
    sa.ForeignKeyConstraint(['payment_id'], ['demo_bank_payment.id'], name=op.f('fk_demo_bank_refund_payment_id_demo_bank_payment')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_demo_bank_refund')),
    sa.UniqueConstraint('idempotence_key', name=op.f('uq_demo_bank_refund_idempotence_key'))
    )
    op.create_index(op.f('ix_demo_bank_refund_payment_id'), 'demo_bank_refund', ['payment_id'])
