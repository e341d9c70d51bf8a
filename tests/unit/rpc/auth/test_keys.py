"""Keys of tokens and their rotation, without a server."""

import base64
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import ECKey, RSAKey
from structlog.testing import capture_logs

from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth import reloading, tokens
from credit_service.rpc.auth.tokens import TokenVerifier
from credit_service.settings import Settings
from tests.unit.rpc.auth.signing import (
    ISSUER,
    Fixture,
    SteppedClock,
    claims,
    public,
    refused,
    signed,
    write_keys,
)


def test_keys_rotate_with_overlap(fixture: Fixture) -> None:
    old_token = fixture.token()
    new = ECKey.generate_key("P-256")
    new_token = signed(new, claims(), kid="k2")
    fixture.verifier.verify(old_token)
    assert refused(fixture.verifier, new_token) == "invalid"

    write_keys(fixture.path, public(fixture.key, "k1"), public(new, "k2"))
    assert refused(fixture.verifier, new_token) == "invalid"  # not checked yet
    fixture.look_again()
    fixture.verifier.verify(new_token)
    fixture.verifier.verify(old_token)

    write_keys(fixture.path, public(new, "k2"))
    fixture.look_again()
    fixture.verifier.verify(new_token)
    assert refused(fixture.verifier, old_token) == "invalid"  # although it was cached

    write_keys(fixture.path)
    fixture.look_again()
    assert refused(fixture.verifier, new_token) == "invalid"


