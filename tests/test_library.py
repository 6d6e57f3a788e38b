"""The public names: opened by URL and path, used from anywhere, closed without a trace; and the example of the docs."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from anyio.from_thread import BlockingPortal, start_blocking_portal
from sqlalchemy import RowMapping, select

from autopack_mcp import AsyncLlmService, LlmService, ModelRouter, UsageRecorder, UsageService
from autopack_mcp.clock import SystemClock
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import usage_events
from autopack_mcp.errors import ConfigError, DatabaseUnusable, MissingKey, QuotaExhausted, RequestRefused
from autopack_mcp.routing.overrides import add_override
from autopack_mcp.usage.event import UsageEvent
from tests.doors import a_map
from tests.factories import insert_run, token_counts, usage_event
from tests.providers.upstream import Answer, ChatSpeech, Upstream
from tests.routing.snapshots import override
from tests.shape.sources import ROOT

CHAT = ChatSpeech()
SPEC = {"phase_id": "P1", "description": "Say hello."}
USER = [{"role": "user", "content": "Hello?"}]
PATIENCE_S = 20.0
CAP = 1_000_000
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


def answer(text: str) -> Answer:
    """A whole stream that says so: 11 tokens in, 7 out."""
    return Answer([*CHAT.begun(text), *CHAT.ended()])


def models_yaml(url: str, **openai: object) -> dict[str, Any]:
    """One account for everything, with prices that a test can work out."""
    pair = {"builder": "gpt-big", "auditor": "gpt-big"}
    price = {"input": 1, "output": 2}
    return {
        "providers": {"openai": {"base_url": url, "weekly_cap_tokens": CAP, **openai}},
        "models": {name: {"provider": "openai", "price": price} for name in ("gpt-big", "gpt-small", "gpt-6.1-sol")},
        "complexity_models": {"low": {**pair, "builder": "gpt-small"}, "medium": pair, "high": pair},
        "category_models": {"docs": {}},
    }


class World:
    """A home whose only account is answered by a server of this test, which runs in a thread of its own."""

    def __init__(self, home: Path, portal: BlockingPortal, upstream: Upstream) -> None:
        self.home = home
        self.upstream = upstream
        self._portal = portal
        self.configure()

    def configure(self, **openai: object) -> None:
        """Write models.yaml anew."""
        text = yaml.safe_dump(models_yaml(self.upstream.url, **openai))
        (self.home / "models.yaml").write_text(text)

    def answers(self, *texts: str) -> None:
        """What the server says next; the last one again and again."""
        self.upstream.answers[:] = [answer(text) for text in texts]

    def wait_until_asked(self) -> None:
        """Return when a request has arrived."""
        self._wait_for(self.upstream.was_asked)

    def wait_until_left(self) -> None:
        """Return when the client has broken off."""
        self._wait_for(self.upstream.client_gone)

    def _wait_for(self, event: asyncio.Event) -> None:
        async def wait() -> None:
            async with asyncio.timeout(PATIENCE_S):
                await event.wait()

        self._portal.call(wait)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The database of the home, beside whoever else has it open."""
        opened = Database(f"sqlite:///{self.home / 'autopack.db'}")
        try:
            yield opened
        finally:
            opened.close_now()

    def events(self) -> list[RowMapping]:
        """Every booked row."""
        with self.database() as database:
            return database.read_now(lambda connection: list(connection.execute(select(usage_events)).mappings()))


