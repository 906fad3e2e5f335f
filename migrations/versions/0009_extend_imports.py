"""Imports from the panel: uploads with their lines, remembered columns, updates, undo."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)
STATUSES = ("new", "checking", "checked", "applying", "stopped", "applied")
FATES = ("create", "update", "skip", "duplicate", "error")


def upgrade() -> None:
    op.add_column("import_run", sa.Column("updated", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("import_run", sa.Column("undone", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("import_run", sa.Column("figures", sa.JSON(), nullable=True))
    op.add_column("imported_row", sa.Column("details", sa.JSON(), nullable=True))
    op.add_column("imported_row", sa.Column("undone_at", INSTANT, nullable=True))
    op.create_table(
        "import_upload",
        sa.Column("id", BIG, nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("entity", sa.String(40), nullable=False),
        sa.Column("author_id", BIG, nullable=False),
        sa.Column("file_name", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column(
            "status",
            sa.Enum(*STATUSES, name="upload_status", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("part", sa.String(255), nullable=False),
        sa.Column("header", sa.Integer(), nullable=False),
        sa.Column("headings", sa.JSON(), nullable=False),
        sa.Column("samples", sa.JSON(), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("is_updating", sa.Boolean(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=True),
        sa.Column("job_id", BIG, nullable=True),
        sa.Column("run_id", BIG, nullable=True),
        sa.ForeignKeyConstraint(["author_id"], ["user.id"], name=op.f("fk_import_upload_author_id_user")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["background_job.id"], name=op.f("fk_import_upload_job_id_background_job"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["import_run.id"], name=op.f("fk_import_upload_run_id_import_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_upload")),
        sa.UniqueConstraint("token", name=op.f("uq_import_upload_token")),
    )
    op.create_index(op.f("ix_import_upload_author_id"), "import_upload", ["author_id"])
    op.create_index(op.f("ix_import_upload_created_at"), "import_upload", ["created_at"])
    op.create_index(op.f("ix_import_upload_run_id"), "import_upload", ["run_id"])
    op.create_table(
        "import_line",
        sa.Column("id", BIG, nullable=False),
        sa.Column("upload_id", BIG, nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column(
            "fate",
            sa.Enum(*FATES, name="fate", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("label", sa.String(300), nullable=False),
        sa.Column("reasons", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("changes", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("cells", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["import_upload.id"], name=op.f("fk_import_line_upload_id_import_upload"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_line")),
    )
    op.create_index(op.f("ix_import_line_upload_id_fate_number"), "import_line", ["upload_id", "fate", "number"])
    op.create_index(op.f("ix_import_line_upload_id_number"), "import_line", ["upload_id", "number"])
    op.create_table(
        "import_matching",
        sa.Column("id", BIG, nullable=False),
        sa.Column("user_id", BIG, nullable=False),
        sa.Column("entity", sa.String(40), nullable=False),
        sa.Column("headings_key", sa.String(64), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("is_updating", sa.Boolean(), nullable=False),
        sa.Column("used_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name=op.f("fk_import_matching_user_id_user")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_matching")),
    )
    op.create_index(
        op.f("ix_import_matching_user_id_entity_headings_key"),
        "import_matching",
        ["user_id", "entity", "headings_key"],
        unique=True,
    )


def downgrade() -> None:
    op.drop_table("import_matching")
    op.drop_table("import_line")
    op.drop_table("import_upload")
    op.drop_column("imported_row", "undone_at")
    op.drop_column("imported_row", "details")
    op.drop_column("import_run", "figures")
    op.drop_column("import_run", "undone")
    op.drop_column("import_run", "updated")
