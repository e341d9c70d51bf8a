"""Scripts that complete commands and options, for each shell."""

import shutil
import subprocess

import pytest

from credit_service.cli import app

NAMES = ("customers", "row-errors", "scorecard", "--json", "--csv")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_a_script_completes_commands_and_options(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["completion", shell]) == 0
    script = capsys.readouterr().out
    # fish declares a long option without its dashes.
    names = [each.removeprefix("--") if shell == "fish" else each for each in NAMES]
    assert [each for each in names if each not in script] == []
    # Brackets of code and quoted text are balanced, where a shell cannot be asked.
    program = shutil.which({"powershell": "pwsh"}.get(shell, shell))
    if program is None or shell == "powershell":
        assert script.count("{") == script.count("}")
    else:
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=30)
