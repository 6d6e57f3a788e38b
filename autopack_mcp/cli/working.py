"""The verb ``worker``: a process that advances runs on any machine (docs/scaling.md).

``autopack_mcp.worker`` does the work; this parses, prints where it stands, and closes the database.
"""

from __future__ import annotations

import asyncio

import click

CONCURRENCY_LIMIT = 64  # As many runs as a models.yaml may ask of one machine.


@click.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1, CONCURRENCY_LIMIT),
    default=4,
    show_default=True,
    help="Runs that this worker advances at the same time.",
)
@click.option("--rehearsal-pause", default=0.0, help="Seconds that a scripted reply takes, to watch a rehearsal.")
def worker(concurrency: int, rehearsal_pause: float) -> None:
    """Advance runs whose repository has a URL, beside other workers on any machine (PostgreSQL)."""
    # Lazy: this verb alone needs the queue.
    from autopack_mcp.app import open_checked
    from autopack_mcp.cli.serving import log_to_stderr
    from autopack_mcp.worker import work

    log_to_stderr()

    async def main() -> None:
        autopack = open_checked()
        try:
            await work(
                autopack,
                concurrency=concurrency,
                on_working=lambda mine: click.echo(f"Working as {mine.machine}, {concurrency} runs at once."),
                pause_s=rehearsal_pause,
            )
        finally:
            await autopack.database.close()

    asyncio.run(main())
