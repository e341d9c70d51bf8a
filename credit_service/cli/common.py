"""Shared by the commands: exit codes, the target service, and common parameters."""

from dataclasses import dataclass, field, replace
from datetime import date
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Self
from uuid import UUID

from cyclopts import Group, Parameter


class ExitCode(IntEnum):
    """Exit codes of all commands, as documented in docs/operations.md."""

    GOOD = 0
    REFUSED = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


class UsageError(Exception):
    """The command line is invalid. The message is one line that says what is accepted."""


def flag(explanation: str) -> Parameter:
    """Return the parameter of a switch that is off by default and has no --no- form."""
    return Parameter(help=explanation, negative="", show_default=False)


Json = Annotated[bool, flag("Print the result as JSON.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Format:
    """The format of a list: a table for people unless one is chosen."""

    json: Json = False
    csv: Annotated[bool, flag("Print the records as comma-separated values.")] = False

    def __post_init__(self) -> None:
        if self.json and self.csv:
            raise UsageError("give either --json or --csv")


DataDir = Annotated[
    Path | None,
    Parameter(
        name="--data-dir",
        help="Data folder of the embedded PostgreSQL and Valkey: the same as for `up`. "
        "Default: CREDIT_DATA_DIR, or the user's data folder.",
    ),
]
DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_ERRORS_SHOWN = 20
_CONNECTION = Group("Connection", sort_key=9)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, and the credentials for calls to it."""

    address: Annotated[
        str,
        Parameter(
            env_var="CREDIT_ADDRESS",
            help="Address of the service, as host:port.",
            group=_CONNECTION,
        ),
    ] = DEFAULT_ADDRESS
    token: Annotated[
        str | None,
        Parameter(
            env_var="CREDIT_TOKEN",
            help="Bearer token. Other users of this machine can see arguments: "
            "prefer CREDIT_TOKEN or --token-file.",
            group=_CONNECTION,
        ),
    ] = field(default=None, repr=False)
    token_file: Annotated[
        Path | None,
        Parameter(
            env_var="CREDIT_TOKEN_FILE",
            help="File that contains the bearer token. Used if no token is given.",
            group=_CONNECTION,
        ),
    ] = None
    ca: Annotated[
        Path | None,
        Parameter(
            env_var="CREDIT_SERVER_CA",
            help="PEM file of trusted certificate authorities. Enables TLS.",
            group=_CONNECTION,
        ),
    ] = None
    certificate: Annotated[
        Path | None,
        Parameter(
            env_var="CREDIT_CLIENT_CERTIFICATE",
            help="PEM file of the client's certificate, for mutual TLS.",
            group=_CONNECTION,
        ),
    ] = None
    private_key: Annotated[
        Path | None,
        Parameter(
            env_var="CREDIT_CLIENT_PRIVATE_KEY",
            help="PEM file of that certificate's private key.",
            group=_CONNECTION,
        ),
    ] = None

    def without_token(self) -> Self:
        """The same service, called without credentials."""
        return replace(self, token=None, token_file=None)

    @property
    def options(self) -> list[str]:
        """The options that select the same service in another command; never the token itself.

        They include the address, so that the command uses no profile."""
        given = ["--address", self.address]
        for name, path in (
            ("--ca", self.ca),
            ("--certificate", self.certificate),
            ("--private-key", self.private_key),
            ("--token-file", self.token_file),
        ):
            given += [] if path is None else [name, str(path)]
        return given


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Target(Endpoint):
    """The service to call, which a profile can name. See `profiles.fill_in`."""

    profile: Annotated[
        str | None,
        Parameter(
            env_var="CREDIT_PROFILE",
            help="Profile, as saved by `credit-service login`. Default: the default profile, "
            "unless an address is given.",
            group=_CONNECTION,
        ),
    ] = None


CustomerId = Annotated[int, Parameter(help="Id of the customer.")]
LoanId = Annotated[int, Parameter(help="Id of the loan.")]
OfferId = Annotated[int, Parameter(help="Id of the offer.")]
LoanAmount = Annotated[str, Parameter(help="Amount in rupees, such as 100000 or 1,00,000.50.")]
Rate = Annotated[str, Parameter(help="Interest rate in percent a year, such as 10.5.")]
TenureMonths = Annotated[int, Parameter(help="Number of monthly installments.")]
LenderCharges = Annotated[
    str | None, Parameter(help="Charges of the lender in rupees, with tax. Default: none.")
]
ThirdPartyCharges = Annotated[
    str | None, Parameter(help="Charges of third parties in rupees, with tax. Default: none.")
]
AsOf = Annotated[
    date | None,
    Parameter(
        name="--as-of",
        help="An earlier day, such as 2026-01-31: show what the service would have said at its "
        "end, by what is known now. Default: today.",
    ),
]
RequestId = Annotated[
    UUID | None, Parameter(help="Request id that makes a repeat safe. Default: a new id.")
]
Limit = Annotated[int, Parameter(help="Maximum number to show, 1 to 100000.")]
