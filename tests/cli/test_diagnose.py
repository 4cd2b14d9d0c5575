"""``isometry diagnose`` and ``prescribe``: what they parse, call, print, and how they end."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import typer
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
        (("mlp:depth=2,width=4", "--seed", "99999999999999999999"), "Invalid value for '--seed'"),
        (("mlp:width=1000000000000000",), "error: 'mlp:width=1000000000000000' is larger than this machine's memory"),
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


SMALL = "mlp:depth=2,width=8,activation=tanh"
SICK = "mlp:depth=60,width=16,activation=tanh"


def test_a_healthy_model_is_exit_code_0():
    result = run("diagnose", SMALL, "--data", "digits", "--samples", "20")
    assert result.exit_code == 0, result.stderr
    assert "This network is healthy" in result.stdout
    assert result.stderr == ""


def test_a_sick_model_is_exit_code_1_and_leaves_a_report(tmp_path):
    out = tmp_path / "report"
    result = run("diagnose", SICK, "--samples", "20", "--out", str(out))
    assert result.exit_code == 1, result.stderr
    assert "As it stands, this network will not train" in result.stdout
    assert "vanishing_gradient" in result.stdout
    assert result.stderr == "DATA is digits, since none was given; give yours with --data.\n"
    assert sorted(p.name for p in out.iterdir()) == ["diagnosis.json", "index.html"]
    content = json.loads((out / "diagnosis.json").read_text())
    assert content["subject"]["model"] == SICK
    assert content["subject"]["data"] == "digits"


def test_json_alone_is_the_diagnosis():
    result = run("diagnose", SICK, "--samples", "20", "--json", "--seed", "3")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert (content["schema"], content["verdict"], content["subject"]["samples"]) == (1, "error", 20)
    again = json.loads(run("diagnose", SICK, "--samples", "20", "--json", "--seed", "3").stdout)
    assert content["findings"] == again["findings"]
    other = json.loads(run("diagnose", SICK, "--samples", "20", "--json", "--seed", "4").stdout)
    assert content["findings"] != other["findings"]


def test_the_proof_is_printed():
    result = run("diagnose", SICK, "--samples", "20", "--prove", "10")
    assert result.exit_code == 1, result.stderr
    assert "10 steps of adam" in result.stdout
    assert "prescribed" in result.stdout


def test_gaussian_inputs_by_shape():
    result = run("diagnose", "mlp:depth=2,width=8,activation=tanh", "--in-shape", "5", "--samples", "20", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["subject"]["data"] == "Gaussian inputs"
    both = run("diagnose", SMALL, "--in-shape", "5", "--data", "digits")
    assert both.exit_code == 2
    assert "give --data or --in-shape, not both" in both.stderr


def test_the_users_model_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef build():\n    print('building')\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))\n\n\n"
        "def data():\n    x = torch.randn(40, 3)\n    return x, (x[:, 0] > 0).long()\n"
    )
    result = run("diagnose", "mine.py:build", "--data", "mine.py:data", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["subject"]["classes"] == 2
    assert result.stderr == "building\n"


def test_what_was_done_to_the_users_data_is_said(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 6)).astype(np.uint8)
    np.savez(tmp_path / "raw.npz", x=pixels, y=np.arange(40) % 3)
    result = run("prescribe", SMALL, "--data", str(tmp_path / "raw.npz"), "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "DATA: inputs converted from torch.uint8 to torch.float32 without rescaling\n"


def test_an_error_in_the_users_forward_is_shown_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.linear = torch.nn.Linear(3, 2)\n\n    def forward(self, x):\n"
        "        return self.linear(self.prepare(x))\n\n    def prepare(self, x):\n        return x.flatten(1).oops()\n"
    )
    result = run("diagnose", "mine.py:Net", "--data", "digits")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "has no attribute 'oops'" in result.stderr
    assert "mine.py" in result.stderr
    assert result.stderr.count("File ") <= 4


def test_a_prescription_is_written_and_can_be_loaded(tmp_path):
    from safetensors.torch import load_file

    path = tmp_path / "deep" / "init.safetensors"
    result = run("prescribe", SICK, "--data", "digits", "--write", str(path), "--q-star", "1/64")
    assert result.exit_code == 0, result.stderr
    assert "Prescription: " in result.stdout
    weights = load_file(path)["hidden.5.linear.weight"].double()
    gain = weights @ weights.T
    torch.testing.assert_close(gain, gain[0, 0] * torch.eye(16, dtype=torch.float64), atol=1e-5, rtol=0)
    assert float(gain[0, 0]) == pytest.approx(1.0152**2, abs=1e-3)  # sigma_w^2 of tanh at q* = 1/64
    plain = json.loads(run("prescribe", SICK, "--data", "digits", "--json").stdout)
    assert plain["changes"][0]["name"] == "hidden.0.linear.weight"


@pytest.mark.parametrize("command", [("diagnose", SMALL), ("compare", "none.toml"), ("report", "none.jsonl")])
def test_an_empty_folder_is_not_the_current_one(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    result = run(*command, "--out", "")
    assert result.exit_code == 2
    assert "it is empty; name a folder, or . for the current one" in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("diagnose", SMALL, "--data", "digits", "--samples", "20", "--out", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "is a file" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", [("diagnose", "--out"), ("prescribe", "--write")])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, monkeypatch, command):
    (tmp_path / "file").write_text("")
    name, option = command
    target = tmp_path / "file" / "deep" / "init.safetensors"
    result = run(name, "nowhere.py:build", option, str(target), "--json")  # MODEL would be refused next
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "is not a folder; give another path" in " ".join(result.stderr.replace("│", " ").split())
    monkeypatch.setattr("os.access", lambda *_: False)
    closed = run(name, "nowhere.py:build", option, str(tmp_path / "new" / "init.safetensors"))
    assert "is closed to writing; give another path" in " ".join(closed.stderr.replace("│", " ").split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["diagnose", "prescribe"])
def test_q_star_must_be_positive_even_where_nothing_is_prescribed(command):
    result = run(command, SMALL, "--data", "digits", "--q-star", "-1")
    assert result.exit_code == 2
    assert "q_star must be a finite number > 0, got -1.0" in result.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model.py", "is a Python file; say which module, class or function to take: model.py:NAME"),
        ("weights.pt", "is a file of weights; name the code that builds the module"),
    ],
)
def test_a_file_without_a_name_is_told_what_it_lacks(model, message):
    result = run("diagnose", model, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


def test_a_reader_that_leaves_is_no_error_of_ours():
    from isometry.cli._shell import guarded

    @guarded
    def command():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(typer.Exit) as caught:  # not click's 1, which says that the model will not train
        command()
    assert caught.value.exit_code == 141


def test_actions_of_a_prescription_are_not_broken_in_a_narrow_terminal():
    from rich.console import Console

    from isometry.cli._printed import print_prescription
    from isometry.diagnosis import Prescription
    from isometry.diagnosis._prescription import Change

    change = Change("encoder.blocks.0.attention.query.weight", "scaled", "by 1.25, so that its outputs keep their size")
    console = Console(width=40, file=io.StringIO())
    print_prescription(Prescription("one", (change,), None, (), None, None, None, (), 0), console)
    assert " scaled " in console.file.getvalue()


def test_a_model_of_ids_alone_is_diagnosed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rating.py").write_text(
        "import torch\n"
        "from torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.users, self.items, self.head = nn.Embedding(9, 4), nn.Embedding(7, 4), nn.Linear(8, 3)\n\n"
        "    def forward(self, user, item):\n"
        "        return self.head(torch.cat([self.users(user), self.items(item)], 1))\n\n"
        "def data():\n"
        "    n = torch.arange(60)\n"
        "    return {'user': n % 9, 'item': n % 7}, n % 3\n"
    )
    result = run("diagnose", "rating.py:Net", "--data", "rating.py:data")
    assert result.exit_code == 0, result.stderr
    assert "healthy" in result.stdout


EXITS = """
import sys
import torch
from torch import nn


class Ending(BaseException):
    pass


def leave():
    raise {error}


class Leaving(nn.Linear):
    def forward(self, x):
        leave()


def build():
    return Leaving(64, 10)


def made():
    leave()


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize("command", ["diagnose", "prescribe"])
@pytest.mark.parametrize("error", ["SystemExit(0)", "SystemExit(3)", "SystemExit", "Ending('over')"])
@pytest.mark.parametrize("arguments", [("made",), ("build",), ("net", "--data", "exits.py:made")])
def test_an_exit_in_the_users_code_is_no_exit_code_of_ours(tmp_path, monkeypatch, command, error, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exits.py").write_text(EXITS.format(error=error))
    model, *others = arguments
    result = run(command, f"exits.py:{model}", *others)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "raised" in result.stderr
    assert error.partition("(")[0] in result.stderr
    assert "in leave" in result.stderr


def test_ctrl_c_in_the_users_code_interrupts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exits.py").write_text(EXITS.format(error="KeyboardInterrupt"))
    for arguments in (("made",), ("build",), ("net", "--data", "exits.py:made")):
        model, *others = arguments
        assert run("diagnose", f"exits.py:{model}", *others).exit_code == 130
