"""``isometry theory`` prints what the library computes, and its refusals."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from isometry.cli import app
from isometry.theory import MeanField

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, ["theory", *arguments])


def test_a_critical_point_as_json_and_as_a_table():
    result = run("critical", "tanh", "--q-star", "1/64", "--json")
    assert result.exit_code == 0
    expected = MeanField("tanh").critical(1 / 64)
    assert json.loads(result.stdout)["sigma_w"] == expected.sigma_w
    table = run("critical", "tanh", "--q-star", "1/64")
    assert table.exit_code == 0
    assert f"{expected.sigma_w:.8g}" in table.stdout


def test_by_sigma_w():
    result = run("critical", "tanh", "--sigma-w", "1.2", "--json")
    assert json.loads(result.stdout)["sigma_w"] == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("critical", "softplus", "--q-star", "1/64"), "error: 'softplus' has no critical point at q_star=0.015625"),
        (("critical", "tahn", "--q-star", "1/64"), "error: unknown activation 'tahn'; did you mean 'tanh'"),
        (("critical", "tanh"), "error: critical needs exactly one of q_star, sigma_w and sigma_b, got none"),
        (("critical", "tanh", "--q-star", "-1"), "error: q_star must be a finite number > 0, got -1.0."),
        (("critical", "tanh", "--q-star", "x"), "'x' is not a number; write 0.5, 1/64"),
        (("critical", "nowhere.py:act", "--q-star", "1"), "error: ACT: there is no file 'nowhere.py'"),
        (("jacobian-law", "tanh", "--q-star", "1/64"), "Missing option '--depth'"),
        (("jacobian-law", "tanh", "--depth", "0", "--q-star", "1"), "Invalid value for '--depth'"),
        (("phase-diagram", "tahn"), "unknown activation 'tahn'"),
        (("critcal", "tanh"), "No such command 'critcal'"),
    ],
)
def test_refusals_are_exit_code_2_on_standard_error(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    said = " ".join(result.stderr.replace("│", " ").split())
    assert message in said
    assert "Traceback" not in said


def test_an_activation_of_the_users(tmp_path):
    (tmp_path / "act.py").write_text("import torch\n\n\ndef soft(x):\n    return torch.tanh(x)\n")
    result = run("critical", f"{tmp_path / 'act.py'}:soft", "--q-star", "1/64", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["sigma_w"] == pytest.approx(MeanField("tanh").critical(1 / 64).sigma_w, rel=1e-6)


def test_a_phase_diagram(tmp_path):
    result = run("phase-diagram", "tanh", "--out", str(tmp_path / "phase.html"))
    assert result.exit_code == 0, result.stderr
    assert "critical line" in result.stdout
    assert (tmp_path / "phase.html").read_text().startswith("<!doctype html>")
    plain = json.loads(run("phase-diagram", "tanh", "--json").stdout)
    assert len(plain["chi"]) == len(plain["sigma_b"])
    assert len(plain["chi"][0]) == len(plain["sigma_w"])


def test_a_jacobian_law():
    result = run("jacobian-law", "tanh", "--depth", "50", "--q-star", "1/64", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["s_max"] == pytest.approx(1.27, abs=0.01)
    assert run("jacobian-law", "tanh", "--depth", "5", "--q-star", "1/64", "--weights", "orthogonl").exit_code == 2


@pytest.mark.parametrize("spelling", ["leaky_relu", "leaky-relu", "LeakyReLU", "LEAKY-RELU"])
def test_spellings_of_an_activation(spelling):
    result = run("critical", spelling, "--sigma-b", "0", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["activation"] == "leaky_relu"
