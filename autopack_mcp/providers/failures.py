"""What went wrong with a request, as one of our errors, in words that a person can act on and that hide what they must.

It owns the deadline of a call, the meaning of statuses and broken streams, and the cleaning of what a provider wrote;
it never retries and never lets an SDK's exception, a key or a prompt through. Both SDK adapters make their calls in
it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

import anyio

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import ProviderError, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from autopack_mcp.providers.base import CallObservation, ProviderCall

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

Billed = Literal["no", "unknown"]

TEXT_LIMIT = 300  # Characters of a provider's own words in one of our messages: a sentence or two, not a page of HTML.
CONNECT_LIMIT_S = (
    10.0  # A machine that takes longer to shake hands is down; then it is also certain that nothing was sent.
)
_RAW_TEXT_LIMIT = 4_000  # Characters that are looked at before shortening; the rest is dropped unread.
_QUOTE_WINDOW = 16  # A run of 31 characters or more out of the prompt always holds one aligned window of this many.

# 408 and 409 say "not now"; 5xx and Anthropic's 529 "overloaded" say it was not our fault.
_PASSING_STATUSES = frozenset({408, 409})

# Errors inside a stream come without a status; these are the statuses the vendors document for the same words.
_STATUS_OF_KIND: Mapping[str, int] = {
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

# A 429 that no waiting cures: the account has no credit. OpenAI's words, and Zhipu's code for an account in arrears.
_OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "1113"})

# Shapes of the vendors' keys, of anything masked with asterisks, and of the header that carries a key.
_KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|rk|ak|key|api)[-_][\w.*-]{6,}|\bAIza[\w-]{10,}|\b[0-9a-f]{32}\.\w{8,}|[\w.-]*\*{3,}[\w.*-]*|\bBearer\s+\S+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that an error is about, and what must not appear in its text."""

    settings: ProviderSettings
    call: ProviderCall
    api_key: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """Where the request goes, without credentials or path, for messages."""
        if self.settings.base_url is None:
            return self.settings.provider
        parts = urlsplit(self.settings.base_url)
        return parts.netloc.rpartition("@")[2] or self.settings.provider


async def answered(asked: Asked, observation: CallObservation, clock: Clock, ask: Callable[[], Awaitable[T]]) -> T:
    """What comes of ``ask``, within the call's deadline.

    Raises:
        ProviderError: whatever went wrong, translated. It has no cause and no context: those would carry the request,
            and with it the key and the prompt, to whoever prints the traceback.
    """
    try:
        async with asyncio.timeout(asked.call.timeout_s):
            return await ask()
    except asyncio.CancelledError:
        raise  # Before the last clause, which may wait for an SDK that is just being imported.
    except ProviderError as error:
        failure = error
    except TimeoutError:
        failure = _late(asked)
    except _foreign_errors(asked.settings.sdk) as error:
        failure = translated(error, asked, clock.now())
    # Whichever of the two heard it: the caller books from the observation, a person reads the error.
    observation.request_id = failure.request_id = failure.request_id or observation.request_id
    raise failure


def sdk_timeout(call: ProviderCall) -> httpx2.Timeout:
    """The SDK's own time limits: ``answered`` keeps the deadline, these make a connection that fails fail early."""
    import httpx2  # Lazy: the SDKs bring it, and it costs as much as they do.

    return httpx2.Timeout(call.timeout_s, connect=min(CONNECT_LIMIT_S, call.timeout_s))


def _foreign_errors(sdk: str) -> tuple[type[Exception], ...]:
    """What an SDK call may raise. Evaluated only when something was raised, so it does not load an SDK early.

    Besides the SDK's own tree: the errors of its HTTP library and of TLS, which streams of anthropic let through, and
    what broken JSON or UTF-8 inside a stream raises.
    """
    import httpx2  # Lazy, as above.

    own = {"openai": "OpenAIError", "anthropic": "AnthropicError"}[sdk]
    base: type[Exception] = getattr(importlib.import_module(sdk), own)
    of_http = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL)
    return (base, *of_http, ConnectionError, ssl.SSLError, anyio.EndOfStream, json.JSONDecodeError, UnicodeDecodeError)


