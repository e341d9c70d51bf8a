"""Configuration: every setting, its unit and its default, read from the environment.

Names are the field names in capitals behind `CREDIT_`, but for DATABASE_URL and REDIS_URL, which
go by the names that platforms already give them. Secrets are read from the environment, or from
files named like the variables (`database_url`, `credit_console_secret`) in /run/secrets, where
containers are given them, or in the folder that CREDIT_SECRETS_DIR names; never from arguments.
"""

import difflib
import os
import re
import sys
import zoneinfo
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from credit_service.clock import Clock

_LONGEST_SECONDS = 1_000_000
_MAX_PORT = 65_535
_MAX_SHOWN_CHARACTERS = 200


def default_data_dir() -> Path:
    """Where the embedded servers keep their data.

    PostgreSQL refuses to run as root, so for root the wheel runs it as another system user, who
    must be able to reach the folder: it lies outside home folders then.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/credit-service")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "credit-service"


def _secrets_dir() -> str | None:
    """The folder of secrets; None where there is none, of which pydantic would warn."""
    folder = os.environ.get("CREDIT_SECRETS_DIR", "/run/secrets")
    return folder if Path(folder).is_dir() else None


class Settings(BaseSettings):
    """All settings of server, workers and command line."""

    model_config = SettingsConfigDict(
        env_prefix="CREDIT_",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        secrets_dir=_secrets_dir(),
    )

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "CREDIT_DATABASE_URL"),
        description="postgresql://… of PostgreSQL 15 or later; unset: the embedded server",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("REDIS_URL", "CREDIT_REDIS_URL"),
        description="redis://… of Redis 7, Valkey 8 or later; unset: the embedded server",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir, description="data folder of the embedded servers"
    )
    time_zone: str = Field(
        default="Asia/Kolkata", description="time zone in which a civil day begins and ends"
    )
    clock_offset_file: Path | None = Field(
        default=None,
        description="file with seconds to add to the machine's time, for trying out dates",
    )

    listen: str = Field(default="127.0.0.1:50051", description="address the server listens on")
    insecure: bool = Field(
        default=False,
        description="serve other addresses than loopback without TLS or without credentials",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file of the server's certificate and chain; read again when it changes",
    )
    tls_private_key: Path | None = Field(
        default=None, description="PEM file of the certificate's private key"
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of client certificates' authorities; set: each client needs one",
    )
    client_scopes: Path | None = Field(
        default=None,
        description="JSON file, client certificate's name to scopes; set: a certificate will do",
    )
    token_keys: Path | None = Field(
        default=None,
        description="JWKS file, or folder of *.json ones, that verifies tokens; set: tokens asked",
    )
    token_issuer: str | None = Field(default=None, description="issuer (iss) a token must name")
    token_audience: str = Field(
        default="credit-service", min_length=1, description="audience (aud) a token must name"
    )
    token_algorithms: str = Field(
        default="RS256,PS256,ES256,EdDSA",
        description="algorithms a token may be signed by, parted by commas",
    )
    reflection: Literal["open", "authenticated", "off"] = Field(
        default="open", description="who may ask the server for its contract"
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="server processes that share the port by SO_REUSEPORT"
    )
    threads: int = Field(
        default=16,
        ge=2,
        le=256,
        description="threads per server process for calls that only read; as many serve those that "
        "write",
    )
    max_streams: int = Field(
        default=8, ge=1, le=255, description="streams per server process, a thread for each"
    )
    ingestion_streams: int = Field(
        default=2,
        ge=0,
        le=64,
        description="further streams per server process, kept for IngestRows and UploadSpreadsheet",
    )
    reflection_streams: int = Field(
        default=2, ge=1, le=64, description="streams of reflection per server process"
    )
    stream_lifetime_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=1_000_000,
        description="longest life of a stream, which then ends with STREAM_LIFETIME_OVER",
    )
    max_concurrent_calls: int = Field(
        default=128,
        ge=3,
        le=10_000,
        description="calls per server process at work or waiting for a thread; more are refused. "
        "As many again that write",
    )
    max_wait_seconds: float = Field(
        default=0.003,
        gt=0,
        le=60,
        description="longest wait for a thread once more calls came than `max_concurrent_calls`",
    )
    max_calls_per_second: float = Field(
        default=2000.0,
        gt=0,
        le=1_000_000,
        description="calls a second of one principal, per server process; bursts may be twice that",
    )
    max_calls_at_work_per_principal: int = Field(
        default=8,
        ge=1,
        le=255,
        description="calls of one principal at work at once, per server process, but always below "
        "`threads` and five sixths of `pool_size`; more wait until one ends",
    )
    max_calls_per_principal: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="calls of one principal at work or waiting, per server process; more are "
        "rejected",
    )
    max_connection_idle_seconds: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="time without a call after which the server closes a connection",
    )
    max_streams_per_principal: int = Field(
        default=4, ge=1, le=255, description="streams of one principal, per server process"
    )
    shutdown_grace_seconds: float = Field(
        default=10.0, ge=0, le=300, description="time for calls under way to end when stopping"
    )
    shutdown_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        le=60,
        description="time between NOT_SERVING and the stop, for balancers to send calls elsewhere",
    )
    default_deadline_seconds: float = Field(
        default=15.0, gt=0, le=600, description="deadline of a unary call that sets none"
    )
    stream_idle_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="longest silence of a client stream"
    )
    stream_abandoned_seconds: float = Field(
        default=900.0,
        gt=0,
        description="silence after which an ingestion by a stream ends as ABANDONED; it can resume",
    )

    database_pooler: Literal["none", "transaction"] = Field(
        default="none",
        description="`transaction`: the database is reached through PgBouncer, in either mode",
    )
    pool_size: int = Field(
        default=12,
        ge=1,
        le=100,
        description="database connections per process; calls that write use five sixths at most",
    )
    statement_timeout_seconds: float = Field(
        default=10.0, gt=0, le=_LONGEST_SECONDS, description="longest statement of a call"
    )
    lock_timeout_seconds: float = Field(
        default=3.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="longest wait for a row that another call holds, and before that for the calls "
        "of the same process that write to the same customer",
    )
    idle_in_transaction_timeout_seconds: float = Field(
        default=30.0, gt=0, le=_LONGEST_SECONDS, description="longest pause inside a transaction"
    )

    upload_max_bytes: int = Field(
        default=64 * 1024 * 1024, gt=0, description="largest workbook that may be uploaded"
    )
    max_imported_limit_rupees: int = Field(
        default=5_00_00_000,
        ge=0,
        le=1_000 * 1_00_00_000,
        description="highest approved limit that an import may give; rows above are rejected",
    )
    ingestion_batch_rows: int = Field(
        default=25_000, ge=1, le=100_000, description="rows that one transaction ingests"
    )

    worker_threads: int = Field(default=4, ge=1, le=64, description="actor threads per worker")
    relay_interval_seconds: float = Field(
        default=0.05, gt=0, le=60, description="pause between looks at an empty outbox"
    )
    task_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="silence after which the sweeper sends a task again",
    )

    server_address: str = Field(
        default="127.0.0.1:50051", description="address of the server that the console calls"
    )
    server_ca: Path | None = Field(
        default=None,
        description="PEM file of authorities that console and commands trust; set: they use TLS",
    )
    client_certificate: Path | None = Field(
        default=None, description="PEM file of the certificate that console and commands present"
    )
    client_private_key: Path | None = Field(
        default=None, description="PEM file of that certificate's private key"
    )
    console_listen: str = Field(
        default="127.0.0.1:8080", description="address the QA console listens on, by HTTP"
    )
    console_hosts: str = Field(
        default="",
        description="host names the console answers to besides loopback's, parted by commas",
    )
    console_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="key that signs the console's cookies; unset: a new one at each start",
    )

    console_checklist: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="whether the console's checklist, which writes test customers, may run; auto: "
        "only against a service on loopback without TLS and tokens",
    )

    metrics_listen: str | None = Field(
        default=None,
        description="address at which the server's metrics are shown, by HTTP; unset: nowhere",
    )
    worker_metrics_listen: str | None = Field(
        default=None,
        description="address at which a worker's metrics are shown, by HTTP; unset: nowhere",
    )
    metrics_insecure: bool = Field(
        default=False,
        description="allow to show metrics at an address other than loopback, to whoever asks",
    )

    otlp_endpoint: str | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector, OTLP over HTTP; set: spans are recorded",
    )
    trace_sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="part of the traces that begin here that is recorded; a caller's own decides",
    )

    log_format: Literal["json", "console"] = Field(default="console", description="form of logs")
    access_log: bool = Field(
        default=True,
        description="one log line for each call: who called, how it ended, which ids it named",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe lines that are logged"
    )

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_url(value.get_secret_value(), _DATABASE_SCHEMES)
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_url(value.get_secret_value(), _REDIS_SCHEMES)
        return value

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            # KeyError: no such zone. OSError: a folder of them, such as Asia.
            raise ValueError(
                f"{_meant_zone(value)}write the name of an IANA time zone, such as Asia/Kolkata"
            ) from None
        return value

    @field_validator("listen", "console_listen", "metrics_listen", "worker_metrics_listen")
    @classmethod
    def _check_listening_address(cls, value: str | None) -> str | None:
        if value is not None:
            _check_address(value, least_port=0)
        return value

    @field_validator("server_address")
    @classmethod
    def _check_server_address(cls, value: str) -> str:
        check_target(value)
        return value

    @cached_property
    def clock(self) -> Clock:
        """The clock these settings describe."""
        return Clock(self.time_zone, self.clock_offset_file)

    def require_database_url(self) -> str:
        """The database's URL in SQLAlchemy's form for psycopg 3.

        Raises:
            ValueError: none is configured and no embedded server was started.
        """
        if self.database_url is None:
            raise ValueError("DATABASE_URL is not set and no embedded server is running")
        _, _, rest = self.database_url.get_secret_value().partition("://")
        return f"postgresql+psycopg://{rest}"

    def require_redis_url(self) -> str:
        """The URL of Redis.

        Raises:
            ValueError: none is configured and no embedded server was started.
        """
        if self.redis_url is None:
            raise ValueError("REDIS_URL is not set and no embedded server is running")
        return self.redis_url.get_secret_value()


class ClientSettings(BaseSettings):
    """The settings of a client alone, as in `Settings`.

    A client's environment may hold a DATABASE_URL of another program, which does not concern it.
    """

    model_config = SettingsConfigDict(
        env_prefix="CREDIT_", extra="ignore", frozen=True, secrets_dir=_secrets_dir()
    )

    server_ca: Path | None = None
    client_certificate: Path | None = None
    client_private_key: Path | None = None


# What values are accepted, beyond what their types say.


_DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
"""All three mean the same: many platforms write the second, SQLAlchemy the third."""

_REDIS_SCHEMES = ("redis", "rediss", "unix")
_TARGET_SCHEME = re.compile(r"(?:dns|unix|unix-abstract|vsock|ipv4|ipv6|xds|passthrough):.+")


def _check_url(url: str, schemes: tuple[str, ...]) -> None:
    """Raise ValueError, which says what is accepted, for another scheme or a wrong port."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in schemes:
        example = {"postgresql": "user:password@host:5432/database", "redis": "host:6379/0"}
        raise ValueError(
            f"write a URL that begins with {schemes[0]}://, such as"
            f" {schemes[0]}://{example[schemes[0]]}"
        )
    try:
        port = urlsplit(url).port
    except ValueError:
        port = -1
    if port is not None and not 0 < port <= _MAX_PORT:
        raise ValueError(
            f"the port must be a number from 1 to {_MAX_PORT}, and characters such as / ? # @ in a"
            " password must be percent-encoded"
        )


