"""Checks that user-visible text, docstrings, comments and names use plain English.

The list below has expressions that earlier versions used in place of the usual technical terms.
It is short on purpose: it catches the most frequent ones, not bad style in general.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = {
    r"\btold\b|\btells? (the caller|it|them|him|so)\b": "reported, returned, logged",
    r"\bnobody\b": "no caller, no process",
    r"\bwhoever\b": "the caller, any caller",
    r"\bsomebody\b|\bsomeone\b": "a user, another caller",
    r"\banew\b": "again, or re- as in rebuild",
    r"\b(come|comes|came|coming) again\b": "retry",
    r"\btaken (in|up)\b|\btakes? in\b": "imported, accepted, started",
    r"\b(pass|passes|passed|passing) over\b": "ignore, skip",
    r"\b(all|everything) is well\b": "all checks passed",
    r"\bgo(es)? on\b": "continue",
    r"\blets? in\b": "admit",
    r"\bbroken off\b|\bbreaks? off\b": "interrupted, broken",
    r"\bput into form\b": "format",
    r"\bwho is (refused|told)\b": "a rejected call",
    r"\bwho asks\b|\bwho is let in\b": "the caller, admitted calls",
    r"\bwish(es|ed)? for\b|\bwished\b": "enqueue, request",
    r"\bparted by\b|\bparts by\b": "separated by, comma-separated",
    r"\bfor want of\b|\bwant of room\b": "at capacity, lack of",
    r"\bmakes? void\b|\bmade void\b": "invalidates",
    r"\bmend(s|ed|ing)?\b": "fix, correct",
    r"\bhave it back\b|\bis to be had\b": "is available",
    r"\bwhat it stands on\b": "dependencies",
    r"\bcome to nothing\b|\bcomes to nothing\b": "has no effect, fails",
    r"\b(credentials|token|tokens) (do not|does not) hold\b": "invalid credentials, invalid token",
}
"""Expression to what to write instead, both in lower case."""

_ANY = re.compile("|".join(PLAIN))

# These keep their names: settings, metrics and files that operators and links rely on.
_NAMES = re.compile(r"`[^`\n]*`|\b\w*_\w+\b|\S+\.(?:md|py|yml)\S*|https?://\S+")


def _sentences(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of a file: every line, or the strings and comments of Python code."""
    text = path.read_text(encoding="utf-8")
    yield from _python(text) if path.suffix == ".py" else enumerate(text.splitlines(), 1)


def _python(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name.replace("_", " ")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id.replace("_", " ")
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg.replace("_", " ")


def findings(path: Path) -> list[str]:
    """One line for each expression of the list in a file, with what to write instead."""
    name = str(path.relative_to(ROOT))
    return [
        f"{name}:{number}: {words!r}; write: {instead}"
        for number, text in _sentences(path)
        for words, instead in matches(text)
        if words not in PROPER_NAMES.get(name, ())
    ]


def matches(text: str) -> Iterator[tuple[str, str]]:
    """Each expression of the list in a text, with what to write instead."""
    plain = " ".join(_NAMES.sub(" ", text).lower().split())
    if not _ANY.search(plain):
        return
    for expression, instead in PLAIN.items():
        for match in re.finditer(expression, plain):
            yield match[0], instead


def _files(*patterns: str) -> list[Path]:
    """The files of the patterns, without generated code."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(path for path in found if "v1" not in path.parts[:-1] or path.suffix == ".proto")


PROPER_NAMES = {
    # The system user.
    "credit_service/processes/account.py": {"nobody"},
    "tests/integration/database/test_embedded.py": {"nobody"},
}
"""Expressions that are names in a file."""

EXEMPT = {
    # The list itself.
    "tests/unit/test_language.py",
    # Migrations stay as they were released.
    *(
        str(path.relative_to(ROOT))
        for path in _files("credit_service/storage/migrations/versions/*.py")
    ),
}
"""Files that may contain expressions of the list."""

FILES = [
    path
    for path in _files(
        *("README.md", "CHANGELOG.md", "Makefile", "docker-compose.yml", "protos/**/*.proto"),
        *("docs/**/*.md", "docs/examples/**/*.*", "deploy/**/*.*", "deploy/Dockerfile"),
        *("credit_service/console/templates/**/*.*", "scripts/*.py", ".ci/run"),
        *("credit_service/**/*.py", "workers/**/*.py", "benchmarks/**/*.py", "tests/**/*.py"),
        *("tests/golden/transcripts/*.yaml", "tests/**/*.cjs"),
    )
    if str(path.relative_to(ROOT)) not in EXEMPT
    # Lines of dashboards are too long to read; scripts/dashboards.py has their texts.
    and path.suffix
    in {"", ".md", ".yml", ".yaml", ".proto", ".py", ".html", ".cfg", ".sh", ".go", ".cjs"}
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_in_plain_english(path: Path) -> None:
    assert not findings(path), "\n" + "\n".join(findings(path))


def test_strings_docstrings_comments_and_names_are_checked() -> None:
    code = '"""Whoever asks is told."""\nTEXT = "come again"  # not `parted by`, but made anew\n'
    code += "def test_a_row_is_passed_over(nobody: object) -> None: ...\n_SOMEONE = 1\n"
    found = {words for _, text in _python(code) for words, _ in matches(text)}
    expected = {"whoever", "told", "come again", "anew", "passed over", "nobody", "someone"}
    assert found == expected
