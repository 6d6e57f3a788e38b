"""``autopack-mcp stdio`` for tests of the transport: the real parts, opened late; ``chatter`` prints as a bug might."""

from __future__ import annotations

import asyncio
import logging
import sys

from autopack_mcp.mcp_server.late import Parts
from autopack_mcp.mcp_server.stdio import serve_stdio


def open_parts() -> Parts:
    from autopack_mcp import app  # Late, as the command line does it: the client is greeted first.

    if "chatter" in sys.argv:
        print("a stray print", flush=True)  # noqa: T201
    autopack = app.open_autopack()
    return Parts(autopack.summaries, app.control(autopack), autopack.database.close)


def report_imports() -> None:
    heavy = {"sqlalchemy", "alembic", "openai", "anthropic", "genai_prices", "yaml"} & sys.modules.keys()
    print("loaded before the first question:", *sorted(heavy), file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    report_imports()
    asyncio.run(serve_stdio(open_parts, read_only="read-only" in sys.argv, version="1"))
