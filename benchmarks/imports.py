"""What importing each dependency costs, in a fresh interpreter with compiled files (see docs/dependencies.md).

It owns the list of what we import from where; it judges nothing. ``make bench`` and readers of that page run it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

ROUNDS = 5  # The median of five is steady to a few milliseconds on a machine with other work.

# What the program imports of each distribution; greenlet and the like come with them.
MODULES = {
    "aiosqlite": "aiosqlite",
    "alembic": "alembic.command",
    "anthropic": "anthropic",
    "anyio": "anyio",
    "click": "click",
    "genai-prices": "genai_prices",
    "httpx2": "httpx2",
    "jinja2": "jinja2",
    "mcp": "mcp.server.mcpserver",
    "openai": "openai",
    "platformdirs": "platformdirs",
    "pydantic": "pydantic",
    "python-dotenv": "dotenv",
    "pyyaml": "yaml",
    "rich": "rich.console",
    "sqlalchemy": "sqlalchemy.ext.asyncio",
    "starlette": "starlette.applications",
    "uvicorn": "uvicorn",
}

_TIMED = "import time; t = time.perf_counter(); import {}; print((time.perf_counter() - t) * 1000)"


def import_ms(module: str) -> float:
    """Milliseconds to import ``module`` in a new interpreter, everything it needs included: the median of five."""
    return statistics.median(_once(module) for _ in range(ROUNDS))


def _once(module: str) -> float:
    command = [sys.executable, "-c", _TIMED.format(module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    as_json = parser.parse_args().json
    costs = {name: round(import_ms(module), 1) for name, module in MODULES.items()}
    if as_json:
        print(json.dumps({"import_ms": costs}))
    else:
        print("\n".join(f"{name:14} {cost:6.1f} ms" for name, cost in costs.items()))


if __name__ == "__main__":
    main()
