"""The package of the client imports a name when it is used."""

import subprocess
import sys
from importlib import import_module

import pytest

import credit_service_client


def test_every_public_name_exists() -> None:
    assert set(credit_service_client._MODULE_OF) == set(credit_service_client.__all__)
    for name, module in credit_service_client._MODULE_OF.items():
        found = getattr(credit_service_client, name)
        assert found is getattr(import_module(f"credit_service_client.{module}"), name)


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = credit_service_client.absent


def test_a_module_imports_only_what_it_needs() -> None:
    program = (
        "import sys, credit_service_client.errors\n"
        "print(*(each for each in sys.modules if each.startswith('credit_service')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert set(done.stdout.split()) == {"credit_service_client", "credit_service_client.errors"}
