"""Errors as texts that a model can act on: what is wrong, what exists or is allowed instead, and a code.

Clients hand a model nothing but the text of an error, so the facts stand in it. Pure; the tools' machinery calls it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase
from pydantic import ValidationError

from autopack_mcp.errors import AutopackError
from autopack_mcp.mcp_server.answers import short

MESSAGE_BYTES = 4_000  # Of an error's words: a plan may have hundreds of problems, and the first ones come first.
HINT_BYTES = 1_000  # Of what to do about it.
FACT_BYTES = 200  # Of one fact.
FACTS_LISTED = 20  # Of a fact that is a list.
VALUE_BYTES = 80  # Of a refused value that is repeated.


def refused(error: AutopackError) -> str:
    """One of our errors: its message, its hint, and on a line of its own its code and facts as JSON."""
    message = short(error.message, MESSAGE_BYTES, multiline=True)
    hint = short(error.hint, HINT_BYTES, multiline=True)
    facts = json.dumps({"code": error.code, **_facts(error)}, ensure_ascii=False)
    return "\n".join(line for line in (message, hint, facts) if line)


def arguments_refused(tool: str, arguments: type[ArgModelBase], error: ValidationError) -> str:
    """Everything that is wrong with the arguments of one call, then the arguments that the tool takes."""
    fields = {field.alias or name: field for name, field in arguments.model_fields.items()}
    names = list(fields)
    wrong = [_wrong(dict(problem), names) for problem in error.errors(include_url=False)]
    needed = [name for name, field in fields.items() if field.is_required()]
    takes = ", ".join(f"{name} (required)" if name in needed else name for name in names)
    return "\n".join((*wrong, f"{tool} takes: {takes}."))


def did_you_mean(word: str, known: list[str]) -> str:
    """`` Did you mean 'week'?``, or nothing when no known word is near."""
    near = get_close_matches(word.lower(), known, 1, 0.5) or [name for name in known if word and word in name]
    return f" Did you mean {near[0]!r}?" if near else ""


def _facts(error: AutopackError) -> Mapping[str, object]:
    # ``problems`` are the message itself, with file and line.
    skipped = ("message", "hint", "problems")
    return {name: _fact(value) for name, value in vars(error).items() if name not in skipped and value is not None}


def _fact(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_fact(item) for item in value[:FACTS_LISTED]]
    return short(str(value), FACT_BYTES)


def _wrong(problem: dict[str, Any], names: list[str]) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"There is no argument {short(name, VALUE_BYTES)!r}.{did_you_mean(name, names)}"
    if problem["type"] == "missing":
        return f"The argument {name!r} is missing."
    value = short(repr(problem["input"]), VALUE_BYTES)
    if problem["type"] in ("literal_error", "enum"):
        known = problem["ctx"]["expected"]
        choices = [choice.strip("'") for choice in known.replace(" or ", ", ").split(", ")]
        return f"{name} cannot be {value}; it is one of {known}.{did_you_mean(str(problem['input']), choices)}"
    return f"{name} cannot be {value}: {problem['msg'].removeprefix('Value error, ')}."
