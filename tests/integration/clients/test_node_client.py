"""The package of clients/node against a server with TLS and tokens: its README, and a restart."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.clients.test_examples import ROOT, environment, output_of, settings
from tests.tools import node_modules, tool

__all__ = ["environment", "settings"]

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "clients" / "node"
PACKAGES = (
    "@bufbuild/protobuf",
    "@bufbuild/protoc-gen-es",
    "@connectrpc/connect",
    "@connectrpc/connect-node",
    "@types/node",
    "typescript",
)
OUTPUT = re.compile(
    r"""stored: 1n
stored: 1n
Approved: ₹50,000.00 over 12 months at 12.5 % a year, ₹4,454.14 a month, the last ₹4,454.17.
(?:loan of 800000.00
loan of 50000.00|loan of 50000.00
loan of 800000.00)
INVALID_FIELD (?:\w+ ?)+
"""
)
PROGRAMS = Path(__file__).parent / "node_client"


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package is installed, built from the contract."""
    modules = Path(node_modules(*PACKAGES))
    folder = tmp_path_factory.mktemp("node")
    package = folder / "package"
    ignored = shutil.ignore_patterns("node_modules", "dist", "gen")
    shutil.copytree(PACKAGE, package, ignore=ignored)
    (package / "node_modules").symlink_to(modules)
    subprocess.run(
        [sys.executable, str(ROOT / "scripts/clients.py"), "--generate-node", str(package)],
        check=True,
        timeout=60,
    )
    _compile(package)
    installed = folder / "consumer" / "node_modules"
    installed.mkdir(parents=True)
    (installed / "credit-service-client").symlink_to(package)
    (installed / "@types").symlink_to(modules / "@types")
    (installed.parent / "package.json").write_text('{"type": "module"}')
    config = (PACKAGE / "tsconfig.json").read_text().replace('"src"', '"."')
    (installed.parent / "tsconfig.json").write_text(config)
    return installed.parent


def _compile(folder: Path) -> None:
    compiler = f"{node_modules('typescript')}/typescript/bin/tsc"
    done = subprocess.run(
        [tool("node"), compiler, "--project", str(folder)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def _printed(consumer: Path, program: str, environment: dict[str, str]) -> str:
    (consumer / "program.ts").write_text(program)
    _compile(consumer)
    return output_of(tool("node"), str(consumer / "dist/program.js"), env=environment)


def test_the_readme_compiles_and_works(consumer: Path, environment: dict[str, str]) -> None:
    (program,) = re.findall(r"```ts\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    printed = _printed(consumer, program, environment)
    assert OUTPUT.fullmatch(printed), printed


def test_values_come_back_as_they_were(consumer: Path) -> None:
    assert _printed(consumer, (PROGRAMS / "values.ts").read_text(), {}).split() == [
        *("0.00", "0.01", "-0.01", "8884.88", "-12.50", "100000000.00"),
        "2024-02-29",
        *["RangeError"] * 4,
    ]


def test_a_busy_service_is_asked_again_and_a_rejection_is_not(consumer: Path) -> None:
    assert _printed(consumer, (PROGRAMS / "retries.ts").read_text(), {}).splitlines() == [
        "14 answered 2",
        "9 9 1",
        "RangeError",
    ]
