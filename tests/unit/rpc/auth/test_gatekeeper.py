"""Scopes of methods, configuration and the log of rejected calls, without a server."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth import errors, gatekeeper, principal
from credit_service.rpc.auth.gatekeeper import Gatekeeper
from credit_service.rpc.errors import PermissionDeniedError, UnauthenticatedError
from tests.unit.rpc.auth.signing import (
    READ,
    WRITE,
    Context,
    Fixture,
    admit,
    claims,
    gate,
    new_key,
    signed,
)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"token_issuer": None}, "CREDIT_TOKEN_ISSUER"),
        ({"token_algorithms": "none"}, "CREDIT_TOKEN_ALGORITHMS"),
        ({"token_algorithms": "ES256,HS256"}, "CREDIT_TOKEN_ALGORITHMS"),
        ({"token_algorithms": ","}, "CREDIT_TOKEN_ALGORITHMS"),
        ({"token_keys": Path("/nowhere/keys.json")}, "CREDIT_TOKEN_KEYS"),
        ({"client_scopes": Path("/nowhere/scopes.json")}, "CREDIT_TLS_CLIENT_CA"),
        (
            {"client_scopes": Path("/nowhere"), "tls_client_ca": Path("/nowhere")},
            "CREDIT_CLIENT_SCOPES",
        ),
        ({"token_keys": None, "tls_client_ca": Path("/nowhere")}, "CREDIT_TLS_CLIENT_CA"),
    ],
)
def test_contradictory_settings_are_an_error(
    fixture: Fixture, settings: dict[str, object], named: str
) -> None:
    changed = fixture.settings.model_copy(update=settings)
    with pytest.raises(MisconfiguredError, match=named):
        gatekeeper.gatekeeper(changed, (), (), fixture.clock)


def test_a_method_needs_its_own_scope(fixture: Fixture) -> None:
    gatekeeper = gate(fixture)
    context = Context(("authorization", f"Bearer {fixture.token()}"))
    assert admit(gatekeeper, READ, context).name == "teller-7"
    with pytest.raises(PermissionDeniedError) as caught:
        admit(gatekeeper, WRITE, context)
    assert caught.value.metadata == {"required_scope": "credit.write"}
    assert errors.challenge(caught.value) == (
        'Bearer error="insufficient_scope", scope="credit.write"'
    )


def test_a_method_without_a_scope_is_denied_to_all(fixture: Fixture) -> None:
    token = fixture.token(scope="credit.read credit.write ingest admin")
    with pytest.raises(PermissionDeniedError):
        admit(gate(fixture), "/other.Service/Method", Context(("authorization", f"Bearer {token}")))


def test_open_and_unscoped_methods(fixture: Fixture) -> None:
    gatekeeper = gate(fixture, open_methods=["/a/Open"], unscoped_methods=["/a/Any"])
    assert admit(gatekeeper, "/a/Open", Context()).name == "anonymous"
    with pytest.raises(UnauthenticatedError):
        admit(gatekeeper, "/a/Any", Context())
    token = fixture.token(scope=None)
    assert (
        admit(gatekeeper, "/a/Any", Context(("authorization", f"Bearer {token}"))).scopes == set()
    )


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ((), "missing"),
        ((("x-authorization", "Bearer x"),), "missing"),
        ((("authorization", "Basic dXNlcjpwYXNz"),), "invalid"),
        ((("authorization", "Bearer"),), "invalid"),
        ((("authorization", "Bearer "),), "invalid"),
        ((("authorization", ""),), "invalid"),
        ((("authorization", b"Bearer x"),), "invalid"),
    ],
)
def test_metadata_without_a_token_is_rejected(
    fixture: Fixture, metadata: tuple[tuple[str, str | bytes], ...], problem: str
) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        admit(gate(fixture), READ, Context(*metadata))
    assert caught.value.metadata == {"problem": problem}
    expected = "Bearer" if problem == "missing" else 'Bearer error="invalid_token"'
    assert errors.challenge(caught.value) == expected


def test_two_tokens_are_rejected(fixture: Fixture) -> None:
    good = ("authorization", f"bearer {fixture.token()}")
    assert admit(gate(fixture), READ, Context(good)).name == "teller-7"
    with pytest.raises(UnauthenticatedError):
        admit(gate(fixture), READ, Context(good, good))


def test_without_configured_credentials_every_caller_is_anonymous() -> None:
    gatekeeper = Gatekeeper({}, None, None)
    assert not gatekeeper.requires_credentials
    assert admit(gatekeeper, "/any/Method", Context()) == principal.ANONYMOUS


def test_a_method_without_a_scope_prevents_the_start() -> None:
    file = FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    file.message_type.add(name="M")
    file.service.add(name="S").method.add(name="Get", input_type=".t.M", output_type=".t.M")
    pool = DescriptorPool()
    pool.Add(file)
    with pytest.raises(MisconfiguredError, match=r"t\.S\.Get"):
        gatekeeper.method_scopes([pool.FindServiceByName("t.S")])


def test_invalid_tokens_do_not_flood_the_log(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, Any]] = []

    class Log:
        def info(self, event: str, **fields: Any) -> None:
            logged.append({"event": event, **fields})

        warning = info

    monkeypatch.setattr(errors, "_log", Log())
    gatekeeper = gate(fixture)
    token = signed(new_key("ES256"), claims())
    for _ in range(200):
        with pytest.raises(UnauthenticatedError):
            admit(gatekeeper, READ, Context(("authorization", f"Bearer {token}")))
    assert 0 < len(logged) <= 3 * (errors._MAX_LOGGED_PER_SECOND + 1)
    assert logged[0]["detail"] == "the signature is invalid"
    assert all(token not in str(each) for each in logged)
