"""``isometry papers`` on a small paper in a temporary folder."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from isometry import papers
from isometry.cli import app
from isometry.papers import _registry, _run
from tests.papers.fake_paper import STUDY, write_paper

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, ["papers", *arguments])


@pytest.fixture
def home(tmp_path, monkeypatch):
    write_paper(tmp_path)
    for module in (_registry, _run):
        monkeypatch.setattr(module, "home", lambda: tmp_path)
    # The study is no module of the package here: have it read as a file.
    plain = _registry.Paper.study
    monkeypatch.setattr(_registry.Paper, "study", lambda self: _from_file(self, plain))
    return tmp_path


def _from_file(paper, plain):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registry, "home", lambda: paper.folder)
        return plain(paper)


def test_list(home):
    result = run("list")
    assert result.exit_code == 0, result.stderr
    assert "on-balls" in result.stdout
    assert "balls-roll: not run" in result.stdout
    assert json.loads(run("list", "--json").stdout)[0]["slug"] == "on-balls"
    assert run("list", "--markdown").stdout == papers.index()


def test_show(home):
    result = run("show", "on-balls")
    assert result.exit_code == 0
    assert "passes if ball/distance > 1 on average" in result.stdout
    plain = json.loads(run("show", "on-balls", "--json").stdout)
    assert plain["claims"][0]["id"] == "balls-roll"
    missing = run("show", "on-bals")
    assert missing.exit_code == 2
    assert missing.stderr == "error: unknown paper 'on-bals'; did you mean 'on-balls'?\n"


def test_run_write_verify(home):
    before = run("verify")
    assert before.exit_code == 1
    assert "no evidence is committed at scale smoke; run it with --write" in before.stdout
    result = run("run", "on-balls", "--write")
    assert result.exit_code == 0, result.stderr
    assert "holds" in result.stdout
    assert (home / "on_balls" / "evidence.json").is_file()
    assert run("verify").exit_code == 0
    write_paper(home, study=STUDY.replace("(2 + noise)", "0"))
    after = run("verify", "on-balls", "--json")
    assert after.exit_code == 1
    (item,) = json.loads(after.stdout)
    assert item["agrees"] is False


def test_run_as_json_with_seeds(home):
    result = run("run", "on-balls", "--scale", "full", "--seeds", "3,5", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["seeds"] == [3, 5]
    assert not (home / "on_balls" / "evidence.json").exists()
    assert json.loads(run("run", "on-balls", "--seeds", "4", "--json").stdout)["seeds"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "on-balls", "--scale", "ful"), "error: unknown scale 'ful'; did you mean 'full'"),
        (("run", "on-balls", "--seeds", "0"), "error: seeds must be at least 1, got 0"),
        (("run", "on-balls", "--seeds", "x"), "is not a list of whole numbers"),
        (("run", "nothing"), "error: unknown paper 'nothing'"),
    ],
)
def test_bad_usage(home, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_a_study_that_raises_is_shown_short(home):
    write_paper(home, study=STUDY.replace("speed = [", 'raise RuntimeError("the ball is lost")\n    speed = ['))
    result = run("run", "on-balls")
    assert result.exit_code == 2
    assert "RuntimeError: the ball is lost" in result.stderr
    assert result.stderr.count("File ") <= 3
