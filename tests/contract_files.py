"""The contract as a folder of .proto files with their imports, for tools that read files."""

import shutil
import sysconfig
from pathlib import Path

_PROTOS = Path(__file__).parents[1] / "protos"
_PACKAGES = Path(sysconfig.get_path("purelib"))
_IMPORTED = ("type/money", "type/decimal", "type/date", "rpc/status")


def contract_files(folder: Path) -> Path:
    """Copy protos/ and the imported files of googleapis-common-protos to `folder`; returns it."""
    shutil.copytree(_PROTOS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.binpb"))
    for name in _IMPORTED:
        target = folder / "google" / f"{name}.proto"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_PACKAGES / "google" / f"{name}.proto", target)
    return folder
