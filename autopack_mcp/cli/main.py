"""The ``autopack-mcp`` command: finds the verb, runs it, and turns every deliberate error into one clear line.

It owns exit codes (0 done, 1 an error of ours, 2 wrong usage) and the lazy loading of verbs: ``status`` must start in a
third of a second, so it may not pay for ``serve`` (docs/architecture.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from autopack_mcp import __version__
from autopack_mcp.errors import AutopackError, ConfigError, PlanError
from autopack_mcp.home import CONFIG_VARIABLE

_VERBS: Mapping[str, str] = {
    "demo": "serving",
    "serve": "serving",
    "worker": "working",
    "stop": "serving",
    "stdio": "serving",
    "token": "serving",
    "start": "acting",
    "runs": "reading",
    "status": "reading",
    "pause": "acting",
    "resume": "acting",
    "retry": "acting",
    "skip": "acting",
    "edit": "acting",
    "give-up": "acting",
    "cancel": "acting",
    "raise-cap": "acting",
    "note": "acting",
    "override": "acting",
    "fork": "replaying",
    "compare": "replaying",
    "rehearse": "rehearsing",
    "order": "orders",
    "orders": "orders",
    "usage": "usage",
    "retry-prompt": "experimenting",
    "models": "reading",
    "scorecard": "scorecard",
    "config": "configuring",
}


class _LazyGroup(click.Group):
    """Loads the module of a verb when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = import_module(f"autopack_mcp.cli.{_VERBS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="autopack-mcp")
@click.option("--config", metavar="FILE", help="A models.yaml to use instead of the one in AUTOPACK_HOME.")
def cli(config: str | None) -> None:
    """Steer autonomous LLM build runs: start them, watch them, and keep what they cost under its caps.

    Everything lives in AUTOPACK_HOME; `autopack-mcp demo` shows a whole run without calling any model.
    """
    if config is not None:
        # By the environment, so that a supervisor that this command starts uses the same file.
        os.environ[CONFIG_VARIABLE] = str(Path(config).absolute())


def main(arguments: list[str] | None = None) -> Any:
    """Run one verb and exit with its code."""
    try:
        return cli.main(arguments, prog_name="autopack-mcp")
    except AutopackError as error:
        is_told = isinstance(error, (ConfigError, PlanError))  # Each of their problems says itself that it is one.
        click.echo(error.message if is_told else f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(1)
