"""Errors of cyclopts, which parses the command line, as one line that says what to write."""

import re
from datetime import date
from uuid import UUID

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.exceptions import UnknownCommandError

_EXPECTED: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    date: "a day such as 2026-01-31",
    UUID: "a UUID such as 0d3c7f52-9d0c-4a0e-8a59-6a4c1a3f1b01",
}
_SUGGESTION = re.compile(r'Did you mean "?([\w-]+)"?\?')


def explained(error: CycloptsError) -> str:
    """Return what is wrong with a command line, what to write, and where the help is."""
    error.verbose = False
    text = str(error)
    match error:
        case UnknownCommandError():
            (word, *_) = error.unused_tokens or [""]
            what = "option" if word.startswith("-") else "command"
            said = f"there is no {what} {word}."
            if close := _SUGGESTION.search(text):
                said += f" Did you mean {close[1]}?"
        case MissingArgumentError() if error.argument is not None:
            option = error.keyword
            said = f"{option} needs a value." if option else f"{_name(error)} is missing."
        case CoercionError() if error.token is not None and error.target_type in _EXPECTED:
            source = error.token.source
            origin = f" (from {source})" if source not in ("", "cli") else ""
            said = (
                f"{error.token.value!r} is not accepted for {_name(error)}{origin}: write "
                f"{_EXPECTED[error.target_type]}."
            )
        case UnusedCliTokensError():
            said = f"unexpected argument: {' '.join(error.unused_tokens or [])}."
        case UnknownOptionError():
            said = text.replace("Unknown option: ", "there is no option ")
        case _:
            said = text
    command = " ".join(["credit-service", *(error.command_chain or ())])
    return f"{said} See `{command} --help`."


def _name(error: CoercionError | MissingArgumentError) -> str:
    """Return the name of a parameter as the help shows it: CUSTOMER_ID or --reason."""
    argument = error.argument
    if argument is None:
        return "this parameter"
    name = str(argument.name)
    is_option = argument.field_info.is_keyword_only
    return name if is_option else name.lstrip("-").replace("-", "_").upper()
