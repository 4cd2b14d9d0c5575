"""One run: against a naive transcription of its training, and cut in two at every epoch.

Seen to fail: without the seeds of an epoch, the optimizer's state, the probe's state or the history in the checkpoint,
a run that goes on differs from the run that was never stopped.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from isometry import data as room
from isometry.nn import reference_model
from isometry.training.compare import expand
from isometry.training.compare._checkpoint import load_checkpoint, load_weights
from isometry.training.compare._events import Job
from isometry.training.compare._train import perform
from tests.training.compare.experiments import SMALL, small

DROPOUT = """
from torch import nn


def build():
    body = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 10)]
    return nn.Sequential(nn.Flatten(), *body)
"""


def job(folder, run, *, probe=None, weights="final"):
    place = str(folder / run.id)
    return Job("train", run.id, run.options, place, str(folder), weights=weights, probe=probe)


def ended(events, status="finished"):
    events = list(events)
    assert events[-1].kind == "end"
    assert events[-1].status == status, events[-1].notes
    return events


def rows(events):
    return {row[:3]: row.value for event in events for row in event.rows}


def measured(events):
    return {found[:4]: found.value for event in events for found in event.probe}


@pytest.fixture
def noisy(tmp_path, monkeypatch):
    """A run whose result depends on all there is: batch statistics, dropout, momentum, the order of the data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(DROPOUT, encoding="utf-8")
    text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", "net.py:build").replace(
        '"sgd"', '"sgd"\nmomentum = 0.9'
    )
    return expand(small(tmp_path, text, lr="0.05")).runs[0]


def test_it_is_what_a_naive_loop_does(tmp_path):
    run = expand(small(tmp_path, lr="0.1")).runs[1]
    found = rows(ended(perform(job(tmp_path, run))))

    def stream(name, seed=run.seed):
        from isometry._base import stream as make

        return make(seed, name)

    whole = room.load("digits")
    order = torch.randperm(len(whole), generator=stream("validation split", 0))[:250]
    held, kept = order[:50], order[50:]
    with torch.random.fork_rng():
        torch.manual_seed(stream("model").initial_seed())
        model = reference_model("mlp:depth=3,width=16,activation=tanh", in_shape=(1, 8, 8), classes=10)
    for epoch in range(1, 4):
        losses = []
        shuffled = torch.randperm(200, generator=stream(f"data order, epoch {epoch}"))
        for step in range(4):
            index = kept[shuffled[50 * step : 50 * step + 50]]
            loss = functional.cross_entropy(model(whole.inputs[index]), whole.targets[index])
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
            losses.append(loss.item())
        with torch.no_grad():
            outputs = model(whole.inputs[held])
        assert found[epoch, "train", "loss"] == pytest.approx(sum(losses) / 4, rel=1e-6)
        wanted = functional.cross_entropy(outputs, whole.targets[held]).item()
        assert found[epoch, "validation", "loss"] == pytest.approx(wanted, rel=1e-5)
        accuracy = (outputs.argmax(1) == whole.targets[held]).double().mean().item()
        assert found[epoch, "validation", "accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("probe", [None, {"measures": ["signal"], "every": 2, "samples": 8}], ids=["plain", "probed"])
def test_cut_after_any_epoch_it_ends_as_if_it_had_not_been(tmp_path, noisy, probe):
    whole = ended(perform(job(tmp_path / "whole", noisy, probe=probe)))
    for cut in (1, 2, 3):
        again = job(tmp_path / f"cut{cut}", noisy, probe=probe)
        first = perform(again)
        while next(first).epoch < cut:
            pass
        first.close()
        torch.manual_seed(cut)  # another process has another global state
        second = ended(perform(again))
        assert rows(second) == rows(whole)
        assert measured(second) == measured(whole)
    final = [torch.load(tmp_path / f / noisy.id / "checkpoint.pt", weights_only=True) for f in ("whole", "cut2")]
    for name, tensor in final[0]["model"].items():
        assert torch.equal(tensor, final[1]["model"][name])


def test_weights_on_a_manifold_go_on_from_a_checkpoint(tmp_path):
    text = SMALL.replace('"sgd"', '"RiemannianAdam"') + '\n[[constraint]]\nname = "stiefel"\nscale = "learned"\n'
    run = expand(small(tmp_path, text, lr="0.02")).runs[0]
    whole = ended(perform(job(tmp_path / "whole", run)))
    first = perform(job(tmp_path / "cut", run))
    while next(first).epoch < 2:
        pass
    first.close()
    assert rows(ended(perform(job(tmp_path / "cut", run)))) == rows(whole)


@pytest.mark.parametrize(
    ("schedule", "peer"),
    [
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12)),
        ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 12)),
        ("constant", lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
    ],
)
def test_learning_rates_are_those_of_torchs_schedulers(tmp_path, monkeypatch, schedule, peer):
    rates = []
    step = torch.optim.SGD.step

    def watched(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    text = SMALL.replace('"sgd"', f'"sgd"\nschedule = "{schedule}"')
    run = expand(small(tmp_path, text, lr="0.1")).runs[0]
    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    ended(perform(job(tmp_path, run)))
    monkeypatch.undo()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, wanted = peer(optimizer), []
    for _ in range(12):  # three epochs of four steps
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(wanted, abs=1e-12)


def test_a_kill_within_an_epoch_loses_that_epoch_alone(tmp_path, noisy):
    given = job(tmp_path / "a", noisy)
    events = perform(given)
    while next(events).epoch < 2:
        pass
    # The third epoch is under way: of it nothing is on the disk.
    state = load_checkpoint(tmp_path / "a" / noisy.id)
    assert state["epoch"] == 2
    events.close()
    told = list(perform(given))
    assert [event.epoch for event in told] == [2, 3, 3]
    assert len(told[0].rows) == 2 + 2 * 4  # epoch 0 on validation; two epochs on both splits: all told once more


def test_the_probe_changes_nothing_and_global_streams_stay(tmp_path, noisy):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    plain = rows(ended(perform(job(tmp_path / "a", noisy))))
    probe = {"measures": ["signal", "fisher"], "every": 1, "samples": 8}
    events = ended(perform(job(tmp_path / "b", noisy, probe=probe)))
    assert rows(events) == plain
    assert torch.equal(torch.get_rng_state(), before)
    assert {(epoch, measure) for epoch, _, measure, _ in measured(events)} == {
        (epoch, measure) for epoch in range(4) for measure in ("signal", "fisher")
    }


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path):
    run = expand(small(tmp_path, lr="3.0", epochs="6")).runs[0]  # a step so large that the loss goes up and down
    given = job(tmp_path, run, weights="best")
    found = rows(ended(perform(given)))
    losses = {epoch: found[epoch, "validation", "loss"] for epoch in range(1, 7)}
    best = min(losses, key=losses.get)
    assert best != 6, "choose another step size: this test needs a best epoch before the last"
    model = reference_model("mlp:depth=3,width=16,activation=tanh", in_shape=(1, 8, 8), classes=10)
    load_weights(tmp_path / run.id, "best", model)
    from isometry.training.compare._samples import load_samples

    inputs, targets = load_samples("digits", 0.2, 250, 0, "").validation
    with torch.no_grad():
        loss = functional.cross_entropy(inputs.run(model), targets).item()
    assert loss == pytest.approx(losses[best], rel=1e-5)


