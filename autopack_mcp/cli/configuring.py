"""The verbs about models.yaml: write the default to AUTOPACK_HOME, or check the one in force."""

from __future__ import annotations

import os
from pathlib import Path

import click

from autopack_mcp.config.config_file import find_config
from autopack_mcp.config.shipped import default_config_text
from autopack_mcp.errors import RequestRefused
from autopack_mcp.home import CONFIG_VARIABLE, Keys, find_home


@click.group()
def config() -> None:
    """Look after models.yaml."""


@config.command()
def init() -> None:
    """Write the default models.yaml into AUTOPACK_HOME, to be edited there; one that exists is left alone."""
    home = find_home(os.environ)
    home.ensure()
    if home.models_file.exists():
        raise RequestRefused(f"{home.models_file} exists and was left alone.", hint="Edit it, or move it away first.")
    home.models_file.write_text(default_config_text(), encoding="utf-8")
    click.echo(f"Wrote {home.models_file}")


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Say every problem of models.yaml (or of FILE) at once, and which providers have a key."""
    home = find_home(os.environ)
    explicit = file or os.environ.get(CONFIG_VARIABLE)
    found = find_config(Path(explicit) if explicit else None, home)
    settings = found.current()
    keys = Keys(os.environ, home.env_file)
    for warning in (*settings.warnings, *keys.warnings):
        click.echo(str(warning))
    click.echo(f"{settings.source}: {len(settings.models)} models of {len(settings.providers)} providers, no errors.")
    for provider in settings.providers.values():
        variable = provider.api_key_env
        state = "needs no key" if variable is None else "has a key" if keys.get(variable) else f"lacks {variable}"
        click.echo(f"  {provider.provider}: {state}")
