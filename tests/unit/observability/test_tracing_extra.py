"""OpenTelemetry is an extra: absent it costs nothing, present it sends what it was asked to."""

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from credit_service.observability import setup, tracing
from credit_service.observability.tracing import Span, TracingRefusedError
from credit_service.settings import Settings

CALLER = Span("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "01")
# None in sys.modules: what an import of a package that is not there comes to.
WITHOUT = "import sys; sys.modules['opentelemetry'] = None\n"
ALL_OF_IT = "import credit_service.rpc.__main__, credit_service.cli.app, workers.__main__, sys\n"


def python(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )


def test_server_worker_and_commands_load_without_it() -> None:
    found = python(WITHOUT + ALL_OF_IT)
    assert found.returncode == 0, found.stderr


def test_nothing_of_ours_loads_it_unless_asked() -> None:
    """Although it is installed here, and redis-py looks for it by itself."""
    found = python(
        f"{ALL_OF_IT}\n"
        "from credit_service.observability import setup, tracing\n"
        "from credit_service.settings import Settings\n"
        "with setup.recorded_as_configured(Settings(), 'x'):\n"
        "    assert tracing.begin('call', 'server', None, {}) is None\n"
        "print([m for m in sys.modules if 'otlp' in m])\n"
    )
    assert (found.stdout.strip(), found.returncode) == ("[]", 0), found.stderr


def test_who_asks_for_spans_without_the_extra_is_told_what_to_install() -> None:
    found = python(
        f"{WITHOUT}{ALL_OF_IT}"
        "from credit_service.observability import setup\n"
        "from credit_service.settings import Settings\n"
        "with setup.recorded_as_configured(Settings(otlp_endpoint='http://127.0.0.1:9'), 'x'):\n"
        "    pass\n"
    )
    assert found.returncode != 0
    assert "TracingRefusedError: CREDIT_OTLP_ENDPOINT needs OpenTelemetry" in found.stderr
    assert "credit-service[tracing]" in found.stderr


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent."""

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
    """A collector's URL, and what it got."""
    kept: list[tuple[str, ExportTraceServiceRequest]] = []
    handler = type("Keeping", (Collector,), {"got": kept})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kept
    server.shutdown()
    server.server_close()
    thread.join()


def test_spans_reach_a_collector(
    collector: tuple[str, "list[tuple[str, ExportTraceServiceRequest]]"],
) -> None:
    url, got = collector
    with setup.recorded_as_configured(Settings(otlp_endpoint=url), "credit-service"):
        activity = tracing.begin("a call", "server", CALLER, {"rpc.system": "grpc"})
        assert activity is not None
        activity.end(error="INTERNAL", attributes={"rpc.grpc.status_code": 13})
    assert tracing.begin("afterwards", "server", None, {}) is None
    ((path, request),) = got
    assert path == "/v1/traces"
    (of_resource,) = request.resource_spans
    resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
    assert resource["service.name"] == "credit-service"
    (span,) = of_resource.scope_spans[0].spans
    assert span.name == "a call"
    assert span.trace_id.hex() == CALLER.trace_id
    assert span.parent_span_id.hex() == CALLER.span_id
    assert span.span_id.hex() == activity.span.span_id
    assert span.status.message == "INTERNAL"


def test_a_collector_that_is_away_holds_nobody_up() -> None:
    away = Settings(otlp_endpoint="http://127.0.0.1:9")
    with setup.recorded_as_configured(away, "credit-service"):
        for _ in range(3000):  # more than the queue holds
            activity = tracing.begin("a call", "server", None, {})
            assert activity is not None
            activity.end()
        begun = time.monotonic()
    # Without `Sender.hurry` each of four batches would be tried for two seconds or longer.
    assert time.monotonic() - begun < 6


def test_a_caller_that_does_not_record_is_followed() -> None:
    not_sampled = Span(CALLER.trace_id, CALLER.span_id, "00")
    for ratio, caller, recorded in (
        (0.0, None, False),
        (0.0, CALLER, True),
        (1.0, None, True),
        (1.0, not_sampled, False),
    ):
        settings = Settings(otlp_endpoint="http://127.0.0.1:9", trace_sample_ratio=ratio)
        with setup.recorded_as_configured(settings, "credit-service"):
            activity = tracing.begin("a call", "server", caller, {})
            assert activity is not None
            assert (activity.part("part", {}) is not None) is recorded
            assert bool(int(activity.span.flags, 16) & 1) is recorded


def test_the_parts_of_an_activity_are_bounded() -> None:
    settings = Settings(otlp_endpoint="http://127.0.0.1:9")
    with setup.recorded_as_configured(settings, "credit-service"):
        activity = tracing.begin("a stream", "server", None, {})
        assert activity is not None
        parts = [activity.part("transaction", {}) for _ in range(tracing.MAX_PARTS + 1)]
    assert parts[-1] is None
    assert None not in parts[:-1]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "ftp://127.0.0.1", "http://", ""])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    settings = Settings(otlp_endpoint=endpoint)
    with (
        pytest.raises(TracingRefusedError, match="CREDIT_OTLP_ENDPOINT"),
        setup.recorded_as_configured(settings, "credit-service"),
    ):
        pass
