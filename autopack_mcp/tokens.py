"""The bearer token of the local HTTP endpoint: made on demand, shown once, kept only as its hash.

It owns the token file of AUTOPACK_HOME (mode 0600). Without a token ``/mcp`` offers reading tools only; the endpoint
compares hashes, so that the file is worth nothing to whoever copies it.
"""

from __future__ import annotations

import hashlib
import os
import secrets

from autopack_mcp.home import Home

TOKEN_BYTES = 32  # 256 bits: out of reach of guessing, whatever the rate.


def new_token(home: Home) -> str:
    """Make a token, keep its SHA-256 and return it; every earlier token stops working at once."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    home.ensure()
    descriptor = os.open(home.token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(digest_of(token) + "\n")
    return token


def token_digest(home: Home) -> str | None:
    """The SHA-256 (hex) of the token in force, None when none was ever made."""
    try:
        return home.token_file.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def digest_of(token: str) -> str:
    """The SHA-256 (hex) of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
