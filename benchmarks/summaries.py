"""How long a usage summary takes beside a scan of the events it sums up, and whether it grows with them.

It owns the ledger that is asked: a year of calls of six models in thousands of runs, written by plain sqlite3 into the
real schema, with the derived tables filled from the same numbers. Ours and the scan alternate in one run and must give
the same sums, because only their ratio survives a noisy machine. ``make bench`` and readers of docs/benchmarks.md run
it; ``--quick`` asks a smaller ledger, of a shorter time with as many calls a day.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autopack_mcp.budgets.caps import CallScope, provider_caps
from autopack_mcp.budgets.counters import scope_use
from autopack_mcp.budgets.ledger import Ledger, Reservation
from autopack_mcp.clock import ManualClock, to_us
from autopack_mcp.config.settings import (
    FallbackStrategy,
    ProviderSettings,
    QuotaRouting,
    RoleModels,
    Settings,
    WindowCap,
)
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.summary.run_usage import RunUsage
from autopack_mcp.summary.summaries import Summaries
from autopack_mcp.summary.usage import UsageSummary
from benchmarks.machine import machine

NOW = datetime(2026, 11, 22, 21, 30, tzinfo=UTC)  # A Sunday evening: the week is as full as it gets.
ROUNDS = 9
QUESTIONS = 25  # Of each kind in a round: some seconds in all, longer than what disturbs a machine for a moment.
QUOTA_CHECKS = 5_000
EVENTS_PER_RUN = 500  # Two thousand runs at a million events.
PHASES, TIERS = 12, 4
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000

MODELS = (
    ("openai", "gpt-5.6"), ("openai", "gpt-5.6-mini"), ("anthropic", "claude-opus-5"), ("anthropic", "claude-haiku-5"),
    ("google", "gemini-3-pro"), ("google", "gemini-3-flash"),
)  # fmt: skip
ROLES = ("builder", "auditor", "agent:planner", "agent:reviewer")
CATEGORIES = ("general", "ui", "docs", "core_backend", "tests", "security", "refactoring", "database")
EVERY_WINDOW = (WindowCap("day", 10**12), WindowCap("week", 10**13, 10**15), WindowCap("month", 10**14))
SETTINGS = Settings(
    providers={
        name: ProviderSettings(name, "openai", "chat", caps=EVERY_WINDOW) for name in ("openai", "anthropic", "google")
    },
    models={},
    complexity_models={},
    category_models={},
    agent_models={},
    fallback_strategy=FallbackStrategy(),
    quota_routing=QuotaRouting(),
    high_risk=RoleModels(),
    global_caps=(WindowCap("month", 10**15),),
    role_caps={"agent:planner": (WindowCap("week", 10**13),)},
)

# One call: a hash of its number decides what is random about it. Nine of ten belong to a run, whose phases go through
# the tiers in turn and keep their models; the others are a library's. ``code`` is model, role and category in one.
DRAWN = f"""
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :events),
hashed AS (SELECT i, (i * 2654435761) % 4294967296 AS h, i / {EVENTS_PER_RUN} AS run,
                  i % {EVENTS_PER_RUN} * {PHASES} / {EVENTS_PER_RUN} AS phase FROM numbers),
drawn AS (SELECT i, h, :start + i * :step AS at, h % 10 > 0 AS in_run, run, phase,
                 (CASE WHEN h % 10 > 0 THEN run * {PHASES} + phase + (h >> 4) % 20 / 11 ELSE h >> 8 END) % 6 AS model,
                 (CASE WHEN (h >> 4) % 20 < 11 THEN 0 WHEN (h >> 4) % 20 < 17 THEN 1
                       WHEN (h >> 4) % 20 < 19 THEN 2 ELSE 3 END) AS role,
                 (CASE WHEN h % 10 > 0 THEN run + phase ELSE h >> 16 END) % 8 AS category,
                 500 + h % 4000 AS input, h % 7919 AS cached, 100 + h % 900 AS output FROM hashed)
