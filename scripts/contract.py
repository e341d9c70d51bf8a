"""Generates, checks, lints and releases the protobuf contract, offline.

    python scripts/contract.py generate   write the Python code and docs/reference from protos/
    python scripts/contract.py check      fail if either differs from what generate would write
    python scripts/contract.py lint       buf lint and buf format
    python scripts/contract.py breaking   compare with the contract last released
    python scripts/contract.py release    store the current contract as the last released one
    python scripts/contract.py imports    copy googleapis' imported protos to .build/googleapis

Exit status 0: success; 1: failure, with the reason on standard error. Needs the development
dependencies grpcio-tools, mypy-protobuf, googleapis-common-protos and buf-bin.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import reference

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("credit_service") / "v1"
GENERATED = ROOT / "clients" / "python" / "src" / PACKAGE
REFERENCE = ROOT / "docs" / "reference"
RELEASED = PROTOS / "released" / "credit_service_v1.binpb"
GOOGLEAPIS = ROOT / ".build" / "googleapis"

DESCRIPTORS = "descriptors.binpb"
INIT = '"""Generated from protos/credit_service/v1 by scripts/contract.py. Do not edit."""\n'
TIMEOUT_SECONDS = 120


class ContractError(Exception):
    """The contract or the generated code is invalid or out of date."""


def package_folder(module: str) -> Path:
    """The folder of an installed module. Raises ContractError if it is not installed."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise ContractError(f"{module} is not installed; run: make install")
    return Path(spec.origin).parent


def include_folders() -> list[Path]:
    """Include folders of protoc: ours, googleapis-common-protos, protobuf's own."""
    google_type = package_folder("google.type.money_pb2")
    return [PROTOS, google_type.parent.parent, package_folder("grpc_tools.protoc") / "_proto"]


def run(*command: str | Path) -> None:
    """Run a command in the project's root. Raises ContractError with its output if it fails."""
    # The plugins of protoc, and buf, are installed next to the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(str(command[0]), path=path)
    if program is None:
        raise ContractError(f"{command[0]} is not installed; run: make install")
    result = subprocess.run(
        [program, *map(str, command[1:])],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        raise ContractError(result.stdout.strip() or f"{command[0]} failed")


def write_package(folder: Path) -> None:
    """Write the whole generated package into an empty folder.

    It consists of modules and type stubs, gRPC modules for the files with a service, and the
    descriptor set with comments, which reflection serves. The output is deterministic.
    """
    protos = sorted((PROTOS / PACKAGE).glob("*.proto"))
    services = [proto for proto in protos if proto.stem.endswith("_service")]
    includes = [f"-I{path}" for path in include_folders()]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", *includes]
    with tempfile.TemporaryDirectory() as scratch:
        run(
            *protoc,
            f"--python_out={scratch}",
            f"--mypy_out=quiet,readable_stubs:{scratch}",
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={scratch}/{DESCRIPTORS}",
            *protos,
        )
        run(
            *protoc,
            f"--grpc_python_out={scratch}",
            f"--mypy_grpc_out=quiet,readable_stubs,only_sync:{scratch}",
            *services,
        )
        for made in (Path(scratch) / PACKAGE).iterdir():
            shutil.copyfile(made, folder / made.name)
        shutil.copyfile(Path(scratch) / DESCRIPTORS, folder / DESCRIPTORS)
    (folder / "__init__.py").write_text(INIT, encoding="utf-8")
    (folder / "py.typed").touch()


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name, without Python's cache folders."""
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def generated_files() -> dict[Path, dict[str, bytes]]:
    """All generated files: the files of each folder by name."""
    with tempfile.TemporaryDirectory() as scratch:
        write_package(Path(scratch))
        package = contents(Path(scratch))
    return {GENERATED: package, REFERENCE: reference.render(package[DESCRIPTORS])}


def generate() -> None:
    """Regenerate the package and the reference from the protos, and remove obsolete files."""
    for folder, files in generated_files().items():
        folder.mkdir(parents=True, exist_ok=True)
        current = contents(folder)
        for name in current.keys() - files.keys():
            (folder / name).unlink()
        for name, data in files.items():
            if current.get(name) != data:
                (folder / name).write_bytes(data)


def check() -> None:
    """Raise ContractError if the package or the reference differs from the output of generate."""
    complaints = []
    for folder, files in generated_files().items():
        current = contents(folder)
        differing = sorted(
            name for name in files.keys() | current.keys() if files.get(name) != current.get(name)
        )
        if differing:
            names = ", ".join(differing)
            complaints.append(f"{folder.relative_to(ROOT)} is out of date ({names})")
    if complaints:
        raise ContractError("; ".join(complaints) + "; run: make generate")


def imports() -> None:
    """Copy the imported protos of googleapis to where buf and clients that load .proto files find
    them."""
    types = package_folder("google.type.money_pb2").glob("*.proto")
    rpc = package_folder("google.rpc.status_pb2")
    # Clients read the details of errors, which the contract does not import.
    for proto in (*types, rpc / "status.proto", rpc / "error_details.proto"):
        target = GOOGLEAPIS / "google" / proto.parent.name / proto.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != proto.read_bytes():
            shutil.copyfile(proto, target)


def lint() -> None:
    """Raise ContractError if the protos break a lint rule or are not formatted."""
    imports()
    run("buf", "lint", "protos")
    run("buf", "format", "protos", "--diff", "--exit-code")


def breaking() -> None:
    """Raise ContractError if the protos break callers of the last released contract."""
    imports()
    run("buf", "breaking", "protos", "--against", RELEASED)


def release() -> None:
    """Store the current contract as the last released one. Rejects one that breaks callers."""
    lint()
    if RELEASED.exists():
        breaking()
    RELEASED.parent.mkdir(parents=True, exist_ok=True)
    run("buf", "build", "protos", "--as-file-descriptor-set", "--exclude-source-info",
        "--output", RELEASED)  # fmt: skip


COMMANDS: dict[str, Callable[[], None]] = {
    "generate": generate,
    "check": check,
    "lint": lint,
    "breaking": breaking,
    "release": release,
    "imports": imports,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args().command
    try:
        COMMANDS[command]()
    except ContractError as error:
        print(f"contract {command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
