"""Writes the tables of settings and metrics into docs/operations.md, or checks them.

python scripts/configuration.py write | check
"""

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
from prometheus_client import CollectorRegistry
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from credit_service.observability import metrics
from credit_service.settings import Settings

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
_BEGIN = "<!-- {name}: written by scripts/configuration.py -->"
_END = "<!-- {name} end -->"

# Defaults that are computed, in words.
_COMPUTED = {"data_dir": "`~/.local/share/credit-service`; as root `/var/lib/credit-service`"}


def settings_table() -> str:
    """The settings as a Markdown table, in the order in which the class has them."""
    lines = ["| variable | meaning | values | default |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        cells = (
            f"`{_variable(name, field)}`",
            _meaning(field),
            _values(field),
            _default(name, field),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"CREDIT_{name.upper()}"


def _meaning(field: FieldInfo) -> str:
    meaning = (field.description or "").replace("|", "\\|")
    # An address stays as it is written.
    return meaning if "://" in meaning.split()[0] else meaning[:1].upper() + meaning[1:]


def _values(field: FieldInfo) -> str:
    """The type in words, with its bounds."""
    kinds = [kind for kind in _alternatives(field.annotation) if kind is not type(None)]
    (kind,) = kinds
    if get_origin(kind) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(kind))
    words = {
        bool: "`true`, `false`",
        int: "integer",
        float: "number",
        Path: "path",
        SecretStr: "secret",
        str: "text",
    }[kind]
    bounds = [bound for each in field.metadata if (bound := _bound(each))]
    return f"{words} {', '.join(bounds)}" if bounds else words


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return (annotation,)
    return get_args(annotation) or (annotation,)


def _bound(constraint: object) -> str:
    match constraint:
        case annotated_types.Ge(ge=least):
            return f"≥ {least:,}"
        case annotated_types.Gt(gt=least):
            return f"> {least:,}"
        case annotated_types.Le(le=most):
            return f"≤ {most:,}"
        case annotated_types.Lt(lt=most):
            return f"< {most:,}"
        case annotated_types.MinLen(min_length=least):
            return f"of {least} characters or more" if least > 1 else ""
        case _:
            return ""


def _default(name: str, field: FieldInfo) -> str:
    if name in _COMPUTED:
        return _COMPUTED[name]
    default = field.default
    if default is PydanticUndefined:
        raise TypeError(f"{name} has a computed default that has no words yet")
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default != "" else "none"


def metrics_table() -> str:
    """What is counted and measured, as a Markdown table."""
    supervisor = CollectorRegistry()
    supervisor.register(metrics.server_deaths)
    supervisor.register(metrics.server_processes)
    gauges = [*metrics.server_readings.describe(), *metrics.backlog_readings.describe()]
    families = [*metrics.REGISTRY.collect(), *supervisor.collect(), *gauges]
    own = {
        family.name: family
        for family in families
        if family.name.startswith(("credit_", "grpc_server_"))
    }
    lines = ["| metric | kind | meaning |", "|---|---|---|"]
    for name, family in sorted(own.items()):
        suffix = "_total" if family.type == "counter" else ""
        lines.append(f"| `{name}{suffix}` | {family.type} | {family.documentation} |")
    return "\n".join(lines)


def with_tables(document: str) -> str:
    """The document with the tables as they are now between their marks."""
    for name, table in (("settings", settings_table()), ("metrics", metrics_table())):
        before, begin, rest = document.partition(_BEGIN.format(name=name))
        _, end, after = rest.partition(_END.format(name=name))
        if not (begin and end):
            raise ValueError(f"{DOCUMENT.name} lacks the marks that {name} stand between")
        document = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return document


def main(command: str) -> int:
    """Write the document, or say that it is out of date."""
    found = DOCUMENT.read_text(encoding="utf-8")
    right = with_tables(found)
    if command == "write":
        DOCUMENT.write_text(right, encoding="utf-8")
    elif found != right:
        print("docs/operations.md is out of date; run: python scripts/configuration.py write")
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in (["write"], ["check"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
