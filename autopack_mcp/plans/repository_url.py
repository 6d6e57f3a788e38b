"""The address of a repository that every machine reaches: which ones we take, and why another one is refused.

It owns the rules and asks no network. Plans are checked with it before anything starts; git is given nothing that has
not passed it, because git takes some addresses as commands to run.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

URL_LIMIT = 2_000  # Characters.
SCHEMES = ("https", "ssh", "file")

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]*::")  # gitremote-helpers(7): <transport>::<address> runs a program.
_SCP_LIKE = re.compile(r"[\w.-]+@[\w.-]+:(?!//)")  # user@host:path, which git takes for ssh.
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\]")


def is_url(repository: str) -> bool:
    """Whether a plan's or a run's repository is an address, not a path of some machine."""
    return "://" in repository


def url_objection(repository: str) -> str | None:
    """Why a repository cannot be used as it is written; None for a good URL, and for what can only be a path.

    The sentence goes behind the name of a key. It never repeats an address that may hold a password.
    """
    if repository.startswith("-"):
        return "must not begin with a dash: git would take it for an option."
    if _HELPER.match(repository):
        return "names a transport helper (name::address), which is a program to run. Write an https, ssh or file URL."
    if not is_url(repository):
        if _SCP_LIKE.match(repository):
            return "looks like user@host:path. Write it as ssh://user@host/path."
        return None
    return _objection_to(repository)


def _objection_to(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        has_good_port = parts.port is None or parts.port > 0
    except ValueError:
        return "is not a URL that can be read."
    if len(url) > URL_LIMIT or _UNSAFE.search(url):
        return "has blanks, backslashes or control characters in its URL, or is too long."
    if parts.scheme.lower() not in SCHEMES:
        return f"must be an https, ssh or file URL, or a path; {parts.scheme!r} is none of them."
    if _has_secret(parts):
        return (
            "has a password or token in its URL, which would be stored and shown with the run."
            " Leave it out: git finds it in your credential helper, ~/.netrc or ssh agent."
        )
    if parts.query or parts.fragment:
        return "must have no ? or # in its URL."
    return _objection_to_place(parts, has_good_port=has_good_port)


def _has_secret(parts: SplitResult) -> bool:
    # Before the @ of an https address hosts take a token for a user as well; ssh needs the name (git@).
    return parts.password is not None or (parts.username is not None and parts.scheme.lower() != "ssh")


def _objection_to_place(parts: SplitResult, *, has_good_port: bool) -> str | None:
    if parts.scheme.lower() == "file":
        is_good = parts.netloc == "" and parts.path.startswith("/") and len(parts.path) > 1
        return None if is_good else "must be file:///absolute/path."
    host, user = parts.hostname or "", parts.username or ""
    if not host or host.startswith("-") or user.startswith("-") or not has_good_port:
        return "has no usable host in its URL."
    return None if parts.path.strip("/") and not parts.path.startswith("/-") else "has no path in its URL."
