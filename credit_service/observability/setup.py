"""Records spans if the settings ask for them, with the OpenTelemetry SDK, an optional extra."""

from collections.abc import Iterator
from contextlib import contextmanager

from credit_service.observability.tracing import TracingRefusedError
from credit_service.settings import Settings


@contextmanager
def recorded_as_configured(settings: Settings, service: str) -> Iterator[None]:
    """While open, record spans as the settings say, under the service name `service`.

    Raises:
        TracingRefusedError: the SDK is not installed, or the endpoint is no URL.
    """
    if settings.otlp_endpoint is None:
        yield
        return
    try:
        from credit_service.observability import otlp  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise TracingRefusedError(
            "CREDIT_OTLP_ENDPOINT needs the OpenTelemetry SDK, which is not installed: "
            "pip install 'credit-service[tracing]'"
        ) from error
    with otlp.exported_to(
        settings.otlp_endpoint, service, sample_ratio=settings.trace_sample_ratio
    ):
        yield
