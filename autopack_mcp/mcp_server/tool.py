"""How every tool is built and run: strict arguments, a small schema, errors that a model can act on.

It owns what all tools share and knows none of them. The SDK drops unknown arguments, prefixes error texts and publishes
pydantic's whole schema; this does not (docs/mcp.md says what was measured). The tool modules build with ``tool_of``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from keyword import iskeyword
from typing import Any

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import ValidationError

from autopack_mcp.errors import AutopackError
from autopack_mcp.mcp_server.answers import Answer, result_of
from autopack_mcp.mcp_server.refusals import arguments_refused, refused

CONTEXT = "context"  # The parameter that is no argument: the SDK's view of the request.
ACT_LIMIT_S = 30.0  # Longer than starting a supervisor takes at worst; a stuck act must not hold a closing server.


class StrictTool(Tool):
    """A tool that refuses what it does not know and says why; an acting one is finished even if nobody waits for it."""

    is_acting: bool = False

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:  # noqa: FBT001, FBT002  The SDK's signature.
        """Check the arguments, run the tool and render its answer.

        Raises:
            ToolError: the arguments or the request are refused; the text says what would be possible.
            UnexpectedToolError: a defect of ours, logged by the SDK with its traceback and not told to the model.
        """
        try:
            # Not the SDK's own validation: it would read a note or a plan that looks like JSON as JSON.
            checked = self.fn_metadata.arg_model.model_validate(arguments).model_dump_one_level()
        except ValidationError as error:
            raise ToolError(arguments_refused(self.name, self.fn_metadata.arg_model, error)) from error
        # An argument called by a word of Python's, such as ``from``, is a parameter with an underscore behind it.
        wanted = {f"{name}_" if iskeyword(name) else name: value for name, value in checked.items()}
        if self.context_kwarg is not None:
            wanted[self.context_kwarg] = context
        try:
            return await self._finish(wanted) if self.is_acting else await self._answer(wanted)
        except MCPError:
            raise
        except AutopackError as error:
            raise ToolError(refused(error)) from error
        except Exception as error:
            raise UnexpectedToolError(_DEFECT.format(self.name)) from error

    async def _answer(self, wanted: dict[str, Any]) -> CallToolResult:
        found: Answer | CallToolResult = await self.fn(**wanted)
        return found if isinstance(found, CallToolResult) else result_of(found)

    async def _finish(self, wanted: dict[str, Any]) -> CallToolResult:
        # A client that hangs up cancels the handler. What it asked for is written down all the same: half an act, a
        # supervisor started and no run in its queue, would be worse than one nobody reads the answer of.
        with anyio.fail_after(ACT_LIMIT_S, shield=True):
            return await self._answer(wanted)


def tool_of(
    fn: Callable[..., Awaitable[Answer | CallToolResult]],
    *,
    title: str,
    is_acting: bool = False,
    is_destructive: bool = False,
    is_idempotent: bool = True,
    is_open_world: bool = False,
) -> StrictTool:
    """A tool named after a function; its first paragraph is the description, its parameters are the arguments."""
    described = inspect.cleandoc(fn.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    hints = ToolAnnotations(
        read_only_hint=not is_acting,
        destructive_hint=is_destructive,
        idempotent_hint=is_idempotent,
        open_world_hint=is_open_world,
    )
    built = Tool.from_function(
        fn,
        title=title,
        description=described,
        annotations=hints,
        structured_output=False,
        context_kwarg=CONTEXT if CONTEXT in inspect.signature(fn).parameters else None,
    )
    arguments = built.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    fields = {name: getattr(built, name) for name in Tool.model_fields}
    return StrictTool(**{**fields, "parameters": small_schema(arguments.model_json_schema())}, is_acting=is_acting)


def small_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without what says nothing to a model: titles, null as a type, defaults of null and false.

    The server still takes null for an argument that may be left out.
    """
    smaller = {name: _smaller(value) for name, value in schema.items() if name != "title"}
    options = [option for option in smaller.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        smaller = {**options[0], **smaller}
    elif options:
        smaller["anyOf"] = options
    if "default" in smaller and (smaller["default"] is None or smaller["default"] is False):
        del smaller["default"]
    return smaller


def _smaller(value: Any) -> Any:
    if isinstance(value, dict):
        is_schema = "type" in value or "anyOf" in value or "enum" in value
        return small_schema(value) if is_schema else {name: _smaller(inner) for name, inner in value.items()}
    return [_smaller(item) for item in value] if isinstance(value, list) else value


_DEFECT = (
    "{} failed because of a defect in autopack-mcp; its log has the details. Whether anything was done is not known:"
    " look with get_run_status before asking again."
)