def translated(error: Exception, asked: Asked, now: datetime) -> ProviderError:
    """Our error for an SDK's exception: a definite status, an error told inside a stream, or a broken connection."""
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    if isinstance(status, int) and status >= 300:
        kind, text = _told(body, asked)
        return _by_status(asked, status, kind, text, headers=headers, now=now, billed="no")
    if body is not None:
        return told_in_stream(asked, body, headers=headers, now=now)
    return _unreachable(error, asked, headers)


def told_in_stream(
    asked: Asked, body: object, *, headers: Mapping[str, str] | None = None, now: datetime | None = None
) -> ProviderError:
    """Our error for one that arrived after the answer had begun: tokens may have been generated, so billed is unknown.

    ``body`` is the vendor's error object, as it came.
    """
    kind, text = _told(body, asked)
    status = _STATUS_OF_KIND.get(kind) or (int(kind) if re.fullmatch(r"[45]\d\d", kind) else 500)
    return _by_status(asked, status, kind, text, headers=headers or {}, now=now, billed="unknown")


def cut(asked: Asked) -> ProviderUnavailable:
    """The error for a stream that ended in good order but before the answer did."""
    return ProviderUnavailable(
        f"{asked.settings.provider} ended the stream before the answer of {asked.call.model!r} was complete.",
        provider=asked.settings.provider,
        model=asked.call.model,
    )


def _late(asked: Asked) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"{asked.settings.provider} gave no complete answer of {asked.call.model!r} within {asked.call.timeout_s:g} s.",
        provider=asked.settings.provider,
        model=asked.call.model,
    )


def _unreachable(error: Exception, asked: Asked, headers: Mapping[str, str]) -> ProviderUnavailable:
    """A connection that never was, or one that broke. Only the first provably cost nothing."""
    import httpx2  # Lazy, as above.

    cause = error.__cause__ or error
    never_sent = isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout))
    never_sent = never_sent or isinstance(cause, (httpx2.UnsupportedProtocol, httpx2.InvalidURL))
    what = "could not be reached" if never_sent else "broke off the connection or sent something unreadable"
    return ProviderUnavailable(
        f"{asked.settings.provider} {what} at {asked.host} ({type(cause).__name__}).",
        provider=asked.settings.provider,
        model=asked.call.model,
        request_id=request_id(headers),
        billed="no" if never_sent else "unknown",
        hint=_address_hint(asked, cause) if never_sent else "",
    )


def _address_hint(asked: Asked, cause: BaseException) -> str:
    if isinstance(cause.__cause__, ssl.SSLError) or "CERTIFICATE" in str(cause):
        return "Its certificate was not accepted."
    if asked.settings.base_url is None:
        return "Check the network connection of this machine."
    return f"Is a server listening there? Check base_url of {asked.settings.provider!r} in models.yaml."


def _by_status(
    asked: Asked,
    status: int,
    kind: str,
    text: str,
    *,
    headers: Mapping[str, str],
    now: datetime | None,
    billed: Billed,
) -> ProviderError:
    provider, model, request = asked.settings.provider, asked.call.model, request_id(headers)
    said = f": {text.rstrip('.')}." if text else "."
    message = f"{provider} answered {status} for {model!r}{said}"
    if billed == "unknown":
        message = f"{provider} broke off the answer of {model!r} ({kind or status}){said}"
    if status == 429 and kind not in _OUT_OF_CREDIT:
        wish = retry_after_s(headers, now)
        return ProviderRateLimited(
            message, provider=provider, model=model, request_id=request, billed=billed, retry_after_s=wish
        )
    if status >= 500 or status in _PASSING_STATUSES:
        # A 5xx may come after generation, behind a proxy that gave up waiting; nobody can prove that it was free.
        return ProviderUnavailable(
            message, provider=provider, model=model, request_id=request, retry_after_s=retry_after_s(headers, now)
        )
    hint = _refusal_hint(asked, status)
    return ProviderRefused(
        message, provider=provider, model=model, request_id=request, status=status, billed=billed, hint=hint
    )


