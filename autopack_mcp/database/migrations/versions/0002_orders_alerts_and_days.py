"""Standing orders, alerts, phase caps, the outbox, sums by day, and a memory of what was deleted by age.

Why: windows consist of whole days, so a month's summary reads thirty rows per key instead of 720; orders and alerts are
facts of the ledger's own transactions; and history that goes by age must not take the sums of runs along.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_DAY_US = 86_400_000_000
_SUMS = (
    "calls", "failed_calls", "unpriced_calls", "uncached_input", "cache_read", "cache_write", "output", "reasoning",
    "charged_tokens", "charged_nano", "cost_nano",
)  # fmt: skip


def upgrade() -> None:
    """Create the new tables, and sum up the days that are there already."""
    _create_alerts()
    _create_order_firings()
    _create_outbox()
    _create_phase_caps()
    _create_pruned_phases()
    _create_retention()
    _create_standing_orders()
    _create_usage_days()
    op.add_column("runs", sa.Column("stopped_by", sa.JSON(), nullable=True))
    _sum_up_days()


def _sum_up_days() -> None:
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in _SUMS)
    keys = "purpose, provider, model, role, category"
    op.execute(
        f"INSERT INTO usage_days (day_start, {keys}, {', '.join(_SUMS)})"
        f" SELECT hour_start - hour_start % {_DAY_US}, {keys}, {sums} FROM usage_hours"
        f" GROUP BY hour_start - hour_start % {_DAY_US}, {keys}"
    )


def _create_alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("level_percent", sa.Integer(), nullable=False),
        sa.Column("allowance", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("unit IN ('tokens', 'nano_usd')", name=op.f("ck_alerts_unit_known")),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alerts")),
        sa.UniqueConstraint(
            "scope", "unit", "level_percent", "allowance", name=op.f("uq_alerts_scope_unit_level_percent_allowance")
        ),
    )
    op.create_index("ix_alerts_occurred_at", "alerts", ["occurred_at"], unique=False)


def _create_order_firings() -> None:
    op.create_table(
        "order_firings",
        sa.Column(
            "firing_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("order_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("threshold", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("fired_at", sa.BigInteger(), nullable=False),
        sa.Column("did", sa.Text(), nullable=False),
        sa.Column("handled_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("action IN ('pause', 'cancel', 'tell')", name=op.f("ck_order_firings_action_known")),
        sa.CheckConstraint("unit IN ('tokens', 'nano_usd')", name=op.f("ck_order_firings_unit_known")),
        sa.PrimaryKeyConstraint("firing_id", name=op.f("pk_order_firings")),
        sa.UniqueConstraint("order_id", "run_id", "scope", name=op.f("uq_order_firings_order_id_run_id_scope")),
    )
    op.create_index("ix_order_firings_handled_at", "order_firings", ["handled_at"], unique=False)


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column(
            "message_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind IN ('alert', 'order')", name=op.f("ck_outbox_kind_known")),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_delivered_at", "outbox", ["delivered_at"], unique=False)


def _create_phase_caps() -> None:
    op.create_table(
        "phase_caps",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("phase_id", sa.String(), nullable=False),
        sa.Column("token_cap", sa.BigInteger(), nullable=True),
        sa.Column("cost_cap_nano", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("cost_cap_nano IS NULL OR cost_cap_nano > 0", name=op.f("ck_phase_caps_cost_cap_positive")),
        sa.CheckConstraint("token_cap IS NULL OR token_cap > 0", name=op.f("ck_phase_caps_token_cap_positive")),
        sa.PrimaryKeyConstraint("run_id", "phase_id", name=op.f("pk_phase_caps")),
    )


def _create_pruned_phases() -> None:
    op.create_table(
        "pruned_phases",
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
            "run_id", "phase_id", "purpose", "role", "provider", "model", name=op.f("pk_pruned_phases")
        ),
    )


def _create_retention() -> None:
    op.create_table(
        "retention",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("pruned_before", sa.BigInteger(), nullable=False),
        sa.Column("pruned_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("name IN ('usage_events')", name=op.f("ck_retention_name_known")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_retention")),
    )


def _create_standing_orders() -> None:
    op.create_table(
        "standing_orders",
        sa.Column("order_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("threshold", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("provider", sa.String(), nullable=True),
        sa.Column("period", sa.String(), nullable=True),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("withdrawn_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(subject = 'provider') = (provider IS NOT NULL)", name=op.f("ck_standing_orders_provider_is_named")
        ),
        sa.CheckConstraint("action IN ('pause', 'cancel', 'tell')", name=op.f("ck_standing_orders_action_known")),
        sa.CheckConstraint("period IN ('day', 'week', 'month')", name=op.f("ck_standing_orders_period_known")),
        sa.CheckConstraint(
            "subject IN ('provider', 'run', 'phase', 'global')", name=op.f("ck_standing_orders_subject_known")
        ),
        sa.CheckConstraint("unit IN ('percent', 'tokens', 'nano_usd')", name=op.f("ck_standing_orders_unit_known")),
        sa.CheckConstraint("threshold > 0", name=op.f("ck_standing_orders_threshold_positive")),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_standing_orders")),
    )
    op.create_index("ix_standing_orders_withdrawn_at", "standing_orders", ["withdrawn_at"], unique=False)


def _create_usage_days() -> None:
    op.create_table(
        "usage_days",
        sa.Column("day_start", sa.BigInteger(), nullable=False),
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
            "day_start", "purpose", "provider", "model", "role", "category", name=op.f("pk_usage_days")
        ),
    )
