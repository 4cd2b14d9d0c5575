"""A whole experiment in one process: choice, test set, growth, refusals, files, loggers.

Seen to fail: with the test set evaluated for all runs, or the learning rate chosen by training loss.
"""

from __future__ import annotations

import csv
import inspect
import math
import sys

import pytest

from isometry.training.compare import expand, read_results, run_experiment
from isometry.training.compare._store import DATABASE, Store
from tests.training.compare.experiments import SMALL, small, tables


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    experiment = small(folder, SMALL + '\n[probe]\nmeasures = ["signal"]\n')
    return experiment, folder / "out", run_experiment(experiment, folder / "out", workers=0)


def naive(folder):
    """The results, from the CSV file alone."""
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_choice_is_that_of_a_naive_reading_of_the_csv(whole):
    _, folder, found = whole
    rows = naive(folder)
    means = {}
    for lr in ("0.01", "0.1"):
        last = [
            float(r["value"])
            for r in rows
            if (r["lr"], r["split"], r["metric"], r["epoch"]) == (lr, "validation", "loss", "3")
        ]
        assert len(last) == 2
        means[float(lr)] = sum(last) / 2
    (entry,) = found.entries
    assert entry.choice.lr == min(means, key=means.get)
    assert entry.choice.scores == pytest.approx(means)
    assert entry.choice.edge == "highest"
    assert entry.numbers["validation/loss"].mean == pytest.approx(means[entry.choice.lr])


def test_the_test_set_is_seen_by_the_chosen_runs_alone(whole):
    _, folder, found = whole
    tested = {(r["lr"], r["seed"]) for r in naive(folder) if r["split"] == "test"}
    assert tested == {(f"{found.entries[0].choice.lr:g}", seed) for seed in ("0", "3")}
    assert found.entries[0].numbers["test/accuracy"].n == 2


def test_what_comes_back(whole):
    _, folder, found = whole
    assert (found.name, found.runs, found.ended, found.failures, found.left_out) == ("Small", 4, 4, (), ())
    assert read_results(folder).to_dict() == found.to_dict()
    (row,) = found.table()
    assert (row["optimizer"], row["lr"], row["runs"], row["diverged"]) == ("SGD", 0.1, 2, 0)
    assert row["test/loss_low"] < row["test/loss"] < row["test/loss_high"]
    curves = {band.name: band for band in found.entries[0].curves}
    assert curves["validation/loss"].epochs == (0, 1, 2, 3)
    assert curves["train/loss"].epochs == (1, 2, 3)
    band = curves["validation/loss"]
    assert all(low <= mean <= high for low, mean, high in zip(band.low, band.mean, band.high, strict=True))
    assert {band.name for band in found.entries[0].probe} >= {"signal/q_min", "signal/gradient_ratio"}
    assert "lr 0.1; train/accuracy" in str(found)


def test_what_lies_in_the_folder(whole):
    _, folder, _ = whole
    there = {path.name for path in folder.iterdir()}
    assert there >= {"results.sqlite", "results.csv", "probe.csv"}
    assert "runs" not in there  # no weights were asked for, and nothing is unfinished


def test_pandas_and_parquet_read_it(whole):
    pandas = pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    _, folder, _ = whole
    import sqlite3

    with sqlite3.connect(folder / DATABASE) as connection:
        frame = pandas.read_sql("SELECT * FROM rows JOIN runs ON runs.id = rows.run", connection)
    connection.close()
    table = parquet.read_table(folder / "results.parquet").to_pylist()
    assert len(frame) == len(table) == len(naive(folder))
    assert sum(row["value"] for row in table) == pytest.approx(frame["value"].sum())
    assert {"run", "model", "lr", "seed", "epoch", "split", "metric", "value"} <= set(table[0])


def test_results_are_not_overwritten_and_a_resume_of_what_has_ended_does_nothing(whole):
    experiment, folder, found = whole
    with pytest.raises(FileExistsError, match=r"holds results already; go on with them \(--resume\), or give another"):
        run_experiment(experiment, folder, workers=0)
    before = tables(folder)
    seen = []
    again = run_experiment(experiment, folder, workers=0, resume=True, listener=lambda *a: seen.append(a))
    assert seen == []
    assert tables(folder) == before
    assert again.to_dict() == found.to_dict()


