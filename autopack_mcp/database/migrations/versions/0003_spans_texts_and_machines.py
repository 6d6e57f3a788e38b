"""Spans, the words of calls, experiments; where a run lives, what it was forked from, how a change was applied.

Why: a run that can be replayed must keep what was said; one that many machines may advance must say whose disk it
needs. All new columns of old rows have a meaning already: no machine named means any that finds the repository.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the new tables and add the new columns."""
    _create_call_texts()
    _create_experiments()
    _create_spans()
    for name in ("machine", "forked_from_run", "forked_from_phase", "trace_id"):
        op.add_column("runs", sa.Column(name, sa.String(), nullable=True))
    op.add_column("runs", sa.Column("plan_edits", sa.Integer(), server_default="0", nullable=False))
    op.add_column("attempts", sa.Column("session_id", sa.String(), nullable=True))
    # With its CHECK in the same statement: SQLite can add one to an existing table in no other way.
    op.execute(
        "ALTER TABLE supervisors ADD COLUMN kind VARCHAR DEFAULT 'serve' NOT NULL"
        " CONSTRAINT ck_supervisors_kind_known CHECK (kind IN ('serve', 'worker'))"
    )
    op.execute(
        "ALTER TABLE attempts ADD COLUMN applied_how VARCHAR"
        " CONSTRAINT ck_attempts_applied_how_known CHECK (applied_how IN ('files', 'blocks', 'diff', 'fuzzy'))"
    )


def _create_call_texts() -> None:
    op.create_table(
        "call_texts",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("phase_id", sa.String(), nullable=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=True),
        sa.Column("redactions", sa.Integer(), nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("redactions >= 0", name=op.f("ck_call_texts_redactions_not_negative")),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_call_texts")),
    )
    op.create_index("ix_call_texts_run_id", "call_texts", ["run_id"])
    op.create_index("ix_call_texts_stored_at", "call_texts", ["stored_at"])


def _create_experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("of_call_id", sa.String(), nullable=False),
        sa.Column("edits", sa.JSON(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_experiments")),
    )
    op.create_index("ix_experiments_of_call_id", "experiments", ["of_call_id"])


def _create_spans() -> None:
    op.create_table(
        "spans",
        sa.Column("span_id", sa.String(), nullable=False),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.Column("parent_id", sa.String(), nullable=True),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("phase_id", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("exported_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('run', 'phase', 'attempt', 'llm_call', 'verification', 'git', 'setup')",
            name=op.f("ck_spans_kind_known"),
        ),
        sa.CheckConstraint("status IN ('unset', 'ok', 'error')", name=op.f("ck_spans_status_known")),
        sa.PrimaryKeyConstraint("span_id", name=op.f("pk_spans")),
    )
    op.create_index("ix_spans_run_id_started_at", "spans", ["run_id", "started_at"])
    op.create_index("ix_spans_exported_at_ended_at", "spans", ["exported_at", "ended_at"])
