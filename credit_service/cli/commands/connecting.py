"""Commands that save the service to call."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from typing import Annotated

from cyclopts import Parameter

from credit_service.cli.common import Endpoint, Json

_HERE = Endpoint()


def login(
    name: Annotated[str, Parameter(help="Name of the profile.")] = "default",
    /,
    *,
    endpoint: Endpoint = _HERE,
    json: Json = False,
) -> int:
    """Save an address and the files of its credentials as the default profile, after one call.

    credit-service login prod --address credit.example:50051 --ca ca.pem --token-file token

    Commands without --address use the profile. Options come first, then the environment, then the
    profile. A profile's token and certificate are only sent to its own address.
    """
    from credit_service.cli import logins

    return logins.login(name, endpoint, as_json=json)