"""
INSERT_EVENTS = f"""
INSERT INTO usage_events (call_id, response_id, provider, model, role, purpose, run_id, phase_id, attempt, category,
    status, usage_source, uncached_input, cache_read, cache_write_5m, cache_write_1h, cache_write_other, output,
    reasoning, charged_tokens, charged_nano, cost_nano, price_version, processing, tool_calls, raw_usage, occurred_at,
    started_at, recorded_at)
{DRAWN}
SELECT printf('c-%010d', i), printf('chatcmpl-%010d', i), models.provider_name, models.model_name, roles.role_name,
    'run', CASE WHEN in_run THEN 'r-' || run END, CASE WHEN in_run THEN 'p-' || phase END, 1,
    categories.category_name, 'ok',
    'provider', input, cached, 0, 0, 0, output, output / 2, input + cached + output, input * 1000, input * 1000,
    'genai-prices benchmark', 'sync', '{{}}',
    '{{"prompt_tokens": 4000, "completion_tokens": 500, "total_tokens": 4500}}', at, at, at + 2000000
FROM drawn JOIN names AS models ON models.id = drawn.model JOIN names AS roles ON roles.id = drawn.role
    JOIN names AS categories ON categories.id = drawn.category
"""
SUMS = (
    "calls, failed_calls, unpriced_calls, uncached_input, cache_read, cache_write, output, reasoning, charged_tokens,"
    " charged_nano, cost_nano"
)
_SUM_DRAWN = (
    "count(*) AS calls, sum(input) AS input, sum(cached) AS cached, sum(output) AS output, sum(output / 2) AS reasoning"
)
_AS_SUMS = "calls, 0, 0, input, cached, 0, output, reasoning, input + cached + output, input * 1000, input * 1000"
_NAMED = "JOIN names AS models ON models.id = model JOIN names AS roles ON roles.id = role"
INSERT_HOURS = f"""
INSERT INTO usage_hours (hour_start, purpose, provider, model, role, category, {SUMS})
{DRAWN}, summed AS (SELECT at / {HOUR_US} AS hour, model, role, category, {_SUM_DRAWN} FROM drawn
                    GROUP BY at / {HOUR_US} * 192 + category * 24 + role * 6 + model)
SELECT hour * {HOUR_US}, 'run', models.provider_name, models.model_name, roles.role_name, categories.category_name,
    {_AS_SUMS}
FROM summed {_NAMED} JOIN names AS categories ON categories.id = summed.category
"""
INSERT_DAYS = f"""
INSERT INTO usage_days (day_start, purpose, provider, model, role, category, {SUMS})
SELECT hour_start - hour_start % {DAY_US}, purpose, provider, model, role, category,
    {", ".join(f"sum({name})" for name in SUMS.split(", "))}
FROM usage_hours GROUP BY 1, 2, 3, 4, 5, 6
"""
INSERT_PHASES = f"""
INSERT INTO usage_phases (run_id, phase_id, purpose, provider, model, role, {SUMS})
{DRAWN}, summed AS (SELECT run, phase, model, role, {_SUM_DRAWN} FROM drawn WHERE in_run
                    GROUP BY (run * {PHASES} + phase) * 24 + role * 6 + model)
SELECT 'r-' || run, 'p-' || phase, 'run', models.provider_name, models.model_name, roles.role_name, {_AS_SUMS}
FROM summed {_NAMED}
"""
INSERT_RUNS = f"""
INSERT INTO runs (run_id, plan_name, plan_source, plan_json, repository, is_rehearsal, author, client, state, why,
    model_map, rules, base_commit, head_commit, workspace, is_set_up, lease_token, created_at, updated_at)
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :runs)
SELECT 'r-' || i, 'a plan', 'plan.yaml', '{{}}', '/repository', 0, 'ann', 'benchmark', 'succeeded', '', '{{}}', '', '',
    '', '/workspace', 1, 1, :start + i * {EVENTS_PER_RUN} * :step, :start + (i + 1) * {EVENTS_PER_RUN} * :step
FROM numbers
"""
INSERT_PHASES_OF_RUNS = f"""
INSERT INTO phases (run_id, phase_index, phase_id, name, tier_index, tier_name, task_category, complexity, state, why,
    attempt, minor_issues, major_issues)
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {PHASES})
SELECT run_id, i + 1, 'p-' || i, 'phase ' || i, i * {TIERS} / {PHASES} + 1, 'tier ' || (i * {TIERS} / {PHASES} + 1),
    'general', 'medium', 'succeeded', '', 1, 0, 0
