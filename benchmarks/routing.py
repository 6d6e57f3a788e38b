"""How long it takes to choose a model, beside LiteLLM's Router where that is installed.

It owns the questions and the conditions: the public ModelRouter over a real database with the packaged config, so that
its looks at the database are in it; and LiteLLM's Router by the way acompletion takes, with the strategy that weighs
what was used. ``make bench`` and readers of docs/routing.md run it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from itertools import cycle, product
from pathlib import Path

from autopack_mcp import ModelRouter

ROUNDS = 20_000  # Choices of ours; half a second of a hot loop.
LITELLM_ROUNDS = 2_000
WARM_UP = 200
QUESTIONS = list(
    product(("builder", "auditor", "agent:planner"), ("general", "docs", "security_auth_change"), ("low", "high"))
)


def ours_us() -> float:
    """Of our router, over a database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOPACK_HOME"] = folder
        with ModelRouter(f"sqlite:///{Path(folder) / 'autopack.db'}") as router:
            questions = cycle(QUESTIONS)
            times = []
            for _ in range(WARM_UP + ROUNDS):
                question = next(questions)
                start = time.perf_counter_ns()
                router.select_model(*question)
                times.append(time.perf_counter_ns() - start)
    return _p50_us(times)


async def litellm_us() -> float | None:
    """Of LiteLLM's Router, None where it is not installed; the prompt is a short one, which it likes best."""
    if importlib.util.find_spec("litellm") is None:
        return None
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Else it fetches one.
    # Loaded only here, and no dependency of ours: whoever wants the comparison installs it.
    router_class = importlib.import_module("litellm").Router
    parameters = {"model": "openai/gpt-4o", "api_key": "none", "api_base": "http://127.0.0.1:1"}
    models = [{"model_name": f"model-{number}", "litellm_params": parameters} for number in range(4)]
    router = router_class(model_list=models, routing_strategy="usage-based-routing-v2")
    messages = [{"role": "user", "content": "hello"}]
    times = []
    for _ in range(WARM_UP + LITELLM_ROUNDS):
        start = time.perf_counter_ns()
        await router.async_get_available_deployment(model="model-0", messages=messages, request_kwargs={})
        times.append(time.perf_counter_ns() - start)
    return _p50_us(times)


def _p50_us(times_ns: list[int]) -> float:
    return statistics.median(times_ns[WARM_UP:]) / 1_000


def measure() -> dict[str, object]:
    """The numbers; ``ratio`` is how many times longer LiteLLM takes, None without it."""
    ours, theirs = ours_us(), asyncio.run(litellm_us())
    return {
        "select_us_p50": round(ours, 2),
        "litellm_select_us_p50": None if theirs is None else round(theirs, 2),
        "ratio": None if theirs is None else round(theirs / ours, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    as_json = parser.parse_args().json
    found = measure()
    print(json.dumps(found) if as_json else "\n".join(f"{name:22} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