def test_it_grows_and_ends_as_if_it_had_been_that_large_from_the_start(tmp_path):
    first = small(tmp_path, lr="[0.01]")
    run_experiment(first, tmp_path / "out", workers=0)
    more = small(tmp_path, lr="[0.01, 0.1, 0.3]", seeds="[0, 3, 1]")
    run_experiment(more, tmp_path / "out", workers=0, resume=True)
    run_experiment(more, tmp_path / "at once", workers=0)
    grown, at_once = naive(tmp_path / "out"), naive(tmp_path / "at once")
    # What the test set showed of an earlier choice stays; all else is the same.
    assert [r for r in grown if r["split"] != "test"] == [r for r in at_once if r["split"] != "test"]
    assert [r for r in at_once if r not in grown] == []
    with pytest.raises(ValueError, match=r"seeds \[1\] are gone"):
        run_experiment(small(tmp_path, lr="[0.01, 0.1, 0.3]"), tmp_path / "out", workers=0, resume=True)


def test_weights_that_are_gone_are_trained_again(tmp_path):
    """More seeds may turn the choice to a learning rate whose weights were removed."""
    experiment = small(tmp_path)
    run_experiment(experiment, tmp_path / "out", workers=0)
    before = tables(tmp_path / "out")
    with Store(tmp_path / "out" / DATABASE, write=True) as store:
        store.query("DELETE FROM rows WHERE split = 'test'")
    run_experiment(experiment, tmp_path / "out", workers=0, resume=True)
    assert tables(tmp_path / "out") == before


def test_kept_weights_are_those_that_were_tested(tmp_path):
    from isometry.nn import reference_model
    from isometry.training.compare._checkpoint import load_weights
    from isometry.training.compare._evaluate import scores
    from isometry.training.compare._samples import load_samples

    experiment = small(tmp_path, SMALL.replace("epochs = 3", 'epochs = 3\nkeep_weights = true\nselect = "best"'))
    run_experiment(experiment, tmp_path / "out", workers=0)
    with Store(tmp_path / "out" / DATABASE) as store:
        (run, loss), *_ = [tuple(r.values()) for r in store.query(
            "SELECT run, value FROM rows WHERE split = 'test' AND metric = 'loss'"
        )]  # fmt: skip
    model = reference_model("mlp:depth=3,width=16,activation=tanh", in_shape=(1, 8, 8), classes=10)
    load_weights(tmp_path / "out" / "runs" / run, "best", model)
    test = load_samples("digits", 0.2, 250, 0, "").test
    assert scores(model, test, "categorical", 3, "test")[0].value == loss


def test_diverged_and_failed_runs_are_told(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n\n"
        "    def forward(self, x):\n        largest = float(self[1].weight.detach().abs().max())\n"
        "        if self.training and 1e3 < largest < 1e20:\n"
        "            raise ArithmeticError('too <large>')\n        return super().forward(x)\n",
        encoding="utf-8",
    )
    text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", "net.py:Net")
    experiment = small(tmp_path, text, lr="[0.1, 1e6, 1e38]")
    found = run_experiment(experiment, tmp_path / "out", workers=0)
    (entry,) = found.entries
    assert entry.choice.lr == 0.1
    assert entry.choice.left_out == (1e6,)
    assert entry.diverged_by_lr == {0.1: 0, 1e6: 0, 1e38: 2}
    assert entry.sensitivity[1e38].n == 0
    assert [why for _, why in found.failures] == ["ArithmeticError: too <large> (net.py, line 11)"] * 2
    assert "lr 1e+06 | seed 0" in found.failures[0][0]
    with Store(tmp_path / "out" / DATABASE) as store:
        attempts = {run["lr"]: run["attempts"] for run in store.runs()}
    assert attempts == {0.1: 1, 1e6: 1, 1e38: 1}
    again = run_experiment(experiment, tmp_path / "out", workers=0, resume=True)  # failed ones are tried again
    assert again.failures == found.failures
    with Store(tmp_path / "out" / DATABASE) as store:
        assert {run["lr"]: run["attempts"] for run in store.runs()}[1e6] == 2


