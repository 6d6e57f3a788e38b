"""Who is asking, and which run they mean when they name none.

It owns the Person of a request: the account this process runs under and the client's own name for itself, which is a
hint and never an authority. The acting tools call it.
"""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import Context

from autopack_mcp.errors import RequestRefused
from autopack_mcp.text_safety import visible

if TYPE_CHECKING:
    from autopack_mcp.control.person import Person
    from autopack_mcp.summary.summaries import Summaries

CLIENT_CHARS = 80  # Of the name a client gives itself; it stands in every request, note and status.
UNNAMED = "an MCP client"


def person_of(context: Context[Any, Any]) -> Person:
    """The owner of this process, asking through the client that sent the request.

    Control is imported late, here and in the tools: the server must answer before the rest is loaded (server.py).
    """
    from autopack_mcp.control.person import Person

    return Person(author=account(), client=client_name(context))


def account() -> str:
    """The account this process runs under; whoever may talk to it acts in its name."""
    try:
        return visible(getpass.getuser(), CLIENT_CHARS)
    except (OSError, KeyError):
        return "unknown"


def client_name(context: Context[Any, Any]) -> str:
    """Name and version from clientInfo; over stateless HTTP older clients only send a User-Agent."""
    params = context.session.client_params
    if params is not None:
        said = f"{params.client_info.title or params.client_info.name} {params.client_info.version}"
    else:
        said = (context.headers or {}).get("user-agent", "")
    return visible(said.strip(), CLIENT_CHARS) or UNNAMED


async def meant_run(summaries: Summaries, run_id: str | None) -> str:
    """The run that is named or, when none is, the only one that can be meant.

    The summary's type is imported late, as said above.

    Raises:
        RequestRefused: there is no run, or several are unfinished; the hint lists them.
    """
    from autopack_mcp.summary.run import RunList

    if run_id is not None:
        return run_id
    current = await summaries.current()
    if not isinstance(current, RunList):
        return current.run_id
    if not current.runs:
        raise RequestRefused("There is no run.", hint=current.hint)
    lines = "; ".join(f"{run.run_id} ({visible(run.plan_name, CLIENT_CHARS)}, {run.state})" for run in current.runs)
    raise RequestRefused("Several runs are unfinished; say which one with run_id.", hint=f"They are: {lines}.")
