"""``isometry report``."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from isometry.cli import app
from isometry.training import Probe

runner = CliRunner()


@pytest.fixture
def probe(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    path = tmp_path / "probe.jsonl"
    with Probe(model, torch.randn(8, 4), path=path, every=2, max_overhead=1e9) as running:
        for loss in (3.0, 2.0, 1.0, 0.5):
            running.step(loss)
    return path


def test_a_page_and_its_data(probe, tmp_path):
    result = runner.invoke(app, ["report", str(probe), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert "probe of Sequential" in result.stdout
    assert "fisher     lambda_max" in result.stdout
    page = (tmp_path / "out" / "index.html").read_text()
    assert "What the probe saw in the training" in page
    assert "Fisher information" in page
    content = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert content["header"]["measures"] == ["signal", "fisher"]
    assert [r["step"] for r in content["records"] if r["measure"] == "signal"] == [0, 2, 4]


def test_json_stands_alone_and_nothing_is_written(probe, tmp_path):
    result = runner.invoke(app, ["report", str(probe), "--json"])
    content = json.loads(result.stdout)
    assert content["records"][0]["measure"] == "signal"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["probe.jsonl"]


def test_a_file_that_is_being_written_is_drawn_without_its_torn_line(probe, tmp_path):
    with probe.open("a") as file:
        file.write('{"step": 6, "sec')
    result = runner.invoke(app, ["report", str(probe), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        ("", "is empty; give a probe's file"),
        ("text\n", "line 1 is not JSON"),
        ('{"verdict": "healthy"}\n', "is no probe's file: its first line is no header"),
    ],
)
def test_refusals(tmp_path, content, message):
    path = tmp_path / "probe.jsonl"
    if content is not None:
        path.write_text(content)
    result = runner.invoke(app, ["report", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
