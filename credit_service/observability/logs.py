"""Structured logs with the ids of the current call or task, and masked phone numbers and names.

The log lines of libraries pass the same processors, so one place masks all of them. Values of known
fields (`phone_number`, `first_name`, …) are masked by name, and phone numbers also inside texts.
Numbers stay: ids and amounts are numbers.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

from credit_service.settings import Settings

MASKED_FIELDS = frozenset(
    {"phone_number", "phone", "first_name", "last_name", "full_name", "customer_name"}
)
"""Fields whose values never reach a log."""

_MAX_TEXT = 20_000  # characters of one value; a longer one, such as a deep trace, is cut

_PHONE_NUMBER = re.compile(
    # International, with or without separators; not inside a longer word or number.
    r"(?<![\w+.])\+[1-9]\d{0,2}(?:[ -]?\d){6,12}(?![\w])"
    # An Indian mobile number as people write it: ten digits from 6 up, optionally after 0 or 91.
    r"|(?<![\w+.:-])(?:0|91[ -]?)?[6-9]\d{4}[ -]?\d{5}(?![\w:-])"
)
# Details that a driver adds to an error, such as the row that violates a constraint.
_DETAIL = re.compile(r"^(DETAIL|CONTEXT):.*$", re.MULTILINE)
# A field and its value inside a text, as in the repr of a dataclass or a dict.
_FIELD = re.compile(rf"\b({'|'.join(sorted(MASKED_FIELDS))})(['\"]?\s*[=:]\s*)('[^']*'|\"[^\"]*\")")


def configure_logging(
    settings: Settings, *, component: str = "server", stream: TextIO | None = None
) -> None:
    """Send all logs of this process to `stream`, by default standard error.

    `component` names the process (`server`, `worker`, …) in every line. Modules log through
    `structlog.get_logger(__name__)`; every line of a thread has the ids in its
    `structlog.contextvars`. A second call replaces the configuration.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _named(component),
        mask,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    output = stream or sys.stderr
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(settings.log_format, output),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # At INFO these log every statement, message or step.
    for name in ("sqlalchemy", "alembic", "dramatiq", "grpc"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # It warns of each overlong `traceparent`: a caller could fill the log.
    logging.getLogger("opentelemetry.trace.propagation").setLevel(logging.ERROR)
    # It logs undecodable metadata with a traceback, a token too, before any authentication. Adding
    # an equal filter again changes nothing.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_logs_no_metadata)


def _logs_no_metadata(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


def mask(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The event with every phone number and name in it masked; a processor of structlog."""
    for key, value in event.items():
        event[key] = _masked(key, value)
    return event


def masked_phone_number(number: str) -> str:
    """The number with all but its first three and last two characters hidden."""
    if len(number) <= 5:
        return "*" * len(number)
    return number[:3] + "*" * (len(number) - 5) + number[-2:]


def masked_text(text: str) -> str:
    """The text with its phone numbers and the values of known fields hidden."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + " …"
    text = _DETAIL.sub(r"\1: (hidden)", text)
    text = _FIELD.sub(lambda found: f"{found[1]}{found[2]}'***'", text)
    return _PHONE_NUMBER.sub(lambda found: masked_phone_number(found[0]), text)


def _masked(key: str, value: object) -> object:
    if key in MASKED_FIELDS and value is not None:
        return masked_phone_number(str(value)) if key.startswith("phone") else "***"
    match value:
        case str():
            return masked_text(value)
        case Mapping():
            return {name: _masked(str(name), each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked("", each) for each in value]
        case None | bool() | int():
            return value
        case _ if key.startswith("_"):
            # structlog's own fields: the record and its origin.
            return value
        case _:
            return masked_text(str(value))


def _named(component: str) -> structlog.typing.Processor:
    def add(
        _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["component"] = component
        return event

    return add


def _renderer(log_format: Literal["json", "console"], output: TextIO) -> structlog.typing.Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(
        colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
