"""Authorization through the real server: every method with every kind of credentials."""

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from pydantic import SecretStr

from credit_service.observability import metrics
from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth.principal import SCOPES
from credit_service.rpc.calls import bounds
from credit_service.rpc.errors import STATUS_DETAILS_KEY
from credit_service.rpc.server import SERVICES, CreditServer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import options_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.frames import Connection, authorized
from tests.integration.conftest import Edge, refusal_of
from tests.integration.rpc.test_limits import eventually

ISSUER = "https://id.example"
METHODS: tuple[MethodDescriptor, ...] = tuple(
    method for service in SERVICES for method in service.methods
)

KEY = ECKey.generate_key("P-256")
ATTACKERS_KEY = ECKey.generate_key("P-256")
ATTACKERS_RSA = RSAKey.generate_key(2048)

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def scope_of(method: MethodDescriptor) -> str:
    scope: str = method.GetOptions().Extensions[options_pb2.scope]
    return scope


def public(key: ECKey | RSAKey, kid: str) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": kid}


def write_keys(path: Path, **keys: ECKey) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"keys": [public(key, kid) for kid, key in keys.items()]}))
    os.replace(beside, path)  # noqa: PTH105 - as the shell's mv


def token(
    *,
    key: ECKey | RSAKey = KEY,
    header: dict[str, Any] | None = None,
    scope: str = "credit.read credit.write ingest admin",
    **claims: object,
) -> str:
    """A valid token except for the given claims."""
    full_header = {"alg": "ES256", "kid": "k1", **(header or {})}
    content = {
        "iss": ISSUER,
        "aud": "credit-service",
        "sub": "teller-7",
        "scope": scope,
        "exp": int(time.time()) + 600,
        **claims,
    }
    return jwt.encode(full_header, content, key, algorithms=["ES256", "RS256"])


def unsigned(algorithm: str) -> str:
    head, body, _ = token().split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "k1"}).encode()).decode()
    return f"{head.rstrip('=')}.{body}."


def other_scopes(method: MethodDescriptor) -> str:
    return " ".join(sorted(SCOPES - {scope_of(method)}))


CREDENTIALS: dict[str, tuple[Callable[[MethodDescriptor], str | None], grpc.StatusCode]] = {
    "no token": (lambda _: None, UNAUTHENTICATED),
    "no bearer token": (lambda _: "Basic dXNlcjpwYXNz", UNAUTHENTICATED),
    "expired": (lambda _: "Bearer " + token(exp=int(time.time()) - 31), UNAUTHENTICATED),
    "not valid yet": (lambda _: "Bearer " + token(nbf=int(time.time()) + 99), UNAUTHENTICATED),
    "wrong audience": (lambda _: "Bearer " + token(aud="another"), UNAUTHENTICATED),
    "wrong issuer": (lambda _: "Bearer " + token(iss="https://evil.example"), UNAUTHENTICATED),
    "wrong algorithm": (
        lambda _: "Bearer " + token(key=ATTACKERS_RSA, header={"alg": "RS256"}),
        UNAUTHENTICATED,
    ),
    "none": (lambda _: "Bearer " + unsigned("none"), UNAUTHENTICATED),
    "NONE": (lambda _: "Bearer " + unsigned("NONE"), UNAUTHENTICATED),
    "unknown kid": (lambda _: "Bearer " + token(header={"kid": "k2"}), UNAUTHENTICATED),
    "other key": (lambda _: "Bearer " + token(key=ATTACKERS_KEY), UNAUTHENTICATED),
    "own jwk": (
        lambda _: "Bearer " + token(key=ATTACKERS_KEY, header={"jwk": public(ATTACKERS_KEY, "k1")}),
        UNAUTHENTICATED,
    ),
    "own jku": (
        lambda _: (
            "Bearer " + token(key=ATTACKERS_KEY, header={"jku": "https://evil.example/keys.json"})
        ),
        UNAUTHENTICATED,
    ),
    "missing scope": (lambda m: "Bearer " + token(scope=other_scopes(m)), PERMISSION_DENIED),
    "no scope": (lambda _: "Bearer " + token(scope=""), PERMISSION_DENIED),
}


class ObservedDatabase(Database):
    """Counts the checkouts of connections."""

    asked = 0

    def _acquire_slots(self, scope: Any) -> Any:
        self.asked += 1
        return super()._acquire_slots(scope)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = ObservedDatabase(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    write_keys(path, k1=KEY)
    return path


@pytest.fixture
def settings(database_url: str, keys: Path) -> Settings:
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=None,
        listen="127.0.0.1:0",
        threads=12,
        token_keys=keys,
        token_issuer=ISSUER,
    )


