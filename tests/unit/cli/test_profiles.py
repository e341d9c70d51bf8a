"""Profiles: which source of an option wins, where credentials go, and the file that keeps them."""

import json
import stat
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from credit_service.cli import app, profiles
from credit_service.cli.common import DEFAULT_ADDRESS, Target, UsageError
from credit_service.cli.profiles import Profile, Profiles
from credit_service.v1.scorecard_service_pb2 import ListScorecardsResponse

PROD = Profile("prod.example:50051", "/p/ca.pem", "/p/client.pem", "/p/client.key", "/p/token")
TEST = Profile("test.example:50051")
CREDENTIALS = ("token", "token_file", "certificate", "private_key")


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a file of profiles with `prod`, the default, and `test`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("ADDRESS", "TOKEN", "TOKEN_FILE", "SERVER_CA", "CLIENT_CERTIFICATE"):
        monkeypatch.delenv(f"CREDIT_{name}", raising=False)
    profiles.save(Profiles("prod", {"prod": PROD, "test": TEST}))
    return tmp_path / "credit-service" / "profiles.json"


def _target(*options: str) -> Target:
    """The target of a command with these options."""
    _, bound, _ = app.app.parse_args(["score", "1", *options], exit_on_error=False)
    found: Target = bound.arguments.get("target", Target())
    return found


def _credentials(target: Target) -> list[object]:
    return [getattr(target, name) for name in CREDENTIALS]


def test_the_default_profile_is_used() -> None:
    assert _target() == Target(
        PROD.address,
        ca=Path(PROD.ca),
        certificate=Path(PROD.certificate),
        private_key=Path(PROD.private_key),
        token_file=Path(PROD.token_file),
    )