def test_files_are_checked_once_a_second(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    looks = []

    def paths() -> list[Path]:
        looks.append(1)
        return [fixture.path]

    found = reloading.Reloaded("test", paths, fixture.path.read_text, clock=lambda: now[0])
    for tenth in range(35):
        now[0] = 100 + tenth / 10
        found.current()
    assert len(looks) == 4  # the first, and one in each of three seconds


def test_a_folder_of_key_sets_is_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    one, two = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    write_keys(folder / "a.json", public(one, "a"))
    fixture = Fixture(tmp_path, token_keys=folder)
    fixture.verifier.verify(signed(one, claims(), kid="a"))
    write_keys(folder / "b.json", public(two, "b"), public(one, "a"))
    (folder / ".hidden.json").write_text("{")
    (folder / "notes.txt").write_text("{")
    fixture.look_again()
    fixture.verifier.verify(signed(two, claims(), kid="b"))
    (folder / "b.json").unlink()
    fixture.look_until_gone()
    assert refused(fixture.verifier, signed(two, claims(), kid="b")) == "invalid"
    fixture.verifier.verify(signed(one, claims(), kid="a"))


@pytest.mark.parametrize("content", ["{", "[]", '{"keys": 7}', '{"keys": [7]}', "[" * 100_000])
def test_a_mistake_during_key_rotation_locks_out_no_caller(fixture: Fixture, content: str) -> None:
    token = fixture.token()
    fixture.path.write_text(content)
    fixture.look_again()
    fixture.verifier.verify(token)
    fixture.verifier.verify(fixture.token(jti="1"))


@pytest.mark.parametrize("content", [None, "", " \n", '{"keys": []}'])
def test_keys_whose_file_is_gone_or_empty_are_revoked(
    fixture: Fixture, content: str | None
) -> None:
    token = fixture.token()
    fixture.verifier.verify(token)
    before = fixture.path.read_text()
    if content is None:
        fixture.path.unlink()
    else:
        fixture.path.write_text(content)
    with capture_logs() as logs:
        fixture.look_until_gone()
        assert refused(fixture.verifier, token) == "invalid"
    (gone,) = [each for each in logs if each["event"] == "token_keys_gone"]
    assert (gone["log_level"], gone["path"]) == ("error", str(fixture.path))
    assert fixture.verifier.cached_principal(token) is None
    assert fixture.verifier.key_count == 0
    fixture.path.write_text(before)
    fixture.look_again()
    fixture.verifier.verify(token)


def test_an_empty_or_removed_folder_has_no_keys(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    one = ECKey.generate_key("P-256")
    token = signed(one, claims(), kid="a")
    for remove_folder in (False, True):
        folder.mkdir(exist_ok=True)
        write_keys(folder / "a.json", public(one, "a"))
        fixture = Fixture(tmp_path, token_keys=folder)
        fixture.verifier.verify(token)
        (folder / "a.json").unlink()
        if remove_folder:
            folder.rmdir()
        fixture.look_until_gone()
        assert refused(fixture.verifier, token) == "invalid"


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("in_folder", [True, False])
def test_a_file_missing_during_its_replacement_is_not_removed(
    tmp_path: Path, removed: bool, in_folder: bool
) -> None:
    fixture = Fixture(tmp_path)
    if in_folder:
        fixture = Fixture(tmp_path, token_keys=tmp_path)
    token, before = fixture.token(), fixture.path.read_text()
    for _ in range(2):
        if removed:
            fixture.path.unlink()
        else:
            fixture.path.write_text("")
        for _ in range(2):
            fixture.look_again()
            fixture.verifier.verify(token)
        fixture.path.write_text(before)
        fixture.look_again()
        fixture.verifier.verify(token)


def test_a_file_removed_without_calls_in_between_is_removed(fixture: Fixture) -> None:
    fixture.path.unlink()
    fixture._seconds += 3600
    assert refused(fixture.verifier, fixture.token()) == "invalid"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_an_unreadable_file_is_read_again(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    token = fixture.token()

    def failing(_path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    for key in (ECKey.generate_key("P-256"), fixture.key):
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(tokens, "read_bounded", failing)
            write_keys(fixture.path, public(key, "k1"))
            for _ in range(3):
                fixture.look_again()
                fixture.verifier._keys.current()
        (error,) = logs
        assert (error["event"], error["log_level"]) == ("changed_files_not_used", "error")
        fixture.look_again()
        if key is fixture.key:
            fixture.verifier.verify(token)
        else:
            assert refused(fixture.verifier, token) == "invalid"


def test_a_folder_that_cannot_be_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = Fixture(tmp_path, token_keys=tmp_path)

    def failing(_path: Path) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        patch.setattr(os, "listdir", failing)
        fixture.look_until_gone()
        fixture.verifier.verify(fixture.token())


def weak_key() -> dict[str, Any]:
    """An RSA key of 1024 bits, of which joserfc would warn."""
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()  # noqa: S505 - on purpose
    modulus = base64.urlsafe_b64encode(numbers.n.to_bytes(128, "big")).rstrip(b"=").decode()
    return {"kty": "RSA", "n": modulus, "e": "AQAB", "kid": "k"}


def bad_key_files() -> dict[str, tuple[dict[str, Any], ...]]:
    key, other = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    return {
        "no key": (),
        "no kid": ({**public(key, ""), "kid": None},),
        "empty kid": (public(key, ""),),
        "private key": ({**key.as_dict(private=True), "kid": "k"},),
        "shared secret": ({"kty": "oct", "k": "c2VjcmV0", "kid": "k"},),
        "weak": (weak_key(),),
        "two of one id": (public(key, "k"), public(other, "k")),
        "broken": ({**public(key, "k"), "x": "AA"},),
        "too many": tuple(public(key, f"k{n}") for n in range(tokens.MAX_KEYS + 1)),
        "for encryption alone": (public(key, "k", use="enc"),),
        "for signing alone": (public(key, "k", key_ops=["sign"]),),
    }


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
@pytest.mark.parametrize("case", bad_key_files())
def test_a_server_does_not_start_with_invalid_keys(tmp_path: Path, case: str) -> None:
    path = tmp_path / "keys.json"
    content = bad_key_files()[case]
    write_keys(path, *content)
    settings = Settings(token_keys=path, token_issuer=ISSUER)
    with pytest.raises(MisconfiguredError, match="CREDIT_TOKEN_KEYS") as caught:
        TokenVerifier(settings, SteppedClock())
    for secret in (each[part] for each in content for part in ("d", "k") if part in each):
        assert secret not in str(caught.value)


def test_keys_for_other_purposes_are_ignored(fixture: Fixture) -> None:
    """Issuers publish them in the same set."""
    write_keys(
        fixture.path,
        public(RSAKey.generate_key(2048), "enc", use="enc", alg="RSA-OAEP"),
        {"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44", "pub": "AA"},
        public(fixture.key, "k1"),
    )
    fixture.look_again()
    assert list(fixture.verifier._keys.current()) == ["k1"]
