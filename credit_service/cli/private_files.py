"""Files that only their owner can read."""

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_private(path: Path, document: dict[str, Any]) -> None:
    """Write JSON to a file that only its owner can ever read. Replace an existing file atomically.

    Raises OSError.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    beside.replace(path)