def test_what_cannot_work_is_told_before_anything_is_trained(tmp_path):
    for change, words in (
        ({"lr": "0.1\nmomentum = -1.0"}, r"optimizer SGD turned its options down: Invalid momentum value: -1.0"),
        (
            {"samples": "2\nvalidation = 0.1"},
            r"validation = 0.1 of 2 samples leaves 2 for training and 0 for validation",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            run_experiment(small(tmp_path, **change), tmp_path / "out", workers=0)
    text = SMALL.replace("mlp:depth=3", "mlp:deep=3")
    with pytest.raises(ValueError, match="deep"):
        run_experiment(small(tmp_path, text), tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"unknown engine 'rai'; did you mean 'ray'"):
        run_experiment(small(tmp_path), tmp_path / "out", engine="rai")
    with pytest.raises(ValueError, match=r"workers = 0 trains in this process, which Ray does not; leave it out"):
        run_experiment(small(tmp_path), tmp_path / "out", engine="ray", workers=0)
    with pytest.raises(ValueError, match=r"threads must be at least 1 and workers at least 0, got 0 and None"):
        run_experiment(small(tmp_path), tmp_path / "out", threads=0)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            "[[optimizer]]",
            '[[constraint]]\nname = "stiefel"\nscale = -1\n[[optimizer]]',
            r"stiefel.* cannot be .*scale",
        ),
        (
            "[[optimizer]]",
            '[[constraint]]\nname = "orthogonal"\nnames = ["1.weight"]\n[[optimizer]]',
            r"orthogonal.* cannot be trained: .*; mend the experiment, nothing was trained\.$",
        ),
        (
            "mlp:depth=3,width=16,activation=tanh",
            "net.py:build",
            r"^net.py:build \| default \| none cannot be trained: RuntimeError: mat1 and mat2 shapes .*63x10\)",
        ),
    ],
    ids=["scale", "not square", "does not fit"],
)
@pytest.mark.parametrize("resume", [False, True])
def test_every_start_is_built_before_anything_is_trained(tmp_path, before, after, words, resume):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))\n",
        encoding="utf-8",
    )
    text = SMALL.replace('"sgd"', '"RiemannianSGD"').replace(before, after)
    with pytest.raises(ValueError, match=words) as caught:
        run_experiment(small(tmp_path, text), tmp_path / "out", workers=0, resume=resume)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_start_is_built_once_for_all_rates_seeds_and_optimizers(tmp_path, monkeypatch):
    import torch

    from isometry.training.compare import _parts

    built = []
    build = _parts.build
    monkeypatch.setattr(_parts, "build", lambda options, samples: built.append(options) or build(options, samples))
    text = (
        SMALL + '\n[[optimizer]]\nname = "adam"\nlr = 0.1\n[[init]]\nname = "default"\n[[init]]\nname = "orthogonal"\n'
    )
    experiment = small(tmp_path, text)
    state = torch.get_rng_state()
    _parts.check_parts(experiment, expand(experiment))
    assert [(o["init"]["name"], o["seed"]) for o in built] == [("default", 0), ("orthogonal", 0)]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rate_whose_steps_are_refused_ranks_last(tmp_path):
    text = SMALL.replace('"sgd"', '"RiemannianAdam"') + '\n[[constraint]]\nname = "stiefel"\n'
    found = run_experiment(small(tmp_path, text, lr="[0.01, 1e38]"), tmp_path / "out", workers=0)
    assert found.failures == ()
    (entry,) = found.entries
    assert entry.choice.lr == 0.01
    assert entry.diverged_by_lr == {0.01: 0, 1e38: 2}
    assert entry.choice.scores[1e38] == math.inf
    assert any("diverged in epoch 1: " in note for note in found.notes)


def test_two_processes_do_not_write_to_the_same_results(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"another process is running the experiment in '.*'; wait for it, or give"):
            run_experiment(small(tmp_path), tmp_path / "out", workers=0)


def test_regression_has_losses_alone(tmp_path):
    (tmp_path / "data.py").write_text(
        "import torch\n\n\ndef line():\n    x = torch.linspace(-1, 1, 60)[:, None]\n    return x, 3 * x\n",
        encoding="utf-8",
    )
    text = SMALL.replace('"digits"', '"data.py:line"').replace(
        "mlp:depth=3,width=16,activation=tanh", "mlp:depth=2,width=8"
    )
    found = run_experiment(small(tmp_path, text), tmp_path / "out", workers=0)
    assert set(found.entries[0].numbers) == {"train/loss", "validation/loss"}  # and no test set


