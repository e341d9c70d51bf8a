"""Scripts that complete commands and options, run by their shells."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from credit_service.cli import app
from tests.tools import tool

SECONDS = 60
EXPECTED = {
    "credit-service cust": {"customer", "customers"},
    "credit-service offer": {"offer", "offers"},
    "credit-service create": {"create-loan", "create-offer"},
    "credit-service score --c": {"--ca", "--certificate", "--csv"},
}


def _script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert app.run(["completion", shell]) == 0
    return capsys.readouterr().out


def _output(*command: str) -> list[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=SECONDS, errors="replace"
    )
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("line", EXPECTED)
def test_bash_completes(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script"
    script.write_text(_script("bash", capsys))
    program = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n"
        '_credit_service; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert set(_output(tool("bash"), "-c", program)) == EXPECTED[line]


@pytest.mark.slow
@pytest.mark.parametrize("line", EXPECTED)
def test_fish_completes(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script"
    script.write_text(_script("fish", capsys))
    found = _output(tool("fish"), "--no-config", "-c", f"source {script}; complete -C '{line}'")
    assert {each.partition("\t")[0] for each in found} == EXPECTED[line]


@pytest.mark.slow
@pytest.mark.parametrize("line", EXPECTED)
def test_zsh_completes_with_the_documented_file(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """zsh completes in a terminal only, and loads the function that the file is named after."""
    assert app.run(["completion", "--help"]) == 0
    name = capsys.readouterr().out.partition("${fpath[1]}/")[2].partition('"')[0]
    (tmp_path / name).write_text(_script("zsh", capsys))
    terminal, other_end = pty.openpty()
    shell = subprocess.Popen(
        [tool("zsh"), "-f", "-i"],
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "COLUMNS": "200", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    os.close(other_end)
    try:
        # The quotes keep the echo of this line apart from its output.
        _type(
            terminal,
            f"PS1=''; fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=0; "
            "bindkey '^I' list-choices; print REA''DY\n",
        )
        _read(terminal, "READY\r\n")
        _type(terminal, f"{line}\t")
        # The list ends with the line that is being completed.
        printed = _read(terminal, f" \r\n{line}")
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)
    listed = {each.split()[0] for each in printed.splitlines() if " -- " in each}
    assert listed == EXPECTED[line]


def _type(terminal: int, text: str) -> None:
    os.write(terminal, text.encode())


def _read(terminal: int, until: str) -> str:
    printed, end = b"", time.monotonic() + SECONDS
    while until.encode() not in printed:
        assert time.monotonic() < end, printed
        if select.select([terminal], [], [], 0.2)[0]:
            printed += os.read(terminal, 65536)
    return printed.decode()


def test_the_script_for_powershell_has_commands_and_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Debian has no package of PowerShell that could run it."""
    script = _script("powershell", capsys)
    names = {name for found in EXPECTED.values() for name in found}
    assert [name for name in names if name not in script] == []
    assert script.count("{") == script.count("}")