def _check_address(address: str, *, least_port: int) -> None:
    """Raise ValueError, which says what is accepted, for anything but host:port."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise ValueError("it is not an address: write host:port, such as 127.0.0.1:50051")
    if not least_port <= int(port) <= _MAX_PORT:
        raise ValueError(f"the port must be a number from {least_port} to {_MAX_PORT}")


def check_target(address: str) -> None:
    """Raise ValueError, which says what is accepted, for what is not the address of a server.

    Accepted are host:port and gRPC's other names, such as dns:///credit.example:50051.
    """
    if not _TARGET_SCHEME.fullmatch(address):
        _check_address(address, least_port=1)


def _meant_zone(name: str) -> str:
    known = {each.casefold(): each for each in zoneinfo.available_timezones()}
    close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.8)
    return f"did you mean {known[close[0]]}? Else " if close else ""


# Wrong settings and unknown variables, in words.


_PASSWORD_PARAMETER = re.compile(
    r"((?:password|passwd|pwd|secret|token)\s*=\s*)('[^']*'|[^&\s;]*)", re.IGNORECASE
)
_USER = re.compile(r"[^:/@]*(?=:)")


def without_secrets(url: str) -> str:
    """The URL with *** in place of its passwords, also where it is no URL."""
    if "@" in url:
        scheme, separator, rest = url.partition("://")
        if not separator:
            scheme, separator, rest = url.partition(":")
        # All before the last @: a password that is not encoded may hold one itself.
        credentials, _, place = rest.rpartition("@")
        if ":" in credentials or not credentials.isidentifier():
            user = _USER.match(credentials)
            credentials = f"{user[0] if user else ''}:***" if credentials else ""
        url = f"{scheme}{separator}{credentials}@{place}"
    return _PASSWORD_PARAMETER.sub(r"\1***", url)


def variable_of(name: str) -> str:
    """The environment variable of a setting, by its field's name."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"CREDIT_{name.upper()}"