def outcome(
    channel: grpc.Channel, method: MethodDescriptor, authorization: str | None, *, send: bool
) -> grpc.Call:
    """A call with an empty message, or with none at all, once it has ended.

    Its message is sent only after the expected response: a rejection needs no message.
    """
    released = threading.Event()

    def messages() -> Iterator[bytes]:
        if send:
            yield b""
        else:
            released.wait(10)

    metadata = () if authorization is None else (("authorization", authorization),)
    call = channel.stream_stream(path_of(method), bytes, bytes)(
        messages(), timeout=3, metadata=metadata
    )
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass
    finally:
        released.set()
    assert isinstance(call, grpc.Call)
    return call


@pytest.mark.parametrize("kind", CREDENTIALS)
def test_every_method_refuses_before_any_work(
    server: Edge, database: ObservedDatabase, kind: str
) -> None:
    make, expected = CREDENTIALS[kind]
    asked = database.asked
    found = {
        method.name: outcome(server.channel, method, make(method), send=False).code()
        for method in METHODS
    }
    assert found == {method.name: expected for method in METHODS}
    assert len(found) >= 33
    assert database.asked == asked


def test_every_method_accepts_a_token_with_its_scope(server: Edge) -> None:
    """With its own scope alone; what an empty message gets then is each method's own affair."""
    found = {}
    for method in METHODS:
        if method.name == "WatchCreditEvents":
            continue  # stays open: below
        bearer = "Bearer " + token(scope=scope_of(method))
        found[method.name] = outcome(server.channel, method, bearer, send=True).code()
    assert len(found) == len(METHODS) - 1
    refused = {UNAUTHENTICATED, PERMISSION_DENIED, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert not [name for name, code in found.items() if code in refused], found
    assert found["ListCustomers"] is grpc.StatusCode.OK
    stream: Any = server.credit.WatchCreditEvents(
        pb.WatchCreditEventsRequest(), timeout=1.0, metadata=bearing(token(scope="credit.read"))
    )
    assert next(stream).HasField("heartbeat")
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def bearing(bearer: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {bearer}"),)


def test_a_refusal_tells_what_is_wanted_and_no_more(server: Edge) -> None:
    def refused(metadata: tuple[tuple[str, str], ...]) -> tuple[Any, dict[str, Any]]:
        with pytest.raises(grpc.RpcError) as caught:
            server.credit.CreateLoan(pb.CreateLoanRequest(), timeout=5, metadata=metadata)
        call: Any = caught.value
        trailing = dict(call.trailing_metadata())
        trailing.pop(STATUS_DETAILS_KEY)
        return refusal_of(caught.value), trailing

    missing, trailing = refused(())
    assert (missing.code, missing.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED")
    assert missing.metadata == {"problem": "missing"}
    assert trailing["www-authenticate"] == "Bearer"

    forged, trailing = refused(bearing(token(key=ATTACKERS_KEY)))
    unknown, _ = refused(bearing(token(header={"kid": "unknown"})))
    assert forged.metadata == unknown.metadata == {"problem": "invalid"}
    assert forged.message == unknown.message
    assert trailing["www-authenticate"] == 'Bearer error="invalid_token"'

    expired, _ = refused(bearing(token(exp=int(time.time()) - 99)))
    assert expired.metadata == {"problem": "expired"}

    denied, trailing = refused(bearing(token(scope="credit.read")))
    assert (denied.code, denied.reason) == (PERMISSION_DENIED, "PERMISSION_DENIED")
    assert denied.metadata == {"required_scope": "credit.write"}
    assert trailing["www-authenticate"] == 'Bearer error="insufficient_scope", scope="credit.write"'
    assert "x-request-id" in trailing


def test_the_principal_is_kept_with_what_it_did(server: Edge, database: Database) -> None:
    from google.type import money_pb2

    metadata = bearing(token(sub="प्रिया@branch-9"))
    registered = server.credit.RegisterCustomer(
        pb.RegisterCustomerRequest(
            request_id="0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20",
            first_name="Asha",
            last_name="Rao",
            age=40,
            monthly_income=money_pb2.Money(currency_code="INR", units=90_000),
            phone_number="9876543210",
        ),
        timeout=5,
        metadata=metadata,
    )
    with database.autocommit() as connection:
        (principal,) = connection.exec_driver_sql("SELECT principal FROM requests").one()
    assert registered.customer.customer_id
    assert principal == "प्रिया@branch-9"


def test_keys_rotate_under_a_running_server(server: Edge, keys: Path) -> None:
    new = ECKey.generate_key("P-256")
    old_token, new_token = token(), token(key=new, header={"kid": "k2"})

    def code(bearer: str) -> grpc.StatusCode:
        method = server.credit.ListCustomers
        try:
            method(pb.ListCustomersRequest(), timeout=5, metadata=bearing(bearer))
        except grpc.RpcError as error:
            call: Any = error
            found: grpc.StatusCode = call.code()
            return found
        return grpc.StatusCode.OK

    assert (code(old_token), code(new_token)) == (grpc.StatusCode.OK, UNAUTHENTICATED)
    write_keys(keys, k1=KEY, k2=new)
    time.sleep(1.1)
    assert (code(old_token), code(new_token)) == (grpc.StatusCode.OK, grpc.StatusCode.OK)
    write_keys(keys, k2=new)
    time.sleep(1.1)
    assert (code(old_token), code(new_token)) == (UNAUTHENTICATED, grpc.StatusCode.OK)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_without_its_key_file_a_server_rejects_all_tokens(
    server: Edge, keys: Path, how: str
) -> None:
    held = bearing(token())

    def is_refused() -> bool:
        try:
            server.credit.ListCustomers(pb.ListCustomersRequest(), timeout=20, metadata=held)
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            assert (refusal.code, refusal.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED")
            return True
        return False

    def count() -> float | None:
        return metrics.REGISTRY.get_sample_value("credit_server_token_keys")

    assert not is_refused()
    assert count() == 1
    if how == "removed":
        keys.unlink()
    else:
        keys.write_text("")
    eventually(is_refused)
    assert count() == 0
    write_keys(keys, k1=KEY)
    eventually(lambda: not is_refused())


class TestStreams:
    """Streams opened with credentials that become invalid."""

    @pytest.fixture
    def clock_offset(self, tmp_path: Path) -> Path:
        path = tmp_path / "offset"
        path.write_text("0")
        return path

    @pytest.fixture
    def settings(self, settings: Settings, clock_offset: Path) -> Settings:
        return settings.model_copy(
            update={
                "clock_offset_file": clock_offset,
                "reflection": "authenticated",
                "stream_idle_seconds": 300.0,
            }
        )

    @pytest.fixture(params=["expired", "its key was removed", "the file was removed"])
    def take_away(
        self, request: pytest.FixtureRequest, keys: Path, clock_offset: Path
    ) -> Callable[[], None]:
        """Invalidates the token of the streams."""
        if request.param == "expired":
            return lambda: move(clock_offset, 3600)
        if request.param == "its key was removed":
            return lambda: write_keys(keys, k2=ECKey.generate_key("P-256"))
        return keys.unlink

    def test_they_end(self, server: Edge, take_away: Callable[[], None]) -> None:
        edge = server.server._pipeline
        held = bearing(token())
        done = threading.Event()

        def silent() -> Iterator[Any]:
            done.wait(60)
            yield from ()

        watch: Any = server.credit.WatchCreditEvents(
            pb.WatchCreditEventsRequest(), timeout=60, metadata=held
        )
        next(watch)
        ingestion: Any = server.ingestion.IngestRows.future(silent(), timeout=60, metadata=held)
        upload: Any = server.ingestion.UploadSpreadsheet.future(silent(), timeout=60, metadata=held)
        eventually(lambda: edge.open_streams == 3)
        take_away()
        with pytest.raises(grpc.RpcError) as caught:
            list(watch)
        errors = [caught.value, ingestion.exception(), upload.exception()]
        done.set()
        for error in errors:
            refusal = refusal_of(error)
            assert (refusal.code, refusal.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED")
            assert refusal.metadata["problem"] in {"expired", "invalid"}
            assert "Open the stream again" in refusal.message
        eventually(lambda: edge.open_streams == 0)

    def test_others_stay(self, server: Edge, keys: Path) -> None:
        new = ECKey.generate_key("P-256")
        write_keys(keys, k1=KEY, k2=new)
        watches: list[Any] = []
        for bearer in (token(), token(key=new, header={"kid": "k2"})):
            watch: Any = None

            def begins(bearer: str = bearer) -> bool:
                nonlocal watch
                watch = server.credit.WatchCreditEvents(
                    pb.WatchCreditEventsRequest(), timeout=60, metadata=bearing(bearer)
                )
                try:
                    next(watch)
                except grpc.RpcError:
                    return False  # the new key has not been read
                return True

            eventually(begins)
            watches.append(watch)
        write_keys(keys, k2=new)
        with pytest.raises(grpc.RpcError) as caught:
            list(watches[0])
        assert refusal_of(caught.value).code is UNAUTHENTICATED
        assert watches[1].is_active()
        watches[1].cancel()

    def test_a_stream_without_a_reader_is_cancelled(
        self, server: Edge, keys: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "LAST_SECONDS", 0.2)
        edge = server.server._pipeline
        path = "/credit_service.v1.CreditService/WatchCreditEvents"
        with Connection(server.target, window_bytes=0) as slow:
            slow.send(slow.begin(path, authorized(token())), b"")
            eventually(lambda: edge.open_streams == 1)
            keys.unlink()
            eventually(lambda: edge.open_streams == 0)


def move(clock_offset: Path, seconds: int) -> None:
    clock_offset.write_text(str(seconds))


# What needs no token


def list_services(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> list[str]:
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = ask(iter([question]), timeout=5, metadata=metadata)
    return [each.name for each in answer.list_services_response.service]


def test_health_and_reflection_are_open(server: Edge) -> None:
    assert server.health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
    assert "credit_service.v1.CreditService" in list_services(server.channel)


@contextmanager
def serving(settings: Settings, database: Database) -> Iterator[CreditServer]:
    server = CreditServer(settings, database)
    server.start()
    try:
        yield server
    finally:
        server.stop(grace_seconds=2)


def test_reflection_can_ask_for_credentials_or_be_off(
    settings: Settings, database: Database
) -> None:
    asking = settings.model_copy(update={"reflection": "authenticated"})
    with serving(asking, database) as server, grpc.insecure_channel(str(server.address)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list_services(channel)
        assert refusal_of(caught.value).code is UNAUTHENTICATED
        assert list_services(channel, bearing(token(scope="")))
    off = settings.model_copy(update={"reflection": "off"})
    with serving(off, database) as server, grpc.insecure_channel(str(server.address)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list_services(channel, bearing(token()))
        assert refusal_of(caught.value).code is grpc.StatusCode.UNIMPLEMENTED


# Addresses


def test_other_addresses_require_tls_and_credentials(
    settings: Settings, database: Database, tls: "Tls"
) -> None:
    def changed(**changes: object) -> Settings:
        return settings.model_copy(update={"listen": "0.0.0.0:0", **changes})

    nothing = {"token_keys": None, "token_issuer": None}
    for unsafe in (
        nothing,
        {},  # tokens in the clear
        {**nothing, **tls.server_files},  # no authentication
    ):
        with pytest.raises(MisconfiguredError, match="CREDIT_INSECURE"):
            CreditServer(changed(**unsafe), database)
    for safe_or_insecure_by_name in (tls.server_files, {**nothing, "insecure": True}):
        with serving(changed(**safe_or_insecure_by_name), database):
            pass


# TLS


class Tls:
    """A certificate authority, the server's files, and clients' certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self._folder = folder
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.client_ca = folder / "clients.pem"
        self.issue()
        self.authority.cert_pem.write_to_path(str(self.client_ca))

    def issue(self, authority: trustme.CA | None = None) -> None:
        """Put a new certificate into the server's files."""
        issued = (authority or self.authority).issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))

    @property
    def server_files(self) -> dict[str, Path]:
        return {"tls_certificate": self.certificate, "tls_private_key": self.key}

    def channel(
        self,
        server: CreditServer,
        client: trustme.LeafCert | None = None,
        *,
        trusted: trustme.CA | None = None,
    ) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(
            (trusted or self.authority).cert_pem.bytes(),
            client.private_key_pem.bytes() if client else None,
            b"".join(each.bytes() for each in client.cert_chain_pems) if client else None,
        )
        # Separate connections, so that each has a new handshake.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(f"localhost:{server.address.port}", credentials, options)


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


def code_of(
    channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = (), timeout: float = 4
) -> grpc.StatusCode:
    """The end of a read on a channel, which is closed afterwards."""
    with channel:
        try:
            CreditServiceStub(channel).ListCustomers(
                pb.ListCustomersRequest(), timeout=timeout, metadata=metadata
            )
        except grpc.RpcError as error:
            call: Any = error
            found: grpc.StatusCode = call.code()
            return found
    return grpc.StatusCode.OK


def test_tokens_are_accepted_over_tls_only(
    settings: Settings, database: Database, tls: Tls
) -> None:
    secured = settings.model_copy(update=tls.server_files)
    with serving(secured, database) as server:
        assert code_of(tls.channel(server), bearing(token())) is grpc.StatusCode.OK
        assert code_of(tls.channel(server)) is UNAUTHENTICATED
        plain = grpc.insecure_channel(f"127.0.0.1:{server.address.port}")
        assert code_of(plain, bearing(token())) is grpc.StatusCode.UNAVAILABLE
        stranger = tls.channel(server, trusted=trustme.CA())
        assert code_of(stranger, bearing(token())) is grpc.StatusCode.UNAVAILABLE
        with tls.channel(server) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status


def test_clients_are_known_by_their_certificates(
    settings: Settings, database: Database, tls: Tls, tmp_path: Path
) -> None:
    scopes = tmp_path / "scopes.json"
    scopes.write_text(
        json.dumps({"billing.example": ["credit.read"], "writer.example": ["ingest"]})
    )
    mutual = settings.model_copy(
        update={
            **tls.server_files,
            "tls_client_ca": tls.client_ca,
            "client_scopes": scopes,
            "token_keys": None,
            "token_issuer": None,
        }
    )
    reader, writer, unknown = (
        tls.authority.issue_cert(name)
        for name in ("billing.example", "writer.example", "unknown.example")
    )
    with serving(mutual, database) as server:
        assert code_of(tls.channel(server, reader)) is grpc.StatusCode.OK
        assert code_of(tls.channel(server, writer)) is PERMISSION_DENIED
        assert code_of(tls.channel(server, unknown)) is PERMISSION_DENIED
        foreign = trustme.CA().issue_cert("billing.example")
        assert code_of(tls.channel(server, foreign)) is grpc.StatusCode.UNAVAILABLE
        assert code_of(tls.channel(server)) is grpc.StatusCode.UNAVAILABLE
        scopes.write_text(json.dumps({"unknown.example": ["credit.read"]}))
        time.sleep(1.1)
        assert code_of(tls.channel(server, unknown)) is grpc.StatusCode.OK
        assert code_of(tls.channel(server, reader)) is PERMISSION_DENIED


def test_a_certificate_and_a_token_are_both_asked_for(
    settings: Settings, database: Database, tls: Tls
) -> None:
    both = settings.model_copy(update={**tls.server_files, "tls_client_ca": tls.client_ca})
    client = tls.authority.issue_cert("billing.example")
    with serving(both, database) as server:
        assert code_of(tls.channel(server, client), bearing(token())) is grpc.StatusCode.OK
        assert code_of(tls.channel(server, client)) is UNAUTHENTICATED
        assert code_of(tls.channel(server), bearing(token())) is grpc.StatusCode.UNAVAILABLE


def test_a_renewed_certificate_is_used_without_a_restart(
    settings: Settings, database: Database, tls: Tls
) -> None:
    secured = settings.model_copy(update=tls.server_files)
    renewed = trustme.CA()
    with serving(secured, database) as server, tls.channel(server) as open_channel:
        stub = CreditServiceStub(open_channel)
        stub.ListCustomers(pb.ListCustomersRequest(), timeout=5, metadata=bearing(token()))

        # Only half of the pair: the old certificate stays in use.
        old_certificate = tls.certificate.read_bytes()
        tls.issue(renewed)
        new_certificate = tls.certificate.read_bytes()
        tls.certificate.write_bytes(old_certificate)
        time.sleep(1.1)
        assert code_of(tls.channel(server), bearing(token())) is grpc.StatusCode.OK

        tls.certificate.write_bytes(new_certificate)
        time.sleep(1.1)
        trusting_new = tls.channel(server, trusted=renewed)
        assert code_of(trusting_new, bearing(token())) is grpc.StatusCode.OK
        assert code_of(tls.channel(server), bearing(token())) is grpc.StatusCode.UNAVAILABLE
        stub.ListCustomers(pb.ListCustomersRequest(), timeout=5, metadata=bearing(token()))


@pytest.mark.parametrize("case", ["no key", "no certificate", "of another", "swapped", "absent"])
def test_a_server_does_not_start_with_bad_tls_files(
    settings: Settings, database: Database, tls: Tls, case: str
) -> None:
    files: dict[str, Path | None] = dict(tls.server_files)
    match case:
        case "no key":
            files["tls_private_key"] = None
        case "no certificate":
            files["tls_certificate"] = None
        case "of another":
            old = tls.key.read_bytes()
            tls.issue()
            tls.key.write_bytes(old)
        case "swapped":
            files = {"tls_certificate": tls.key, "tls_private_key": tls.certificate}
        case "absent":
            tls.key.unlink()
    with pytest.raises(MisconfiguredError, match="TLS"):
        CreditServer(settings.model_copy(update=files), database)
