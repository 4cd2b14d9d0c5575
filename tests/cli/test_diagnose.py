"""``isometry diagnose`` and ``prescribe``: what they parse, call, print, and how they end."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from isometry.cli import app

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, arguments)


@pytest.mark.parametrize("command", ["diagnose", "prescribe"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument"),
        (("mlp:depth=2,width=4", "--samples", "1"), "Invalid value for '--samples'"),
        (("mlp:depth=2,width=4", "--q-star", "one"), "'one' is not a number"),
        (("mlp:dept=2",), "error: "),
        (("nowhere.py:build",), "error: MODEL: there is no file 'nowhere.py'"),
        (("mlp:depth=2,width=4", "--data", "digit"), "error: unknown DATA 'digit'; did you mean 'digits'?"),
        (("mlp:depth=2,width=4", "--data", "no.npz"), "error: DATA: there is no file or folder 'no.npz'"),
        (("raising.py:build",), "ZeroDivisionError: division by zero"),
        (("raising.py:number",), "error: "),
    ],
)
def test_bad_usage_is_a_sentence_and_exit_code_2(tmp_path, monkeypatch, command, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raising.py").write_text("number = 3\n\n\ndef build():\n    return 1 / 0\n")
    result = run(command, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
