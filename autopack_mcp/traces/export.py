"""Sends spans to a collector over OTLP/HTTP, when the standard variables name one, until it has taken them.

It owns the wire format and when a span counts as taken; spans stay rows whatever becomes of them, so a collector that
is down loses nothing and holds nothing up. ``upkeep`` asks it to send what is new.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from autopack_mcp.clock import Clock, to_us
from autopack_mcp.database.engine import Database
from autopack_mcp.text_safety import visible
from autopack_mcp.traces.spans import Span, mark_exported, unexported_spans

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

BATCH_SPANS = 500  # Some 300 KB; collectors take 4 MB and more.
TIMEOUT_S = 10.0  # The standard's own default.
SERVICE = "autopack-mcp"
REASON_CHARS = 200  # Of what a collector says when it takes nothing.
# It will never take these very spans; anything else may be mended, on its side or in its address.
REFUSED_FOR_GOOD = frozenset({400, 413, 422})
_HEADERS = {"content-type": "application/x-protobuf", "user-agent": SERVICE}
_PROTO = "opentelemetry.proto"
_CLIENT, _INTERNAL = 3, 1  # Span kinds of OTLP: a call to a model leaves us, everything else happens here.
_STATUS = {"unset": 0, "ok": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go, and as whose. ``headers`` may hold a key and are never shown."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = TIMEOUT_S
    service: str = SERVICE


def collector_in(environ: Mapping[str, str]) -> Collector | None:
    """The collector that the standard variables name (OTEL_EXPORTER_OTLP_ENDPOINT and its kin); None without one.

    Only OTLP over HTTP with protobuf is spoken; another OTEL_EXPORTER_OTLP_PROTOCOL is said in the log and ignored.
    """
    own, base = (_said(environ, f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("TRACES_", ""))
    if not own and not base:
        return None
    if (protocol := _either(environ, "PROTOCOL") or "http/protobuf") != "http/protobuf":
        log.warning("spans are sent as http/protobuf; OTEL_EXPORTER_OTLP_PROTOCOL=%s is not spoken", protocol[:40])
    return Collector(
        url=own or f"{base.rstrip('/')}/v1/traces",
        headers=_headers(_either(environ, "HEADERS")),
        timeout_s=_seconds(_either(environ, "TIMEOUT")),
        service=_said(environ, "OTEL_SERVICE_NAME") or SERVICE,
    )


class SpanExporter:
    """Sends spans that have ended and were not taken yet, oldest first. Close it once."""

    def __init__(self, *, database: Database, clock: Clock, collector: Collector, version: str) -> None:
        self._database = database
        self._clock = clock
        self._collector = collector
        self._version = version
        self._client: httpx2.AsyncClient | None = None
        self._is_down = False

    async def export(self) -> bool:
        """Send everything that is waiting; False when the collector does not take it now, and it is said once."""
        while True:
            waiting = await self._database.read(unexported_spans, BATCH_SPANS)
            if not waiting:
                return True
            if (why_not := await self._refusal(waiting)) is not None:
                self._say_down(why_not)
                return False
            await self._database.write(mark_exported, [span.span_id for span in waiting], self._clock.now())
            if self._is_down:
                self._is_down = False
                log.info("the collector at %s takes spans again", self._collector.url)
            if len(waiting) < BATCH_SPANS:
                return True

    async def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            await self._client.aclose()

    async def _refusal(self, waiting: Sequence[Span]) -> str | None:
        """Send a batch; why the collector does not take it now, None when it did or never will."""
        import httpx2  # Lazy: only a process that exports needs it.

        try:
            body = encoded(waiting, self._collector.service, self._version)
        except ImportError:
            return "the extra otlp is not installed (pip install 'autopack-mcp[otlp]')"
        if self._client is None:
            # No proxies or certificates but those of the environment, and no redirect could carry our headers away.
            self._client = httpx2.AsyncClient(timeout=self._collector.timeout_s, follow_redirects=False)
        try:
            headers = {**_HEADERS, **self._collector.headers}
            answer = await self._client.post(self._collector.url, content=body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return type(error).__name__ if not str(error) else visible(str(error), REASON_CHARS)
        if answer.is_success:
            return None
        if answer.status_code in REFUSED_FOR_GOOD:
            said = visible(answer.text, REASON_CHARS)
            log.error("the collector refused %d spans for good (%d: %s)", len(waiting), answer.status_code, said)
            return None
        return f"it answered {answer.status_code}"

    def _say_down(self, why: str) -> None:
        if not self._is_down:
            log.warning(
                "spans are kept for later: the collector at %s does not take them: %s", self._collector.url, why
            )
        self._is_down = True


def encoded(found: Sequence[Span], service: str, version: str) -> bytes:
    """An ExportTraceServiceRequest with these spans, as protobuf.

    Raises:
        ImportError: the extra that knows the format is not installed.
    """
    # By name: an extra, and several distributions share the package's name.
    requests = import_module(f"{_PROTO}.collector.trace.v1.trace_service_pb2")
    request = requests.ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _add_attributes(resource.resource.attributes, {"service.name": service, "service.version": version})
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = SERVICE, version
    for span in found:
        _add_span(scope.spans.add(), span)
    body: bytes = request.SerializeToString()
    return body


def _add_span(row: Any, span: Span) -> None:
    row.trace_id, row.span_id = bytes.fromhex(span.trace_id), bytes.fromhex(span.span_id)
    row.parent_span_id = bytes.fromhex(span.parent_id or "")
    row.name = span.name
    row.kind = _CLIENT if span.kind == "llm_call" else _INTERNAL
    row.start_time_unix_nano = to_us(span.started_at) * 1_000
    row.end_time_unix_nano = to_us(span.ended_at or span.started_at) * 1_000
    row.status.code = _STATUS[span.status]
    _add_attributes(row.attributes, {"autopack.span_kind": span.kind, **span.attributes})


def _add_attributes(rows: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        row = rows.add()
        row.key = name
        _set_value(row.value, value)


def _set_value(row: Any, value: Any) -> None:
    if isinstance(value, bool):
        row.bool_value = value
    elif isinstance(value, int):
        row.int_value = value
    elif isinstance(value, float):
        row.double_value = value
    elif isinstance(value, list):
        for item in value:
            _set_value(row.array_value.values.add(), item)
    else:
        row.string_value = str(value)


def _either(environ: Mapping[str, str], name: str) -> str:
    """A variable for traces alone, or else that for everything which is exported."""
    return _said(environ, f"OTEL_EXPORTER_OTLP_TRACES_{name}") or _said(environ, f"OTEL_EXPORTER_OTLP_{name}")


def _said(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip()


def _headers(text: str) -> dict[str, str]:
    """``name=value,name=value``, values with percent escapes, as the standard writes them."""
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    return {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs if name.strip()}


def _seconds(milliseconds: str) -> float:
    return int(milliseconds) / 1_000 if milliseconds.isdecimal() and int(milliseconds) else TIMEOUT_S