def _refusal_hint(asked: Asked, status: int) -> str:
    settings, model = asked.settings, asked.call.model
    key = settings.api_key_env or "the API key"
    hints = {
        401: f"Check the key in {key}: it was not accepted.",
        402: f"The {settings.provider} account has no credit left.",
        403: f"The key in {key} may not use {model!r}.",
        404: f"Check the name {model!r}, and base_url of {settings.provider!r}, in models.yaml.",
        413: "The prompt is too large: give the phase fewer files, or a model with a larger context window.",
        429: f"The {settings.provider} account has no credit left: waiting does not help.",
    }
    limits = f"Check max_output_tokens and context_window of {model!r} in models.yaml."
    return hints.get(status, limits if status in {400, 422} else "")


def request_id(headers: Mapping[str, str]) -> str | None:
    """The vendor's id of the request, to quote to its support."""
    return headers.get("request-id") or headers.get("x-request-id")


def retry_after_s(headers: Mapping[str, str], now: datetime | None) -> float | None:
    """How long the provider asks us to wait, in seconds, never negative; None when it does not say.

    Reads ``retry-after-ms`` first (finer, OpenAI and Azure), then ``retry-after`` as seconds or as an HTTP date. A date
    is measured from the response's own Date where it has one: the two come from one clock, ours may be off.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    wish = headers.get("retry-after")
    seconds = _number(wish)
    if seconds is not None:
        return seconds
    until, since = _http_date(wish), _http_date(headers.get("date")) or now
    return None if until is None or since is None else max(0.0, (until - since).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _http_date(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _told(body: object, asked: Asked) -> tuple[str, str]:
    """The vendor's word for the error and its sentence, fit to be shown and "" if none, from an error of any shape."""
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(inner, Mapping):
        return "", clean(inner, asked) if isinstance(inner, str) and not _is_markup(inner) else ""
    words = [str(inner[name]) for name in ("code", "type") if isinstance(inner.get(name), (str, int))]
    kind = next((word for word in words if word in _STATUS_OF_KIND or word in _OUT_OF_CREDIT), (words or [""])[0])
    message = inner.get("message")
    return _identifier(kind, asked), clean(message, asked) if isinstance(message, str) else ""


def _identifier(word: str, asked: Asked) -> str:
    """``word`` when it is one, such as "overloaded_error"; a sentence or a key in its place is dropped."""
    is_one = re.fullmatch(r"[\w.-]{1,64}", word) is not None and _without_keys(word, asked.api_key) == word
    return word if is_one else ""


def _is_markup(text: str) -> bool:
    """A proxy's error page, which says nothing that its status does not."""
    return text.lstrip().startswith("<")


def clean(text: str, asked: Asked) -> str:
    """A provider's words as they may be shown: one line, short, without control characters, keys, or the prompt."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:_RAW_TEXT_LIMIT])
    line = " ".join(_without_keys(line, asked.api_key).split())
    if _quotes(line, asked.call):
        return "(its words quote the prompt and are left out)"
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 1] + "…"


def _without_keys(line: str, api_key: str | None) -> str:
    if api_key:
        line = line.replace(api_key, "[key]")
    if api_key and len(api_key) >= 12:  # Masked or cut in the middle: its first or last characters are still its own.
        ends = rf"{re.escape(api_key[:6])}[\w.*-]*|[\w.*-]*{re.escape(api_key[-6:])}"
        line = re.sub(ends, "[key]", line)
    return _KEY_SHAPES.sub("[key]", line)


def _quotes(line: str, call: ProviderCall) -> bool:
    """Whether part of the prompt stands in ``line``: any run of 31 characters or more, and any short message whole."""
    windows = [line[start : start + _QUOTE_WINDOW] for start in range(0, len(line) - _QUOTE_WINDOW + 1, _QUOTE_WINDOW)]
    for message in call.messages:
        whole = " ".join(message.content.split())
        if 8 <= len(whole) <= len(line) and whole in line:
            return True
        if any(window in whole for window in windows):
            return True
    return False
