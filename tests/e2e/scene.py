"""What end-to-end tests share: two accounts at the upstream, replies in the formats we ask for, and the rows they left.

Everything between a plan and a commit is the product's own; only the models' words come from a script.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Connection, RowMapping, select

from autopack_mcp import app
from autopack_mcp.calls import CallDoor
from autopack_mcp.database.tables import attempts, reservations, usage_events
from autopack_mcp.providers.pacing import RetryPolicy
from tests.runs.house import House, open_house
from tests.upstream.harness import Answer, Asked, Upstream

BUILDER, LARGE_BUILDER, SMALL_BUILDER = "gpt-5", "gpt-5-pro", "gpt-5-mini"
AUDITOR = "claude-sonnet-4-5"
MODELS = {"openai": (BUILDER, LARGE_BUILDER, SMALL_BUILDER), "anthropic": (AUDITOR,)}
# Dollars per million tokens; whole numbers, so that a test can work out the nano-dollars in its head.
PRICES = {BUILDER: (2, 10), LARGE_BUILDER: (20, 80), SMALL_BUILDER: (1, 4), AUDITOR: (3, 15)}
KEYS = {"OPENAI_API_KEY": "sk-test-of-openai-0000", "ANTHROPIC_API_KEY": "sk-ant-test-of-anthropic-0000"}
WEEKLY_CAP, SHARE = 4_000_000, 0.5
OUTPUT_LIMIT = 2_000  # Of every model: with the prompt's bytes, all that a call can reserve.
QUICK = RetryPolicy(tries_limit=3, first_delay_s=0.01, delay_limit_s=0.01)


def models_yaml(openai_url: str, anthropic_url: str) -> str:
    """A config whose two accounts are at these addresses: OpenAI builds, Anthropic audits."""
    capped = {"weekly_cap_tokens": WEEKLY_CAP, "autopack_share": SHARE}
    medium = {"builder": BUILDER, "auditor": AUDITOR}
    return yaml.safe_dump(
        {
            "providers": {
                "openai": {"base_url": openai_url, **capped},
                "anthropic": {"base_url": anthropic_url, **capped},
            },
            "models": {
                model: {
                    "provider": provider,
                    "max_output_tokens": OUTPUT_LIMIT,
                    "price": {"input": PRICES[model][0], "output": PRICES[model][1]},
                }
                for provider, models in MODELS.items()
                for model in models
            },
            "complexity_models": {"low": {**medium, "builder": SMALL_BUILDER}, "medium": medium, "high": medium},
            "category_models": {name: {} for name in ("core_backend", "core_backend_high", "docs", "tests")},
        }
    )


@asynccontextmanager
async def open_scene(
    folder: Path, empty_database_file: Path, openai_url: str, anthropic_url: str, **environ: str
) -> AsyncIterator[House]:
    """A house whose models answer at these addresses; ``environ`` is added to what its processes see."""
    config = models_yaml(openai_url, anthropic_url)
    async with open_house(folder, empty_database_file, config, {**KEYS, **environ}) as house:
        yield house


def quick_door(house: House, *, call_timeout_s: float | None = None) -> CallDoor:
    """The product's door, but for the waits between two tries."""
    return app.call_door(house.autopack, retry=QUICK, call_timeout_s=call_timeout_s)


# ── replies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def writes(path: str, text: str, summary: str = "Done as asked.") -> str:
    """A builder's reply that writes one whole file."""
    return f"*** SUMMARY {summary}\n\n*** WRITE {path}\n{text}*** END\n"


def replaces(path: str, search: str, replace: str, summary: str = "Done as asked.") -> str:
    """A builder's reply that changes a part of one file."""
    block = f"<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n"
    return f"Here is the change.\n\n*** SUMMARY {summary}\n*** EDIT {path}\n{block}*** END\n"


def approval(summary: str = "It does what the phase asks.") -> str:
    """An auditor's reply that lets a change through."""
    return json.dumps({"approved": True, "summary": summary, "issues": []})


def rejection(summary: str, issue: str) -> str:
    """An auditor's reply that refuses a change for one major issue."""
    issues = [{"severity": "major", "category": "correctness", "description": issue, "file_path": None}]
    return json.dumps({"approved": False, "summary": summary, "issues": issues})


def of_builder(phase_id: str, model: str = BUILDER) -> Asked:
    """Requests to build this phase."""
    return Asked(model=model, user_has=f"## Phase {phase_id}:")


def of_auditor(phase_id: str) -> Asked:
    """Requests to review this phase."""
    return Asked(model=AUDITOR, user_has=f"## Phase {phase_id}:")


def script_phase(upstream: Upstream, phase_id: str, reply: str | None = None) -> None:
    """Let a phase of ``tests.projects.a_phase`` be built and approved at once."""
    text = writes(f"{phase_id}.txt", f"{phase_id}\n") if reply is None else reply
    upstream.script(of_builder(phase_id), Answer(text=text))
    upstream.script(of_auditor(phase_id), Answer(text=approval()))


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def events(connection: Connection) -> list[RowMapping]:
    """All usage events in the order in which their calls were reserved."""
    return list(connection.execute(select(usage_events).order_by(usage_events.c.occurred_at)).mappings())


def attempts_of(connection: Connection, run_id: str) -> list[RowMapping]:
    """All attempts of a run, in order."""
    mine = select(attempts).where(attempts.c.run_id == run_id)
    return list(connection.execute(mine.order_by(attempts.c.started_at, attempts.c.attempt)).mappings())


def held(connection: Connection) -> list[RowMapping]:
    """All reservations that nobody has closed yet."""
    return list(connection.execute(select(reservations).where(reservations.c.state == "held")).mappings())


def total_tokens(event: RowMapping) -> int:
    """What the provider is believed to have counted."""
    names = ("uncached_input", "cache_read", "cache_write_5m", "cache_write_1h", "cache_write_other", "output")
    return sum(int(event[name]) for name in names)


def facts(event: RowMapping, *names: str) -> tuple[Any, ...]:
    """Some columns of an event."""
    return tuple(event[name] for name in names)
