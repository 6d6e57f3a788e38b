"""Caps of a day, a week and a month as models.yaml writes them: of a provider, of a role, of all calls together.

It owns the six keys and their rule (a whole number of tokens, an amount of dollars, never 0); it compares nothing with
what was spent. ``models_yaml`` calls it for every place where such caps may stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from autopack_mcp.config.settings import Window, WindowCap
from autopack_mcp.documents import shown
from autopack_mcp.sections import Section, nearest, spelled

CAP_KEYS = tuple(f"{period}_cap_{unit}" for period in ("daily", "weekly", "monthly") for unit in ("tokens", "usd"))
CAP_PLACES = ("global", "roles")

_PREFIXES: Mapping[Window, str] = {"day": "daily", "week": "weekly", "month": "monthly"}
_CORE_ROLES = ("builder", "auditor")
_AGENT = re.compile(r"agent:[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def window_caps(sections: Sequence[Section], zero_hint: str) -> tuple[WindowCap, ...]:
    """The caps of one account, role or whole, by window; the predecessor's ``weekly_token_cap`` is read as well.

    Args:
        sections: where the keys may stand; two that disagree are refused.
        zero_hint: what to do instead of writing a cap of 0.
    """
    return tuple(_window_caps(sections, zero_hint))


def global_caps(caps: Section) -> tuple[WindowCap, ...]:
    """``caps.global``: what all calls of all providers may use together."""
    return _shared_caps(caps, "global") if "global" in caps else ()


def role_caps(caps: Section) -> dict[str, tuple[WindowCap, ...]]:
    """``caps.roles``: what each role may use, whichever provider answers it."""
    roles = caps.section("roles")
    for role in roles.names():
        if role not in _CORE_ROLES and not _AGENT.match(role):
            agents = (f"agent:{role}",) if _AGENT.match(f"agent:{role}") else ()
            hint = nearest(role, (*_CORE_ROLES, *agents))
            roles.error(role, f"{shown(role)} is no role.{hint} Roles are builder, auditor and agent:<name>.")
    return {role: _shared_caps(roles, role) for role in roles.names()}


def _shared_caps(place: Section, key: str) -> tuple[WindowCap, ...]:
    section = place.section(key)
    section.refuse_unknown(CAP_KEYS)
    says_nothing = not any(name in section for name in section.names())
    if says_nothing and isinstance(place.value(key), dict | None):
        section.warn(None, f"names no cap and does nothing. A cap is one of {', '.join(CAP_KEYS)}.")
    return window_caps((section,), "For no cap leave the key out.")


def _window_caps(sections: Sequence[Section], zero_hint: str) -> Iterator[WindowCap]:
    for window, prefix in _PREFIXES.items():
        section, key = spelled(sections, (f"{prefix}_cap_tokens", f"{prefix}_token_cap"))
        tokens = section.whole(key, zero_hint=zero_hint)
        dollars_key = f"{prefix}_cap_usd"
        nano_usd = spelled(sections, (dollars_key,))[0].nano_usd(dollars_key)
        if tokens is not None or nano_usd is not None:
            yield WindowCap(window, tokens, nano_usd)
