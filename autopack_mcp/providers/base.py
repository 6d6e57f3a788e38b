"""The protocol every provider adapter fulfils: one request out, one reply in, and what was seen on the way.

It owns the words (message, call, reply, observation); it does not retry (``pacing``), book (``llm_service``) or choose.
``llm_service`` is its only caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from autopack_mcp.config.settings import Sdk
from autopack_mcp.usage.event import ReportedUsage

_VENDOR_DOMAINS: Mapping[Sdk, str] = {"openai": "openai.com", "anthropic": "anthropic.com"}

FinishReason = Literal["stop", "length", "refused", "other"]

# What the wire format adds to the text of a prompt: roles, separators, the reply's priming. OpenAI documents 3 tokens
# per prompt and 3 per message, Anthropic's are as few; the rest is room for formats that say more.
PROMPT_FORMAT_TOKENS = 64
MESSAGE_FORMAT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a prompt; ``content`` is plain text."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """One request: what is sent, how long the answer may be, and how long we wait for it (seconds, whole call)."""

    model: str
    messages: tuple[ChatMessage, ...]
    max_output_tokens: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class InputCount:
    """At most so many input tokens will be billed for a prompt, its format included; ``by`` is who counted them."""

    tokens: int
    by: str


@dataclass(frozen=True, slots=True)
class ProviderReply:
    """A complete answer. ``usage`` is None when the provider sent none that can be read."""

    text: str
    model: str
    finish_reason: FinishReason
    usage: ReportedUsage | None
    response_id: str | None = None
    request_id: str | None = None


@dataclass(slots=True)
class CallObservation:
    """What is known about a call at this moment; the adapter fills it as bytes arrive.

    It is mutable on purpose: when a call is cancelled or its stream is cut, this is all that is left to book from.
    ``sent`` turns True just before the request may reach the provider. ``usage`` of an unfinished call is exact for the
    input and a lower bound for the output.
    """

    sent: bool = False
    response_id: str | None = None
    request_id: str | None = None
    usage: ReportedUsage | None = None


class Provider(Protocol):
    """One vendor account, reached with one SDK. Safe for concurrent calls; closed once, at the end."""

    async def complete(self, call: ProviderCall, observation: CallObservation) -> ProviderReply:
        """Send ``call`` once and return the whole reply.

        Raises:
            ProviderError: one of its children; the SDK's own exceptions never leave the adapter. Cancelling the task
                ends the request at once.
        """
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


@runtime_checkable
class InputCounter(Protocol):
    """A provider that can have a prompt counted by the model's own tokenizer, before anything is bought."""

    async def count_input_tokens(self, call: ProviderCall) -> InputCount | None:
        """An upper bound of what ``call`` will be billed for as input, tighter than its bytes.

        None when nobody can say it now: another vendor's model at this address, or no count in time. Then the bytes
        are all that is known; it is never an error. Costs nothing.
        """
        ...


def format_tokens(messages: Sequence[ChatMessage]) -> int:
    """What the wire format adds to the texts of a prompt, at most."""
    return PROMPT_FORMAT_TOKENS + MESSAGE_FORMAT_TOKENS * len(messages)


def is_at_vendor(sdk: Sdk, base_url: str | None) -> bool:
    """Whether requests go to the vendor of an SDK itself, and not to some other server that speaks its API."""
    if base_url is None:
        return True
    host, domain = urlsplit(base_url).hostname or "", _VENDOR_DOMAINS[sdk]
    return host == domain or host.endswith(f".{domain}")
