"""Turns on what the settings ask for: spans, exported by OpenTelemetry, an optional extra."""

from collections.abc import Iterator
from contextlib import contextmanager

from credit_service.observability import tracing
from credit_service.observability.tracing import TracingRefusedError
from credit_service.settings import Settings


@contextmanager
def recorded_as_configured(settings: Settings, service: str) -> Iterator[None]:
    """While open, spans are recorded where the settings say so; `service` is the name they go by.

    Raises:
        TracingRefusedError: OpenTelemetry is not installed, or the endpoint is no URL.
    """
    if settings.otlp_endpoint is None:
        yield
        return
    try:
        from credit_service.observability.otlp import OtlpRecorder  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise TracingRefusedError(
            "CREDIT_OTLP_ENDPOINT needs OpenTelemetry, which is not installed: "
            "pip install 'credit-service[tracing]'"
        ) from error
    with tracing.recorded_by(
        OtlpRecorder.sending_to(
            settings.otlp_endpoint, service, sample_ratio=settings.trace_sample_ratio
        )
    ):
        yield
