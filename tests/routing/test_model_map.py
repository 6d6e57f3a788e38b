"""The map a run pins: whatever it says, it says the same after years in the database."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.config.settings import FallbackStrategy, QuotaRouting, RoleModels
from autopack_mcp.routing.model_map import ModelMap, current_model_map, model_map_from_json, model_map_to_json
from autopack_mcp.routing.model_router import choose
from autopack_mcp.routing.overrides import Override
from tests.factories import NOON, settings
from tests.routing.snapshots import override, snapshot

_names = st.text(max_size=8)
_pairs = st.builds(RoleModels, st.none() | _names, st.none() | _names)
_chains = st.lists(_names, max_size=3).map(tuple)


def _after_noon(microseconds: int) -> datetime:
    return NOON + timedelta(microseconds=microseconds)


_times = st.none() | st.integers(0, 10**15).map(_after_noon)
_overrides = st.builds(
    Override,
    st.integers(1, 2**62),
    st.sampled_from(["run", "global"]),
    _names, _names, _names, _names, _names, _times, _times, st.none() | _names,
)  # fmt: skip
_maps = st.builds(
    ModelMap,
    st.dictionaries(_names, _pairs, max_size=3),
    st.dictionaries(_names, _pairs, max_size=3),
    st.dictionaries(_names, _names, max_size=3),
    _pairs,
    st.builds(FallbackStrategy, _chains, st.dictionaries(_names, _chains, max_size=3)),
    st.builds(QuotaRouting, st.booleans(), st.frozensets(_names, max_size=3), st.sampled_from(["keep", "fail"])),
    st.lists(_overrides, max_size=2).map(tuple),
)


@given(_maps)
def test_a_map_comes_back_from_json_as_it_was(model_map: ModelMap) -> None:
    assert model_map_from_json(json.loads(json.dumps(model_map_to_json(model_map)))) == model_map


def test_a_pinned_map_keeps_its_answers_when_the_configuration_changes() -> None:
    pinned = current_model_map(settings(), (override("claude", "ui:*", scope="global"),))
    later = settings(complexity_models={"medium": RoleModels("gpt-small", "gpt-small")})
    of = snapshot(config=later, model_map=model_map_from_json(model_map_to_json(pinned)))
    assert choose(of, "builder", "general", "medium").model == "gpt-big"
    assert choose(of, "builder", "ui", "medium").model == "claude"


def test_a_pinned_override_still_expires() -> None:
    ending = override("claude", scope="global", expires_at=NOON + timedelta(seconds=1))
    pinned = model_map_from_json(model_map_to_json(current_model_map(settings(), (ending,))))
    of_noon, of_later = (snapshot(model_map=pinned), snapshot(model_map=pinned, at=NOON + timedelta(seconds=1)))
    assert choose(of_noon, "builder", "general", "medium").model == "claude"
    assert choose(of_later, "builder", "general", "medium").model == "gpt-big"
