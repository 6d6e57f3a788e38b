"""Secrets taken out of words before they are written down; each place says what kind of secret stood there.

It owns which shapes count as a secret in a stored prompt or reply, on top of the keys that ``text_safety`` knows; it
does not judge what else in a text is private. ``texts`` redacts every text through it, and nothing else does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from autopack_mcp.text_safety import KEY_SHAPES, SECRET_MIN_CHARS, SHAPE_FLAGS

MARK = "‹redacted: {}›"
KNOWN_KEPT = 8  # Compiled sets of known secrets: a process has one, and another when its keys file changes.

# Variables of an environment that hold secrets, by the ends of their names.
_SECRET_VARIABLE = re.compile(
    r".*(?:API_?KEY|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|PASSWORD|PASSPHRASE|CREDENTIALS)", re.IGNORECASE
)
# A password is known by the name that it is given: behind quotes anything may stand but another name, without them only
# what is no code. It begins with one character of a set, by which the search is ten times as fast as by whole words.
_ASSIGNED = re.compile(
    r"""
    (?P<keep>
        [PpSsAa] (?i: (?<=p)(?:assword|asswd|assphrase|wd) | (?<=s)ecret(?:[_-]?key)?
                    | (?<=a)(?:pi[_-]?key|ccess[_-]?(?:key|token)|uth[_-]?token) )
        (?: ["']?\s{0,9}[:=]\s{0,9}(?P<quote>["']) | \s{0,9}=\s{0,9}(?!["']) )
    )
    (?P<value> (?(quote) [^"'\n]{4,200}?(?=(?P=quote)) | [^\s"'`<>(){}\[\],;&$‹›]{6,200}(?![\w(\[]) ) )
    """,
    re.VERBOSE,
)
# A name on the right is code and no secret: password=self.password, pwd=env.PWD, secret=SECRET, passwd=None.
_NO_SECRET = re.compile(
    r"(?:none|null|nil|true|false|undefined|redacted|changeme|example|string|str|\W+|x+"
    r"|\D*(?:passw|pwd|secret|key|token|env|config|settings|\bself\.|\bthis\.|\bargs\.)\D*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without its secrets, and how many were taken out."""

    text: str
    count: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """One kind of secret. Nothing is searched for in a text that holds none of the ``triggers``, which is cheap to see.

    The group ``keep``, where a pattern has one, stays readable before the mark. ``is_secret`` looks at the whole match.
    """

    kind: str
    pattern: re.Pattern[str]
    triggers: tuple[str, ...]
    is_secret: Callable[[re.Match[str]], bool] = lambda found: True


_TRIGGERS: Mapping[str, tuple[str, ...]] = {
    "bearer token": ("bearer",),
    "API key": ("sk-", "aiza"),
    "GitHub token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "GitLab token": ("glpat-",),
    "Slack token": ("xox",),
    "AWS key": ("akia", "asia"),
    "private key": ("private key-----",),
}


def _is_assigned(found: re.Match[str]) -> bool:
    return _NO_SECRET.fullmatch(found["value"]) is None


_SHAPES = (
    *(_Shape(kind, re.compile(pattern, SHAPE_FLAGS), _TRIGGERS[kind]) for kind, pattern in KEY_SHAPES.items()),
    # Prefixes by which vendors let scanners find their tokens (gitleaks lists them).
    _Shape("Stripe key", re.compile(r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"), ("k_live_", "k_test_")),
    _Shape("Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}"), ("hf_",)),
    _Shape("registry token", re.compile(r"\bnpm_[A-Za-z0-9]{36}|\bpypi-AgE[A-Za-z0-9_-]{40,}"), ("npm_", "pypi-age")),
    _Shape("SendGrid key", re.compile(r"\bSG\.[\w-]{16,}\.[\w-]{16,}"), ("sg.",)),
    # Header, claims and signature, each base64url; the first two are JSON objects, so they begin with eyJ.
    _Shape("JWT", re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"), ("eyj",)),
    # Of an address: postgres://me:this@host.
    _Shape("password", re.compile(r"(?P<keep>://[^\s/:@]{1,99}:)[^\s/@]{3,200}(?=@)"), ("://",)),
    _Shape("password", _ASSIGNED, ("passw", "passphrase", "pwd", "secret", "key", "token"), _is_assigned),
)


def secrets_in(environ: Mapping[str, str]) -> dict[str, str]:
    """What an environment holds in variables whose names say that it is secret, by those names; no paths."""
    found = {name: value for name, value in environ.items() if _SECRET_VARIABLE.fullmatch(name)}
    return {name: value for name, value in found.items() if not value.startswith("/")}


def redacted(text: str, known: Mapping[str, str]) -> Redacted:
    """``text`` with every secret replaced by a mark that says what kind it was.

    Args:
        text: anything, however hostile.
        known: secrets of this process by what they are called, the name of their variable; those shorter than
            ``text_safety.SECRET_MIN_CHARS`` are left alone, for they would shred ordinary words.
    """
    count = 0
    by_value = {value: name for name, value in known.items() if len(value) >= SECRET_MIN_CHARS}
    if by_value and any(value in text for value in by_value):
        text, count = _known_pattern(tuple(by_value)).subn(lambda found: MARK.format(by_value[found[0]]), text)
    lower = text.lower()
    for shape in _SHAPES:
        if any(trigger in lower for trigger in shape.triggers):
            text, more = _without(text, shape)
            count += more
    return Redacted(text, count)


def _without(text: str, shape: _Shape) -> tuple[str, int]:
    count = 0

    def marked(found: re.Match[str]) -> str:
        nonlocal count
        if not shape.is_secret(found):
            return found[0]
        count += 1
        return (found.groupdict().get("keep") or "") + MARK.format(shape.kind)

    return shape.pattern.sub(marked, text), count


@lru_cache(maxsize=KNOWN_KEPT)
def _known_pattern(values: tuple[str, ...]) -> re.Pattern[str]:
    # The longest first: one secret may begin with another.
    return re.compile("|".join(re.escape(value) for value in sorted(values, key=len, reverse=True)))