def test_manifolds_take_part(tmp_path):
    text = SMALL.replace('"sgd"', '"RiemannianSGD"') + '\n[[constraint]]\nname = "stiefel"\n'
    experiment = small(tmp_path, text.replace("epochs = 3", "epochs = 2\nkeep_weights = true"), lr="0.1", seeds="1")
    found = run_experiment(experiment, tmp_path / "out", workers=0)
    assert found.failures == ()
    import torch

    from isometry.nn import reference_model
    from isometry.training.compare._checkpoint import load_weights

    (run,) = expand(experiment).runs
    model = reference_model("mlp:depth=3,width=16,activation=tanh", in_shape=(1, 8, 8), classes=10)
    load_weights(tmp_path / "out" / "runs" / run.id, "final", model)
    hidden = next(p for p in model.parameters() if tuple(p.shape) == (16, 16)).detach()
    gram = hidden.T @ hidden
    assert torch.allclose(gram / gram[0, 0], torch.eye(16), atol=1e-5)  # W = s Q


def test_loggers_of_lightning_get_everything_once(tmp_path):
    pytest.importorskip("lightning")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = SMALL + '\n[probe]\nmeasures = ["signal"]\n[log]\nloggers = ["csv", "tensorboard"]\n'
    experiment = small(tmp_path, text, lr="0.1", seeds="1")
    run_experiment(experiment, tmp_path / "out", workers=0)
    (run,) = expand(experiment).runs
    with (tmp_path / "out/logs/csv" / run.id / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    stored = {(int(r["epoch"]), f"{r['split']}/{r['metric']}"): float(r["value"]) for r in naive(tmp_path / "out")}
    found = {(int(r["step"]), key): float(v) for r in logged for key, v in r.items() if key != "step" and v}
    assert {key: value for key, value in found.items() if not key[1].startswith("probe/")} == pytest.approx(stored)
    assert (0, "probe/signal/q_max") in found
    events = EventAccumulator(str(tmp_path / "out/logs/tensorboard" / run.id)).Reload()
    steps = [e.step for e in events.Scalars("validation/loss")]
    assert steps == [0, 1, 2, 3]
    assert math.isclose(events.Scalars("test/loss")[0].value, stored[3, "test/loss"], rel_tol=1e-6)


@pytest.mark.parametrize("name", ["csv", "tensorboard", "mlflow", "wandb"])
def test_every_logger_takes_what_it_is_made_with(tmp_path, monkeypatch, name):
    """MLflow and Weights & Biases are not installed here; the signatures of their loggers are."""
    library = pytest.importorskip("lightning.pytorch.loggers")
    from isometry.training.compare._loggers import _CLASSES, Loggers

    own, made = inspect.signature(getattr(library, _CLASSES[name]).__init__), []

    def make(**options):
        own.bind(None, **options)
        made.append(options)

    monkeypatch.setattr(library, _CLASSES[name], make)
    Loggers([name], {name: {"prefix": "p"}}, tmp_path, "Small")._make(name, "ab12", "a run")
    assert made[0]["prefix"] == "p"
    assert "ab12" in made[0].values() or "a run" in made[0].values()


def test_a_failed_look_at_the_test_set_does_not_train_again(tmp_path):
    (tmp_path / "net.py").write_text(
        "from pathlib import Path\n\nfrom torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n\n"
        "    def forward(self, x):\n        if len(x) == 360 and Path('refuse').exists():\n"
        "            raise MemoryError('360 are too many')\n        return super().forward(x)\n",
        encoding="utf-8",
    )
    (tmp_path / "refuse").touch()
    text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", "net.py:Net")
    experiment = small(tmp_path, text, lr="0.1", seeds="1")
    found = run_experiment(experiment, tmp_path / "out", workers=0)
    assert [why for _, why in found.failures] == ["MemoryError: 360 are too many (net.py, line 12)"]
    (tmp_path / "refuse").unlink()
    seen = []
    found = run_experiment(
        experiment, tmp_path / "out", workers=0, resume=True, listener=lambda _, event: seen.extend(event.rows)
    )
    assert found.failures == ()
    assert {row.split for row in seen} == {"test"}


def test_loggers_without_lightning_are_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", None)
    experiment = small(tmp_path, SMALL + '\n[log]\nloggers = "mlflow"\n')
    with pytest.raises(ImportError, match=r"the loggers mlflow are Lightning's, which is not installed; pip install"):
        run_experiment(experiment, tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


def test_parquet_without_pyarrow_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = run_experiment(small(tmp_path, epochs="1", lr="0.1", seeds="1"), tmp_path / "out", workers=0)
    assert found.notes == ("results.parquet was not written, since pyarrow is not installed; pip install pyarrow.",)
    assert (tmp_path / "out/results.csv").is_file()
