"""What a bulk action had nothing to do with is told apart from what it did and from what was refused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.alter import add_check, drop_check, quoted

revision = "0016"
down_revision = "0015"

OUTCOMES = ("done", "skipped", "failed")
JOBS = sa.table("background_job", sa.column("id"), sa.column("params", sa.JSON()))
LINES = sa.table("job_line", sa.column("job_id"), sa.column("outcome"), sa.column("reason"), sa.column("changes"))
# Changes of fields: there a line without changes had nothing to do.
OF_CHANGES = LINES.c.job_id.in_(sa.select(JOBS.c.id).where(JOBS.c.params["is_undoable"].as_boolean()))


def upgrade() -> None:
    op.add_column("background_job", sa.Column("skipped", sa.Integer(), server_default="0", nullable=False))
    op.add_column("job_line", sa.Column("outcome", sa.String(32), server_default="done", nullable=False))
    add_check("job_line", "ck_job_line_outcome", f"outcome IN ({quoted(OUTCOMES)})")
    op.execute("ALTER TABLE job_line RENAME COLUMN error TO reason")
    op.execute("UPDATE job_line SET outcome = 'failed' WHERE reason IS NOT NULL")
    is_same = (LINES.c.outcome == "done") & LINES.c.changes.is_(sa.null()) & OF_CHANGES
    op.execute(sa.update(LINES).where(is_same).values(outcome="skipped"))
    op.execute(_count("skipped", "outcome = 'skipped'"))


def downgrade() -> None:
    """Of what there was nothing to do with, former releases say "no change" in changes of fields, else that it failed."""
    op.execute(sa.update(LINES).where((LINES.c.outcome == "skipped") & OF_CHANGES).values(reason=None))
    op.execute(_count("failed", "outcome = 'skipped' AND reason IS NOT NULL"))
    op.execute("ALTER TABLE job_line RENAME COLUMN reason TO error")
    drop_check("job_line", "ck_job_line_outcome")
    op.drop_column("job_line", "outcome")
    op.drop_column("background_job", "skipped")


def _count(column: str, condition: str) -> str:
    """SQL that adds the number of such lines to a count of their job."""
    lines = f"SELECT job_id, count(*) AS number FROM job_line WHERE {condition} GROUP BY job_id"
    return (
        f"UPDATE background_job SET {column} = {column} + found.number FROM ({lines}) AS found "
        "WHERE found.job_id = background_job.id"
    )
