"""The verb ``usage export``: the ledger's rows as CSV or JSON, to a pipe or a file.

It owns where the text goes: a file is complete or not there at all. What is in it is ``usage.export``'s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from autopack_mcp.cli.opening import opened
from autopack_mcp.cli.spans import from_option, offset_option, periods, to_option
from autopack_mcp.errors import RequestRefused


@click.command()
@click.option("--format", "format_", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("--rows", type=click.Choice(["events", "hours", "days"]), default="events", show_default=True,
              help="Single calls, or their sums by hour or day.")  # fmt: skip
@click.option("--period", type=periods, help="Default: week; of a run, any time.")
@offset_option
@from_option
@to_option
@click.option("--run", help="Only the calls of this run.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Instead of stdout.")
def export(
    format_: str, rows: str, period: str | None, offset: int, from_: str | None, to: str | None, run: str | None,
    output: Path | None,
) -> None:  # fmt: skip
    """Write out the ledger: calls, hours or days of a span of time, or the calls of a run."""
    # Lazy: the other verbs about usage do not pay for it.
    from autopack_mcp.usage.export import asked_export

    with opened() as autopack:
        wanted = asked_export(
            autopack.clock.now(), rows=rows, format_=format_, period=period, offset=offset, from_=from_, to=to,
            run_id=run,
        )  # fmt: skip
        if run is not None:
            autopack.summaries.check_run_now(run)
        pieces = autopack.summaries.export_now(wanted)
        if output is None:
            _write_out(pieces)
        else:
            _write_file(pieces, output)


def _write_out(pieces: Iterator[str]) -> None:
    stream = sys.stdout.buffer
    for piece in pieces:
        stream.write(piece.encode())
    stream.flush()


def _write_file(pieces: Iterator[str], file: Path) -> None:
    """Beside the file first: what stood there stays until all of the new one is written."""
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as stream:
            for piece in pieces:
                stream.write(piece.encode())
        part.replace(file)
    except OSError as error:
        raise RequestRefused(
            f"{str(file)!r} cannot be written: {error.strerror}.", hint="Name another file."
        ) from error
    finally:
        part.unlink(missing_ok=True)
