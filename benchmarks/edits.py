"""What becomes of a spoilt diff: exactly the tree that was meant, a refusal, or a wrong tree (docs/workspace.md).

It owns the counting; the diffs come from ``tests.corrupted_diffs``, by seed. Every diff goes through the strict lane,
the real git included, and through the lane that plans allow with ``allow_fuzzy``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.edits import by_path, parse_edits, source_of
from autopack_mcp.replies.path_rules import check_path
from autopack_mcp.workspace.git import run_git
from autopack_mcp.workspace.lanes import new_text
from benchmarks.machine import machine
from tests.corrupted_diffs import KINDS, SpoiltDiff, spoilt

SEEDS = 200
SEEDS_QUICK = 25
Outcome = Literal["exact", "refused", "wrong"]


async def outcome_of(case: SpoiltDiff, git_dir: Path, *, allow_fuzzy: bool) -> Outcome:
    """What a reply comes to, file by file as the workspace does it."""
    after = dict(case.before)
    try:
        for path, group in by_path(parse_edits(case.reply).edits).items():
            check_path(path)
            before = case.before.get(source_of(path, group[0]))
            new = await new_text(git_dir, "benchmark", before, group, allow_fuzzy=allow_fuzzy)
            after.pop(path, None)
            if new.text is not None:
                after[path] = new.text
    except UnusableReply:
        return "refused"
    return "exact" if after == case.after else "wrong"


async def measure(seeds: int) -> dict[str, dict[str, Counter[Outcome]]]:
    """How often each outcome came, by lane and kind."""
    found: dict[str, dict[str, Counter[Outcome]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        await run_git("init", "--quiet", folder, cwd=Path(folder))
        for lane in ("strict", "fuzzy"):
            found[lane] = {
                kind: Counter(
                    [
                        await outcome_of(spoilt(kind, seed), Path(folder) / ".git", allow_fuzzy=lane == "fuzzy")
                        for seed in range(seeds)
                    ]
                )
                for kind in KINDS
            }
    return found


def _row(counted: Counter[Outcome]) -> dict[str, int]:
    return {outcome: counted[outcome] for outcome in ("exact", "refused", "wrong")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help=f"{SEEDS_QUICK} diffs of each kind instead of {SEEDS}")
    options = parser.parse_args()
    seeds = SEEDS_QUICK if options.quick else SEEDS
    found = asyncio.run(measure(seeds))
    lanes = {lane: {kind: _row(counted) for kind, counted in kinds.items()} for lane, kinds in found.items()}
    totals = {lane: _row(sum(kinds.values(), Counter())) for lane, kinds in found.items()}
    if options.json:
        print(json.dumps({"seeds": seeds, **totals, "kinds": lanes, "machine": machine()}))
        return
    print(f"| {'':24} | exact | refused | wrong | fuzzy: exact | refused | wrong |")
    for kind in [*KINDS, "all"]:
        rows = [totals[lane] if kind == "all" else lanes[lane][kind] for lane in ("strict", "fuzzy")]
        print(f"| {kind:24} | " + " | ".join(str(number) for row in rows for number in row.values()) + " |")


if __name__ == "__main__":
    main()
