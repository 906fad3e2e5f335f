"""add custom fields"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

_TYPES = ("text", "number", "money", "date", "choice", "choices", "yes_no", "link", "phone")
_CUSTOMISED = ("client", "account", "bill", "subscription")


def _key() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _company() -> sa.Column[int]:
    return sa.Column("company_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "custom_field",
        _key(),
        _company(),
        sa.Column("entity", sa.String(40), nullable=False),
        sa.Column("key", sa.String(40), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column(
            "type",
            sa.Enum(*_TYPES, name="field_type", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("is_required", sa.Boolean(), nullable=False),
        sa.Column("is_hidden", sa.Boolean(), nullable=False),
        sa.Column("is_in_grid", sa.Boolean(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("is_archived", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["company_id"], ["company.id"], name=op.f("fk_custom_field_company_id_company")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_custom_field")),
        sa.UniqueConstraint("company_id", "entity", "key", name=op.f("uq_custom_field_company_id_entity_key")),
    )
    op.create_table(
        "field_setting",
        _key(),
        _company(),
        sa.Column("entity", sa.String(40), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("is_hidden", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["company_id"], ["company.id"], name=op.f("fk_field_setting_company_id_company")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_field_setting")),
        sa.UniqueConstraint("company_id", "entity", "name", name=op.f("uq_field_setting_company_id_entity_name")),
    )
    op.create_table(
        "contract_template",
        _key(),
        _company(),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("is_archived", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["company_id"], ["company.id"], name=op.f("fk_contract_template_company_id_company")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contract_template")),
    )
    # With a default both databases add a column without touching the rows, however many there are.
    kind = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    for table in _CUSTOMISED:
        op.add_column(table, sa.Column("custom", kind, server_default=sa.text("'{}'"), nullable=False))
    for name in ("surname", "patronymic"):
        op.add_column("client", sa.Column(name, sa.String(200), server_default=sa.text("''"), nullable=False))


def downgrade() -> None:
    for name in ("patronymic", "surname"):
        op.drop_column("client", name)
    for table in reversed(_CUSTOMISED):
        op.drop_column(table, "custom")
    op.drop_table("contract_template")
    op.drop_table("field_setting")
    op.drop_table("custom_field")
