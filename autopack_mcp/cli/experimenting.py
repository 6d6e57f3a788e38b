"""The verb ``retry-prompt``: a recorded prompt sent again, with edits or as it was, and both answers side by side.

It runs in this process, with the keys that it sees; ``experiments`` does the work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from autopack_mcp.cli.opening import asked_here, opened
from autopack_mcp.cli.output import print_json
from autopack_mcp.cli.reading import as_json
from autopack_mcp.summary.shown import tokens_text, usd_text
from autopack_mcp.text_safety import visible

if TYPE_CHECKING:
    from autopack_mcp.experiments import PromptEdits, RetriedPrompt, Take
    from autopack_mcp.traces.texts import KeptCall

SHOWN_CHARS = 1_000_000  # Of one text on a terminal: longer than any answer.


@click.command(name="retry-prompt")
@click.argument("call")
@click.option("--model", help="Ask this model instead.")
@click.option("--replace", nargs=2, multiple=True, metavar="OLD NEW", help="Replace OLD by NEW wherever it stands.")
@click.option("--append", metavar="TEXT", help="Put TEXT behind the last question.")
@click.option("--max-output-tokens", type=int, help="The longest answer, thinking included.")
@click.option("--show", is_flag=True, help="Only show the prompt and the reply as they are kept; nothing is sent.")
@as_json
def retry_prompt(
    call: str, model: str | None, replace: tuple[tuple[str, str], ...], append: str | None,
    max_output_tokens: int | None, show: bool, as_json: bool,
) -> None:  # fmt: skip
    """Send the prompt of CALL again and compare the answers. It is paid for, under the caps of today.

    An id that does not exist is answered with the newest ones; an export of usage has them all.
    """
    # Lazy: what calls models is no other verb's business.
    from autopack_mcp.experiments import PromptEdits, recorded_call

    if show:
        with opened() as autopack:
            kept = autopack.database.read_now(recorded_call, call)
        print_json(kept) if as_json else _print_kept(kept)
        return
    found = asyncio.run(_retried(call, PromptEdits(model, replace, append, max_output_tokens)))
    print_json(found) if as_json else _print_both(found)


async def _retried(call: str, edits: PromptEdits) -> RetriedPrompt:
    # Lazy: see above.
    from autopack_mcp import app

    autopack = app.open_checked()
    door = app.call_door(autopack)
    try:
        person = asked_here()
        experiments = app.experiments(autopack, door)
        return await experiments.retry_prompt(call, edits, author=person.author, client=person.client)
    finally:
        await door.close()
        await autopack.database.close()


def _print_kept(kept: KeptCall) -> None:
    whose = f"{kept.role}, {kept.model}, {kept.stored_at:%Y-%m-%d %H:%M} UTC"
    click.echo(visible(f"{kept.call_id} ({whose}){_redactions(kept.redactions)}", SHOWN_CHARS))
    for role, content in kept.words.messages:
        click.echo(f"\n── {role}\n{_lines(content)}")
    reply = "(no answer)" if kept.words.reply is None else _lines(kept.words.reply)
    click.echo(f"\n── reply\n{reply}")


def _print_both(found: RetriedPrompt) -> None:
    for name, take in (("first", found.first), ("again", found.second)):
        click.echo(visible(f"{name}: {_in_words(take)}", SHOWN_CHARS))
    if found.redactions:
        click.echo(f"The prompt was sent{_redactions(found.redactions)}.")
    if found.first.reply is None:
        click.echo(f"The first call was not answered. Now:\n\n{_lines(found.second.reply or '')}")
    else:
        click.echo(f"\n{_lines(found.diff)}" if found.diff else "Both answers say the same.")


def _in_words(take: Take) -> str:
    if take.prompt_tokens is None or take.completion_tokens is None:
        return f"{take.call_id} {take.model}, whose numbers are no longer recorded"
    tokens = f"{tokens_text(take.prompt_tokens)} tokens in, {tokens_text(take.completion_tokens)} out"
    return f"{take.call_id} {take.model}, {tokens}, {usd_text(take.cost_usd)}"


def _redactions(count: int) -> str:
    return f" without {count} secret{'s' if count > 1 else ''} that had been taken out" if count else ""


def _lines(text: str) -> str:
    return visible(text, SHOWN_CHARS, multiline=True)
