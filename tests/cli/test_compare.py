"""``isometry compare``."""

from __future__ import annotations

import io
import json
import sys

import pytest
from typer.testing import CliRunner

from isometry.cli import app
from isometry.cli._compare import _told
from isometry.training.compare import Event, expand
from isometry.training.compare._events import Row
from tests.training.compare.experiments import SMALL, small, write

runner = CliRunner()


def compare(*arguments):
    return runner.invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    file = write(folder, lr="[0.05, 0.1]", epochs="2")
    return file, folder / "out", compare(file, "--out", folder / "out", "--workers", "0")


def test_it_trains_tells_and_writes(done):
    _, out, result = done
    assert result.exit_code == 0, result.stderr
    assert "Small: 4 runs of 2 epochs, 0 at a time, each on 1 thread(s) (local); results in" in result.stderr
    assert "4 of 4: mlp:depth=3,width=16,activation=tanh | SGD | lr 0.1 | seed 3: finished, loss" in result.stderr
    assert "Small: 4 of 4 runs ended" in result.stdout
    assert "test/accuracy" in result.stdout
    assert "mean ± half of Student's 95 % interval" in result.stdout
    assert "index.html" in result.stdout
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "Learning rates" in page
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert (content["runs"], content["ended"]) == (4, 4)


def test_table_reads_the_folder_and_trains_nothing(done, monkeypatch):
    file, out, result = done
    table = result.stdout[: result.stdout.index("report:")]
    assert compare(out, "--table").stdout == table
    assert compare(file, "--table", "--out", out).stdout == table
    monkeypatch.chdir(file.parent)
    (file.parent / "small-results").symlink_to(out)
    assert compare(file, "--table").stdout == table


def test_json_stands_alone(done):
    _, out, _ = done
    result = compare(out, "--table", "--json")
    assert json.loads(result.stdout) == json.loads((out / "comparison.json").read_text(encoding="utf-8"))


def test_resume_and_refusals(done, tmp_path):
    file, out, _ = done
    again = compare(file, "--out", out, "--workers", "0")
    assert again.exit_code == 2
    assert "holds results already; go on with them (--resume), or give another folder (--out)." in again.stderr
    resumed = compare(file, "--out", out, "--workers", "0", "--resume")
    assert resumed.exit_code == 0
    assert "there are no results" not in resumed.stderr
    other = compare(write(tmp_path, lr="[0.05, 0.1]", epochs="3"), "--out", out, "--resume", "--workers", "0")
    assert other.exit_code == 2
    assert "the experiment is not the one that made these results: epochs was 2, now 3." in other.stderr
    nothing = compare(tmp_path / "none", "--table")
    assert nothing.exit_code == 2
    assert "there are no results in" in nothing.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SMALL.replace("epochs", "epoch"), "error: unknown key in small.toml: 'epoch'; did you mean 'epochs'?"),
        (SMALL.replace("mlp:", "mpl:"), "did you mean 'mlp'?"),
        (
            SMALL.replace('"sgd"', '"RiemannianSGD"') + '[[constraint]]\nname = "stiefel"\nscale = -1\n',
            "error: mlp:depth=3,width=16,activation=tanh | default | stiefel (scale=-1) cannot be trained: ",
        ),
        (
            SMALL.replace('"sgd"', '"ClippedSGD"'),
            "error: small.toml, optimizer 1: ClippedSGD needs the option clip; add it to the entry.",
        ),
        (SMALL.replace('"sgd"', '"AdamP"\neps = -1.0'), "a finite number >= 0, got -1.0; mend them in the experiment."),
        (SMALL.replace('"digits"', '"digit"'), "unknown DATA 'digit'; did you mean 'digits'?"),
    ],
)
def test_bad_experiments_are_a_sentence(tmp_path, text, words):
    result = compare(write(tmp_path, text), "--out", tmp_path / "out", "--workers", "0")
    assert result.exit_code == 2
    assert words in result.stderr
    assert ".;" not in result.stderr
    assert "results in" not in result.stderr
    assert not (tmp_path / "out").exists()
    assert "there is no experiment file" in compare(tmp_path / "none.toml").stderr


def test_failed_runs_are_exit_code_1(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n\n"
        "    def forward(self, x):\n        if not self.training:\n            return super().forward(x)\n"
        "        raise ValueError('not [bold]today')\n",
        encoding="utf-8",
    )
    text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", "net.py:Net")
    result = compare(write(tmp_path, text, lr="0.1", seeds="1"), "--out", tmp_path / "out", "--workers", "0")
    assert result.exit_code == 1
    assert "failed: net.py:Net | SGD | lr 0.1 | seed 0: ValueError: not [bold]today (net.py, line 11)" in result.stdout
    assert "1 of 1 runs failed; --resume tries them again." in result.stderr
    assert "not [bold]today" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("where", "code"), [("self.training", 1), ("not self.training", 2)])
def test_an_exit_in_the_users_model_is_a_failure(tmp_path, where, code):
    (tmp_path / "net.py").write_text(
        "import sys\nfrom torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n\n"
        f"    def forward(self, x):\n        if {where}:\n            sys.exit(0)\n"
        "        return super().forward(x)\n",
        encoding="utf-8",
    )
    text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", "net.py:Net")
    result = compare(write(tmp_path, text, lr="0.1", seeds="1"), "--out", tmp_path / "out", "--workers", "0")
    assert result.exit_code == code
    said = result.stdout if code == 1 else result.stderr
    assert "SystemExit: 0 (net.py, line 11)" in said
    if code == 2:
        assert "cannot be trained" in said
        assert not (tmp_path / "out").exists()


def test_a_resume_of_nothing_says_so(tmp_path):
    file = write(tmp_path, lr="0.1", seeds="1", epochs="1")
    result = compare(file, "--out", tmp_path / "out", "--workers", "0", "--resume")
    assert result.exit_code == 0, result.stderr
    assert f"--resume: there are no results in {tmp_path / 'out'} yet; every run begins anew." in result.stderr


def test_help_names_every_option():
    text = compare("--help").stdout
    for word in ("--out", "--resume", "--engine", "--workers", "--threads", "--table", "--json", "EXPERIMENT"):
        assert word in text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_tells_ends_losses_and_troubles(tmp_path, monkeypatch, terminal):
    """Of four runs one had ended before; one ends, one loses its worker, one fails, and fails on the test set again."""
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "120")
    first, second, third, _ = (grid := expand(small(tmp_path))).runs
    with _told(grid.labels, 1, 3) as listen:
        for epoch in range(4):
            listen(first, Event("epoch", first.id, epoch, (Row(epoch, "validation", "loss", 0.5 - epoch / 10),)))
        listen(second, Event("epoch", second.id, 1))
        listen(second, Event("death", second.id, notes=("its worker was killed by SIGKILL",)))
        listen(first, Event("end", first.id, 3, status="finished"))
        for _ in range(2):
            listen(third, Event("end", third.id, notes=("no [luck]",), status="failed"))
    shown = " ".join(stream.getvalue().split())
    assert f"{grid.labels[second.id]}: its worker was killed by SIGKILL; it goes on from its last whole epoch" in shown
    assert f"{grid.labels[third.id]}: no [luck]" in shown
    if terminal:
        assert "3/4" in shown
    else:
        assert f"2 of 4: {grid.labels[first.id]}: finished, loss 0.2" in shown
        assert "3 of 4" in shown
        assert "4 of 4" not in shown
