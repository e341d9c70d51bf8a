"""Spans recorded by the OpenTelemetry SDK and exported to a collector as OTLP over HTTP.

Imported only if CREDIT_OTLP_ENDPOINT is set: it needs the extra `tracing`. A thread exports spans
in batches and drops those that the collector does not accept. No call or task waits for it.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from credit_service.observability import tracing
from credit_service.observability.tracing import TracingRefusedError

_EXPORT_TIMEOUT_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_PATH = "/v1/traces"


@contextmanager
def exported_to(endpoint: str, service: str, *, sample_ratio: float) -> Iterator[None]:
    """While open, record spans and export them to the collector at the URL `endpoint`.

    `service` is their service name. `sample_ratio` (0 to 1) of the traces that start here are
    recorded; for others the `traceparent` decides. At the end, export the rest within a few
    seconds.

    Raises:
        TracingRefusedError: `endpoint` is no http or https URL.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TracingRefusedError(f"CREDIT_OTLP_ENDPOINT is no http or https URL: {endpoint}")
    url = endpoint if parts.path.strip("/") else endpoint.rstrip("/") + _PATH
    resource = Resource.create(
        {
            "service.name": service,
            "service.version": version("credit-service"),
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    provider = TracerProvider(
        resource=resource,
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        shutdown_on_exit=False,
    )
    exporter = BoundedExporter(OTLPSpanExporter(endpoint=url, timeout=_EXPORT_TIMEOUT_SECONDS))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        with tracing.recorded_by(provider):
            yield
    finally:
        exporter.stop_after(_CLOSE_SECONDS)
        provider.shutdown()


class BoundedExporter(SpanExporter):
    """An exporter with a deadline.

    At shutdown a processor exports everything that waits, batch by batch. Without a deadline, an
    unreachable collector would delay the end of the process by seconds for each batch.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._deadline = float("inf")

    def stop_after(self, seconds: float) -> None:
        """Start no export later than `seconds` from now."""
        self._deadline = time.monotonic() + seconds

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export the spans, or drop them after the deadline."""
        if time.monotonic() >= self._deadline:
            return SpanExportResult.FAILURE
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        """Export nothing more."""
        self._exporter.shutdown()
