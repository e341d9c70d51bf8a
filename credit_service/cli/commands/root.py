"""The program `credit-service`, and defaults of its commands."""

from cyclopts import App

from credit_service.cli.common import Format, Target
from credit_service.cli.profiles import fill_in

_EPILOGUE = """\
Exit codes: 0 success · 1 the service rejected the request or rows, or a check failed · \
2 invalid usage or settings · 3 the service, its database or its Redis is unavailable · \
130 interrupted · 141 the output was closed, as by `head`

Settings come from the environment (CREDIT_…, DATABASE_URL, REDIS_URL). Without DATABASE_URL and \
REDIS_URL, `up` starts its own PostgreSQL and Valkey in the data folder. Set NO_COLOR to \
disable colours.
"""


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - for --version

    try:
        return version("credit-service")
    except PackageNotFoundError:
        return "not installed: running from a source folder"


app = App(
    name="credit-service",
    help="Run, use and operate a gRPC credit decision service.",
    help_format="plaintext",
    help_epilogue=_EPILOGUE,
    version=_version,
    config=fill_in,
)

HERE = Target()
TEXT = Format()

REQUEST_ID_HELP = (
    "Request id. Repeat the command with the same id to retry safely. Default: a new one."
)


def bounded(limit: int) -> int:
    return min(max(limit, 1), 100_000)
