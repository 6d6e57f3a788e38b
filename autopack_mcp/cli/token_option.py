"""An amount of tokens as an option takes it: "18000", "18k", "1.5M".

It owns how such an option is read and what wrong usage says; what an amount is stays ``control.amounts``'s.
"""

from __future__ import annotations

import click

from autopack_mcp.errors import RequestRefused


class Tokens(click.ParamType):  # type: ignore[type-arg]  # Generic only for type checkers: int comes out.
    """Whole tokens. A plain whole number passes as it is, for the verb to judge."""

    name = "tokens"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The tokens; wrong usage says how to write them."""
        # Lazy: verbs that only read must not pay for it.
        from autopack_mcp.control.amounts import read_tokens

        text = str(value).strip()
        if text.removeprefix("-").isdecimal() and text.isascii():
            return int(text)
        try:
            return read_tokens(text)
        except RequestRefused as error:
            self.fail(str(error), param, ctx)
