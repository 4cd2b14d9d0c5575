"""``isometry roles``."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from isometry.cli import app

runner = CliRunner()


def test_a_table_and_json():
    result = runner.invoke(app, ["roles", "mlp:depth=3,width=8"])
    assert result.exit_code == 0, result.stderr
    assert "output.weight" in result.stdout
    plain = json.loads(runner.invoke(app, ["roles", "mlp:depth=3,width=8", "--json", "--in-shape", "5"]).stdout)
    rows = plain["rows"]
    assert rows[0]["role"] == "input"
    assert rows[0]["fan_in"] == 5


def test_routes():
    result = runner.invoke(app, ["roles", "mlp:depth=3,width=8", "--routes"])
    assert result.exit_code == 0, result.stderr
    assert "8 parameters: 2 by matrix, 6 by adamw; 2 groups" in result.stdout
    plain = json.loads(runner.invoke(app, ["roles", "mlp:depth=3,width=8", "--routes", "--json"]).stdout)
    assert [row["rule"] for row in plain["rows"] if row["role"] == "hidden"] == ["matrix", "matrix"]
    assert plain["rows"][0]["reason"].startswith("input: ")


def test_refusals():
    result = runner.invoke(app, ["roles", "mpl:depth=3"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "mlp" in result.stderr
