"""Every table, in the order of the path: runs, what people asked of them, and what the calls cost.

It owns columns and CHECK constraints and says nothing about when rows change. Only the stores import it (runs,
requests, notes, overrides, ledger, recorder, usage). Times are integer microseconds since 1970, tokens and
nano-dollars BIGINT.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from autopack_mcp.clock import from_us, to_us

RUN_STATES = (
    "queued", "running", "pausing", "paused", "budget_paused", "needs_attention", "cancelling",
    "succeeded", "failed", "cancelled",
)  # fmt: skip
PHASE_STATES = (
    "queued", "building", "applying", "verifying", "auditing", "committing",
    "succeeded", "failed", "skipped", "cancelled",
)  # fmt: skip
ATTEMPT_STATES = ("open", "kept", "rejected", "failed", "interrupted")
REQUEST_STATES = ("pending", "done", "refused")
RESERVATION_STATES = ("held", "settled", "released", "expired")


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time, stored as integer microseconds since 1970 so that every engine compares it exactly."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """From an aware time to microseconds."""
        return None if value is None else to_us(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """From microseconds to an aware time."""
        return None if value is None else from_us(value)


# SQLite only counts up by itself on a plain INTEGER key; PostgreSQL wants BIGINT there.
_Serial = BigInteger().with_variant(Integer, "sqlite")


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

supervisors = Table(
    "supervisors",
    metadata,
    Column("machine", String, primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("url", String, nullable=False),
    Column("version", String, nullable=False),
    Column("key_variables", JSON, nullable=False),
    Column("sandbox", Text, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("lease_expires_at", UtcTime, nullable=False),
    # A worker advances runs of any machine, one serve those of its own; both sign with a row here.
    Column("kind", String, nullable=False, server_default="serve"),
    _one_of("kind", ("serve", "worker")),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("plan_name", Text, nullable=False),
    Column("plan_source", Text, nullable=False),
    Column("plan_json", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("is_rehearsal", Boolean, nullable=False),
    Column("author", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("why", Text, nullable=False),
    Column("model_map", JSON, nullable=False),
    Column("rules", Text, nullable=False),
    Column("token_cap", BigInteger),
    Column("cost_cap_nano", BigInteger),
    Column("base_commit", String, nullable=False),
    Column("head_commit", String, nullable=False),
    Column("workspace", Text, nullable=False),
    Column("sandbox", Text),
    Column("is_set_up", Boolean, nullable=False),
    Column("last_summary", Text),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_owner", String),
    Column("lease_expires_at", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("updated_at", UtcTime, nullable=False),
    Column("stopped_by", JSON),
    # Whose disk holds its repository; NULL for one that every worker reaches by its URL.
    Column("machine", String),
    # How often a person has edited the pinned plan: whoever holds a copy sees by it that it is old.
    Column("plan_edits", Integer, nullable=False, server_default="0"),
    Column("forked_from_run", String),
    Column("forked_from_phase", String),
    Column("trace_id", String),
    _one_of("state", RUN_STATES),
    CheckConstraint("token_cap IS NULL OR token_cap > 0", name="token_cap_positive"),
    CheckConstraint("cost_cap_nano IS NULL OR cost_cap_nano > 0", name="cost_cap_positive"),
    Index("ix_runs_state_created_at", "state", "created_at"),
)

phases = Table(
    "phases",
    metadata,
    Column("run_id", String, ForeignKey("runs.run_id"), primary_key=True),
    Column("phase_index", Integer, primary_key=True),
    Column("phase_id", String, nullable=False),
    Column("name", Text, nullable=False),
    Column("tier_index", Integer, nullable=False),
    Column("tier_name", Text, nullable=False),
    Column("task_category", String, nullable=False),
    Column("complexity", String, nullable=False),
    Column("state", String, nullable=False),
    Column("why", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("commit_sha", String),
    Column("is_verified", Boolean),
    Column("summary", Text),
    Column("minor_issues", Integer, nullable=False),
    Column("major_issues", Integer, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    UniqueConstraint("run_id", "phase_id"),
    _one_of("state", PHASE_STATES),
    CheckConstraint("phase_index >= 1 AND tier_index >= 1 AND attempt >= 0", name="indexes_positive"),
    CheckConstraint("minor_issues >= 0 AND major_issues >= 0", name="issues_not_negative"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("phase_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("state", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("parent_commit", String, nullable=False),
    Column("builder_model", String),
    Column("builder_reasons", JSON),
    Column("auditor_model", String),
    Column("auditor_reasons", JSON),
    # The large ones stand last: a status asks for the models of every phase, and must not read past replies for them.
    Column("reply", Text),
    Column("summary", Text),
    Column("diff", Text),
    Column("tree", String),
    Column("verify_outcome", String),
    Column("verify_exit_code", Integer),
    Column("verify_output", Text),
    Column("verdict", JSON),
    Column("started_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    # Which lane the change went through, and the session of a builder that has one, stored before it is launched.
    Column("applied_how", String),
    Column("session_id", String),
    _one_of("state", ATTEMPT_STATES),
    _one_of("applied_how", ("files", "blocks", "diff", "fuzzy")),
    CheckConstraint("attempt >= 1", name="attempt_positive"),
)

run_events = Table(
    "run_events",
    metadata,
    Column("event_id", _Serial, primary_key=True, autoincrement=True),
    Column("run_id", String, nullable=False),
    Column("phase_id", String),
    Column("attempt", Integer),
    Column("occurred_at", UtcTime, nullable=False),
    Column("kind", String, nullable=False),
    Column("from_state", String),
    Column("to_state", String),
    Column("why", Text, nullable=False),
    Index("ix_run_events_run_id_event_id", "run_id", "event_id"),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("run_id", String, nullable=False),
    Column("action", String, nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("author", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("answer", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("handled_at", UtcTime),
    _one_of("state", REQUEST_STATES),
    Index("ix_requests_state_created_at", "state", "created_at"),
    Index("ix_requests_run_id_created_at", "run_id", "created_at"),
)

overrides = Table(
    "overrides",
    metadata,
    Column("override_id", _Serial, primary_key=True, autoincrement=True),
    Column("scope", String, nullable=False),
    Column("run_id", String),
    Column("role", String, nullable=False),
    Column("category", String, nullable=False),
    Column("complexity", String, nullable=False),
    Column("model", String, nullable=False),
    Column("author", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("withdrawn_at", UtcTime),
    _one_of("scope", ("run", "global")),
    CheckConstraint("(scope = 'run') = (run_id IS NOT NULL)", name="run_scope_has_run"),
    Index("ix_overrides_run_id", "run_id"),
)

notes = Table(
    "notes",
    metadata,
    Column("note_id", _Serial, primary_key=True, autoincrement=True),
    Column("run_id", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("source", String, nullable=False),
    Column("author", Text, nullable=False),
    Column("file_key", String),
    Column("created_at", UtcTime, nullable=False),
    Column("withdrawn_at", UtcTime),
    Column("first_phase_id", String),
    Column("first_delivered_at", UtcTime),
    Column("delivered_count", Integer, nullable=False),
    _one_of("source", ("tool", "cli", "file")),
    UniqueConstraint("run_id", "file_key"),
    Index("ix_notes_run_id_note_id", "run_id", "note_id"),
)

# What a run did and how long it took, in OpenTelemetry's words; times of a span that is still open end in NULL.
spans = Table(
    "spans",
    metadata,
    Column("span_id", String, primary_key=True),
    Column("trace_id", String, nullable=False),
    Column("parent_id", String),
    Column("run_id", String, nullable=False),
    Column("phase_id", String),
    Column("attempt", Integer),
    Column("call_id", String),
    Column("kind", String, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", String, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("exported_at", UtcTime),
    _one_of("kind", ("run", "phase", "attempt", "llm_call", "verification", "git", "setup")),
    _one_of("status", ("unset", "ok", "error")),
    Index("ix_spans_run_id_started_at", "run_id", "started_at"),
    Index("ix_spans_exported_at_ended_at", "exported_at", "ended_at"),
)

# The words of a call, compressed, without what looked like a secret; numbers never live here.
call_texts = Table(
    "call_texts",
    metadata,
    Column("call_id", String, primary_key=True),
    Column("run_id", String),
    Column("phase_id", String),
    Column("role", String, nullable=False),
    Column("model", String, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("reply", LargeBinary),
    Column("redactions", Integer, nullable=False),
    Column("stored_at", UtcTime, nullable=False),
    CheckConstraint("redactions >= 0", name="redactions_not_negative"),
    Index("ix_call_texts_run_id", "run_id"),
    Index("ix_call_texts_stored_at", "stored_at"),
)

# A stored call that a person sent again, perhaps with other words or to another model.
experiments = Table(
    "experiments",
    metadata,
    Column("call_id", String, primary_key=True),
    Column("of_call_id", String, nullable=False),
    Column("edits", JSON, nullable=False),
    Column("author", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Index("ix_experiments_of_call_id", "of_call_id"),
)

budget_scopes = Table(
    "budget_scopes",
    metadata,
    Column("scope", String, primary_key=True),
    Column("settled_tokens", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("settled_nano", BigInteger, nullable=False),
    Column("reserved_nano", BigInteger, nullable=False),
    CheckConstraint(
        "settled_tokens >= 0 AND reserved_tokens >= 0 AND settled_nano >= 0 AND reserved_nano >= 0",
        name="counters_not_negative",
    ),
)

reservations = Table(
    "reservations",
    metadata,
    Column("call_id", String, primary_key=True),
    Column("provider", String, nullable=False),
    Column("model", String, nullable=False),
    Column("role", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("run_id", String),
    Column("phase_id", String),
    Column("attempt", Integer),
    Column("category", String),
    Column("bound_input", BigInteger, nullable=False),
    Column("bound_output", BigInteger, nullable=False),
    Column("bound_nano", BigInteger),
    Column("state", String, nullable=False),
    Column("reserved_at", UtcTime, nullable=False),
    Column("lease_expires_at", UtcTime, nullable=False),
    Column("resolved_at", UtcTime),
    _one_of("state", RESERVATION_STATES),
    CheckConstraint(
        "bound_input >= 0 AND bound_output >= 0 AND (bound_nano IS NULL OR bound_nano >= 0)", name="bounds_positive"
    ),
    Index("ix_reservations_state_lease_expires_at", "state", "lease_expires_at"),
    Index("ix_reservations_run_id", "run_id"),
)

usage_events = Table(
    "usage_events",
    metadata,
    Column("call_id", String, primary_key=True),
    Column("response_id", String),
    Column("request_id", String),
    Column("provider", String, nullable=False),
    Column("model", String, nullable=False),
    Column("role", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("run_id", String),
    Column("phase_id", String),
    Column("attempt", Integer),
    Column("category", String),
    Column("status", String, nullable=False),
    Column("usage_source", String, nullable=False),
    Column("uncached_input", BigInteger, nullable=False),
    Column("cache_read", BigInteger, nullable=False),
    Column("cache_write_5m", BigInteger, nullable=False),
    Column("cache_write_1h", BigInteger, nullable=False),
    Column("cache_write_other", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("charged_tokens", BigInteger, nullable=False),
    Column("charged_nano", BigInteger, nullable=False),
    Column("cost_nano", BigInteger),
    Column("price_version", String),
    Column("service_tier", String),
    Column("processing", String, nullable=False),
    Column("tool_calls", JSON, nullable=False),
    Column("raw_usage", JSON),
    Column("error", Text),
    Column("occurred_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("recorded_at", UtcTime, nullable=False),
    _one_of("status", ("ok", "failed", "cut", "expired", "external")),
    _one_of("usage_source", ("provider", "partial", "estimated", "expired")),
    CheckConstraint(
        "uncached_input >= 0 AND cache_read >= 0 AND cache_write_5m >= 0 AND cache_write_1h >= 0"
        " AND cache_write_other >= 0 AND output >= 0 AND reasoning >= 0 AND reasoning <= output",
        name="counts_possible",
    ),
    CheckConstraint(
        "charged_tokens >= 0 AND charged_nano >= 0 AND (cost_nano IS NULL OR cost_nano >= 0)",
        name="charges_not_negative",
    ),
    Index("ix_usage_events_occurred_at", "occurred_at"),
    Index("ix_usage_events_run_id", "run_id"),
    Index("ix_usage_events_provider_response_id", "provider", "response_id"),
)

usage_lines = Table(
    "usage_lines",
    metadata,
    Column("call_id", String, ForeignKey("usage_events.call_id"), primary_key=True),
    Column("line_index", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("uncached_input", BigInteger, nullable=False),
    Column("cache_read", BigInteger, nullable=False),
    Column("cache_write_5m", BigInteger, nullable=False),
    Column("cache_write_1h", BigInteger, nullable=False),
    Column("cache_write_other", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
)


def _sums() -> tuple[Column[int], ...]:
    names = (
        "calls", "failed_calls", "unpriced_calls", "uncached_input", "cache_read", "cache_write", "output", "reasoning",
        "charged_tokens", "charged_nano", "cost_nano",
    )  # fmt: skip
    return tuple(Column(name, BigInteger, nullable=False) for name in names)


# Group keys are never NULL, because NULL is not equal to itself in a primary key: '' means "none".
usage_hours = Table(
    "usage_hours",
    metadata,
    Column("hour_start", UtcTime, primary_key=True),
    Column("purpose", String, primary_key=True),
    Column("provider", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("role", String, primary_key=True),
    Column("category", String, primary_key=True),
    *_sums(),
)

# The same by UTC day: every window is made of whole days, so a month is read from thirty rows per key and not from 720.
usage_days = Table(
    "usage_days",
    metadata,
    Column("day_start", UtcTime, primary_key=True),
    Column("purpose", String, primary_key=True),
    Column("provider", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("role", String, primary_key=True),
    Column("category", String, primary_key=True),
    *_sums(),
)


def _phase_keys() -> tuple[Column[str], ...]:
    names = ("run_id", "phase_id", "purpose", "role", "provider", "model")
    return tuple(Column(name, String, primary_key=True) for name in names)


usage_phases = Table("usage_phases", metadata, *_phase_keys(), *_sums())

# What usage_phases still counts although its events have been deleted by age; usage_phases = this + the events.
pruned_phases = Table("pruned_phases", metadata, *_phase_keys(), *_sums())

# How far back the events go: a single row once the first were deleted, and none before.
retention = Table(
    "retention",
    metadata,
    Column("name", String, primary_key=True),
    Column("pruned_before", UtcTime, nullable=False),
    Column("pruned_at", UtcTime, nullable=False),
    _one_of("name", ("usage_events",)),
)

breaches = Table(
    "breaches",
    metadata,
    Column("breach_id", _Serial, primary_key=True, autoincrement=True),
    Column("scope", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("call_id", String, nullable=False),
    Column("allowance", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("occurred_at", UtcTime, nullable=False),
    Column("why", Text, nullable=False),
    _one_of("unit", ("tokens", "nano_usd")),
)

# Only phases that have a cap of their own have a row; a run's own cap stands in runs.
phase_caps = Table(
    "phase_caps",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("phase_id", String, primary_key=True),
    Column("token_cap", BigInteger),
    Column("cost_cap_nano", BigInteger),
    CheckConstraint("token_cap IS NULL OR token_cap > 0", name="token_cap_positive"),
    CheckConstraint("cost_cap_nano IS NULL OR cost_cap_nano > 0", name="cost_cap_positive"),
)

standing_orders = Table(
    "standing_orders",
    metadata,
    Column("order_id", _Serial, primary_key=True, autoincrement=True),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("threshold", BigInteger, nullable=False),
    Column("run_id", String),
    Column("provider", String),
    Column("period", String),
    Column("author", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("withdrawn_at", UtcTime),
    _one_of("action", ("pause", "cancel", "tell")),
    _one_of("subject", ("provider", "run", "phase", "global")),
    _one_of("unit", ("percent", "tokens", "nano_usd")),
    _one_of("period", ("day", "week", "month")),
    CheckConstraint("threshold > 0", name="threshold_positive"),
    CheckConstraint("(subject = 'provider') = (provider IS NOT NULL)", name="provider_is_named"),
    Index("ix_standing_orders_withdrawn_at", "withdrawn_at"),
)

# run_id is '' where an order tells of something that is no run's alone; a firing is once per order, run and counter.
order_firings = Table(
    "order_firings",
    metadata,
    Column("firing_id", _Serial, primary_key=True, autoincrement=True),
    Column("order_id", BigInteger, nullable=False),
    Column("run_id", String, nullable=False),
    Column("action", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("threshold", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("call_id", String, nullable=False),
    Column("why", Text, nullable=False),
    Column("fired_at", UtcTime, nullable=False),
    Column("did", Text, nullable=False),
    Column("handled_at", UtcTime),
    _one_of("action", ("pause", "cancel", "tell")),
    _one_of("unit", ("tokens", "nano_usd")),
    UniqueConstraint("order_id", "run_id", "scope"),
    Index("ix_order_firings_handled_at", "handled_at"),
)

# Once per counter (a window is part of its name), unit and level; a cap that was changed is another cap and warns anew.
alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", _Serial, primary_key=True, autoincrement=True),
    Column("scope", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("level_percent", Integer, nullable=False),
    Column("allowance", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("call_id", String, nullable=False),
    Column("label", Text, nullable=False),
    Column("occurred_at", UtcTime, nullable=False),
    _one_of("unit", ("tokens", "nano_usd")),
    UniqueConstraint("scope", "unit", "level_percent", "allowance"),
    Index("ix_alerts_occurred_at", "occurred_at"),
)

# What is to be delivered to somebody, written in the transaction that found it out; whoever delivers it marks it.
outbox = Table(
    "outbox",
    metadata,
    Column("message_id", _Serial, primary_key=True, autoincrement=True),
    Column("kind", String, nullable=False),
    Column("subject_id", BigInteger, nullable=False),
    Column("run_id", String),
    Column("text", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("delivered_at", UtcTime),
    Column("tries", Integer, nullable=False),
    _one_of("kind", ("alert", "order")),
    Index("ix_outbox_delivered_at", "delivered_at"),
)