@pytest.mark.parametrize("named", ["option", "environment"])
def test_another_profile_is_named(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if named == "environment":
        monkeypatch.setenv("CREDIT_PROFILE", "test")
        found = _target()
    else:
        monkeypatch.setenv("CREDIT_PROFILE", "prod")
        found = _target("--profile", "test")
    assert found == Target(TEST.address, profile="test")


def test_an_option_comes_before_the_environment_and_both_before_the_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, option, name in (
        ("CREDIT_SERVER_CA", "--ca", "ca"),
        ("CREDIT_TOKEN_FILE", "--token-file", "token_file"),
    ):
        monkeypatch.setenv(variable, "/e")
        assert getattr(_target(), name) == Path("/e")
        assert getattr(_target(option, "/o"), name) == Path("/o")
        monkeypatch.delenv(variable)
        assert getattr(_target(option, "/o"), name) == Path("/o")
    assert _target("--ca", "/o").token_file == Path(PROD.token_file)


@pytest.mark.parametrize("profile", [None, "prod"])
@pytest.mark.parametrize("given", ["option", "environment"])
def test_credentials_of_a_profile_go_to_no_other_address(
    given: str, profile: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if profile:
        monkeypatch.setenv("CREDIT_PROFILE", profile)
    options = ["--address", "other.example:1"] if given == "option" else []
    if given == "environment":
        monkeypatch.setenv("CREDIT_ADDRESS", "other.example:1")
    found = _target(*options)
    assert found.address == "other.example:1"
    assert _credentials(found) == [None] * len(CREDENTIALS)
    assert found.ca is None


def test_an_address_beside_a_named_profile_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--address and --profile both choose the service"):
        _target("--profile", "prod", "--address", "other.example:1")
    monkeypatch.setenv("CREDIT_ADDRESS", "other.example:1")
    with pytest.raises(UsageError, match="CREDIT_ADDRESS and --profile both choose the service"):
        _target("--profile", "prod")


def test_a_given_token_or_key_replaces_that_of_the_profile() -> None:
    assert _credentials(_target("--token", "t"))[:2] == ["t", None]
    given = _target("--certificate", "/o")
    # A certificate is never combined with the key of another one.
    assert (given.certificate, given.private_key) == (Path("/o"), None)


def test_a_printed_command_names_the_service_and_not_the_profile() -> None:
    assert _target(*_target().options) == _target()
    assert _target("--address", DEFAULT_ADDRESS).options == ["--address", DEFAULT_ADDRESS]


def test_only_the_owner_can_read_the_file(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def _failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = app.run(arguments)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"default": 1, "profiles": {}}',
        '{"default": "a", "profiles": {"a": {}}}',
        '{"default": "a", "profiles": {"a": {"address": 1}}}',
        '{"default": "a", "profiles": {"a": {"address": "b", "password": "c"}}}',
        "[" * 100_000,
    ],
)
def test_a_broken_file_is_reported(
    content: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(content)
    for command in (["score", "1"], ["profiles"], ["login"]):
        code, errors = _failure(capsys, *command)
        assert code == 2, errors
        assert f"{file} is not a file of profiles" in errors
    assert _target("--address", "other.example:1").address == "other.example:1"


def test_a_file_that_others_can_change_is_not_used(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.chmod(0o666)
    code, errors = _failure(capsys, "score", "1")
    assert (code, errors) == (2, f"error: other users can change {file}. Run: chmod 600 {file}\n")


def test_an_unknown_profile_is_reported(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, errors = _failure(capsys, "score", "1", "--profile", "prd")
    assert code == 2
    assert "There is no profile prd. The profiles are: prod, test." in errors
    file.unlink()
    assert _target() == Target()
    # As the specification of the folder says, a relative path is ignored.
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert profiles.path() == Path("~/.config/credit-service/profiles.json").expanduser()


def test_a_user_without_a_home_folder_has_no_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert _target() == Target()
    with pytest.raises(UsageError, match="set XDG_CONFIG_HOME or HOME"):
        profiles.save(Profiles())


def test_profiles_are_listed_chosen_and_removed(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert app.run(["profiles", "use", "test"]) == 0
    assert _target().address == TEST.address
    capsys.readouterr()
    assert app.run(["profiles", "--json"]) == 0
    listed: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["profiles"]
    assert [(each["profile"], each["default"]) for each in listed] == [
        ("prod", False),
        ("test", True),
    ]
    assert app.run(["profiles", "--csv"]) == 0
    header, first, _ = capsys.readouterr().out.splitlines()
    assert header == "default,profile,address,ca,certificate,private_key,token_file"
    assert first == ",prod,prod.example:50051,/p/ca.pem,/p/client.pem,/p/client.key,/p/token"
    assert app.run(["profiles", "remove", "test"]) == 0
    assert list(profiles.load().profiles) == ["prod"]
    assert _target() == Target()
    assert _failure(capsys, "profiles", "remove", "test")[0] == 2
    assert _failure(capsys, "profiles", "use", "test")[0] == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["../prod"], "../prod is not a name of a profile"),
        (["a", "--token", "secret"], "contains no token"),
        (["a", "--address", "a.example:1", "--token-file", "TOKEN"], "a token needs TLS"),
    ],
)
def test_login_rejects(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "TOKEN").write_text("secret")
    given = [str(tmp_path / each) if each == "TOKEN" else each for each in arguments]
    before = profiles.load()
    code, errors = _failure(capsys, "login", *given)
    assert (code, message in errors) == (2, True), errors
    assert "secret" not in errors
    assert profiles.load() == before


@contextmanager
def _answering(code: grpc.StatusCode) -> Iterator[str]:
    """The address of a service that answers each call with this status, and OK with a token."""

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = dict(context.invocation_metadata())
        if code is not grpc.StatusCode.OK or metadata.get("authorization") != "Bearer secret":
            context.abort(code, "no")
        return ListScorecardsResponse().SerializeToString()

    class Answering(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # no types at run time
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Answering()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.OK, 0),
        # The service knows the caller, who may not list scorecards.
        (grpc.StatusCode.PERMISSION_DENIED, 0),
        (grpc.StatusCode.UNAUTHENTICATED, 1),
        (grpc.StatusCode.INTERNAL, 3),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_login_saves_what_the_service_accepts(
    status: grpc.StatusCode,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On loopback a token needs no TLS."""
    monkeypatch.chdir(tmp_path)
    Path("token").write_text("secret\n")
    before = profiles.load()
    with _answering(status) as address:
        assert app.run(["login", "new", "--address", address, "--token-file", "token"]) == code
    errors = capsys.readouterr().err
    saved = profiles.load()
    if code:
        assert errors.startswith(f"error: {status.name}")
        assert saved == before
    else:
        assert saved.default == "new"
        assert saved.profiles["new"] == Profile(address, token_file=str(tmp_path / "token"))
        assert saved.profiles["prod"] == PROD