@pytest.fixture
def world(tmp_path: Path, empty_database_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A home with a database, a key, and a server that says hello."""
    (tmp_path / "autopack.db").write_bytes(empty_database_file.read_bytes())
    monkeypatch.setenv("AUTOPACK_HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-1b4fJ9qLw2Zx7V")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Upstream(answer("Hello."))) as upstream:
        yield World(tmp_path, portal, upstream)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Whatever a test opens and closes, its threads are gone afterwards."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


# --- LlmService


def test_three_questions_are_answered_and_booked(world: World) -> None:
    verdict = '{"approved": true, "summary": "Fine.", "issues": []}'
    world.answers("*** SUMMARY Greets.\n*** WRITE a.py\nx = 1\n*** END\n", verdict, "Plan.")
    with LlmService() as llm:
        built = llm.execute_builder_phase(SPEC, {"existing_files": {}}, "label")
        reviewed = llm.execute_auditor_review(built.patch_content, SPEC, "label", verification_output="2 passed")
        planned = llm.complete("agent:planner", USER, "label")
    assert (built.success, built.model_used, built.tokens_used) == (True, "gpt-big", 18)
    assert built.cost_usd == Decimal("0.000025")
    assert (reviewed.approved, planned.text) == (True, "Plan.")
    assert {(row["role"], row["run_id"], row["charged_tokens"]) for row in world.events()} == {
        ("builder", "label", 18),
        ("auditor", "label", 18),
        ("agent:planner", "label", 18),
    }


async def _three_lines() -> str:
    async with AsyncLlmService() as llm:
        return (await llm.complete("agent:planner", USER)).text


def test_the_async_twin_answers_alike(world: World) -> None:
    assert asyncio.run(_three_lines()) == "Hello."
    assert len(world.events()) == 1


def test_database_and_config_may_be_named(world: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = elsewhere / "models.yaml"
    config.write_text(yaml.safe_dump(models_yaml(world.upstream.url, weekly_cap_tokens=1)))
    with LlmService(f"sqlite:///{elsewhere / 'mine.db'}", config) as llm, pytest.raises(QuotaExhausted):
        llm.complete("agent:planner", USER)
    assert world.events() == []


def test_many_threads_may_share_one(world: World) -> None:
    with LlmService() as llm, ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: llm.complete("agent:planner", USER).text, range(16)))
    assert texts == ["Hello."] * 16
    assert len(world.events()) == 16


def test_it_may_be_used_inside_a_running_loop(world: World) -> None:
    async def ask() -> str:
        with LlmService() as llm:
            return llm.complete("agent:planner", USER).text

    assert asyncio.run(ask()) == "Hello."


def test_closing_twice_is_closing_once_and_a_closed_one_says_so(world: World) -> None:
    llm = LlmService()
    llm.close()
    llm.close()
    with pytest.raises(RequestRefused, match="closed"):
        llm.complete("agent:planner", USER)


def test_a_forgotten_one_closes_itself(world: World) -> None:
    llm = LlmService()
    llm.complete("agent:planner", USER)
    thread = next(thread for thread in threading.enumerate() if thread.name == "autopack-llm-service")
    del llm
    gc.collect()
    assert not thread.is_alive()


def test_a_program_that_forgets_it_ends_quietly(world: World) -> None:
    code = (
        "from autopack_mcp import LlmService\n"
        "llm = LlmService()\n"
        f"print(llm.complete('agent:planner', {USER!r}).text)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello.\n", "")
    assert len(world.events()) == 1


def test_ctrl_c_interrupts_the_call_and_it_is_booked_as_cut(world: World) -> None:
    world.upstream.answers[:] = [Answer([*CHAT.begun("half"), "hang"])]
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        world.wait_until_asked()
        signal.pthread_kill(main, signal.SIGINT)

    presser = threading.Thread(target=press)
    # A shell gives what it starts in the background a deaf ear for Ctrl-C, and Python leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with LlmService() as llm:
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            llm.complete("agent:planner", USER)
        world.wait_until_left()
    presser.join()
    signal.signal(signal.SIGINT, before)
    assert [(row["status"], row["error"]) for row in world.events()] == [("cut", "interrupted")]


def test_closing_interrupts_a_call_of_another_thread_and_books_it(world: World) -> None:
    world.upstream.answers[:] = [Answer([*CHAT.begun("half"), "hang"])]
    with ThreadPoolExecutor(1) as pool:
        llm = LlmService()
        asking = pool.submit(llm.complete, "agent:planner", USER)
        world.wait_until_asked()
        llm.close()
        with pytest.raises(CancelledError):
            asking.result(PATIENCE_S)
    assert [row["status"] for row in world.events()] == ["cut"]


def test_an_error_keeps_its_type_across_the_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with LlmService() as llm, pytest.raises(MissingKey, match="OPENAI_API_KEY"):
        llm.complete("agent:planner", USER)


@pytest.mark.parametrize("name", [LlmService, AsyncLlmService, ModelRouter, UsageRecorder])
def test_a_config_that_cannot_be_used_is_an_error_at_once(world: World, name: Any) -> None:
    (world.home / "models.yaml").write_text("providers: 7\n")
    with pytest.raises(ConfigError):
        name()


@pytest.mark.parametrize("name", [LlmService, ModelRouter, UsageRecorder, UsageService])
def test_a_database_that_cannot_be_used_is_an_error_at_once(world: World, name: Any) -> None:
    with pytest.raises(DatabaseUnusable):
        name("sqlite:////no/such/folder/a.db")


# --- ModelRouter


def test_a_router_sees_every_change_at_its_next_question(world: World) -> None:
    world.configure(soft_limit_ratio=0.5)
    with ModelRouter() as router, UsageRecorder() as recorder, world.database() as database:
        before = router.select_model("builder")
        recorder.record_usage(spent(CAP))
        used_up = router.select_model("builder")
        database.write_now(add_override, override("gpt-small", scope="global"), "test")
        overridden = router.select_model("builder")
        world.configure(weekly_cap_tokens=2 * CAP)
        raised = router.select_model("builder")
    assert (before.model, before.blocked_by) == ("gpt-big", None)
    assert used_up.blocked_by == "openai's cap of the week is used up (100%)"
    assert (overridden.model, overridden.rule) == ("gpt-small", "global override")
    assert raised.blocked_by is None


def test_a_router_knows_the_runs_of_the_database(world: World) -> None:
    with ModelRouter() as router, world.database() as database:
        database.write_now(insert_run, model_map=a_map())
        database.write_now(add_override, override("gpt-6.1-sol", run_id="R1"), "test")
        of_run = router.select_model("builder", run_context={"run_id": "R1"})
        of_label = router.select_model("builder", run_context={"run_id": "label"})
    assert (of_run.model, of_label.model) == ("gpt-6.1-sol", "gpt-big")


def test_a_router_serves_many_threads(world: World) -> None:
    with ModelRouter() as router, ThreadPoolExecutor(8) as pool:
        models = set(pool.map(lambda number: router.select_model("builder", complexity=number).model, ["low"] * 200))
    assert models == {"gpt-small"}


# --- UsageRecorder and UsageService


def spent(tokens: int, **overrides: Any) -> UsageEvent:
    """A call made elsewhere, just now."""
    counts = token_counts(uncached_input=tokens, output=0)
    values = {
        "model": "gpt-big",
        "counts": counts,
        "occurred_at": SystemClock().now(),
        "run_id": None,
        "phase_id": None,
    }
    return usage_event(**{**values, **overrides})


def test_a_call_made_elsewhere_counts_against_the_same_cap(world: World) -> None:
    with UsageRecorder() as recorder:
        recorder.record_usage(spent(CAP))
    with LlmService() as llm, pytest.raises(QuotaExhausted):
        llm.complete("agent:planner", USER)


def test_a_call_on_an_account_that_is_not_configured_is_refused(world: World) -> None:
    with UsageRecorder() as recorder, pytest.raises(ConfigError, match="there is no account 'acme'"):
        recorder.record_usage(spent(1, provider="acme"))
    assert world.events() == []


def test_usage_is_told_by_provider_and_by_model(world: World) -> None:
    with UsageRecorder() as recorder:
        for model in ("gpt-big", "gpt-big", "gpt-small"):
            recorder.record_usage(spent(1_000, model=model))
        recorder.record_usage(spent(5, occurred_at=SystemClock().now() - timedelta(days=1)))
    with UsageService() as usage:
        (today,) = usage.get_provider_usage_summary("day")
        (yesterday,) = usage.get_provider_usage_summary("day", -1)
        models = usage.get_model_usage_summary("day")
    assert (today.provider, today.prompt_tokens, yesterday.prompt_tokens) == ("openai", 3_000, 5)
    assert [(row.model, row.total_tokens) for row in models] == [("gpt-big", 2_000), ("gpt-small", 1_000)]


@pytest.mark.parametrize("name", [ModelRouter, UsageRecorder, UsageService])
def test_closing_any_of_them_twice_is_closing_it_once(world: World, name: Any) -> None:
    with name() as opened:
        opened.close()


# --- what an import costs, and the docs


@pytest.mark.parametrize("statement", ["import autopack_mcp", "from autopack_mcp import LlmService"])
def test_importing_loads_no_sdk_and_no_prices(statement: str) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.split())
    heavy = {"openai", "anthropic", "mcp", "genai_prices", "httpx2", "alembic", "hypothesis"}
    assert loaded & heavy == set()
    assert ("sqlalchemy" in loaded) == ("LlmService" in statement)


def test_the_examples_of_the_docs_run(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = '{"approved": true, "summary": "Fine.", "issues": []}'
    world.answers("*** SUMMARY Greets.\n*** WRITE app.py\nprint('hello')\n*** END\n", verdict, "Tests are next.")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", LIBRARY, re.DOTALL):
        exec(compile(block, "docs/library.md", "exec"), names)
    shown = capsys.readouterr().out
    for words in ("+print('hello')", "True []", "Tests are next.", "gpt-6.1-sol openai", "openai 1033 71"):
        assert words in shown
