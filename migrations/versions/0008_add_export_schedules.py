"""Excel by the clock."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    op.create_table(
        "export_schedule",
        sa.Column("id", BIG, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("entity", sa.String(length=40), nullable=False),
        sa.Column("owner_id", BIG, nullable=False),
        sa.Column("branch_id", BIG, nullable=True),
        sa.Column("locale", sa.String(length=5), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("columns", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("periodicity", _enum("periodicity", "daily", "weekly", "monthly"), nullable=False),
        sa.Column("weekdays", sa.JSON(), nullable=False),
        sa.Column("month_day", sa.Integer(), nullable=True),
        sa.Column("send_time", sa.Time(), nullable=False),
        sa.Column("time_zone", sa.String(length=64), nullable=False),
        sa.Column("recipients", sa.JSON(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("stop_reason", sa.String(length=500), nullable=False),
        sa.Column("last_outcome", sa.String(length=500), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("schedule_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint("month_day BETWEEN 1 AND 31", name=op.f("ck_export_schedule_month_day")),
        sa.ForeignKeyConstraint(["branch_id"], ["branch.id"], name=op.f("fk_export_schedule_branch_id_branch")),
        sa.ForeignKeyConstraint(["owner_id"], ["user.id"], name=op.f("fk_export_schedule_owner_id_user")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_export_schedule")),
    )
    op.create_index(op.f("ix_export_schedule_owner_id"), "export_schedule", ["owner_id"])
    op.create_table(
        "export_delivery",
        sa.Column("id", BIG, nullable=False),
        sa.Column("schedule_id", BIG, nullable=False),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_manual", sa.Boolean(), nullable=False),
        sa.Column("status", _enum("delivery_status", "preparing", "ready", "failed"), nullable=False),
        sa.Column("job_id", BIG, nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("is_attached", sa.Boolean(), nullable=False),
        sa.Column("error", sa.String(length=500), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["background_job.id"],
            name=op.f("fk_export_delivery_job_id_background_job"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["export_schedule.id"],
            name=op.f("fk_export_delivery_schedule_id_export_schedule"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_export_delivery")),
        sa.UniqueConstraint("schedule_id", "planned_at", name=op.f("uq_export_delivery_schedule_id_planned_at")),
    )
    op.create_index(op.f("ix_export_delivery_job_id"), "export_delivery", ["job_id"])
    op.create_index(op.f("ix_export_delivery_status"), "export_delivery", ["status"])
    op.create_table(
        "export_letter",
        sa.Column("id", BIG, nullable=False),
        sa.Column("delivery_id", BIG, nullable=False),
        sa.Column("recipient", sa.String(length=254), nullable=False),
        sa.Column(
            "status", _enum("message_status", "pending", "sending", "sent", "failed", "unknown"), nullable=False
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(length=500), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["export_delivery.id"],
            name=op.f("fk_export_letter_delivery_id_export_delivery"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_export_letter")),
        sa.UniqueConstraint("delivery_id", "recipient", name=op.f("uq_export_letter_delivery_id_recipient")),
    )
    op.create_index(op.f("ix_export_letter_status_next_try_at"), "export_letter", ["status", "next_try_at"])


def downgrade() -> None:
    op.drop_table("export_letter")
    op.drop_table("export_delivery")
    op.drop_table("export_schedule")
