"""What `doctor` says on a machine whose packages are broken."""

import subprocess
import sys

import pytest

_WITHOUT_PROTOBUF = (
    "import sys; sys.modules['google.protobuf'] = None;"
    "from credit_service.cli.app import run; sys.exit(run(sys.argv[1:]))"
)


@pytest.mark.parametrize("options", [(), ("--csv",), ("--json",)])
def test_a_broken_package_is_a_finding(options: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PROTOBUF, "doctor", *options],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert "google.protobuf cannot be imported" in done.stdout
    assert "pip install --upgrade credit-service" in done.stdout