def test_a_diverging_run_ends_where_it_diverged(tmp_path):
    run = expand(small(tmp_path, lr="1e38")).runs[0]
    events = ended(perform(job(tmp_path, run)), "diverged")
    assert events[-1].epoch == 1
    assert any(not math.isfinite(value) for value in rows(events).values())
    assert list(perform(job(tmp_path, run)))[-1].status == "diverged"  # so it is when told again


STIEFEL = '\n[[constraint]]\nname = "stiefel"\n'


def test_a_step_that_is_too_long_is_a_divergence(tmp_path):
    text = SMALL.replace('"sgd"', '"RiemannianAdam"') + STIEFEL
    given = job(tmp_path, expand(small(tmp_path, text, lr="1e38")).runs[0])
    events = ended(perform(given), "diverged")
    (note,) = events[-2].notes
    assert note.startswith("diverged in epoch 1: ")
    assert "No parameter was changed." in note
    assert "'net." in note or ".weight'" in note  # it names the weight
    again = list(perform(given))  # so it is when told again
    assert (again[-1].status, again[-2].notes) == ("diverged", (note,))


def test_gradients_that_are_not_finite_are_a_divergence_but_sparse_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Steep(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.net = nn.Linear(64, 10)\n\n    def forward(self, x):\n"
        "        y = self.net(x.flatten(1))\n        return y + (y - y).sqrt()  # finite, with an infinite slope\n"
        "\n\nclass Sparse(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.table = nn.Embedding(64, 10, sparse=True)\n\n    def forward(self, x):\n"
        "        return self.table(x.flatten(1).argmax(1))\n",
        encoding="utf-8",
    )
    for name, status, words in (
        ("Steep", "diverged", "diverged in epoch 1: the gradient of parameter 'net.weight' holds"),
        ("Sparse", "failed", "parameter 'table.weight' has a sparse gradient"),
    ):
        text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", f"net.py:{name}").replace(
            '"sgd"', '"RiemannianSGD"'
        )
        events = ended(perform(job(tmp_path, expand(small(tmp_path, text)).runs[0])), status)
        assert words in " ".join(note for event in events for note in event.notes)


def test_an_error_of_a_run_is_its_last_event(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def build():\n    raise RuntimeError('no such luck')\n", encoding="utf-8")
    run = expand(small(tmp_path, SMALL.replace("mlp:depth=3,width=16,activation=tanh", "net.py:build"))).runs[0]
    (event,) = perform(job(tmp_path, run))
    assert (event.kind, event.status) == ("end", "failed")
    assert "no such luck" in event.notes[0]


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = expand(small(tmp_path)).runs[0]
    (tmp_path / run.id).mkdir()
    (tmp_path / run.id / "checkpoint.pt").write_bytes(b"torn")
    event = list(perform(job(tmp_path, run)))[-1]
    assert event.status == "failed"
    assert "is damaged" in event.notes[0]
    assert "delete it, the run begins anew" in event.notes[0]


@pytest.mark.parametrize(
    "init",
    ["critical", "orthogonal", "gaussian", "kaiming-normal", "kaiming-uniform", "xavier-normal", "xavier-uniform"],
)
def test_every_start_starts_and_is_drawn_from_the_seed(tmp_path, init):
    text = SMALL + f'\n[[init]]\nname = "{init}"\n'
    one, other = expand(small(tmp_path, text, epochs="1", lr="1e-9")).runs
    first, again = (rows(ended(perform(job(tmp_path / f, one)))) for f in "ab")
    assert first == again
    assert rows(ended(perform(job(tmp_path, other)))) != first


def test_a_data_file_that_has_changed_is_read_again(tmp_path, monkeypatch):
    import numpy as np

    from isometry.training.compare._samples import load_samples

    monkeypatch.chdir(tmp_path)
    for shift in (0.0, 1.0):
        np.savez("data.npz", x=np.arange(40.0).reshape(20, 2) + shift, y=np.arange(20) % 2)
        inputs, _ = load_samples("data.npz", 0.5, None, 0, "").train
        assert inputs is load_samples("data.npz", 0.5, None, 0, "").train[0]
        assert float(inputs.first.min()) % 2 == shift
