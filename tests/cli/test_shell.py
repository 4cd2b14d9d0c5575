"""Errors become sentences and exit codes, sorted by whose they are."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import typer

from isometry._base import check_positive
from isometry.cli._shell import alone, guarded, number, numbers, print_json


def outcome(command, capsys):
    """Run a guarded command and give its exit code and what it said."""
    with pytest.raises(typer.Exit) as caught:
        guarded(command)()
    captured = capsys.readouterr()
    assert captured.out == ""
    return caught.value.exit_code, captured.err


def test_our_own_refusals_are_sentences(capsys):
    code, said = outcome(lambda: check_positive("q_star", -1.0), capsys)
    assert (code, said) == (2, "error: q_star must be a finite number > 0, got -1.0.\n")
    code, said = outcome(lambda: check_positive("q_star", "1"), capsys)
    assert (code, said) == (2, "error: q_star must be a number, got str; pass a float.\n")


def test_the_users_code_is_shown_short(capsys):
    def command():
        def forward():
            raise KeyError("no such block")

        forward()

    code, said = outcome(command, capsys)
    assert code == 2
    assert said.startswith("error: the user's code raised KeyError:\n")
    assert "in forward" in said
    assert "isometry/cli/_shell.py" not in said
    assert said.count("File ") <= 3


def test_shapes_that_do_not_fit_inside_a_users_model(capsys):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x)

    code, said = outcome(lambda: Net()(torch.zeros(1, 5)), capsys)
    assert code == 2
    assert "mat1 and mat2 shapes cannot be multiplied" in said
    assert "self.linear(x)" in said
    assert "nn/modules" not in said


def test_errors_of_torch_without_a_users_frame(capsys, monkeypatch):
    import isometry._base as base

    monkeypatch.setattr(base, "in_user_code", lambda name: False)
    code, said = outcome(lambda: torch.nn.Linear(3, 2)(torch.zeros(1, 5)), capsys)
    assert code == 2
    assert said.startswith("error: RuntimeError: mat1 and mat2")
    assert "ISOMETRY_DEBUG=1 shows where" in said


def test_files_that_cannot_be_written(capsys, tmp_path, monkeypatch):
    import isometry._base as base
    from isometry.report import write_text

    monkeypatch.setattr(base, "in_user_code", lambda name: False)
    (tmp_path / "file").write_text("")
    code, said = outcome(lambda: write_text("x", tmp_path / "file" / "index.html"), capsys)
    assert code == 2
    assert "Not a directory" in said or "File exists" in said
    assert "Traceback" not in said


def test_a_bug_of_ours_is_shown_whole(capsys, monkeypatch):
    import isometry._base as base

    monkeypatch.setattr(base, "in_user_code", lambda name: False)
    monkeypatch.setattr(base, "in_package", lambda name: True)

    def command():
        raise AssertionError("impossible")

    code, said = outcome(command, capsys)
    assert code == 70
    assert "Traceback (most recent call last)" in said
    assert said.endswith("error: this is a bug in isometry; please report it with the lines above.\n")


def test_a_mistake_of_ours_is_no_refusal(capsys, monkeypatch):
    import isometry._base as base

    monkeypatch.setattr(base, "in_user_code", lambda name: False)
    monkeypatch.setattr(base, "in_package", lambda name: True)
    code, said = outcome(lambda: len(3), capsys)  # a TypeError, as a refusal may be, but no line raises it
    assert code == 70
    assert "this is a bug in isometry" in said


def test_an_interruption_is_130(capsys):
    def command():
        raise KeyboardInterrupt

    code, said = outcome(command, capsys)
    assert (code, said) == (130, "interrupted; no half-written file was left.\n")


def test_exits_pass_through():
    def command():
        raise typer.Exit(1)

    with pytest.raises(typer.Exit) as caught:
        guarded(command)()
    assert caught.value.exit_code == 1


def test_the_whole_traceback_on_demand(capsys, monkeypatch):
    monkeypatch.setenv("ISOMETRY_DEBUG", "1")
    _, said = outcome(lambda: check_positive("q_star", -1.0), capsys)
    assert said.startswith("Traceback (most recent call last)")


def test_json_stands_alone(capsys):
    with alone(True):
        print("chatter of the user's model")
    print_json({"a": [1.5, None], "name": "µ"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": [1.5, None], "name": "µ"}
    assert captured.err == "chatter of the user's model\n"
    with alone(False):
        print("shown")
    assert capsys.readouterr().out == "shown\n"
    assert sys.stdout is not sys.stderr


def test_nan_never_reaches_json():
    with pytest.raises(ValueError, match="JSON"):
        print_json({"a": float("nan")})


@pytest.mark.parametrize(
    ("text", "value"), [("1/64", 1 / 64), ("0.5", 0.5), ("9e-4", 9e-4), (" 2 ", 2.0), (0.25, 0.25)]
)
def test_numbers_and_fractions(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["a/64", "1/0", "", "nan", "inf"])
def test_things_that_are_no_numbers(text):
    with pytest.raises(typer.BadParameter, match=r"is not a number; write 0\.5, 1/64 or 9e-4"):
        number(text)


def test_lists_of_whole_numbers():
    assert numbers("1,28,28") == numbers("1x28X28") == (1, 28, 28)
    for text in ("", "1,,2", "-1", "1.5", "a"):
        with pytest.raises(typer.BadParameter, match="is not a list of whole numbers; write 1,28,28"):
            numbers(text)
