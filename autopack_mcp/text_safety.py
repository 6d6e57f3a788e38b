"""Hostile text made fit to be shown: hidden characters become visible escapes, secrets become a mark, length has a cap.

It owns what a character may do to a terminal, a page or a prompt; it does not escape HTML, quote for a shell, or judge
what a text says. Whatever shows words that a model, a command or a person's file wrote passes them through here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

REDACTED = "‹redacted›"
CUT_MARK = "…"
SECRET_MIN_CHARS = 6  # A shorter "secret" would shred ordinary words, and no provider issues one that short.

_BACKSLASHED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
# Unicode counts these as letters or marks, yet they draw nothing: the rest of Default_Ignorable_Code_Point
# (DerivedCoreProperties.txt) beside the format characters, plus the blank Braille cell.
_BLANK = (
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
    | {0x180B, 0x180C, 0x180D, 0x180F}
    | set(range(0xFE00, 0xFE0F))  # U+FE0F stays: it only says "as an emoji", and half of all emoji carry it.
    | set(range(0xE0100, 0xE01F0))
)
# A cut may fall inside an escape; half of one would read as something else.
_HALF_ESCAPE = re.compile(r"\\(?:x[0-9a-f]?|u[0-9a-f]{0,3}|U[0-9a-f]{0,7})?\Z")
# Colours, cursor moves and titles: ECMA-48 control sequences and operating system commands.
_TERMINAL_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")

_HALVES = re.compile("[\ud800-\udfff]")

# What keys look like, by the prefix their vendors gave them so that scanners can find them, and what each one is.
KEY_SHAPES: Mapping[str, str] = {
    "bearer token": r"(?P<keep>\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}",
    "API key": r"\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{8,} | \bAIza[A-Za-z0-9_-]{20,}",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{16,} | \bgithub_pat_[A-Za-z0-9_]{20,}",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{16,}",
    "Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "private key": r"-----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)",
}
SHAPE_FLAGS = re.VERBOSE | re.DOTALL
_KEY_SHAPES = re.compile(" | ".join(KEY_SHAPES.values()), SHAPE_FLAGS)


class _Escapes(dict[int, str]):
    """A table for ``str.translate`` that decides each code point once, when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_seen = character.isprintable() or unicodedata.category(character) == "Zs"
        self[code] = shown = character if is_seen and code not in _BLANK else _escaped(code)
        return shown


def _escaped(code: int) -> str:
    if chr(code) in _BACKSLASHED:
        return _BACKSLASHED[chr(code)]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


_ONE_LINE = _Escapes()
_LINES = _Escapes({0x09: "\t", 0x0A: "\n"})


def visible(text: str, limit: int, *, multiline: bool = False) -> str:
    r"""``text`` with every hidden character shown as an escape, at most ``limit`` characters long.

    Control and terminal characters, zero-width and bidirectional ones, line separators, private and unassigned ones and
    lone surrogates become ``\x1b``, ``\u202e``, ``\U000e0041``. What is cut off is replaced by ``…``. Doing it twice
    changes nothing.

    Args:
        text: anything, however hostile.
        limit: characters of the answer, the mark included; at least 1.
        multiline: keep line feeds and tabs, and read CRLF as a line feed; otherwise they are shown as escapes.
    """
    assert limit >= 1, "a text of no characters shows nothing"
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text  # Nearly every name; a run of a thousand phases asks some thousand times.
    # Nothing shrinks but CRLF, so twice the limit holds all that can be shown and a huge text costs no more.
    kept = text[: 2 * limit + 1]
    if multiline:
        kept = kept.replace("\r\n", "\n")
    shown = kept.translate(_LINES if multiline else _ONE_LINE)
    if len(shown) <= limit:
        return shown
    return _HALF_ESCAPE.sub("", shown[: limit - 1]) + CUT_MARK


def whole(text: str) -> str:
    """``text`` as any store can hold it: halves of a character that meet are joined, those alone become U+FFFD.

    JSON may name the halves one by one, and a gateway may cut a stream between them.
    """
    if _HALVES.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def without_terminal_codes(text: str) -> str:
    """``text`` without colours, cursor moves and titles, which carry no words; anything else hidden stays."""
    return _TERMINAL_SEQUENCE.sub("", text)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` with the known ``secrets`` and everything that looks like a key replaced by ``‹redacted›``.

    Known values shorter than ``SECRET_MIN_CHARS`` are left alone. ``Bearer`` stays readable before its token.
    """
    known = sorted({secret for secret in secrets if len(secret) >= SECRET_MIN_CHARS}, key=len, reverse=True)
    if known:
        text = re.sub("|".join(map(re.escape, known)), REDACTED, text)
    return _KEY_SHAPES.sub(lambda found: (found["keep"] or "") + REDACTED, text)
