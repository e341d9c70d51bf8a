"""The contract as a folder of .proto files with their imports, for tools that read files."""

import shutil
import sysconfig
from pathlib import Path

_PROTOS = Path(__file__).parents[1] / "protos"
_PACKAGES = Path(sysconfig.get_path("purelib"))
_IMPORTED = ("money", "decimal", "date")


def contract_files(folder: Path) -> Path:
    """Copy protos/ and the imported files of googleapis-common-protos to `folder`; returns it."""
    shutil.copytree(_PROTOS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.binpb"))
    types = folder / "google" / "type"
    types.mkdir(parents=True, exist_ok=True)
    for name in _IMPORTED:
        shutil.copy(_PACKAGES / "google" / "type" / f"{name}.proto", types)
    return folder
