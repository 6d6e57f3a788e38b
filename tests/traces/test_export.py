"""Spans at a collector: a real server that reads the protobuf, or refuses, or is not there."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.traces import export
from autopack_mcp.traces.export import Collector, SpanExporter, collector_in
from autopack_mcp.traces.spans import Span, close_spans, unexported_spans, write_span
from autopack_mcp.traces.texts import Words, newest_kept, pack, write_words
from autopack_mcp.traces.upkeep import EXPORT_EVERY_S, EXPORT_LIMIT_S, TraceUpkeep
from tests.factories import NOON, insert_run

pytestmark = pytest.mark.anyio

TRACE = "ab" * 16


class CollectorServer:
    """Takes OTLP over HTTP as a collector does, and keeps what it was sent; ``status`` is what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.requests: list[tuple[str, dict[str, str], ExportTraceServiceRequest]] = []

    async def __aenter__(self) -> CollectorServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append((head[0].split()[1], headers, ExportTraceServiceRequest.FromString(body)))
        writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno.".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[CollectorServer]:
    async with CollectorServer() as running:
        yield running


def exporter(database: Database, clock: ManualClock, url: str, **overrides: Any) -> SpanExporter:
    return SpanExporter(database=database, clock=clock, collector=Collector(url, **overrides), version="1.2.3")


def write_spans(database: Database, count: int = 1) -> None:
    def write(connection: Any) -> None:
        insert_run(connection, trace_id=TRACE)
        for number in range(count):
            write_span(connection, a_span(number))
        write_span(connection, Span("f" * 16, "R1", "run", "run R1", NOON))

    database.write_now(write)


def a_span(number: int) -> Span:
    attributes = {
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.response.finish_reasons": ["stop"],
        "autopack.role": "builder",
    }
    ended_at = NOON + timedelta(seconds=2 + number)
    return Span(
        f"{number:016x}",
        "R1",
        "llm_call",
        "chat gpt-big",
        NOON,
        ended_at,
        "c" * 16,
        "error",
        "P1",
        1,
        "c-1",
        attributes,
    )


async def test_a_collector_gets_each_span_once_as_it_was(
    database: Database, clock: ManualClock, server: CollectorServer
) -> None:
    write_spans(database)
    sending = exporter(database, clock, f"{server.url}/v1/traces", headers={"x-key": "secret"}, service="mine")
    assert await sending.export()
    assert await sending.export()

    (path, headers, request), = server.requests  # fmt: skip
    assert (path, headers["content-type"], headers["x-key"]) == ("/v1/traces", "application/x-protobuf", "secret")
    (span,) = server.spans
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (TRACE, "0" * 16, "c" * 16)
    assert (span.name, span.kind, span.status.code) == ("chat gpt-big", 3, 2)
    assert span.end_time_unix_nano - span.start_time_unix_nano == 2 * 10**9
    values = {attribute.key: attribute.value for attribute in span.attributes}
    assert values["gen_ai.usage.input_tokens"].int_value == 7
    assert values["gen_ai.response.finish_reasons"].array_value.values[0].string_value == "stop"
    assert values["autopack.span_kind"].string_value == "llm_call"
    resource = {row.key: row.value.string_value for row in request.resource_spans[0].resource.attributes}
    assert resource == {"service.name": "mine", "service.version": "1.2.3"}
    await sending.close()


async def test_what_goes_on_is_sent_when_it_has_ended(
    database: Database, clock: ManualClock, server: CollectorServer
) -> None:
    write_spans(database, 0)
    sending = exporter(database, clock, server.url)
    assert await sending.export()
    assert server.spans == []
    database.write_now(close_spans, "R1", "run", None, "ok", NOON)
    assert await sending.export()
    assert [span.name for span in server.spans] == ["run R1"]
    await sending.close()


