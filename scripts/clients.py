"""Builds the clients into .build/clients: a wheel for Python, a tarball for Node, a Go module.

    python scripts/clients.py

Needs npm and Go, and fetches the packages that the builds need. Exit status: 0; that of a failed
command.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import contract

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "clients"
BUILT = ROOT / ".build" / "clients"


def _run(command: Sequence[str | Path], folder: Path = ROOT, path: Path | None = None) -> None:
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    if path is not None:
        folders.insert(0, str(path))
    environment = {**os.environ, "PATH": os.pathsep.join(folders)}
    print("$", *command)
    subprocess.run([str(each) for each in command], cwd=folder, env=environment, check=True)


def python() -> None:
    """Build the wheel."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--wheel-dir", BUILT, CLIENTS / "python"])


def node() -> None:
    """Build the tarball: generate the messages, compile, pack."""
    folder = BUILT / "node"
    shutil.copytree(
        CLIENTS / "node",
        folder,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("node_modules", "dist", "gen"),
    )
    _run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
    generate_node(folder)
    _run(["npm", "run", "--silent", "build"], folder)
    _run(["npm", "pack", "--silent", "--pack-destination", BUILT], folder)


def generate_node(folder: Path) -> None:
    """Generate the messages of the contract into src/gen of the package in `folder`."""
    contract.imports()
    template = CLIENTS / "node" / "buf.gen.yaml"
    generate = ["buf", "generate", "--template", template, "--output", folder]
    _run(generate, path=folder / "node_modules" / ".bin")


def go() -> None:
    """Build the module: generate the messages, compile."""
    folder = BUILT / "go"
    shutil.copytree(CLIENTS / "go", folder, dirs_exist_ok=True)
    generate_go(folder)
    _run(["go", "build", "./..."], folder)


def generate_go(folder: Path) -> None:
    """Generate the messages of the contract into creditpb of the module in `folder`."""
    contract.imports()
    _run(["buf", "generate", "--template", CLIENTS / "go" / "buf.gen.yaml", "--output", folder])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--generate-node",
        type=Path,
        metavar="FOLDER",
        help="only generate the messages for Node, in a copy of clients/node with its node_modules",
    )
    parser.add_argument(
        "--generate-go",
        type=Path,
        metavar="FOLDER",
        help="only generate the messages for Go, in a copy of clients/go",
    )
    arguments = parser.parse_args()
    try:
        if arguments.generate_node is not None:
            generate_node(arguments.generate_node)
            return 0
        if arguments.generate_go is not None:
            generate_go(arguments.generate_go)
            return 0
        BUILT.mkdir(parents=True, exist_ok=True)
        python()
        node()
        go()
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    for package in (*sorted(BUILT.glob("credit*")), BUILT / "go"):
        print(package.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
