"""The SDK of OpenTelemetry is an extra: nothing loads it unless spans are exported."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
from opentelemetry import context as trace_context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, SpanKind

from credit_service.observability import otlp, setup, tracing
from credit_service.observability.tracing import TracingRefusedError
from credit_service.settings import Settings

TRACE, CALLERS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = f"00-{TRACE}-{CALLERS_SPAN}-01"
# None in sys.modules: importing it raises ModuleNotFoundError, as if it were not installed.
WITHOUT = (
    "import sys; sys.modules['opentelemetry.sdk'] = sys.modules['opentelemetry.exporter'] = None\n"
)
ALL_OF_IT = "import credit_service.rpc.__main__, credit_service.cli.app, workers.__main__, sys\n"


def python(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.slow
def test_server_worker_and_commands_load_without_the_sdk() -> None:
    found = python(WITHOUT + ALL_OF_IT)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_the_sdk_is_not_loaded_without_an_endpoint() -> None:
    """Although the extra is installed here. redis-py loads the SDK's metrics by itself."""
    found = python(
        f"{ALL_OF_IT}\n"
        "from credit_service.observability import setup, tracing\n"
        "from credit_service.settings import Settings\n"
        "from opentelemetry.trace import SpanKind\n"
        "with setup.recorded_as_configured(Settings(), 'x'):\n"
        "    assert tracing.start_span('call', SpanKind.SERVER, None, {}) is None\n"
        f"    assert tracing.start_span('call', SpanKind.SERVER, '{CALLER}', {{}})\n"
        "extra = ('opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "print([m for m in sys.modules if 'otlp' in m or m.startswith(extra)])\n"
    )
    assert (found.stdout.strip(), found.returncode) == ("[]", 0), found.stderr


def test_an_endpoint_without_the_extra_is_an_error_that_names_the_extra() -> None:
    found = python(
        f"{WITHOUT}{ALL_OF_IT}"
        "from credit_service.observability import setup\n"
        "from credit_service.settings import Settings\n"
        "with setup.recorded_as_configured(Settings(otlp_endpoint='http://127.0.0.1:9'), 'x'):\n"
        "    pass\n"
    )
    assert found.returncode != 0
    assert "TracingRefusedError: CREDIT_OTLP_ENDPOINT needs the OpenTelemetry SDK" in found.stderr
    assert "credit-service[tracing]" in found.stderr


class Collector(http.server.BaseHTTPRequestHandler):
    """Stores the received requests."""

    got: "list[tuple[str, ExportTraceServiceRequest]]"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[str, "list[tuple[str, ExportTraceServiceRequest]]"]]:
    """A collector's URL, and the requests that it received."""
    kept: list[tuple[str, ExportTraceServiceRequest]] = []
    handler = type("Keeping", (Collector,), {"got": kept})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kept
    server.shutdown()
    server.server_close()
    thread.join()


def started(traceparent: str | None = None) -> Span:
    span = tracing.start_span("a call", SpanKind.SERVER, traceparent, {"rpc.system": "grpc"})
    assert span is not None
    return span


@contextmanager
def current(span: Span) -> Iterator[None]:
    token = trace_context.attach(tracing.context_of(span))
    yield
    trace_context.detach(token)


def test_spans_reach_a_collector(
    collector: tuple[str, "list[tuple[str, ExportTraceServiceRequest]]"],
) -> None:
    url, got = collector
    with setup.recorded_as_configured(Settings(otlp_endpoint=url), "credit-service"):
        call = started(CALLER)
        tracing.end_span(call, error="INTERNAL", attributes={"rpc.grpc.status_code": 13})
    assert tracing.start_span("afterwards", SpanKind.SERVER, None, {}) is None
    ((path, request),) = got
    assert path == "/v1/traces"
    (of_resource,) = request.resource_spans
    resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
    assert resource["service.name"] == "credit-service"
    (span,) = of_resource.scope_spans[0].spans
    assert span.name == "a call"
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == CALLERS_SPAN
    assert span.span_id.hex() == tracing.log_fields(tracing.traceparent_of(call))["span_id"]
    assert span.status.message == "INTERNAL"


def test_no_export_starts_after_the_shutdown_deadline(
    collector: tuple[str, "list[tuple[str, ExportTraceServiceRequest]]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise an unreachable collector delays the end of a process by seconds per batch."""
    monkeypatch.setattr(otlp, "_CLOSE_SECONDS", 0.0)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # ms: no export before the end
    url, got = collector
    with setup.recorded_as_configured(Settings(otlp_endpoint=url), "credit-service"):
        tracing.end_span(started())
    assert got == []


def test_an_unreachable_collector_stops_no_call() -> None:
    away = Settings(otlp_endpoint="http://127.0.0.1:9")
    with setup.recorded_as_configured(away, "credit-service"):
        for _ in range(3000):  # more than the queue holds
            tracing.end_span(started())


def test_the_callers_sampling_decision_applies() -> None:
    not_sampled = f"00-{TRACE}-{CALLERS_SPAN}-00"
    for ratio, caller, recorded in (
        (0.0, None, False),
        (0.0, CALLER, True),
        (1.0, None, True),
        (1.0, not_sampled, False),
    ):
        settings = Settings(otlp_endpoint="http://127.0.0.1:9", trace_sample_ratio=ratio)
        with setup.recorded_as_configured(settings, "credit-service"):
            span = started(caller)
            assert span.is_recording() is recorded
            assert span.get_span_context().trace_flags.sampled is recorded
            work = nullcontext()
            with current(span):
                assert (tracing.in_child_span("work", {}, work) is not work) is recorded


def test_the_child_spans_of_a_call_are_bounded() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    values = []
    with tracing.recorded_by(provider):
        for call in (started(), started()):
            with current(call):
                for number in range(tracing.MAX_CHILD_SPANS + 1):
                    with tracing.in_child_span("transaction", {}, nullcontext(number)) as value:
                        values.append(value)
    assert values == [*range(tracing.MAX_CHILD_SPANS + 1)] * 2
    assert len(exporter.get_finished_spans()) == tracing.MAX_CHILD_SPANS * 2


def test_a_child_span_has_the_kind_of_an_error_and_not_its_message() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with (
        tracing.recorded_by(provider),
        current(started()),
        pytest.raises(ValueError, match="Asha Rao"),
        tracing.in_child_span("transaction", {}, nullcontext()),
    ):
        raise ValueError("Asha Rao")
    (span,) = exporter.get_finished_spans()
    assert span.status.description == "ValueError"
    assert "Asha" not in span.to_json()


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "ftp://127.0.0.1", "http://", ""])
def test_an_endpoint_that_is_not_a_url_is_rejected(endpoint: str) -> None:
    settings = Settings(otlp_endpoint=endpoint)
    with (
        pytest.raises(TracingRefusedError, match="CREDIT_OTLP_ENDPOINT"),
        setup.recorded_as_configured(settings, "credit-service"),
    ):
        pass