FROM runs, numbers
"""
_SUM_EVENTS = (
    "count(*), sum(uncached_input + cache_read + cache_write_5m + cache_write_1h + cache_write_other), sum(output),"
    " sum(charged_tokens), sum(cost_nano), sum(cost_nano IS NULL)"
)
SCAN_WEEK = f"""
SELECT provider, model, role, category, occurred_at / {DAY_US}, {_SUM_EVENTS} FROM usage_events {{how}}
WHERE occurred_at >= :start AND occurred_at < :end AND purpose <> 'rehearsal' GROUP BY 1, 2, 3, 4, 5
"""


@dataclass(frozen=True, slots=True)
class Load:
    """How many calls there are, and over how many days they are spread."""

    events: int
    days: int


FULL = (Load(1_000_000, 365), Load(10_000_000, 365))
QUICK = (Load(500_000, 182), Load(2_000_000, 182))  # As many calls a day as a million a year make, and four times that.


def filled(file: Path, load: Load) -> Database:
    """A ledger of so many calls, the last of them a moment ago."""
    open_database(f"sqlite:///{file}").close_now()
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for setting in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "cache_size = -200000",
            "temp_store = MEMORY",
            "locking_mode = EXCLUSIVE",
            "ignore_check_constraints = ON",
        ):
            connection.execute(f"PRAGMA {setting}")
        connection.execute(
            "CREATE TEMP TABLE names (id INTEGER PRIMARY KEY, provider_name, model_name, role_name, category_name)"
        )
        for number in range(len(CATEGORIES)):
            provider, model = MODELS[number % len(MODELS)]
            row = (number, provider, model, ROLES[number % len(ROLES)], CATEGORIES[number])
            connection.execute("INSERT INTO names VALUES (?, ?, ?, ?, ?)", row)
        _fill(connection, load)
        connection.execute("PRAGMA journal_mode = WAL")
    return open_database(f"sqlite:///{file}")


def _fill(connection: sqlite3.Connection, load: Load) -> None:
    span_us = load.days * DAY_US
    numbers = {
        "events": load.events,
        "runs": load.events // EVENTS_PER_RUN,
        "start": to_us(NOW) - span_us,
        "step": span_us // load.events,
    }
    # Indexes are built at the end, from sorted rows: it makes the same file in half the time.
    kept = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'usage_events' AND sql IS NOT NULL"
    indexes = connection.execute(kept).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    for statement in (
        INSERT_EVENTS, *(sql for _, sql in indexes), INSERT_HOURS, INSERT_DAYS, INSERT_PHASES, INSERT_RUNS,
        INSERT_PHASES_OF_RUNS,
    ):  # fmt: skip
        used = {name: value for name, value in numbers.items() if f":{name}" in statement}
        connection.execute(statement, used)


async def with_counters(database: Database, clock: ManualClock) -> None:
    """Have every capped counter, as the first call of each provider and role leaves it behind."""
    ledger = Ledger(database, clock, lambda: SETTINGS)
    for number, provider in enumerate(SETTINGS.providers):
        scope = CallScope(provider, "agent:planner", "run")
        call_id = f"counted-{number}"
        held = await ledger.reserve(Reservation(call_id, scope, "gpt-5.6", 10, 10, 1, 60.0))
        assert isinstance(held, datetime), held
        await ledger.release(call_id)


def quota_check_us(database: Database) -> float:
    """Microseconds to ask one counter how far its cap is used, on a connection that is kept."""
    cap, scope = provider_caps(SETTINGS.providers["openai"], NOW)[1], CallScope("openai", "builder", "run")

    def asked(connection: Any) -> float:
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter_ns()
            for _ in range(QUOTA_CHECKS // ROUNDS):
                scope_use(connection, scope, cap, NOW)
            times.append((time.perf_counter_ns() - start) / (QUOTA_CHECKS // ROUNDS))
        return min(times) / 1_000

    return database.read_now(asked)


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds, the best of all rounds: whatever disturbs a machine only ever adds.

    The scan and the index answer the question of the week by the events themselves.
    """

    week_ms: float
    run_ms: float
    scan_ms: float
    index_ms: float
    quota_us: float


