"""Commands and servers start without importing pandas and openpyxl."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["credit_service.cli.app", "credit_service.rpc.server", "credit_service.console.app"],
)
def test_no_command_and_no_server_imports_pandas_when_it_starts(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{'pandas', 'openpyxl'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=110
    )
    assert done.stdout.split() == []
