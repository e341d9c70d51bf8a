"""Commands copied from the console, in a shell: plaintext, and TLS with a token."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.protobuf.json_format import ParseDict

from credit_service.console.leaves import message_class
from credit_service.console.methods import METHODS
from tests.consoles import Visitor
from tests.system.secured import secured_settings
from tests.system.up import environment, up
from tests.tools import tool

SECONDS = 60
ID = "3f1c5d6e-4f1c-4a52-9a3f-0c5b7a1e2d3f"
REGISTER = {
    "request_id": "0d3c7f52-9d0c-4a0e-8a59-6a4c1a3f1b01",
    "first_name": "O'Brien $(reboot)",
    "last_name": "Iyer",
    "age": 34,
    "monthly_income": {"units": 80000},
    "phone_number": "9876598765",
}
UPDATE = {
    "request_id": "0d3c7f52-9d0c-4a0e-8a59-6a4c1a3f1b02",
    "update_mask": "lastName,age",
}
HEADER = {"ingestion_id": ID, "kind": "INGESTION_KIND_CUSTOMERS", "filename": "new customers.csv"}


def copied(visitor: Visitor, service: str, method: str, request: object) -> dict[str, str]:
    """The commands that the console shows for a request, by tool."""
    page = visitor.send(
        f"/qa/methods/{service}/{method}", mode="json", json=json.dumps(request), act="plan"
    )
    assert page.status == 200, page.text
    found = re.findall(r'aria-label="([a-z -]+) command"><code>(.*?)</code>', page.body.decode())
    assert len(found) == 3
    return {name: html.unescape(command) for name, command in found}


@pytest.mark.parametrize("transport", ["plaintext", "TLS and token"])
def test_every_copied_command_makes_the_same_call(transport: str, tmp_path: Path) -> None:
    folder = Path(tool("grpcurl")).parent
    settings: dict[str, Any] = {} if transport == "plaintext" else secured_settings(tmp_path)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = environment(**settings, PATH=path)
    # What the commands name themselves must not come from the environment.
    env.pop("CREDIT_SERVER_CA", None)
    (tmp_path / "new customers.csv").write_text(
        "Customer ID,First Name,Last Name,Age,Phone Number,Monthly Salary,Approved Limit\n"
        "77,Asha,Rao,30,9876500077,50000,1800000\n"
    )
    with up(console=True, **settings) as running:
        visitor = Visitor(urlsplit(running.console_url).netloc)
        token = settings.get("CREDIT_TOKEN", "")
        if token:
            visitor.send("/qa/login", token=token)

        def answers(service: str, method: str, request: object) -> list[Any]:
            """What the three commands print, of which the first takes effect."""
            found: list[Any] = []
            for command in copied(visitor, service, method, request).values():
                assert token == "" or token not in command
                done = subprocess.run(
                    ["/bin/sh", "-c", command],
                    env=env,
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                    check=False,
                )
                assert done.returncode == 0, (command, done)
                output = METHODS[service, method].descriptor.output_type
                found.append(ParseDict(json.loads(done.stdout), message_class(output)()))
            return found

        registered = answers("CreditService", "RegisterCustomer", REGISTER)
        (customer_id,) = {each.customer.customer_id for each in registered}
        customer = {"customer_id": customer_id}
        update = {**UPDATE, "customer": {**customer, "last_name": "Sen", "age": 35}}
        updated = answers("CreditService", "UpdateCustomer", update)
        assert {each.customer.last_name for each in updated} == {"Sen"}
        shown = answers("CreditService", "GetCustomer", customer)
        assert {each.customer.first_name for each in shown} == {"O'Brien $(reboot)"}
        uploads = answers("IngestionService", "UploadSpreadsheet", {"header": HEADER})
        assert {each.ingestion.ingestion_id for each in uploads} == {ID}
