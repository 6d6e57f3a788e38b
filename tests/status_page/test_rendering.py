"""Pages from summaries: everything that is said is there, and nothing that is said becomes more than text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as run_of
from hypothesis import strategies as st

from autopack_mcp.status_page import rendering
from autopack_mcp.summary.alerts import AlertView
from autopack_mcp.summary.context_block import context_block
from autopack_mcp.summary.orders import OrderView
from autopack_mcp.summary.scorecard import BuilderScore, wilson
from tests.factories import NOON
from tests.status_page.html import Document, read_html
from tests.status_page.samples import (
    builder_score,
    cap_view,
    event_view,
    model_mapping,
    model_row,
    model_scorecard,
    model_usage,
    needs_you,
    note_view,
    phase_view,
    queued_phase,
    request_view,
    run_line,
    run_list,
    run_summary,
    run_usage,
    standing_view,
    usage_summary,
)

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "page.md"
TEMPLATES = Path(rendering.__file__).parent / "templates"
WORDS_OF_OURS = {
    "state",
    "current_phase_state",
    "period",
    "level",
    "is_verified",
    "scope",
    "rule",
    "resets_at",
    "unit",
    "sample",
}
NOT_SHOWN = {
    "label",
    "aliases",
    "categories",
    "complexities",
    "updated_at",
    "request_id",
    "current_phase_id",
    "client",
    "command",
}
ELSEWHERE = {"run_id", "commit", "window_label", "kind"}  # Shown in addresses, cut, or only where a phase is missing.
IN_A_SENTENCE = {(OrderView, "action"), (OrderView, "provider"), (AlertView, "cap")}

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</pre></code></q></p></main><h1>Paid</h1>",
    '<meta http-equiv="refresh" content="0;url=https://evil.example">',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp; &#60;",
    "<!-- ",
    "]]>",
    "\x00\x0b\x7f",
    "\ud800 alone",
    "\u202egnp.exe",
    "//evil.example/",
)
HOSTILE = st.one_of(
    st.sampled_from(ATTACKS), st.text(st.characters(exclude_characters="\r"), min_size=1, max_size=40)
)  # fmt: skip


def pages(texts: Iterator[str] | None = None) -> dict[str, str]:
    """Every kind of page with everything on it; ``texts`` take the place of whatever others wrote."""

    def hostile(value: Any) -> Any:
        return value if texts is None else with_texts(value, texts)

    phases = (phase_view(), phase_view("p2", state="failed", major_issues=1), queued_phase("p3"))
    run = hostile(
        run_summary(
            needs_you=needs_you(),
            phases=phases,
            pending_requests=(request_view(),),
            notes=(note_view(), note_view(2, in_force=False)),
            recent_events=(event_view(), event_view(phase_id=None, from_state=None)),
        )
    )
    rows = (
        model_row(also=("docs",), phase_ids=("p3",), replaces="gpt-big", blocked_by="no key"),
        model_row("auditor", model=None, provider=None, rule=None, reasons=(), error="no rule names one"),
    )
    models = hostile(model_mapping(rows=rows, warnings=("line 14: unknown model",)))
    scores = hostile(model_scorecard(builder_score(), builder_score("gpt-big", is_small_sample=False)))
    usage = hostile(usage_summary(breaches=1))
    costs = hostile(run_usage(note="a rehearsal"))
    runs = hostile(run_list(run_line(), next_cursor="next"))
    sentences = ["There is no such run."] if texts is None else [next(texts)]
    return {
        "runs": rendering.runs_page(runs, (run,), usage, NOON, is_first=True),
        "run": rendering.run_page(run, models, costs, usage, NOON),
        "phases": rendering.phases_page(run, NOON),
        "usage": rendering.usage_page(usage, NOON),
        "models": rendering.models_page(models, scores, NOON),
        "error": rendering.error_page(404, sentences[0], sentences, sentences),
    }


def with_texts(value: Any, texts: Iterator[str]) -> Any:
    """``value`` with every text that is not a word of ours replaced by the next one."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, tuple):
        return tuple(with_texts(item, texts) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: with_texts(getattr(value, field.name), texts)
            for field in fields(value)
            if field.name not in WORDS_OF_OURS
        }
        return replace(value, **changed)
    return value


