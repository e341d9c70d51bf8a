"""`token` creates tokens for development, signed with a key on this machine.

In production an identity provider issues the tokens. These have the same format, so that nothing
else differs in development.
"""

import json
import secrets
import time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import App, Parameter
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from credit_service.cli.common import ExitCode, UsageError
from credit_service.cli.output import note, out
from credit_service.cli.private_files import write_private
from credit_service.settings import Settings

PRIVATE_KEY_FILE = "signing-key.private.jwk"
JWKS_FILE = "jwks.json"
DEFAULT_FOLDER = Path("dev-keys")
DEFAULT_ISSUER = "credit-service-dev"
MAX_MINUTES = 24 * 60

_Scope = Literal[
    "credit.read",
    "credit.write",
    "credit.review",
    "policy.read",
    "policy.write",
    "ingest",
    "ingest.update",
    "admin",
]
_SCOPES: tuple[_Scope, ...] = get_args(_Scope)

_Key = RSAKey | ECKey | OKPKey
_KEY_TYPES: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {
    "RSA": RSAKey,
    "EC": ECKey,
    "OKP": OKPKey,
}

token = App(name="token", help="Create tokens and signing keys for development.")


@token.default
def mint(
    *,
    key: Annotated[
        Path, Parameter(help="Private signing key, as written by `credit-service token key`.")
    ] = DEFAULT_FOLDER / PRIVATE_KEY_FILE,
    subject: Annotated[str, Parameter(help="Subject of the token: the principal.")] = "developer",
    scope: Annotated[
        tuple[_Scope, ...],
        Parameter(help="Scopes of the token, one or several.", negative="", consume_multiple=True),
    ] = _SCOPES,
    minutes: Annotated[int, Parameter(help=f"Lifetime in minutes, 1 to {MAX_MINUTES}.")] = 60,
    issuer: Annotated[
        str | None, Parameter(help="Issuer of the token. Default: CREDIT_TOKEN_ISSUER.")
    ] = None,
    audience: Annotated[
        str | None, Parameter(help="Audience of the token. Default: CREDIT_TOKEN_AUDIENCE.")
    ] = None,
) -> int:
    """Print a token signed with a local key. Send it as `authorization: Bearer …`."""
    if not 1 <= minutes <= MAX_MINUTES:
        raise UsageError(f"--minutes must be from 1 to {MAX_MINUTES}")
    settings = Settings()
    signing_key = read_private_key(key)
    now = int(settings.clock.moment().now.timestamp())
    claims: dict[str, Any] = {
        "iss": issuer or settings.token_issuer or DEFAULT_ISSUER,
        "aud": audience or settings.token_audience,
        "sub": subject,
        "scope": " ".join(dict.fromkeys(scope)),
        "iat": now,
        "exp": now + minutes * 60,
        "jti": secrets.token_hex(8),
    }
    header = {"alg": signing_key.alg, "kid": signing_key.kid}
    try:
        token = jwt.encode(header, claims, signing_key, algorithms=[str(signing_key.alg)])
    except (JoseError, ValueError, TypeError) as error:
        raise UsageError(f"{key} (--key) cannot sign with {signing_key.alg}: {error}") from None
    print_token(token)
    return ExitCode.GOOD


@token.command(name="key")
def make_key(
    directory: Annotated[Path, Parameter(help="Folder to write to.")] = DEFAULT_FOLDER,
    /,
    *,
    algorithm: Annotated[
        Literal["ES256", "RS256"], Parameter(help="Signature algorithm.")
    ] = "ES256",
) -> int:
    """Create a signing key, and add its public key to the key set for the server.

    Only the owner can read the two files. An existing key is kept as *.old and stays in the set,
    so its tokens remain valid until they expire.
    """
    key: _Key = (
        RSAKey.generate_key(3072, auto_kid=True)
        if algorithm == "RS256"
        else ECKey.generate_key("P-256", auto_kid=True)
    )
    kid = f"dev-{time.strftime('%Y%m%d', time.gmtime())}-{str(key.kid)[:8]}"
    parameters = {"kid": kid, "alg": algorithm, "use": "sig"}
    private, public = directory / PRIVATE_KEY_FILE, directory / JWKS_FILE
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = _read_key_set(public) if public.exists() else []
    # The public key first: a server must know the key before it gets a token signed with it.
    write_private(public, {"keys": [*keys, {**key.as_dict(private=False), **parameters}]})
    if private.exists():
        private.replace(private.with_name(private.name + ".old"))
    write_private(private, {**key.as_dict(private=True), **parameters})
    out.print(f"{private}  private key {kid}: keep it secret", soft_wrap=True)
    out.print(f"{public}  {len(keys) + 1} public key(s), for the server", soft_wrap=True)
    note("Start the server with:")
    note(f"  export CREDIT_TOKEN_KEYS={public} CREDIT_TOKEN_ISSUER={DEFAULT_ISSUER}")
    note(f"Create tokens with: credit-service token --key {private}")
    return ExitCode.GOOD


def print_token(token: str) -> None:
    """Print only the token, on one line of any length, for use in `$(…)`."""
    out.print(token, soft_wrap=True, markup=False)


def read_private_key(path: Path) -> _Key:
    """Return the private key of a JWK file with kid and alg. Raises UsageError."""
    try:
        document = json.loads(path.read_bytes())
        key = _KEY_TYPES[document["kty"]].import_key(document)
    except FileNotFoundError:
        raise UsageError(
            f"There is no key at {path}. Create one with: credit-service token key"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} (--key) cannot be read: {error.strerror}") from None
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise UsageError(f"{path} (--key) is not a private key in JWK format") from None
    if not (key.is_private and key.kid and key.alg):
        raise UsageError(f"{path} (--key) is not a private key with kid and alg")
    return key


def _read_key_set(path: Path) -> list[Any]:
    try:
        keys = json.loads(path.read_bytes())["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        keys = None
    if not isinstance(keys, list):
        raise UsageError(f"{path} exists and is not a JWK set; use another folder")
    return keys