def asked(folder: Path, load: Load, questions: int, *, with_scan: bool) -> Times:
    """Ask one ledger all there is to ask, ours and the scan in turn."""
    clock = ManualClock(NOW)
    file = folder / f"{load.events}.db"
    database = filled(file, load)
    summaries = Summaries(
        database=database,
        settings=lambda: SETTINGS,
        clock=clock,
        has_key=lambda provider: True,
        unit_price=lambda model: None,
    )
    asyncio.run(with_counters(database, clock))
    run_id = f"r-{load.events // EVENTS_PER_RUN - 2}"
    week, run, scan, index = _Timer(), _Timer(), _Timer(), _Timer()
    with closing(sqlite3.connect(file)) as connection:
        found: UsageSummary = summaries.usage_now("week")  # The first of everything is slower.
        of_run: RunUsage = summaries.run_usage_now(run_id)
        assert len(of_run.tiers) == TIERS, of_run
        bounds = {"start": to_us(found.starts_at), "end": to_us(found.ends_at)}
        for _ in range(ROUNDS):
            for _ in range(questions):
                week.measure(lambda: summaries.usage_now("week"))
                run.measure(lambda: summaries.run_usage_now(run_id))
            if with_scan:
                rows = scan.measure(lambda: connection.execute(SCAN_WEEK.format(how="NOT INDEXED"), bounds).fetchall())
                index.measure(lambda: connection.execute(SCAN_WEEK.format(how=""), bounds).fetchall())
                _assert_same(found, rows)
    quota_us = quota_check_us(database)
    database.close_now()
    file.unlink()
    return Times(week.best_ms, run.best_ms, scan.best_ms, index.best_ms, quota_us)


class _Timer:
    """Milliseconds of one kind of work, round by round."""

    def __init__(self) -> None:
        self._times_ms: list[float] = []

    def measure(self, work: Callable[[], Any]) -> Any:
        """Do it, and remember how long it took."""
        start = time.perf_counter_ns()
        found = work()
        self._times_ms.append((time.perf_counter_ns() - start) / 1_000_000)
        return found

    @property
    def best_ms(self) -> float:
        """Of all rounds; 0 when there was none."""
        return min(self._times_ms, default=0.0)


def _assert_same(found: UsageSummary, rows: list[tuple[Any, ...]]) -> None:
    """The summary says what the events say; a benchmark of a wrong answer would be worth nothing."""
    for position, parts in ((0, found.providers), (2, found.roles), (3, found.categories)):
        scanned: dict[str, int] = {}
        for row in rows:
            scanned[row[position]] = scanned.get(row[position], 0) + row[6] + row[7]
        key = ("provider", "", "role", "category")[position]
        assert scanned == {getattr(part, key): part.total_tokens for part in parts}, key


def measure(loads: tuple[Load, Load], questions: int = QUESTIONS) -> dict[str, object]:
    """The numbers. ``growth`` is what the week takes at the larger ledger, over the smaller one."""
    with tempfile.TemporaryDirectory() as folder:
        small = asked(Path(folder), loads[0], questions, with_scan=True)
        large = asked(Path(folder), loads[1], questions, with_scan=False)
    return {
        "week_ms_1m": round(small.week_ms, 2),
        "run_ms_1m": round(small.run_ms, 2),
        "scan_ms_1m": round(small.scan_ms, 1),
        "week_ms_10m": round(large.week_ms, 2),
        "growth": round(large.week_ms / small.week_ms, 2),
        "quota_us": round(small.quota_us, 1),
        "index_ms_1m": round(small.index_ms, 1),
        "scan_per_week": round(small.scan_ms / small.week_ms, 1),
        "scan_per_run": round(small.scan_ms / small.run_ms, 1),
        "events": [load.events for load in loads],
        "days": [load.days for load in loads],
        "machine": machine(),
    }


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="smaller ledgers, in under 50 s; see `events`")
    arguments = parser.parse_args()
    found = measure(QUICK if arguments.quick else FULL)
    print(json.dumps(found) if arguments.json else "\n".join(f"{name:<16} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
