"""Configuration: every setting, its unit and its default, read from the environment.

Names are the field names in capitals behind `CREDIT_`, but for DATABASE_URL and REDIS_URL, which
go by the names that platforms already give them. Secrets are read from the environment, or from
files named like the variables (`database_url`, `credit_console_secret`) in /run/secrets, where
containers are given them, or in the folder that CREDIT_SECRETS_DIR names; never from arguments.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from credit_service.clock import Clock


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
        default=16, ge=2, le=256, description="threads per server process that serve calls"
    )
    max_streams: int = Field(
        default=8, ge=1, le=255, description="streams per server process, a thread for each"
    )
    max_concurrent_calls: int = Field(
        default=128,
        ge=3,
        le=10_000,
        description="calls per server process at work or waiting for a thread; more are refused",
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

    database_pooler: Literal["none", "transaction"] = Field(
        default="none",
        description="`transaction`: the database is reached through PgBouncer, in either mode",
    )
    pool_size: int = Field(default=12, ge=1, le=100, description="database connections per process")
    statement_timeout_seconds: float = Field(
        default=10.0, gt=0, description="longest statement of a call"
    )
    lock_timeout_seconds: float = Field(
        default=3.0, gt=0, description="longest wait for a row that another call holds"
    )
    idle_in_transaction_timeout_seconds: float = Field(
        default=30.0, gt=0, description="longest pause inside a transaction"
    )

    upload_max_bytes: int = Field(
        default=64 * 1024 * 1024, gt=0, description="largest workbook that may be uploaded"
    )
    ingestion_batch_rows: int = Field(
        default=25_000, ge=1, le=100_000, description="rows that one transaction ingests"
    )

    worker_threads: int = Field(default=4, ge=1, le=64, description="actor threads per worker")
    relay_interval_seconds: float = Field(
        default=0.05, gt=0, le=60, description="pause between looks at an empty outbox"
    )
    task_timeout_seconds: float = Field(
        default=30.0, gt=0, description="silence after which the sweeper sends a task again"
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
        url = self.database_url.get_secret_value()
        for prefix in ("postgresql://", "postgres://"):
            if url.startswith(prefix):
                return "postgresql+psycopg://" + url[len(prefix) :]
        return url

    def require_redis_url(self) -> str:
        """The URL of Redis.

        Raises:
            ValueError: none is configured and no embedded server was started.
        """
        if self.redis_url is None:
            raise ValueError("REDIS_URL is not set and no embedded server is running")
        return self.redis_url.get_secret_value()
