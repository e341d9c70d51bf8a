"""Spans recorded by OpenTelemetry and sent to a collector, as OTLP over HTTP.

Imported only where spans are asked for: it needs the extra `tracing`. A thread of its own sends
them in batches. What the collector does not take is dropped, and no work ever waits for it.
"""

import time
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from credit_service.observability.tracing import Attributes, Kind, Span, TracingRefusedError

_SEND_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_PATH = "/v1/traces"
_KINDS = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER, "client": SpanKind.CLIENT}


class OtlpRecorder:
    """Records with the given provider, which it closes. Safe to share between threads."""

    def __init__(self, provider: TracerProvider, sender: "Sender | None" = None) -> None:
        self._provider = provider
        self._sender = sender
        self._tracer = provider.get_tracer("credit_service", version("credit-service"))

    @classmethod
    def sending_to(cls, endpoint: str, service: str, *, sample_ratio: float) -> "OtlpRecorder":
        """Sends to the collector at that URL, under the name of `service`.

        Of the traces that begin here, `sample_ratio` are recorded; for others the decision that
        their `traceparent` carries is followed.

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
        sender = Sender(OTLPSpanExporter(endpoint=url, timeout=_SEND_SECONDS))
        provider.add_span_processor(BatchSpanProcessor(sender))
        return cls(provider, sender)

    def begin(
        self, name: str, kind: Kind, parent: Span | None, attributes: Attributes
    ) -> "_Recording":
        """A span that begins now, the first of a new trace where it has no parent."""
        context = Context()
        if parent is not None:
            place = SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=kind != "client",
                trace_flags=TraceFlags(int(parent.flags, 16)),
            )
            context = set_span_in_context(NonRecordingSpan(place), context)
        return _Recording(self._tracer.start_span(name, context, _KINDS[kind], attributes))

    def close(self) -> None:
        """Send what there is, within a few seconds, and record no more."""
        if self._sender is not None:
            self._sender.hurry(_CLOSE_SECONDS)
        self._provider.shutdown()


class Sender(SpanExporter):
    """An exporter that can be hurried. At its end a processor sends all that waits, batch by batch,
    and a collector that is away would hold up the process for seconds with each."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._until = float("inf")

    def hurry(self, seconds: float) -> None:
        """Begin to send nothing more after so many seconds."""
        self._until = time.monotonic() + seconds

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send these, or drop them."""
        if time.monotonic() >= self._until:
            return SpanExportResult.FAILURE
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        """Send nothing more."""
        self._exporter.shutdown()


class _Recording:
    """A span of OpenTelemetry's that has begun."""

    __slots__ = ("_span", "span")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        place = span.get_span_context()
        self.span = Span(
            format_trace_id(place.trace_id),
            format_span_id(place.span_id),
            f"{int(place.trace_flags):02x}",
        )

    @property
    def sampled(self) -> bool:
        """Whether anything will come of it."""
        return self._span.is_recording()

    def end(self, *, error: str, attributes: Attributes) -> None:
        """It ends now."""
        self._span.set_attributes(dict(attributes))
        if error:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end()
