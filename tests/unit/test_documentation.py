"""The links, files, commands, settings, methods and reasons in the documents exist."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from google.protobuf.descriptor import Descriptor

from credit_service.rpc.errors import REASONS
from credit_service.settings import Settings
from credit_service.v1 import (
    credit_service_pb2,
    event_pb2,
    ingestion_service_pb2,
    operations_service_pb2,
    scorecard_service_pb2,
)
from credit_service.v1.options_pb2 import scope

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "credit_service"
PAGES = sorted(
    {
        *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
    }
)
REFERENCE = ROOT / "docs" / "reference"
SERVICES = [
    service
    for file in (
        *(credit_service_pb2, ingestion_service_pb2),
        *(operations_service_pb2, scorecard_service_pb2),
    )
    for service in file.DESCRIPTOR.services_by_name.values()
]

VARIABLES = {f"CREDIT_{name.upper()}" for name in Settings.model_fields} | {
    # Variables that are read directly from the environment.
    name
    for folder in ("credit_service", "workers", "tests")
    for path in (ROOT / folder).rglob("*.py")
    for name in re.findall(r"\"(CREDIT_[A-Z_]+)\"", path.read_text(encoding="utf-8"))
}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """A page without code blocks."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_have_existing_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = unquote(target).partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_files_exist(page: Path) -> None:
    # Files that commands create may be missing.
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()}
    tops = {each.name for each in ROOT.iterdir()} - ignored
    for text in re.findall(r"`([\w./-]+)`", prose(page)):
        if text.startswith("deploy/secrets/"):  # written by deploy/make-secrets.sh
            continue
        if text.partition("/")[0] in tops and "/" in text:
            assert (ROOT / text).exists(), text
        elif re.fullmatch(r"(\w+/)+\w+\.py", text) and (PACKAGE / text.partition("/")[0]).is_dir():
            assert (PACKAGE / text).exists(), text


def test_names_of_code_exist() -> None:
    """The pages for contributors name constants, functions and columns, as in `tasks.enqueue`."""
    folders = ("credit_service", "workers", "clients/python/src", "protos", "tests", "scripts")
    files = [ROOT / ".github/workflows/tests.yml", ROOT / "deploy/haproxy/haproxy.cfg"]
    for folder in folders:
        files += [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.proto")]
    words = VARIABLES.union(*(re.findall(r"\w+", file.read_text("utf-8")) for file in files))
    words |= {file.stem for file in files}
    docs = ROOT / "docs"
    for page in (docs / "architecture.md", docs / "contributing.md", *docs.glob("decisions/*.md")):
        text = prose(page)
        names = {
            name
            for code in re.findall(r"`([\w.]+)`", text)
            for name in code.split(".")
            if re.fullmatch(r"_?[A-Za-z]+(_[A-Za-z0-9]+)+", name)
        }
        assert names <= words, page


def test_every_picture_is_shown() -> None:
    shown = {
        Path(target).name
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert {each.name for each in (ROOT / "docs" / "images").iterdir()} <= shown


def test_named_tests_exist() -> None:
    """Tests are named as `test_x`, or by file as `tests/unit/test_x.py::test_y`."""
    tests = {
        path.relative_to(ROOT).as_posix(): set(
            re.findall(r"def (test_\w+)", path.read_text("utf-8"))
        )
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    every = set().union(*tests.values())
    missing = []
    for page in PAGES:
        for file, name in re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", prose(page)):
            if name not in (tests.get(file, ()) if file else every):
                missing.append(f"{named(page)}: {file}::{name}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_targets_and_settings_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    # Names of the contract have the same prefix.
    assert set(re.findall(r"\bCREDIT_(?!EVENT_|SCORE_)[A-Z_]+[A-Z]\b", text)) <= VARIABLES


def test_named_commands_exist() -> None:
    helped = subprocess.run(
        [sys.executable, "-m", "credit_service.cli", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    commands = set(re.findall(r"^│ ([a-z-]+) ", helped.stdout, re.MULTILINE))
    assert {"up", "call", "sample-data"} <= commands
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = set(re.findall(r"(?:`|^|bin/)credit-service ([a-z-]+)", text, re.MULTILINE))
        assert {name for name in found if not name.startswith("-")} <= commands, named(page)


def messages(message: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    """A message and all messages of the contract that it contains."""
    if message.full_name in seen or message.file.package != "credit_service.v1":
        return
    seen.add(message.full_name)
    yield message
    for each in message.fields:
        if each.message_type is not None:
            yield from messages(each.message_type, seen)


def test_the_reference_has_every_method_field_and_value() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    seen: set[str] = set()
    for service in SERVICES:
        for method in service.methods:
            assert f"\n## {method.name}\n" in pages
            assert f"scope `{method.GetOptions().Extensions[scope]}`" in pages
            for side in (method.input_type, method.output_type):
                for message in messages(side, seen):
                    for each in message.fields:
                        assert f"| `{each.name}`" in pages, each.full_name
                        for value in each.enum_type.values if each.enum_type else ():
                            assert f"| `{value.name}` | {value.number} |" in pages
    assert event_pb2.ScoreChanged.DESCRIPTOR.full_name in seen


def test_the_reference_explains_every_reason() -> None:
    errors = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## ([A-Z_]+)$", errors, re.MULTILINE))
    assert sections == set(REASONS)
    assert errors.count("\nMetadata: `{") == len(REASONS)


@pytest.mark.slow
def test_an_outdated_reference_is_detected(tmp_path: Path) -> None:
    for name in ("scripts", "protos", "clients/python/src/credit_service/v1", "docs/reference"):
        shutil.copytree(ROOT / name, tmp_path / name)
    errors = tmp_path / "docs/reference/errors.md"
    errors.write_text(errors.read_text("utf-8").replace("Correct them", "Collect them"), "utf-8")
    (tmp_path / "docs/reference/left-over.md").write_text("", "utf-8")

    def contract(command: str) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(tmp_path / "scripts/contract.py"), command]
        return subprocess.run(script, capture_output=True, text=True, timeout=90, check=False)

    done = contract("check")
    assert done.returncode == 1
    assert "docs/reference is out of date (errors.md, left-over.md)" in done.stderr
    assert contract("generate").returncode == 0
    assert contract("check").returncode == 0


def test_every_folder_of_tests_is_run() -> None:
    folders = {path.parent.relative_to(ROOT).parts[1] for path in ROOT.glob("tests/*/**/test_*.py")}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^(?:test: TESTS \?=|\t\$\(PYTEST\)) (tests/.*)", makefile, re.MULTILINE)
    assert sorted(" ".join(targets).split()) == sorted(f"tests/{each}" for each in folders)
    (alone,) = re.findall(r"^for folder in (.*); do", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert set(alone.split()) == folders
