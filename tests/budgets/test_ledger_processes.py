"""One cap, one file, several processes that each take what they can get."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from autopack_mcp.budgets.ledger import scope_use
from autopack_mcp.database.engine import Database
from tests.factories import NOON, call_scope, window_cap
from tests.ledger_truth import assert_ledger_adds_up

ROOT = Path(__file__).parents[2]
PROCESSES = 4
CAP_TOKENS = 6_000
BIGGEST_CALL_TOKENS = 60

TAKE_WHAT_YOU_CAN = """
import sys
from random import Random
from autopack_mcp.budgets import ledger
from autopack_mcp.database.migrate import open_database
from autopack_mcp.errors import Denial
from tests.factories import NOON, held_against, reservation, truth_of, window_cap

url, cap_tokens, biggest, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
random, database, caps, calls = Random(number), open_database(url), held_against(window_cap(tokens=cap_tokens)), 0
print("ready", flush=True)
sys.stdin.readline()
while True:
    promise = reservation(f"{number}-{calls}", bound_input=0, bound_output=random.randint(20, biggest))
    outcome = database.write_now(ledger.reserve, promise, caps, None, NOON)
    if isinstance(outcome, Denial):
        if outcome.is_due_to_calls_in_flight:
            continue
        break
    calls += 1
    truth = truth_of(promise, tokens=random.randint(promise.bound_tokens // 2, promise.bound_tokens))
    database.write_now(ledger.settle, truth, caps, NOON)
database.close_now()
print(calls, flush=True)
"""


def test_processes_together_use_a_cap_up_and_never_pass_it(database: Database) -> None:
    cap = window_cap(tokens=CAP_TOKENS)
    arguments = (str(database.url), str(CAP_TOKENS), str(BIGGEST_CALL_TOKENS))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE_WHAT_YOU_CAN, *arguments, str(number)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        assert database.read_now(scope_use, call_scope(), cap, NOON).used_tokens <= CAP_TOKENS
    calls = [int(process.communicate(timeout=10)[0]) for process in processes]

    use = database.read_now(scope_use, call_scope(), cap, NOON)
    assert use.reserved_tokens == 0
    assert 0.98 * CAP_TOKENS <= use.settled_tokens <= CAP_TOKENS
    assert sum(calls) >= CAP_TOKENS / BIGGEST_CALL_TOKENS
    database.read_now(assert_ledger_adds_up)
