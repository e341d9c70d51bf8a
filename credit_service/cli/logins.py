"""`login` saves a profile after a call with it; `profiles` lists and changes the saved ones."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from credit_service.cli.common import Endpoint, ExitCode, Format, UsageError
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS, bearer_token, connected
from credit_service.cli.output import Listing, note, out, print_json
from credit_service.cli.profiles import Profile, check_name, load, save
from credit_service.client.token_claims import claim, claims
from credit_service.v1.scorecard_service_pb2 import ListScorecardsRequest
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub
from credit_service_client.channel import is_local
from credit_service_client.errors import ServiceError, decoded_errors


def login(name: str, endpoint: Endpoint, *, as_json: bool) -> int:
    """Call the service, then save its address and the files as the default profile.

    Raises UsageError, TlsFileError, and ServiceError if the service does not respond or rejects the
    credentials; then nothing is saved.
    """
    check_name(name)
    if endpoint.token:
        raise UsageError(
            "a profile names the file of a token and contains no token: save the token to a file, "
            "give --token-file, and unset CREDIT_TOKEN, which every command prefers to the file"
        )
    token = bearer_token(endpoint)
    if token and endpoint.ca is None and not is_local(endpoint.address):
        raise UsageError(
            f"a token needs TLS (--ca): anyone between here and {endpoint.address} could read it"
        )
    saved = load()
    _check(endpoint)
    saved.profiles[name] = _profile(endpoint)
    saved.default = name
    save(saved)
    facts = _facts(name, endpoint, token or "")
    if as_json:
        print_json(facts)
    else:
        _print(facts)
    if "CREDIT_ADDRESS" in os.environ:
        note("CREDIT_ADDRESS is set: while it is, commands use its address instead of a profile.")
    return ExitCode.GOOD


def _check(endpoint: Endpoint) -> None:
    """Make one call that changes nothing. The service authenticates a caller before it checks the
    scope, so a missing scope means valid credentials."""
    with connected(endpoint) as channel:
        try:
            with decoded_errors():
                ScorecardServiceStub(channel).ListScorecards(
                    ListScorecardsRequest(page_size=1), timeout=CALL_TIMEOUT_SECONDS
                )
        except ServiceError as error:
            if error.code is not grpc.StatusCode.PERMISSION_DENIED:
                raise


def _profile(endpoint: Endpoint) -> Profile:
    def absolute(path: Path | None) -> str:
        return "" if path is None else str(path.expanduser().absolute())

    return Profile(
        endpoint.address,
        absolute(endpoint.ca),
        absolute(endpoint.certificate),
        absolute(endpoint.private_key),
        absolute(endpoint.token_file),
    )


def _facts(name: str, endpoint: Endpoint, token: str) -> dict[str, Any]:
    """Return who calls. The service has no method for it, so the token's own claims say it."""
    facts: dict[str, Any] = {"profile": name, "address": endpoint.address}
    if token:
        facts |= {"subject": claim(token, "sub"), "scopes": claim(token, "scope").split()}
        expires = claims(token).get("exp")
        if isinstance(expires, int):
            facts["expires"] = f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return facts


def _print(facts: dict[str, Any]) -> None:
    out.print(
        f"Profile {facts['profile']} is saved, and is the default: {facts['address']}",
        markup=False,
        soft_wrap=True,
    )
    if "subject" in facts:
        scopes = ", ".join(facts["scopes"]) or "none"
        out.print(f"  subject  {facts['subject'] or 'unknown'}", markup=False, soft_wrap=True)
        out.print(f"  scopes   {scopes}", markup=False, soft_wrap=True)
    if "expires" in facts:
        out.print(f"  expires  {facts['expires']}", markup=False, soft_wrap=True)


def listing(form: Format) -> int:
    """List the saved profiles."""
    saved = load()
    found = sorted(saved.profiles.items())
    table = Listing(
        "default", "profile", "address", "CA", "certificate", "private key", "token file"
    )
    for name, each in found:
        mark = "yes" if name == saved.default else ""
        table.add(
            mark, name, each.address, each.ca, each.certificate, each.private_key, each.token_file
        )
    if form.json:
        listed = [
            {
                "profile": name,
                "default": name == saved.default,
                "address": each.address,
                "ca": each.ca,
                "certificate": each.certificate,
                "private_key": each.private_key,
                "token_file": each.token_file,
            }
            for name, each in found
        ]
        print_json({"profiles": listed})
    elif form.csv:
        table.print_csv()
    elif found:
        table.print()
    else:
        note("There are no profiles. Save one with `credit-service login`.")
    return ExitCode.GOOD


def use(name: str) -> int:
    """Make a saved profile the default."""
    saved = load()
    chosen = saved.get(name)
    saved.default = name
    save(saved)
    out.print(f"The default profile is {name}: {chosen.address}", markup=False, soft_wrap=True)
    return ExitCode.GOOD


def remove(name: str) -> int:
    """Remove a saved profile. The files that it names stay."""
    saved = load()
    saved.get(name)
    del saved.profiles[name]
    if saved.default == name:
        saved.default = ""
        note("There is no default profile now; choose one with `credit-service profiles use`.")
    save(saved)
    out.print(f"Profile {name} is removed.", markup=False, soft_wrap=True)
    return ExitCode.GOOD
