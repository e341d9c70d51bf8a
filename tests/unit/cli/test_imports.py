"""A command that calls the service starts without the modules of servers and workers."""

import subprocess
import sys

import pytest

# pydantic comes with the settings of servers. A call declares the commands of its own group only.
_HEAVY = {
    "credit_service.cli.commands.operate",
    "credit_service.cli.commands.policy",
    "credit_service.cli.commands.serving",
    "pandas",
    "numpy",
    "openpyxl",
    "sqlalchemy",
    "psycopg",
    "dramatiq",
    "pydantic",
    "starlette",
}


@pytest.mark.parametrize(
    "command",
    [
        ("loan", "1"),
        ("customers",),
        ("decisions",),
        ("ingestions",),
        ("pay", "1", "1", "1"),
        ("create-offer", "1", "1", "1", "1"),
    ],
)
def test_a_call_imports_no_module_of_servers(command: tuple[str, ...]) -> None:
    program = (
        "import sys\n"
        "from credit_service.cli import app, connection\n"
        "from credit_service_client.errors import ServiceError\n"
        "connection.CONNECT_TIMEOUT_SECONDS = 0.01\n"
        "try:\n"
        f"    app.app({[*command, '--address', '127.0.0.1:1']!r}, exit_on_error=False)\n"
        "except ServiceError as error:\n"
        "    print(error.code.name)\n"
        f"print(*sorted(set({sorted(_HEAVY)!r}) & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["UNAVAILABLE"]
