"""add background jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'


def upgrade() -> None:
    op.create_table('background_job',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('kind', sa.String(length=40), nullable=False),
    sa.Column('entity', sa.String(length=40), nullable=False),
    sa.Column('title', sa.String(length=200), nullable=False),
    sa.Column('status', sa.Enum('waiting', 'running', 'done', 'failed', 'canceled', name='job_status', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('author_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('branch_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('locale', sa.String(length=5), nullable=False),
    sa.Column('params', sa.JSON(), nullable=False),
    sa.Column('state', sa.JSON(), nullable=False),
    sa.Column('total', sa.Integer(), nullable=True),
    sa.Column('done', sa.Integer(), nullable=False),
    sa.Column('failed', sa.Integer(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('is_cancel_requested', sa.Boolean(), nullable=False),
    sa.Column('error', sa.Text(), nullable=False),
    sa.Column('file', sa.String(length=300), nullable=True),
    sa.Column('file_name', sa.String(length=300), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('lease_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['author_id'], ['user.id'], name=op.f('fk_background_job_author_id_user')),
    sa.ForeignKeyConstraint(['branch_id'], ['branch.id'], name=op.f('fk_background_job_branch_id_branch')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_background_job'))
    )
    with op.batch_alter_table('background_job', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_background_job_author_id_id'), ['author_id', 'id'], unique=False)
        batch_op.create_index(batch_op.f('ix_background_job_created_at'), ['created_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_background_job_expires_at'), ['expires_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_background_job_status_lease_until'), ['status', 'lease_until'], unique=False)

    op.create_table('job_line',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('row_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('label', sa.String(length=300), nullable=False),
    sa.Column('error', sa.Text(), nullable=True),
    sa.Column('changes', sa.JSON(), nullable=True),
    sa.ForeignKeyConstraint(['job_id'], ['background_job.id'], name=op.f('fk_job_line_job_id_background_job'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_job_line'))
    )
    with op.batch_alter_table('job_line', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_job_line_job_id_id'), ['job_id', 'id'], unique=False)
        batch_op.create_index(batch_op.f('ix_job_line_job_id_row_id'), ['job_id', 'row_id'], unique=False)



def downgrade() -> None:
    with op.batch_alter_table('job_line', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_job_line_job_id_row_id'))
        batch_op.drop_index(batch_op.f('ix_job_line_job_id_id'))

    op.drop_table('job_line')
    with op.batch_alter_table('background_job', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_background_job_status_lease_until'))
        batch_op.drop_index(batch_op.f('ix_background_job_expires_at'))
        batch_op.drop_index(batch_op.f('ix_background_job_created_at'))
        batch_op.drop_index(batch_op.f('ix_background_job_author_id_id'))

    op.drop_table('background_job')
