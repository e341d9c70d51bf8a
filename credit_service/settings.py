"""Configuration: every setting, its unit and its default, read from the environment.

Names are `CREDIT_` and the field name in capitals, except DATABASE_URL and REDIS_URL, whose names
platforms already use. Secrets are read from the environment, or from files named like the variables
(`database_url`, `credit_console_secret`) in /run/secrets, as containers provide them, or in the
folder CREDIT_SECRETS_DIR; never from arguments.
"""

import difflib
import os
import zoneinfo
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from credit_service import postgresql_url
from credit_service.address_text import check_address, check_target
from credit_service.clock import Clock
from credit_service.redis_url import RedisUrl

_MAX_SECONDS = 1_000_000
_MAX_DAYS = 36_500
MAX_PROCESSES = 64
REPLICA_METHODS = (
    *("GetCustomer", "ListCustomers", "ListCustomerChanges"),
    *("GetLoan", "ListLoans", "GetRepaymentSchedule", "GetKeyFactsStatement", "ListPayments"),
    *("GetDelinquency", "ListDelinquentLoans"),
    *("GetLoanOffer", "ListLoanOffers", "GetDecision", "ListDecisions", "GetTrialResults"),
)
"""Methods that a standby may serve: they only read, and are no promise about the present, as the
score, an eligibility check and a foreclosure quote are."""


