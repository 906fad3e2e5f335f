"""Roles changed in the panel: one row per role, from the start."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

ROLES = ("owner", "regional_director", "director", "administrator", "manager", "instructor", "support")


def upgrade() -> None:
    table = op.create_table(
        "role_settings",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("role", sa.Enum(*ROLES, name="role", native_enum=False, create_constraint=True, length=32), nullable=False),
        sa.Column("permissions", sa.JSON(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_role_settings")),
        sa.UniqueConstraint("role", name=op.f("uq_role_settings_role")),
    )
    op.bulk_insert(table, [{"role": role, "permissions": {}, "fields": {}, "version": 1} for role in ROLES])


def downgrade() -> None:
    op.drop_table("role_settings")
