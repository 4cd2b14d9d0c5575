"""Comparisons with optimizers for hidden matrices: routed groups, two learning rates, options of every type, tokens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from isometry import data as room
from isometry.nn import reference_model
from isometry.optim import Muon
from isometry.roles import route
from isometry.training.compare import expand, read_experiment
from isometry.training.compare._choices import make_optimizer, optimizer_class
from isometry.training.compare._events import Job
from isometry.training.compare._parts import check_parts
from isometry.training.compare._train import perform
from tests.training.compare.experiments import SMALL, small

EXAMPLES = Path(__file__).parents[3] / "examples"
MUON = SMALL.replace(
    'name = "sgd"',
    'name = "muon"\npolar = "accurate"\nscale = "spectral"\nadamw = {lr = 0.002, betas = [0.8, 0.9]}\n'
    'schedule = "cosine"',
)
TOKENS = MUON.replace('name = "digits"\nsamples = 250', 'name = "shakespeare:length=8"\nsamples = 250').replace(
    "mlp:depth=3,width=16,activation=tanh", "gpt:depth=1,width=16,heads=2"
)


def trained(tmp_path, text, lr="0.03"):
    run = expand(small(tmp_path, text, lr=lr, seeds="1")).runs[0]
    events = list(perform(Job("train", run.id, run.options, str(tmp_path / run.id), str(tmp_path))))
    assert events[-1].status == "finished", events[-1].notes
    return run, {row[:3]: row.value for event in events for row in event.rows}


def test_hidden_matrices_are_routed_and_the_rest_keeps_its_own_rate():
    model = reference_model("mlp:depth=3,width=6", in_shape=(5,), classes=4)
    made = make_optimizer("Muon", model, 0.03, {"adamw": {"lr": 0.002, "betas": [0.8, 0.9]}}, torch.zeros(1, 5))
    names = {group["rule"]: group["param_names"] for group in made.param_groups}
    assert names["matrix"] == ["hidden.1.linear.weight", "hidden.2.linear.weight"]
    assert {g["rule"]: g["lr"] for g in made.param_groups} == {"matrix": 0.03, "adamw": 0.002}
    assert made.param_groups[1]["betas"] == (0.8, 0.9)


def test_the_example_says_which_layers_are_first_and_last():
    class Swapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.middle, self.first = (torch.nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.last(self.middle(self.first(x)))

    groups = make_optimizer("Muon", Swapped(), 0.1, {}, torch.zeros(1, 4)).param_groups
    assert next(g["param_names"] for g in groups if g["rule"] == "matrix") == ["middle.weight"]


def test_it_is_what_a_naive_loop_with_two_schedules_does(tmp_path):
    run, found = trained(tmp_path, MUON)

    def stream(name, seed=run.seed):
        from isometry._base import stream as make

        return make(seed, name)

    whole = room.load("digits")
    kept = torch.randperm(len(whole), generator=stream("validation split", 0))[50:250]
    with torch.random.fork_rng():
        torch.manual_seed(stream("model").initial_seed())
        model = reference_model("mlp:depth=3,width=16,activation=tanh", in_shape=(1, 8, 8), classes=10)
    optimizer = Muon(route(model), 0.03, polar="accurate", scale="spectral", adamw={"lr": 0.002, "betas": (0.8, 0.9)})
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    for epoch in range(1, 4):
        losses = []
        shuffled = torch.randperm(200, generator=stream(f"data order, epoch {epoch}"))
        for step in range(4):
            index = kept[shuffled[50 * step : 50 * step + 50]]
            loss = functional.cross_entropy(model(whole.inputs[index]), whole.targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        assert found[epoch, "train", "loss"] == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_per_token_targets_are_counted_token_by_token(tmp_path):
    run, found = trained(tmp_path, TOKENS)
    classes = room.load("shakespeare:length=8").outputs
    assert found[0, "validation", "loss"] == pytest.approx(math.log(classes), abs=0.6)
    assert found[3, "validation", "loss"] < found[0, "validation", "loss"]
    shares = found[3, "validation", "accuracy"] * 50 * 8, found[3, "train", "accuracy"] * 200 * 8
    assert [share - round(share) for share in shares] == pytest.approx([0, 0], abs=1e-6)
    assert 0 < shares[0] < 400
    assert run.options["optimizer"]["options"]["scale"] == "spectral"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"muon"', '"moun"', "unknown optimizer 'moun'; did you mean 'muon'"),
        ("polar =", "pola =", "pola"),
        ('"spectral"', '"spectrl"', "did you mean 'spectral'"),
        ("adamw = {lr", "adamw = {learning_rate", "unknown adamw option 'learning_rate'"),
        (
            "mlp:depth=3",
            "mlp:depth=1",
            "no parameter takes Muon's own rule: parameter 'hidden.0.linear.weight' goes to",
        ),
    ],
)
def test_what_is_misspelt_or_impossible_is_told_before_training(tmp_path, old, new, words):
    with pytest.raises(ValueError, match=words):  # noqa: PT012 - some by reading, some by building
        experiment = small(tmp_path, MUON.replace(old, new), lr="0.1")
        check_parts(experiment, expand(experiment))


@pytest.mark.parametrize("name", ["compare_optimizers", "compare_gpt"])
def test_the_examples_could_begin(name):
    experiment = read_experiment(EXAMPLES / f"{name}.toml")
    assert len({len(entry.lr) for entry in experiment.optimizers}) == 1  # an equal budget for all
    check_parts(experiment, expand(experiment))


def test_isometrys_muon_goes_before_torchs():
    assert optimizer_class("muon") == ("Muon", Muon)