def default_data_dir() -> Path:
    """Return the folder for the embedded servers' data.

    PostgreSQL refuses to run as root, so for root the wheel runs it as another system user. That
    user must have access to the folder: for root it is outside home folders.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/credit-service")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "credit-service"


def _secrets_dir() -> str | None:
    """Return the folder of secrets; None if it does not exist, about which pydantic would warn."""
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
        description="redis://…, redis+sentinel://… or redis+cluster://… of Redis 7, Valkey 8 or "
        "later; unset: the embedded server",
    )
    replica_url: SecretStr | None = Field(
        default=None,
        description="postgresql://… of a streaming standby that serves `CREDIT_REPLICA_METHODS`; "
        "unset: the primary serves all calls",
    )
    replica_methods: str = Field(
        default="",
        description="reading methods that may answer from the standby's older data, "
        "comma-separated",
    )
    replica_max_lag_seconds: float = Field(
        default=10.0,
        ge=3,
        le=600,
        description="age of the standby's data above which the primary serves these methods",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir, description="data folder of the embedded servers"
    )
    time_zone: str = Field(
        default="Asia/Kolkata", description="time zone in which a civil day starts and ends"
    )
    clock_offset_file: Path | None = Field(
        default=None,
        description="file with seconds to add to the machine's time, for tests of dates",
    )

    listen: str = Field(default="127.0.0.1:50051", description="address the server listens on")
    insecure: bool = Field(
        default=False,
        description="serve addresses other than loopback without TLS or without credentials",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file of the server's certificate and chain; reloaded when it changes",
    )
    tls_private_key: Path | None = Field(
        default=None, description="PEM file of the certificate's private key"
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of CAs for client certificates; set: each client needs a certificate",
    )
    client_scopes: Path | None = Field(
        default=None,
        description="JSON file that maps a client certificate's name to scopes; set: a certificate "
        "is enough to authenticate",
    )
    token_keys: Path | None = Field(
        default=None,
        description="JWKS file, or folder of *.json ones, to verify tokens; set: tokens required",
    )
    token_issuer: str | None = Field(default=None, description="issuer (iss) a token must name")
    token_audience: str = Field(
        default="credit-service", min_length=1, description="audience (aud) a token must name"
    )
    token_algorithms: str = Field(
        default="RS256,PS256,ES256,EdDSA",
        description="accepted signature algorithms of tokens, comma-separated",
    )
    reflection: Literal["open", "authenticated", "off"] = Field(
        default="open", description="which callers may read the contract by server reflection"
    )
    processes: int | None = Field(
        default=None,
        ge=1,
        le=MAX_PROCESSES,
        description="server processes that share the port by SO_REUSEPORT; unset: one for each "
        "core that it may use, as far as CPU quota, memory limit and database allow",
    )
    pin_processes: bool = Field(
        default=True,
        description="keep each server process to one core, if there is one for each; on Linux",
    )
    threads: int = Field(
        default=16,
        ge=2,
        le=256,
        description="threads per server process for reading calls, and as many for writing calls",
    )
    max_streams: int = Field(
        default=8, ge=1, le=255, description="streams per server process, each with its own thread"
    )
    ingestion_streams: int = Field(
        default=2,
        ge=0,
        le=64,
        description="further streams per server process, reserved for IngestRows and "
        "UploadSpreadsheet",
    )
    reflection_streams: int = Field(
        default=2, ge=1, le=64, description="streams of reflection per server process"
    )
    stream_lifetime_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=1_000_000,
        description="maximum lifetime of a stream, which then ends with STREAM_LIFETIME_OVER",
    )
    max_concurrent_calls: int = Field(
        default=128,
        ge=3,
        le=10_000,
        description="reading calls per server process that run or wait for a thread, and as many "
        "writing calls; more are rejected",
    )
    max_wait_seconds: float = Field(
        default=0.003,
        gt=0,
        le=60,
        description="longest wait for a thread while there are more calls than "
        "`max_concurrent_calls`",
    )
    max_calls_per_second: float = Field(
        default=2000.0,
        gt=0,
        le=1_000_000,
        description="calls per second of one principal, per process; bursts may be twice that",
    )
    max_calls_at_work_per_principal: int = Field(
        default=4,
        ge=1,
        le=255,
        description="concurrently running calls of one principal, per server process, but always "
        "below `threads` and five sixths of `pool_size`; more wait until one ends",
    )
    max_calls_per_principal: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="running and waiting calls of one principal, per server process; more are "
        "rejected",
    )
    max_connection_idle_seconds: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="time without a call after which the server closes a connection",
    )
    max_connection_age_seconds: float | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="age after which the server asks a client to open another connection, while "
        "calls on the old one continue; unset: never",
    )
    max_streams_per_principal: int = Field(
        default=4, ge=1, le=255, description="streams of one principal, per server process"
    )
    shutdown_grace_seconds: float = Field(
        default=10.0, ge=0, le=300, description="time for running calls to end during a shutdown"
    )
    shutdown_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        le=60,
        description="time between NOT_SERVING and the stop, for balancers to reroute calls",
    )
    default_deadline_seconds: float = Field(
        default=15.0, gt=0, le=600, description="deadline of a unary call without one"
    )
    stream_idle_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="idle timeout of a client stream"
    )
    stream_abandoned_seconds: float = Field(
        default=900.0,
        gt=0,
        description="idle time after which an ingestion by a stream ends as ABANDONED; it can be "
        "resumed",
    )

    database_pooler: Literal["none", "transaction"] = Field(
        default="none",
        description="`transaction`: the database is behind PgBouncer, in either mode",
    )
    pool_size: int = Field(
        default=12,
        ge=1,
        le=100,
        description="database connections per process; writing calls use at most five sixths",
    )
    statement_timeout_seconds: float = Field(
        default=10.0, gt=0, le=_MAX_SECONDS, description="timeout of a call's statement"
    )
    lock_timeout_seconds: float = Field(
        default=3.0,
        gt=0,
        le=_MAX_SECONDS,
        description="timeout of the wait for a row locked by another call, and before that for "
        "calls of the same process that write to the same customer",
    )
    idle_in_transaction_timeout_seconds: float = Field(
        default=30.0, gt=0, le=_MAX_SECONDS, description="timeout of a pause inside a transaction"
    )

    upload_max_bytes: int = Field(
        default=64 * 1024 * 1024, gt=0, description="maximum size of an uploaded workbook"
    )
    max_imported_limit_rupees: int = Field(
        default=5_00_00_000,
        ge=0,
        le=1_000 * 1_00_00_000,
        description="highest approved limit that an import may set; rows above it are rejected",
    )
    referral_days: int = Field(
        default=7,
        ge=1,
        le=_MAX_DAYS,
        description="days after a referred decision on which it can be reviewed",
    )
    ingestion_batch_rows: int = Field(
        default=25_000, ge=1, le=100_000, description="rows ingested per transaction"
    )

    worker_threads: int = Field(default=4, ge=1, le=64, description="actor threads per worker")
    relay_interval_seconds: float = Field(
        default=0.05, gt=0, le=60, description="poll interval of an empty outbox"
    )
    task_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=_MAX_SECONDS,
        description="timeout after which the sweeper resends a task",
    )

    request_retention_days: int = Field(
        default=400,
        ge=0,
        le=_MAX_DAYS,
        description="days after a write for which a repeat with its request id has no effect; then "
        "the id is new again; 0: forever",
    )
    event_retention_days: int = Field(
        default=90,
        ge=0,
        le=_MAX_DAYS,
        description="days for which published events are kept for watchers; 0: forever",
    )
    source_retention_days: int = Field(
        default=30,
        ge=0,
        le=_MAX_DAYS,
        description="days after an ingestion's end for which an uploaded file, or the digests of "
        "streamed rows, are kept; 0: forever",
    )
    row_error_retention_days: int = Field(
        default=90,
        ge=0,
        le=_MAX_DAYS,
        description="days after an ingestion's end for which its row errors are kept; 0: forever",
    )
    parked_task_retention_days: int = Field(
        default=90,
        ge=0,
        le=_MAX_DAYS,
        description="days for which a parked task can be retried; 0: forever",
    )
    discrepancy_retention_days: int = Field(
        default=400,
        ge=0,
        le=_MAX_DAYS,
        description="days for which discrepancies found by the reconciliation are kept; 0: forever",
    )

    server_address: str = Field(
        default="127.0.0.1:50051", description="address of the server that the console calls"
    )
    server_ca: Path | None = Field(
        default=None,
        description="PEM file of CAs that console and commands trust; set: they use TLS",
    )
    client_certificate: Path | None = Field(
        default=None, description="PEM file of the certificate that console and commands present"
    )
    client_private_key: Path | None = Field(
        default=None, description="PEM file of that certificate's private key"
    )
    console_listen: str = Field(
        default="127.0.0.1:8080", description="HTTP address the QA console listens on"
    )
    console_hosts: str = Field(
        default="",
        description="host names the console accepts in addition to loopback, comma-separated",
    )
    console_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="key that signs the console's cookies; unset: a new one at each start",
    )

    console_environment: str = Field(
        default="",
        max_length=30,
        pattern=r"^[^\x00-\x1f]*$",
        description="name of the environment on every page of the console, such as staging; in "
        "production, each write needs one more confirmation; unset: not shown",
    )

    console_checklist: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="whether the console's checklist, which writes test customers, may run; auto: "
        "only against a service on loopback without TLS and tokens",
    )

    metrics_listen: str | None = Field(
        default=None,
        description="HTTP address of the server's metrics; unset: not served",
    )
    worker_metrics_listen: str | None = Field(
        default=None,
        description="HTTP address of a worker's metrics; unset: not served",
    )
    metrics_insecure: bool = Field(
        default=False,
        description="serve metrics at addresses other than loopback, to any caller",
    )

    otlp_endpoint: str | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector, OTLP over HTTP; set: spans are recorded",
    )
    trace_sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="recorded fraction of the traces that start here; a caller's trace decides for "
        "itself",
    )

    log_format: Literal["json", "console"] = Field(default="console", description="format of logs")
    access_log: bool = Field(
        default=True,
        description="write a log line for each call: caller, status, ids in the request",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="minimum level of log lines"
    )

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_database_url(value.get_secret_value())
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            RedisUrl.parse(value.get_secret_value())
        return value

    @field_validator("replica_url")
    @classmethod
    def _check_replica_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url = value.get_secret_value()
            _check_database_url(url)
            if len(postgresql_url.hosts(url)) > 1:
                raise ValueError("name one host: the age of the data is that of one standby")
        return value

    @field_validator("replica_methods")
    @classmethod
    def _check_replica_methods(cls, value: str) -> str:
        for name in _names(value):
            if name not in REPLICA_METHODS:
                raise ValueError(
                    f"{_suggestion(name, REPLICA_METHODS)}a standby may serve "
                    f"{', '.join(REPLICA_METHODS)}"
                )
        return value

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            # KeyError: no such zone. OSError: a folder of them, such as Asia.
            meant = _suggestion(value, zoneinfo.available_timezones())
            raise ValueError(
                f"{meant}write the name of an IANA time zone, such as Asia/Kolkata"
            ) from None
        return value

    @field_validator("listen", "console_listen", "metrics_listen", "worker_metrics_listen")
    @classmethod
    def _check_listening_address(cls, value: str | None) -> str | None:
        if value is not None:
            check_address(value, least_port=0)
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
        """Return the database's URL in SQLAlchemy's format for psycopg 3. With several hosts, it
        requires the one that accepts writes.

        Raises:
            ValueError: no URL is configured and no embedded server was started.
        """
        if self.database_url is None:
            raise ValueError("DATABASE_URL is not set and no embedded server is running")
        return postgresql_url.for_sqlalchemy(self.database_url.get_secret_value())

    @property
    def replica_method_names(self) -> list[str]:
        """The methods that the standby serves; none without a standby."""
        return [] if self.replica_url is None else _names(self.replica_methods)

    def require_replica_url(self) -> str:
        """Return the URL of the standby in SQLAlchemy's format for psycopg 3.

        Raises:
            ValueError: no URL is configured.
        """
        if self.replica_url is None:
            raise ValueError("CREDIT_REPLICA_URL is not set")
        return postgresql_url.for_sqlalchemy(self.replica_url.get_secret_value())

    def require_redis_url(self) -> str:
        """Return the URL of Redis.

        Raises:
            ValueError: no URL is configured and no embedded server was started.
        """
        if self.redis_url is None:
            raise ValueError("REDIS_URL is not set and no embedded server is running")
        return self.redis_url.get_secret_value()


class ClientSettings(BaseSettings):
    """The client's subset of `Settings`.

    A client's environment may contain the DATABASE_URL of another program, which it ignores.
    """

    model_config = SettingsConfigDict(
        env_prefix="CREDIT_", extra="ignore", frozen=True, secrets_dir=_secrets_dir()
    )

    server_ca: Path | None = None
    client_certificate: Path | None = None
    client_private_key: Path | None = None


# Validation of values beyond their types.


_DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
"""All three are equivalent: many platforms use the second, SQLAlchemy the third."""


def _check_database_url(url: str) -> None:
    """Raise ValueError, which states the accepted format, for another scheme, a wrong port, or
    different numbers of hosts and ports."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _DATABASE_SCHEMES:
        raise ValueError(
            "write a URL that starts with postgresql://, such as"
            " postgresql://user:password@host:5432/database"
        )
    try:
        postgresql_url.hosts(url)
    except ValueError as error:
        raise ValueError(
            f"{error}, and characters such as / ? # @ in a password must be percent-encoded"
        ) from None


def _names(text: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [each.strip() for each in text.split(",") if each.strip()]


def _suggestion(name: str, names: Iterable[str]) -> str:
    """Return a question about the most similar of the names; empty if none is similar."""
    known = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.8)
    return f"did you mean {known[close[0]]}? Otherwise " if close else ""
