"""The files that ship beside the code: the default models.yaml, the example plan and the repository it is about.

It owns where they are, in a wheel (``autopack_mcp/_config``) and in a checkout (``config/``), and does not know what
they mean. ``config_file``, the command line and the demo ask for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path


def default_config_text() -> str:
    """The models.yaml that is in force when a person has none."""
    return (_shipped() / "models.yaml").read_text(encoding="utf-8")


def example_plan_text() -> str:
    """The plan that the demo rehearses, to copy from."""
    return (_shipped() / "plan.example.yaml").read_text(encoding="utf-8")


def example_repository() -> Mapping[str, str]:
    """The files that the example plan starts from: path in the repository → text."""
    return dict(_texts(_shipped() / "example_repository", ""))


def _shipped() -> Traversable:
    package = resources.files("autopack_mcp")
    inside = package / "_config"
    if inside.is_dir():
        return inside
    # An editable install runs from the checkout, where people edit the same files at the top.
    assert isinstance(package, Path), "only a checkout lacks _config, and a checkout is a folder"
    return package.parent / "config"


def _texts(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _texts(entry, f"{prefix}{entry.name}/")
        elif not entry.name.endswith(".pyc"):
            yield f"{prefix}{entry.name}", entry.read_text(encoding="utf-8")