def problems(error: ValidationError) -> list[str]:
    """A line for each wrong setting: its variable, its value, and what is accepted.

    Passwords and secrets are not shown.
    """
    return [_problem(str(each["loc"][0]), each) for each in error.errors(include_url=False)]


def _problem(location: str, error: Mapping[str, Any]) -> str:
    name = location.casefold().removeprefix("credit_")
    field = Settings.model_fields.get(name)
    if field is None:
        return f"{location}: {error['msg']}"
    own = error.get("ctx", {}).get("error")
    accepted = str(own) if isinstance(own, ValueError) else f"write {_accepted(field)}"
    return f"{variable_of(name)}{_shown(name, error['input'])} is not accepted: {accepted}"


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    text = str(value)
    if name in ("database_url", "redis_url"):
        text = without_secrets(text)
    elif SecretStr in _alternatives(Settings.model_fields[name].annotation):
        return ""
    if len(text) > _MAX_SHOWN_CHARACTERS:
        text = f"{text[:_MAX_SHOWN_CHARACTERS]}…"
    # On one line, whatever is in it.
    return f"={text}" if text.isprintable() else f"={text!r}"


def _accepted(field: FieldInfo) -> str:
    """The values of a setting in words."""
    kind = next(each for each in _alternatives(field.annotation) if each is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    words = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")
    bounds = [
        f"{text} {getattr(each, name):,}"
        for each in field.metadata
        for name, text in _BOUNDS.items()
        if getattr(each, name, None) is not None
    ]
    characters = " characters" if kind in (str, SecretStr) else ""
    return f"{words} of {' and '.join(bounds)}{characters}" if bounds else words


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "min_length": "at least"}


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return (annotation,)
    return get_args(annotation) or (annotation,)


