"""Every page as a pure function of what ``summary`` says: summaries in, HTML out.

It owns the templates and how they are filled; everything is escaped by Jinja2, nothing is ever marked safe, whatever
the summaries already made visible. It reads no database and no request; ``pages`` and ``error_pages`` call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from autopack_mcp.config.settings import Window
from autopack_mcp.status_page import charts, formatting, panels
from autopack_mcp.summary import shown
from autopack_mcp.summary.context_block import context_block
from autopack_mcp.summary.models import ModelMapping
from autopack_mcp.summary.run import RunList, RunSummary
from autopack_mcp.summary.run_usage import RunUsage
from autopack_mcp.summary.scorecard import ModelScorecard
from autopack_mcp.summary.usage import UsageSummary
from autopack_mcp.usage.export import ROWS
from autopack_mcp.usage.spans import bounds_of, consists_of_days

STATIC_FOLDER = Path(__file__).parent / "static"
NOTES_SHOWN = 5  # The last ones stand open, older ones are folded.
USAGE_RUNS_SHOWN = 50  # The dearest ones of a span; the export has all.
SCORECARD_DAYS = 90  # As in a chat: recent enough to be about the models of today, and more than a handful.
CAPS_SHOWN = 3  # The worst ones stand open, others are folded.


def url_part(text: str) -> str:
    """``text`` as one segment or value of an address, whatever stands in it."""
    return quote(text, safe="", errors="backslashreplace")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "age": formatting.age_text,
        "amount_words": charts.amount_words,
        "clock_time": formatting.clock_text,
        "iso": formatting.iso_text,
        "level_sign": formatting.level_sign,
        "moment": formatting.moment_text,
        "percent": formatting.percent_text,
        "phase_sign": formatting.phase_sign,
        "run_sign": formatting.run_sign,
        "standing_sign": formatting.standing_sign,
        "tokens": shown.tokens_text,
        "url_part": url_part,
        "usd": shown.usd_text,
    }
    environment.globals |= {
        "counted": formatting.counted,
        "share_percent": panels.share_percent,
        "span_text": formatting.span_text,
    }
    return environment


_TEMPLATES = _environment()


def runs_page(
    runs: RunList, unfinished: Sequence[RunSummary], usage: UsageSummary, as_of: datetime, *, is_first: bool
) -> str:
    """The list of runs, the unfinished ones above it on the first page, and the caps beside it."""
    return _render(
        "runs.html",
        as_of,
        path="/",
        section="runs",
        runs=runs,
        unfinished=unfinished,
        usage=usage,
        caps=panels.cap_panels(usage.caps),
        caps_shown=CAPS_SHOWN,
        is_first=is_first,
    )


def run_page(run: RunSummary, models: ModelMapping, costs: RunUsage, usage: UsageSummary, as_of: datetime) -> str:
    """One run with all of its panels, in the order in which a person on a phone needs them."""
    return _render(
        "run.html",
        as_of,
        path=f"/runs/{url_part(run.run_id)}",
        section="runs",
        run=run,
        token_bar=panels.run_token_bar(run),
        cost_bar=panels.run_cost_bar(run),
        groups=panels.phase_groups(run.phases),
        costs=costs,
        models=models,
        caps=panels.cap_panels(usage.caps),
        caps_shown=CAPS_SHOWN,
        context=context_block(run),
        notes_shown=NOTES_SHOWN,
    )


def phases_page(run: RunSummary, as_of: datetime) -> str:
    """Every phase of a run, in plan order."""
    path = f"/runs/{url_part(run.run_id)}/phases"
    return _render("phases.html", as_of, path=path, section="runs", run=run, phases=panels.numbered(run.phases))


def usage_page(usage: UsageSummary, as_of: datetime) -> str:
    """What was spent in one span of time, day by day, and against caps where it is a window of theirs."""
    periods: tuple[Window, ...] = ("day", "week", "month")
    return _render(
        "usage.html",
        as_of,
        path=f"/usage?{_asked_again(usage)}",
        section="usage",
        usage=usage,
        caps=panels.cap_panels(usage.caps),
        chart=charts.day_chart(usage.days),
        asked_again=_asked_again(usage),
        export_rows=ROWS if consists_of_days(usage.starts_at, usage.ends_at) else ROWS[:2],
        periods=periods,
        runs_shown=USAGE_RUNS_SHOWN,
    )


def models_page(models: ModelMapping, scores: ModelScorecard, as_of: datetime) -> str:
    """Which model a new run would use for what, and why, which others may be chosen, and how they did so far."""
    return _render(
        "models.html",
        as_of,
        path="/models",
        section="models",
        models=models,
        scores=scores,
        scorecard_days=SCORECARD_DAYS,
    )


def error_page(status: int, title: str, sentences: Sequence[str], known_runs: Sequence[str] = ()) -> str:
    """What a person sees instead of a page: what happened and where to go from here."""
    return _fill("error.html", status=status, title=title, sentences=sentences, known_runs=known_runs, section="")


def _asked_again(usage: UsageSummary) -> str:
    """The query that asks for the same time."""
    if usage.period is not None:
        return f"period={usage.period}&offset={usage.offset}"
    from_, to = bounds_of(usage.starts_at, usage.ends_at)
    return f"from={url_part(from_)}&to={url_part(to)}"


def _render(template: str, as_of: datetime, *, path: str, section: str, **context: object) -> str:
    return _fill(template, as_of=as_of, path=path, section=section, **context)


def _fill(template: str, **context: object) -> str:
    html = _TEMPLATES.get_template(template).render(context)
    # Half a surrogate pair cannot be sent; it is shown as the escape that ``text_safety`` would have made of it.
    return html.encode("utf-8", "backslashreplace").decode()