async def test_many_spans_go_in_batches(
    database: Database, clock: ManualClock, server: CollectorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BATCH_SPANS", 2)
    write_spans(database, 5)
    sending = exporter(database, clock, server.url)
    assert await sending.export()
    assert len(server.requests) == 3
    assert [span.span_id.hex() for span in server.spans] == [f"{number:016x}" for number in range(5)]
    await sending.close()


async def test_a_collector_that_is_down_loses_nothing_and_is_said_once(
    database: Database, clock: ManualClock, server: CollectorServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_spans(database)
    server.status = 503
    sending = exporter(database, clock, server.url, headers={"x-key": "secret"})
    assert [await sending.export() for _ in range(3)] == [False] * 3
    assert len(database.read_now(unexported_spans, 10)) == 1
    server.status = 200
    assert await sending.export()
    assert database.read_now(unexported_spans, 10) == ()
    ours = [record.getMessage() for record in caplog.records if record.name == export.__name__]
    assert [message.partition(":")[0] for message in ours] == ["spans are kept for later", "the collector at http"]
    assert "it answered 503" in ours[0]
    assert "secret" not in caplog.text
    await sending.close()


async def test_a_collector_that_is_not_there_hurts_nothing(database: Database, clock: ManualClock) -> None:
    write_spans(database)
    async with CollectorServer() as gone:
        url = gone.url
    sending = exporter(database, clock, url)
    assert not await sending.export()
    assert len(database.read_now(unexported_spans, 10)) == 1
    await sending.close()


async def test_spans_that_a_collector_will_never_take_do_not_hold_up_the_others(
    database: Database, clock: ManualClock, server: CollectorServer, caplog: pytest.LogCaptureFixture
) -> None:
    write_spans(database)
    server.status = 400
    sending = exporter(database, clock, server.url)
    assert await sending.export()
    assert database.read_now(unexported_spans, 10) == ()
    assert "refused 1 spans for good (400: no.)" in caplog.text
    await sending.close()


async def test_without_the_extra_the_log_says_what_to_install(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.collector.trace.v1.trace_service_pb2", None)
    write_spans(database)
    assert not await exporter(database, clock, "http://127.0.0.1:1").export()
    assert "pip install 'autopack-mcp[otlp]'" in caplog.text


async def test_upkeep_asks_a_dead_collector_ever_more_rarely(
    database: Database, clock: ManualClock, server: CollectorServer
) -> None:
    write_spans(database)
    server.status = 503
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 9:
            server.status = 200
        if len(waits) == 10:
            raise asyncio.CancelledError

    sending = exporter(database, clock, server.url)
    upkeep = TraceUpkeep(database=database, clock=clock, keep_days=lambda: 30, exporter=sending, wait=wait)
    with pytest.raises(asyncio.CancelledError):
        await upkeep.run()
    assert waits[:3] == [10.0, 20.0, 40.0]
    assert waits[-2:] == [EXPORT_LIMIT_S, EXPORT_EVERY_S]


async def test_upkeep_deletes_words_by_age_and_leaves_spans(database: Database, clock: ManualClock) -> None:
    write_spans(database)
    packed = pack(Words((("user", "Hello?"),), 9), {})
    for days in (1, 31):
        whose: dict[str, Any] = {"run_id": None, "phase_id": None, "role": "builder", "model": "gpt-big"}
        database.write_now(write_words, packed, call_id=f"c-{days}", at=NOON - timedelta(days=days), **whose)
    upkeep = TraceUpkeep(database=database, clock=clock, keep_days=lambda: 30, exporter=None)
    assert await upkeep.look()
    assert database.read_now(newest_kept) == ("c-1",)
    assert len(database.read_now(unexported_spans, 10)) == 1


async def test_upkeep_survives_whatever_goes_wrong(
    database: Database, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> int:
        raise ValueError("no days today")

    upkeep = TraceUpkeep(database=database, clock=clock, keep_days=broken, exporter=None)
    assert not await upkeep.look()
    assert "trying again" in caplog.text


@pytest.mark.parametrize(
    "environ, found",
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, Collector("http://c:4318/v1/traces")),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/x"},
            Collector("https://t/x"),
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
                "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20abc, x-team = ours,nonsense",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
                "OTEL_SERVICE_NAME": "mine",
            },
            Collector("http://c/v1/traces", {"authorization": "Bearer abc", "x-team": "ours"}, 2.5, "mine"),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"},
            Collector("http://c/v1/traces"),
        ),
    ],
)
def test_the_standard_variables_name_the_collector(environ: dict[str, str], found: Collector | None) -> None:
    assert collector_in(environ) == found


def test_a_protocol_that_is_not_spoken_is_said(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert collector_in(environ) == Collector("http://c/v1/traces")
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not spoken" in caplog.text


def test_headers_are_never_shown() -> None:
    assert "secret" not in repr(Collector("http://c", {"x-key": "secret"}))
