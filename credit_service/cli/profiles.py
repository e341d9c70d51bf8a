"""Profiles: named services, each with its address and the files of its credentials.

The file of profiles has names of files, and no secrets. Every command that calls the service reads
it, unless an address is given.
"""

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection, Token

from credit_service.cli.common import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Profile:
    """A service: its address, and absolute paths of the files; '' for none."""

    address: str
    ca: str = ""
    certificate: str = ""
    private_key: str = ""
    token_file: str = ""


@dataclass(slots=True)
class Profiles:
    """The saved profiles by name, and the name of the default one, or ''."""

    default: str = ""
    profiles: dict[str, Profile] = field(default_factory=dict)

    def get(self, name: str) -> Profile:
        """Return a profile. Raises UsageError, which lists the names."""
        found = self.profiles.get(name)
        if found is None:
            names = ", ".join(sorted(self.profiles)) or "none"
            raise UsageError(
                f"There is no profile {name}. The profiles are: {names}. Save one with "
                "`credit-service login`"
            )
        return found


def path() -> Path:
    """Return the path of the file of profiles, in the user's configuration folder.

    Raises UsageError if the user has no home folder.
    """
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        # The XDG specification ignores relative paths.
        folder = Path(configured) if configured.startswith("/") else Path.home() / ".config"
    except RuntimeError:
        raise UsageError("set XDG_CONFIG_HOME or HOME: this user has no home folder") from None
    return folder / "credit-service" / "profiles.json"


def check_name(name: str) -> None:
    """Raise UsageError, which states the accepted format, for an invalid name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name} is not a name of a profile: use 1 to 64 letters, digits, and . _ -"
        )


def load() -> Profiles:
    """Return the saved profiles: none without a home folder that this user can enter.

    Raises UsageError for a file that cannot be used.
    """
    try:
        file = path()
    except UsageError:
        return Profiles()
    if not os.access(file.parent, os.X_OK):
        return Profiles()
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(_MAX_BYTES)
    except FileNotFoundError:
        return Profiles()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        # They could send the tokens to a server of their own.
        raise UsageError(f"other users can change {file}. Run: chmod 600 {file}")
    try:
        return _parsed(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{file} is not a file of profiles ({error}). Correct or delete it, or give --address"
        ) from None


def _parsed(document: Mapping[str, Any]) -> Profiles:
    found = {name: Profile(**entry) for name, entry in document["profiles"].items()}
    texts = [
        document["default"],
        *(value for each in found.values() for value in asdict(each).values()),
    ]
    if not all(isinstance(each, str) for each in texts):
        raise TypeError("a value is not text")
    return Profiles(document["default"], found)


def save(profiles: Profiles) -> None:
    """Save the profiles in a file that only the user can read. Raises OSError."""
    # Every call imports this module, and none saves.
    from credit_service.cli.private_files import write_private  # noqa: PLC0415

    file = path()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries = {
        name: {key: value for key, value in asdict(profile).items() if value}
        for name, profile in sorted(profiles.profiles.items())
    }
    write_private(file, {"default": profiles.default, "profiles": entries})


# The order of sources: options, then the environment, then the profile.


def fill_in(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take the options of the connection that are not given from the profile: for cyclopts, which
    has read the options and the environment before.

    A profile's credentials are only for its own address: if an option or CREDIT_ADDRESS gives the
    address, no profile is used. Raises UsageError.
    """
    options = {argument.name: argument for argument in arguments}
    if "--profile" not in options:
        return
    named, given = options["--profile"].tokens, options["--address"].tokens
    if given:
        if named and named[0].source == "cli":
            raise UsageError(
                f"{given[0].keyword} and --profile both choose the service; give one of them"
            )
        return
    profiles = load()
    name = named[0].value if named else profiles.default
    if not name:
        return
    profile = profiles.get(name)

    def missing(*names: str) -> bool:
        return not any(options[each].tokens for each in names)

    chosen = ["--address"]
    chosen += ["--ca"] if missing("--ca") else []
    if missing("--certificate", "--private-key"):
        chosen += ["--certificate", "--private-key"]
    chosen += ["--token-file"] if missing("--token", "--token-file") else []
    for option in chosen:
        value = getattr(profile, option.removeprefix("--").replace("-", "_"))
        if value:
            options[option].append(Token(keyword=option, value=value, source=f"profile {name}"))
