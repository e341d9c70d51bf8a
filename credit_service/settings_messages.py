"""Messages about invalid settings, and about variables that are none."""

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from credit_service.settings import Settings

_MAX_SHOWN_CHARACTERS = 200


_PASSWORD_PARAMETER = re.compile(
    r"((?:password|passwd|pwd|secret|token)\s*=\s*)('[^']*'|[^&\s;]*)", re.IGNORECASE
)
_USER = re.compile(r"[^:/@]*(?=:)")


def without_secrets(url: str) -> str:
    """Return the URL with its passwords replaced by ***; also works for an invalid URL."""
    if "@" in url:
        scheme, separator, rest = url.partition("://")
        if not separator:
            scheme, separator, rest = url.partition(":")
        # Everything before the last @: a password that is not encoded may contain one.
        credentials, _, place = rest.rpartition("@")
        if ":" in credentials or not credentials.isidentifier():
            user = _USER.match(credentials)
            credentials = f"{user[0] if user else ''}:***" if credentials else ""
        url = f"{scheme}{separator}{credentials}@{place}"
    return _PASSWORD_PARAMETER.sub(r"\1***", url)


def variable_of(name: str) -> str:
    """Return the environment variable of a setting, by its field's name."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"CREDIT_{name.upper()}"


def problems(error: ValidationError) -> list[str]:
    """Return a line for each invalid setting: variable, value, and accepted values.

    Omits passwords and secrets.
    """
    return [_problem(str(each["loc"][0]), each) for each in error.errors(include_url=False)]


def _problem(location: str, error: Mapping[str, Any]) -> str:
    name = location.casefold().removeprefix("credit_")
    field = Settings.model_fields.get(name)
    if field is None:
        return f"{location}: {error['msg']}"
    own = error.get("ctx", {}).get("error")
    accepted = str(own) if isinstance(own, ValueError) else f"write {_accepted(field)}"
    return f"{variable_of(name)}{_shown(name, error['input'])} is not accepted: {accepted}"


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    text = str(value)
    if name in ("database_url", "redis_url", "replica_url"):
        text = without_secrets(text)
    elif SecretStr in _alternatives(Settings.model_fields[name].annotation):
        return ""
    if len(text) > _MAX_SHOWN_CHARACTERS:
        text = f"{text[:_MAX_SHOWN_CHARACTERS]}…"
    # On one line, even with control characters.
    return f"={text}" if text.isprintable() else f"={text!r}"


def _accepted(field: FieldInfo) -> str:
    """Describe the accepted values of a setting."""
    kind = next(each for each in _alternatives(field.annotation) if each is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    words = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")
    bounds = [
        f"{text} {getattr(each, name):,}"
        for each in field.metadata
        for name, text in _BOUNDS.items()
        if getattr(each, name, None) is not None
    ]
    characters = " characters" if kind in (str, SecretStr) else ""
    return f"{words} of {' and '.join(bounds)}{characters}" if bounds else words


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "min_length": "at least"}


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return (annotation,)
    return get_args(annotation) or (annotation,)


_NO_SETTINGS = frozenset(
    {
        "CREDIT_SECRETS_DIR",
        "CREDIT_ADDRESS",
        "CREDIT_PROFILE",
        "CREDIT_TOKEN",
        "CREDIT_TOKEN_FILE",
        "CREDIT_FAILPOINTS",
        "CREDIT_NODE_MODULES",
    }
)
"""Variables that other modules read."""

# Kubernetes and Docker links set these for a service whose name starts with "credit".
_OF_A_PLATFORM = re.compile(r"CREDIT_(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT|PORT|ENV|NAME)(?:_.*)?")


def unknown_variables(environment: Mapping[str, str] = os.environ) -> Iterator[tuple[str, str]]:
    """Yield each unused CREDIT_ variable with the most similar known name, or ''."""
    known = {f"CREDIT_{name.upper()}" for name in Settings.model_fields} | _NO_SETTINGS
    for name in sorted(environment):
        # pydantic ignores the case of variables.
        upper = name.upper()
        if not upper.startswith("CREDIT_") or upper in known or _OF_A_PLATFORM.fullmatch(upper):
            continue
        close = difflib.get_close_matches(upper, sorted(known), n=1, cutoff=0.75)
        yield name, close[0] if close else ""


def unknown_variable_warnings() -> list[str]:
    """Return a sentence for each unused CREDIT_ variable of the environment."""
    return [
        f"{name} is not a setting and is ignored{f'; did you mean {meant}?' if meant else '.'}"
        for name, meant in unknown_variables()
    ]


def warn_of_unknown_variables() -> None:
    """Print a line to standard error for each unused CREDIT_ variable.

    A warning, not an error: platforms set their own variables for a service of this name, and a
    rollback must not fail because of a setting that only the newer release knows.
    """
    for warning in unknown_variable_warnings():
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201 - for the person who started it


def describe(error: Exception) -> str:
    """Describe an error of the settings, with one line for each invalid one."""
    return "\n".join(problems(error)) if isinstance(error, ValidationError) else str(error)
