"""Commands that save the service to call, and list what is saved."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from typing import Annotated

from cyclopts import App, Parameter

from credit_service.cli.commands.root import TEXT
from credit_service.cli.common import Endpoint, Format, Json

_HERE = Endpoint()

profiles = App(name="profiles", help="List, choose and remove the profiles that `login` saved.")

ProfileName = Annotated[str, Parameter(help="Name of a saved profile.")]


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


@profiles.default
def listing(*, form: Format = TEXT) -> int:
    """List the saved profiles."""
    from credit_service.cli import logins

    return logins.listing(form)


@profiles.command
def use(name: ProfileName, /) -> int:
    """Make a saved profile the default."""
    from credit_service.cli import logins

    return logins.use(name)


@profiles.command
def remove(name: ProfileName, /) -> int:
    """Remove a saved profile. The files that it names stay."""
    from credit_service.cli import logins

    return logins.remove(name)
