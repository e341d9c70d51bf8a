"""`credit-service token` creates tokens that the server accepts."""

import json
import stat
from pathlib import Path

import pytest

from credit_service.cli import app
from credit_service.clock import Clock
from credit_service.rpc.auth.principal import SCOPES, Principal
from credit_service.rpc.auth.tokens import TokenVerifier
from credit_service.rpc.errors import UnauthenticatedError
from credit_service.settings import Settings


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """A command's exit code, output and error output."""
    code = app.run(["token", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a key."""
    for name in ("CREDIT_TOKEN_KEYS", "CREDIT_TOKEN_ISSUER", "CREDIT_TOKEN_AUDIENCE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "keys"
    code, _, _ = run(capsys, "key", str(folder))
    assert code == 0
    return folder


def verifier(folder: Path, **settings: object) -> TokenVerifier:
    document = {
        "token_keys": folder / "jwks.json",
        "token_issuer": "credit-service-dev",
        "token_audience": "credit-service",
        **settings,
    }
    return TokenVerifier(Settings.model_validate(document), Clock())


def private(folder: Path) -> str:
    return f"--key={folder / 'signing-key.private.jwk'}"


def test_the_server_accepts_the_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, private(folder))
    assert (code, err) == (0, "")
    assert out.count("\n") == 1  # for $(…): one line of any length
    assert verifier(folder).verify(out.strip()) == Principal("developer", SCOPES)


@pytest.mark.parametrize(
    "scopes", [("--scope", "ingest", "credit.read"), ("--scope=ingest", "--scope=credit.read")]
)
def test_a_token_has_the_given_scopes_and_subject(
    folder: Path, capsys: pytest.CaptureFixture[str], scopes: tuple[str, ...]
) -> None:
    _, out, _ = run(capsys, private(folder), "--subject", "asha", *scopes)
    expected = Principal("asha", frozenset({"ingest", "credit.read"}))
    assert verifier(folder).verify(out.strip()) == expected


def test_issuer_and_audience_follow_the_settings(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_TOKEN_ISSUER", "https://id.example")
    monkeypatch.setenv("CREDIT_TOKEN_AUDIENCE", "elsewhere")
    _, out, _ = run(capsys, private(folder))
    there = verifier(folder, token_issuer="https://id.example", token_audience="elsewhere")
    assert there.verify(out.strip()).name == "developer"
    with pytest.raises(UnauthenticatedError):
        verifier(folder).verify(out.strip())
    options = ("--issuer=credit-service-dev", "--audience=credit-service")
    _, out, _ = run(capsys, private(folder), *options)
    assert verifier(folder).verify(out.strip()).name == "developer"


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_new_key_overlaps_with_the_old(
    folder: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    _, old, _ = run(capsys, private(folder))
    code, _, _ = run(capsys, "key", str(folder), "--algorithm", algorithm)
    assert code == 0
    _, new, _ = run(capsys, private(folder))
    assert old.split(".")[0] != new.split(".")[0]
    for token in (old, new):
        verifier(folder).verify(token.strip())
    assert len(json.loads((folder / "jwks.json").read_bytes())["keys"]) == 2


def test_only_the_owner_can_read_the_files_and_the_set_has_no_private_key(folder: Path) -> None:
    for path in (folder / "jwks.json", folder / "signing-key.private.jwk"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (key,) = json.loads((folder / "jwks.json").read_bytes())["keys"]
    assert "d" not in key
    assert "d" in json.loads((folder / "signing-key.private.jwk").read_bytes())
    # The server reads *.json of a folder: the private key is not among them.
    assert [path.name for path in folder.glob("*.json")] == ["jwks.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key=nowhere/key"], "Create one with"),
        (["--key={folder}/jwks.json"], "not a private key"),
        (["{private}", "--minutes=0"], "--minutes"),
        (["{private}", "--minutes=1441"], "--minutes"),
        (["{private}", "--scope=root"], "root"),
        (["key", "{folder}/text"], "not a JWK set"),
    ],
)
def test_invalid_values_are_reported(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (folder / "text").mkdir()
    (folder / "text" / "jwks.json").write_text("7")
    filled = [each.format(folder=folder, private=private(folder)) for each in arguments]
    code, out, err = run(capsys, *filled)
    assert code == 2
    assert out == ""
    assert message in err