def texts_of(value: Any) -> Iterator[str]:
    """Every text that a page made of ``value`` must show."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from texts_of(item)
    elif is_dataclass(value):
        for field in fields(value):
            is_told_otherwise = field.name in WORDS_OF_OURS | NOT_SHOWN | ELSEWHERE
            if not is_told_otherwise and (type(value), field.name) not in IN_A_SENTENCE:
                yield from texts_of(getattr(value, field.name))


def skeleton(document: Document) -> list[tuple[str, tuple[str, ...], str | None]]:
    """Elements with the names of their attributes and their classes: what may not depend on any text."""
    return [
        (element.tag, tuple(name for name, _ in element.attributes), element.get("class"))
        for element in document.elements
    ]


def shown(text: str) -> str:
    """A text as it can be sent at all."""
    return text.encode("utf-8", "backslashreplace").decode()


HARMLESS = {name: skeleton(read_html(html)) for name, html in pages(cycle(["a word"])).items()}


@run_of(max_examples=60, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=8))
def test_no_text_becomes_an_element_an_attribute_or_an_address(texts: list[str]) -> None:
    for name, html in pages(cycle(texts)).items():
        document = read_html(html)
        assert skeleton(document) == HARMLESS[name]
        for address in document.values("href") + document.values("src"):
            assert re.fullmatch(r"#[a-z-]+|/|/[A-Za-z0-9][A-Za-z0-9._~%?=&;/#-]*|/\?[A-Za-z0-9._~%=-]*", address)


@run_of(max_examples=60, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=8))
def test_every_text_is_shown_as_it_is(texts: list[str]) -> None:
    # Numbered, so that a text which is left out is not found in the place of another one.
    source = (f"·{number}·{text}" for number, text in enumerate(cycle(texts)))
    run = with_texts(run_summary(needs_you=needs_you(), pending_requests=(request_view(),)), source)
    models = with_texts(
        model_mapping(
            rows=(model_row(also=("docs",), phase_ids=("p3",), blocked_by="no key"),),
            standings=(standing_view("google", state="no key", missing_key_variable="GOOGLE_API_KEY", caps=()),),
        ),
        source,
    )
    usage, costs = with_texts(usage_summary(), source), with_texts(run_usage(), source)
    scores = with_texts(model_scorecard(builder_score()), source)
    cases = (
        (
            rendering.run_page(run, models, costs, usage, NOON),
            (run, models.rows, models.overrides, costs.tiers, costs.models, usage.caps),
        ),
        (rendering.models_page(models, scores, NOON), (models, scores)),
        (rendering.usage_page(usage, NOON), usage),
    )
    for html, values in cases:
        text = read_html(html).text
        assert [wanted for wanted in texts_of(values) if shown(wanted) not in text] == []


def test_the_context_block_stands_on_the_page_to_the_letter() -> None:
    run = run_summary(last_summary="a < b && `c`\n</pre>")
    html = rendering.run_page(run, model_mapping(), run_usage(), usage_summary(), NOON)
    assert context_block(run) in read_html(html).text


@pytest.mark.parametrize("name", list(HARMLESS))
def test_pages_need_nothing_that_the_policy_forbids(name: str) -> None:
    document = read_html(pages()[name])
    scripts = [element for element in document.elements if element.tag == "script"]
    assert [element.get("src") for element in scripts] == ["/static/copy.js"]
    assert not any(element.tag in ("style", "base", "form", "iframe", "object") for element in document.elements)
    attributes = {attribute for element in document.elements for attribute, _ in element.attributes}
    assert not [attribute for attribute in attributes if attribute == "style" or attribute.startswith("on")]
    assert "http-equiv" not in attributes


@pytest.mark.parametrize("name", list(HARMLESS))
def test_pages_can_be_walked_by_landmarks_headings_and_ids(name: str) -> None:
    document = read_html(pages()[name])
    tags = [element.tag for element in document.elements]
    assert (tags.count("main"), tags.count("h1"), tags.count("header"), tags.count("footer")) == (1, 1, 1, 1)
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    pointed_at = [target for name in ("aria-labelledby", "data-copy") for target in document.values(name)]
    assert set(pointed_at) <= set(ids)
    assert document.elements[0].get("lang") == "en"


def test_every_panel_has_an_address_that_the_documentation_names() -> None:
    said = DOCUMENTATION.read_text(encoding="utf-8")
    panels = {
        element.get("id") or "a panel without an id"
        for name in ("runs", "run", "usage", "models")
        for element in read_html(pages()[name]).elements
        if element.tag == "section"
    }
    assert sorted(panel for panel in panels if f"`#{panel}`" not in said) == []


def test_every_panel_of_a_run_has_an_address() -> None:
    document = read_html(pages()["run"])
    panels = [element.get("id") for element in document.elements if element.tag == "section"]
    assert panels == [
        "needs-you",
        "progress",
        "phases",
        "cost",
        "models",
        "events",
        "caps",
        "context",
        "notes",
        "orders",
        "about",
    ]


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_no_template_marks_anything_safe(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape|Markup|{%\s*filter", text)
    assert not re.search(r"\s[\w-]+={{", text), "every attribute is quoted"


def words(html: str) -> str:
    return read_html(html).words()


def run_words(**overrides: Any) -> str:
    return words(rendering.run_page(run_summary(**overrides), model_mapping(), run_usage(), usage_summary(), NOON))


def test_a_run_shows_where_it_stands_and_what_it_may_still_cost() -> None:
    text = run_words()
    assert "running phase p3 is being verified 50 %" in text
    assert "Show overdue loans verifying attempt 2 phase 3 of 4 · tier 2 of 2, Interface · 2 phases completed" in text
    assert "Tokens 31,204 of 120,000 29.4 % of the run's cap and 4,100 reserved for calls in flight" in text
    assert "Cost $0.2144 of $2.00 10.7 % of the run's cap" in text
    assert "Issues 0 major, 2 minor Started 41 min ago" in text


def test_what_needs_a_person_comes_first_with_the_phrase_to_say() -> None:
    text = run_words(needs_you=needs_you())
    needs = "Needs you The token cap of 120,000 is reached. Raise it, or cancel the run. Say in chat: resume run r-7f3a"
    assert needs in text
    assert text.index(needs) < text.index("Progress")


def test_standing_orders_say_what_they_did_and_when() -> None:
    says = "pause any run when it reaches $5.00 20 min ago{}: the run was paused. That is $5.00: $4.90 are used."
    assert f"Standing orders 1 {says.format('')} order 3, someone, 1 h ago" in run_words()
    assert says.format(" r-7f3a") in words(rendering.usage_page(usage_summary(), NOON))
    assert "Standing orders 0 None. Say in chat: pause run r-7f3a if it costs more than $5" in run_words(orders=())
    assert "Standing orders 0 None. About" in run_words(orders=(), finished_at=NOON)
    assert "Standing orders" not in words(rendering.usage_page(usage_summary(orders=()), NOON))


def test_alerts_stand_with_the_caps_they_are_about() -> None:
    said = "80 % of openai's cap of the week was reached at 2026-11-18 11:50 UTC: 812,000 of 1,000,000 tokens."
    listed = rendering.runs_page(run_list(), (), usage_summary(), NOON, is_first=True)
    for text in (run_words(), words(rendering.usage_page(usage_summary(), NOON)), words(listed)):
        assert f"Alerts {said}" in text
    assert "Alerts" not in run_words(alerts=())
    assert "Alerts" not in words(rendering.usage_page(usage_summary(alerts=()), NOON))


def test_nothing_needs_a_person_without_a_reason() -> None:
    assert "Needs you" not in run_words()


def test_a_rehearsal_says_that_no_tokens_were_bought_before_any_number() -> None:
    text = run_words(is_rehearsal=True)
    said = "Rehearsal: no model was called, no tokens were bought."
    assert said in text
    assert text.index(said) < text.index("31,204")
    assert "Tokens rehearsed 31,204" in text
    assert said not in run_words(is_rehearsal=False)


@pytest.mark.parametrize(
    "values, text",
    [
        ({"cost_usd": None, "unpriced_calls": 3}, "Cost unpriced of $2.00"),
        ({"cost_usd": Decimal("0.42"), "unpriced_calls": 1}, "Cost $0.42 + 1 unpriced call of $2.00"),
        ({"cost_usd": Decimal("0.42"), "unpriced_calls": 3}, "Cost $0.42 + 3 unpriced calls of $2.00"),
        ({"cost_cap_usd": None}, "Cost $0.2144 no cap"),
    ],
    ids=["no price at all", "one without a price", "some without a price", "no cap"],
)
def test_an_unknown_price_is_never_shown_as_nothing(values: dict[str, Any], text: str) -> None:
    assert text in run_words(**values)


def test_models_without_a_price_are_unpriced_in_the_usage_table() -> None:
    usage = usage_summary(models=(model_usage("qwen", provider="ollama", cost_usd=None, unpriced_calls=12),))
    assert "qwen ollama 300,000 31,000 331,000 unpriced 41 2" in words(rendering.usage_page(usage, NOON))


def test_usage_sets_core_and_auxiliary_work_apart() -> None:
    text = words(rendering.usage_page(usage_summary(), NOON))
    assert "Core builder, auditor 331,000 96.5 % · $1.20 Auxiliary agents 12,000 3.5 % · $0.00" in text


def test_a_cap_says_number_word_window_and_reset() -> None:
    cap = cap_view(
        "anthropic", level="critical", percent_of_cap=92.4, used_tokens=462_000, reserved_tokens=40_000,
        cap_tokens=500_000, is_over_soft_limit=True,
    )  # fmt: skip
    assert (
        "anthropic 2026-W47 · week critical 92.4 % 462,000 of 500,000 tokens, 40,000 of them reserved for calls in"
        " flight Our share of the 1,000,000 configured. Over its soft limit of 80 %. Resets in 4 days, 2026-11-23"
        " 00:00 UTC."
    ) in words(rendering.usage_page(usage_summary(caps=(cap,)), NOON))


def test_a_provider_without_a_cap_has_no_bar() -> None:
    html = rendering.usage_page(usage_summary(caps=(), days=()), NOON)
    assert "No cap is configured." in words(html)
    assert "svg" not in [element.tag for element in read_html(html).elements if element.get("class") != "shape"]


def test_past_windows_can_be_reached_and_left_again() -> None:
    addresses = read_html(rendering.usage_page(usage_summary(offset=-1, caps=()), NOON)).values("href")
    assert {"/usage?period=week&offset=-2", "/usage?period=week&offset=0"} <= set(addresses)


def test_the_present_window_has_no_later_one() -> None:
    addresses = read_html(rendering.usage_page(usage_summary(), NOON)).values("href")
    assert "/usage?period=week&offset=1" not in addresses


def test_a_note_says_whether_it_was_delivered() -> None:
    text = run_words(notes=(note_view(7, text="Keep it short.", delivered="not delivered yet"),))
    assert "Keep it short. not delivered yet note 7, someone by tool, 20 min ago" in text


def test_older_notes_are_folded() -> None:
    text = run_words(notes=tuple(note_view(n) for n in range(1, 9)))
    assert text.index("note 8,") < text.index("3 older notes") < text.index("note 3,")


def test_models_are_shown_with_their_reasons_and_what_blocks_them() -> None:
    row = model_row(
        reasons=("category ui uses a", "a is 83% used", "b takes over"), replaces="a", blocked_by="no API key"
    )
    text = words(rendering.models_page(model_mapping(rows=(row,)), model_scorecard(), NOON))
    assert "category ui uses a a is 83% used b takes over Instead of a. Cannot be called now: no API key" in text


def scores_shown(*builders: BuilderScore) -> str:
    return words(rendering.models_page(model_mapping(), model_scorecard(*builders), NOON))


def test_how_models_did_stands_with_counts_and_ranges() -> None:
    text = scores_shown(builder_score(approval=wilson(30, 40), attempts=40, is_small_sample=False))
    assert "gpt-4o ui 40 medium 30 of 40 75 % 59.8 % to 85.8 %" in text
    assert "12,000 tokens $0.05" in text


def test_a_small_sample_is_marked_and_has_no_percent() -> None:
    text = scores_shown(builder_score(approval=wilson(3, 4)))
    assert "gpt-4o ui small sample 40 medium 3 of 4 30.1 % to 95.4 %" in text


def test_without_any_judged_attempt_the_scorecard_says_so() -> None:
    assert "No attempt of a real run has been judged in that time; rehearsals do not count." in scores_shown()


def test_a_question_that_no_model_answers_says_why() -> None:
    row = model_row(model=None, provider=None, rule=None, reasons=(), error="complexity_models.high names no builder.")
    text = words(rendering.models_page(model_mapping(rows=(row,)), model_scorecard(), NOON))
    assert "no model complexity_models.high names no builder." in text


def test_a_phase_in_hand_of_a_run_that_stands_still_is_shown_as_paused_with_its_own_caps() -> None:
    phase = phase_view("p3", state="building", is_waiting=True, token_cap=20_000, cost_cap_usd=Decimal("0.5"))
    text = run_words(state="paused", phases=(phase,), current_phase_state="building", current_phase_id="p3")
    assert text.count("building (paused)") == 2 + 1  # Where it stands, the phase itself, and the block to copy.
    assert "12,345 of 20,000 tokens · $0.0812 of $0.50" in text


def test_a_configuration_that_cannot_be_used_is_told_on_the_front_page_and_beside_runs_and_usage() -> None:
    notice = "The configuration cannot be used: <models.yaml>:3: error: no"
    usage = usage_summary(notice=notice)
    front = rendering.runs_page(run_list(), (), usage, NOON, is_first=True)
    for text in (words(front), words(rendering.usage_page(usage, NOON)), run_words(notice=notice)):
        assert notice in text
    assert "cannot be used" not in rendering.runs_page(run_list(), (), usage_summary(), NOON, is_first=True)


def test_a_long_run_leaves_most_of_its_queue_to_the_page_of_phases() -> None:
    phases = tuple(queued_phase(f"q{n}") for n in range(1_000))
    run = run_summary(phases=phases, total_phases=1_000)
    html = rendering.run_page(run, model_mapping(), run_usage(), usage_summary(), NOON)
    assert "995 more queued" in words(html)
    assert len(html) < 64_000
    assert rendering.phases_page(run, NOON).count('class="phase"') == 1_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: rendering.runs_page(run_list(hint="There are no runs yet."), (), usage_summary(), NOON, is_first=True),
        lambda: rendering.usage_page(usage_summary(), NOON),
    ],
    ids=["runs", "usage"],
)
def test_pages_say_as_of_when_they_speak(make: Callable[[], str]) -> None:
    assert "as of 12:00:00 UTC Refresh" in words(make())


def test_an_empty_list_says_how_to_begin() -> None:
    html = rendering.runs_page(run_list(hint="Start one: autopack-mcp start"), (), usage_summary(), NOON, is_first=True)
    assert "All runs 0 Start one: autopack-mcp start" in words(html)