_NO_SETTINGS = frozenset(
    {
        "CREDIT_SECRETS_DIR",
        "CREDIT_ADDRESS",
        "CREDIT_TOKEN",
        "CREDIT_TOKEN_FILE",
        "CREDIT_FAILPOINTS",
        "CREDIT_NODE_MODULES",
    }
)
"""Variables that are read elsewhere than here."""

# Kubernetes and Docker links set such for a service whose name begins with "credit".
_OF_A_PLATFORM = re.compile(r"CREDIT_(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT|PORT|ENV|NAME)(?:_.*)?")


def unknown_variables(environment: Mapping[str, str] = os.environ) -> Iterator[tuple[str, str]]:
    """Each CREDIT_ variable that nothing reads, with the name that is probably meant, or ''."""
    known = {f"CREDIT_{name.upper()}" for name in Settings.model_fields} | _NO_SETTINGS
    for name in sorted(environment):
        # Settings are found in whatever case they are written.
        upper = name.upper()
        if not upper.startswith("CREDIT_") or upper in known or _OF_A_PLATFORM.fullmatch(upper):
            continue
        close = difflib.get_close_matches(upper, sorted(known), n=1, cutoff=0.75)
        yield name, close[0] if close else ""


def unknown_variable_warnings() -> list[str]:
    """A sentence for each CREDIT_ variable of the environment that nothing reads."""
    return [
        f"{name} is not a setting and is ignored{f'; did you mean {meant}?' if meant else '.'}"
        for name, meant in unknown_variables()
    ]


def warn_of_unknown_variables() -> None:
    """Print a line to standard error for each CREDIT_ variable that nothing reads.

    A warning and not an error: platforms set variables of their own for a service of this name, and
    a rollback must not fail over a setting that only the newer release knows.
    """
    for warning in unknown_variable_warnings():
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201 - for the person who started it


def describe(error: Exception) -> str:
    """An error of the settings, on one line for each that is wrong."""
    return "\n".join(problems(error)) if isinstance(error, ValidationError) else str(error)
