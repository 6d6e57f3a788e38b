"""The first schema: runs, what people asked of them, and the ledger.

Why: there was nothing before; the tables are explained in ``autopack_mcp/database/tables.py``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    _create_attempts()
    _create_breaches()
    _create_budget_scopes()
    _create_notes()
    _create_overrides()
    _create_requests()
    _create_reservations()
    _create_run_events()
    _create_runs()
    _create_supervisors()
    _create_usage_events()
    _create_usage_hours()
    _create_usage_phases()
    _create_phases()
    _create_usage_lines()


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("phase_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("parent_commit", sa.String(), nullable=False),
        sa.Column("builder_model", sa.String(), nullable=True),
        sa.Column("builder_reasons", sa.JSON(), nullable=True),
        sa.Column("auditor_model", sa.String(), nullable=True),
        sa.Column("auditor_reasons", sa.JSON(), nullable=True),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("diff", sa.Text(), nullable=True),
        sa.Column("tree", sa.String(), nullable=True),
        sa.Column("verify_outcome", sa.String(), nullable=True),
        sa.Column("verify_exit_code", sa.Integer(), nullable=True),
        sa.Column("verify_output", sa.Text(), nullable=True),
        sa.Column("verdict", sa.JSON(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('open', 'kept', 'rejected', 'failed', 'interrupted')", name=op.f("ck_attempts_state_known")
        ),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_attempts_attempt_positive")),
        sa.PrimaryKeyConstraint("run_id", "phase_id", "attempt", name=op.f("pk_attempts")),
    )


def _create_breaches() -> None:
    op.create_table(
        "breaches",
        sa.Column(
            "breach_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("allowance", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.CheckConstraint("unit IN ('tokens', 'nano_usd')", name=op.f("ck_breaches_unit_known")),
        sa.PrimaryKeyConstraint("breach_id", name=op.f("pk_breaches")),
    )


def _create_budget_scopes() -> None:
    op.create_table(
        "budget_scopes",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("settled_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reserved_tokens", sa.BigInteger(), nullable=False),
        sa.Column("settled_nano", sa.BigInteger(), nullable=False),
        sa.Column("reserved_nano", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "settled_tokens >= 0 AND reserved_tokens >= 0 AND settled_nano >= 0 AND reserved_nano >= 0",
            name=op.f("ck_budget_scopes_counters_not_negative"),
        ),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_budget_scopes")),
    )


def _create_notes() -> None:
    op.create_table(
        "notes",
        sa.Column("note_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("file_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("withdrawn_at", sa.BigInteger(), nullable=True),
        sa.Column("first_phase_id", sa.String(), nullable=True),
        sa.Column("first_delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("delivered_count", sa.Integer(), nullable=False),
        sa.CheckConstraint("source IN ('tool', 'cli', 'file')", name=op.f("ck_notes_source_known")),
        sa.PrimaryKeyConstraint("note_id", name=op.f("pk_notes")),
        sa.UniqueConstraint("run_id", "file_key", name=op.f("uq_notes_run_id_file_key")),
    )
    op.create_index("ix_notes_run_id_note_id", "notes", ["run_id", "note_id"], unique=False)


def _create_overrides() -> None:
    op.create_table(
        "overrides",
        sa.Column(
            "override_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("category", sa.String(), nullable=False),
        sa.Column("complexity", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("withdrawn_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(scope = 'run') = (run_id IS NOT NULL)", name=op.f("ck_overrides_run_scope_has_run")),
        sa.CheckConstraint("scope IN ('run', 'global')", name=op.f("ck_overrides_scope_known")),
        sa.PrimaryKeyConstraint("override_id", name=op.f("pk_overrides")),
    )
    op.create_index("ix_overrides_run_id", "overrides", ["run_id"], unique=False)


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("handled_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'done', 'refused')", name=op.f("ck_requests_state_known")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_requests")),
    )
    op.create_index("ix_requests_run_id_created_at", "requests", ["run_id", "created_at"], unique=False)
    op.create_index("ix_requests_state_created_at", "requests", ["state", "created_at"], unique=False)


def _create_reservations() -> None:
    op.create_table(
        "reservations",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("phase_id", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("category", sa.String(), nullable=True),
        sa.Column("bound_input", sa.BigInteger(), nullable=False),
        sa.Column("bound_output", sa.BigInteger(), nullable=False),
        sa.Column("bound_nano", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reserved_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("resolved_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('held', 'settled', 'released', 'expired')", name=op.f("ck_reservations_state_known")
        ),
        sa.CheckConstraint(
            "bound_input >= 0 AND bound_output >= 0 AND (bound_nano IS NULL OR bound_nano >= 0)",
            name=op.f("ck_reservations_bounds_positive"),
        ),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_reservations")),
    )
    op.create_index("ix_reservations_run_id", "reservations", ["run_id"], unique=False)
    op.create_index(
        "ix_reservations_state_lease_expires_at", "reservations", ["state", "lease_expires_at"], unique=False
    )


def _create_run_events() -> None:
    op.create_table(
        "run_events",
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("phase_id", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("from_state", sa.String(), nullable=True),
        sa.Column("to_state", sa.String(), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_run_events")),
    )
    op.create_index("ix_run_events_run_id_event_id", "run_events", ["run_id", "event_id"], unique=False)


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("plan_name", sa.Text(), nullable=False),
        sa.Column("plan_source", sa.Text(), nullable=False),
        sa.Column("plan_json", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("is_rehearsal", sa.Boolean(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("model_map", sa.JSON(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("token_cap", sa.BigInteger(), nullable=True),
        sa.Column("cost_cap_nano", sa.BigInteger(), nullable=True),
        sa.Column("base_commit", sa.String(), nullable=False),
        sa.Column("head_commit", sa.String(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("sandbox", sa.Text(), nullable=True),
        sa.Column("is_set_up", sa.Boolean(), nullable=False),
        sa.Column("last_summary", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'pausing', 'paused', 'budget_paused', 'needs_attention', 'cancelling',"
            " 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_runs_state_known"),
        ),
        sa.CheckConstraint("cost_cap_nano IS NULL OR cost_cap_nano > 0", name=op.f("ck_runs_cost_cap_positive")),
        sa.CheckConstraint("token_cap IS NULL OR token_cap > 0", name=op.f("ck_runs_token_cap_positive")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_state_created_at", "runs", ["state", "created_at"], unique=False)


def _create_supervisors() -> None:
    op.create_table(
        "supervisors",
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("key_variables", sa.JSON(), nullable=False),
        sa.Column("sandbox", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("machine", name=op.f("pk_supervisors")),
    )


def _create_usage_events() -> None:
    op.create_table(
        "usage_events",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("response_id", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("phase_id", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("category", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("usage_source", sa.String(), nullable=False),
        sa.Column("uncached_input", sa.BigInteger(), nullable=False),
        sa.Column("cache_read", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_5m", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_1h", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_other", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.BigInteger(), nullable=False),
        sa.Column("reasoning", sa.BigInteger(), nullable=False),
        sa.Column("charged_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charged_nano", sa.BigInteger(), nullable=False),
        sa.Column("cost_nano", sa.BigInteger(), nullable=True),
        sa.Column("price_version", sa.String(), nullable=True),
        sa.Column("service_tier", sa.String(), nullable=True),
        sa.Column("processing", sa.String(), nullable=False),
        sa.Column("tool_calls", sa.JSON(), nullable=False),
        sa.Column("raw_usage", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "status IN ('ok', 'failed', 'cut', 'expired', 'external')", name=op.f("ck_usage_events_status_known")
        ),
        sa.CheckConstraint(
            "usage_source IN ('provider', 'partial', 'estimated', 'expired')",
            name=op.f("ck_usage_events_usage_source_known"),
        ),
        sa.CheckConstraint(
            "uncached_input >= 0 AND cache_read >= 0 AND cache_write_5m >= 0 AND cache_write_1h >= 0"
            " AND cache_write_other >= 0 AND output >= 0 AND reasoning >= 0 AND reasoning <= output",
            name=op.f("ck_usage_events_counts_possible"),
        ),
        sa.CheckConstraint(
            "charged_tokens >= 0 AND charged_nano >= 0 AND (cost_nano IS NULL OR cost_nano >= 0)",
            name=op.f("ck_usage_events_charges_not_negative"),
        ),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_usage_events")),
    )
    op.create_index("ix_usage_events_occurred_at", "usage_events", ["occurred_at"], unique=False)
    op.create_index("ix_usage_events_provider_response_id", "usage_events", ["provider", "response_id"], unique=False)
    op.create_index("ix_usage_events_run_id", "usage_events", ["run_id"], unique=False)


def _create_usage_hours() -> None:
    op.create_table(
        "usage_hours",
        sa.Column("hour_start", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("category", sa.String(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("failed_calls", sa.BigInteger(), nullable=False),
        sa.Column("unpriced_calls", sa.BigInteger(), nullable=False),
        sa.Column("uncached_input", sa.BigInteger(), nullable=False),
        sa.Column("cache_read", sa.BigInteger(), nullable=False),
        sa.Column("cache_write", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.BigInteger(), nullable=False),
        sa.Column("reasoning", sa.BigInteger(), nullable=False),
        sa.Column("charged_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charged_nano", sa.BigInteger(), nullable=False),
        sa.Column("cost_nano", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "hour_start", "purpose", "provider", "model", "role", "category", name=op.f("pk_usage_hours")
        ),
    )


def _create_usage_phases() -> None:
    op.create_table(
        "usage_phases",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("phase_id", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("failed_calls", sa.BigInteger(), nullable=False),
        sa.Column("unpriced_calls", sa.BigInteger(), nullable=False),
        sa.Column("uncached_input", sa.BigInteger(), nullable=False),
        sa.Column("cache_read", sa.BigInteger(), nullable=False),
        sa.Column("cache_write", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.BigInteger(), nullable=False),
        sa.Column("reasoning", sa.BigInteger(), nullable=False),
        sa.Column("charged_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charged_nano", sa.BigInteger(), nullable=False),
        sa.Column("cost_nano", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "run_id", "phase_id", "purpose", "role", "provider", "model", name=op.f("pk_usage_phases")
        ),
    )


def _create_phases() -> None:
    op.create_table(
        "phases",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("phase_index", sa.Integer(), nullable=False),
        sa.Column("phase_id", sa.String(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tier_index", sa.Integer(), nullable=False),
        sa.Column("tier_name", sa.Text(), nullable=False),
        sa.Column("task_category", sa.String(), nullable=False),
        sa.Column("complexity", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("commit_sha", sa.String(), nullable=True),
        sa.Column("is_verified", sa.Boolean(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("minor_issues", sa.Integer(), nullable=False),
        sa.Column("major_issues", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'building', 'applying', 'verifying', 'auditing', 'committing', 'succeeded',"
            " 'failed', 'skipped', 'cancelled')",
            name=op.f("ck_phases_state_known"),
        ),
        sa.CheckConstraint("minor_issues >= 0 AND major_issues >= 0", name=op.f("ck_phases_issues_not_negative")),
        sa.CheckConstraint(
            "phase_index >= 1 AND tier_index >= 1 AND attempt >= 0", name=op.f("ck_phases_indexes_positive")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_phases_run_id")),
        sa.PrimaryKeyConstraint("run_id", "phase_index", name=op.f("pk_phases")),
        sa.UniqueConstraint("run_id", "phase_id", name=op.f("uq_phases_run_id_phase_id")),
    )


def _create_usage_lines() -> None:
    op.create_table(
        "usage_lines",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("line_index", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("uncached_input", sa.BigInteger(), nullable=False),
        sa.Column("cache_read", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_5m", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_1h", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_other", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.BigInteger(), nullable=False),
        sa.Column("reasoning", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["call_id"], ["usage_events.call_id"], name=op.f("fk_usage_lines_call_id")),
        sa.PrimaryKeyConstraint("call_id", "line_index", name=op.f("pk_usage_lines")),
    )
