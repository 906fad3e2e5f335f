"""Saved views and each person's layout of a grid."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "saved_view",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("entity", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("owner_id", BIG_ID, nullable=False),
        sa.Column("shared_with", sa.String(length=40), nullable=True),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("layout", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["user.id"], name=op.f("fk_saved_view_owner_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_view")),
    )
    op.create_index(op.f("ix_saved_view_entity_owner_id"), "saved_view", ["entity", "owner_id"])
    op.create_table(
        "grid_layout",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("user_id", BIG_ID, nullable=False),
        sa.Column("entity", sa.String(length=40), nullable=False),
        sa.Column("layout", sa.JSON(), nullable=False),
        sa.Column("default_view_id", BIG_ID, nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_grid_layout_user_id_user"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["default_view_id"],
            ["saved_view.id"],
            name=op.f("fk_grid_layout_default_view_id_saved_view"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grid_layout")),
        sa.UniqueConstraint("user_id", "entity", name=op.f("uq_grid_layout_user_id_entity")),
    )


def downgrade() -> None:
    op.drop_table("grid_layout")
    op.drop_index(op.f("ix_saved_view_entity_owner_id"), table_name="saved_view")
    op.drop_table("saved_view")
