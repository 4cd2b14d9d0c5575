from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from isometry.tape import Inputs
from isometry.training import fit


def blobs(count=120, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    return 3 * torch.eye(3)[y] + torch.randn(count, 3, generator=g) * 0.3, y


def net(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_sgd_with_momentum_equals_the_recursion_written_out():
    x, y = blobs(8)
    model = nn.Linear(3, 3)
    weight = model.weight.detach().clone()
    bias = model.bias.detach().clone()
    curve = fit(model, (x, y), steps=3, optimizer="sgd", lr=0.1, batch_size=8, generator=seeded())
    velocity = torch.zeros(3, 3), torch.zeros(3)
    losses = []
    for _ in range(3):
        logits = x @ weight.T + bias
        losses.append(nn.functional.cross_entropy(logits, y).item())
        residual = (logits.softmax(1) - torch.eye(3)[y]) / 8
        velocity = 0.9 * velocity[0] + residual.T @ x, 0.9 * velocity[1] + residual.sum(0)
        weight, bias = weight - 0.1 * velocity[0], bias - 0.1 * velocity[1]
    torch.testing.assert_close(model.weight.detach(), weight)
    assert curve.loss == pytest.approx(losses, rel=1e-5)


def test_learns_what_is_easy_and_reports_test_accuracy():
    x, y = blobs()
    tx, ty = blobs(30, seed=5)
    data = SimpleNamespace(inputs=x, targets=y, classes=3, test_inputs=tx, test_targets=ty)
    curve = fit(net(), data, steps=60, lr=0.02, batch_size=40, generator=seeded())
    assert curve.learned
    assert curve.accuracy > 0.95
    assert curve.test_accuracy > 0.95
    assert "chance 1.1" in str(curve)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_same_generator_same_curve_and_global_rng_stays(dropout):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = fit(net(dropout), blobs(), steps=10, generator=seeded(4))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    second = fit(net(dropout), blobs(), steps=10, generator=seeded(4))
    assert first.loss == second.loss
    assert first.loss != fit(net(dropout), blobs(), steps=10, generator=seeded(5)).loss


def test_divergence_ends_the_run():
    curve = fit(net(), (blobs()[0] * 1e18, blobs()[1]), steps=50, optimizer="sgd", lr=1e6, generator=seeded())
    assert curve.diverged
    assert not curve.learned
    assert len(curve.loss) < 50
    assert math.isnan(curve.final_loss)


def test_stop_when_sees_the_losses_and_ends_the_run():
    curve = fit(net(), blobs(), steps=50, stop_when=lambda losses: len(losses) == 7, generator=seeded())
    assert len(curve.loss) == 7
    assert curve.stopped


def test_batches_go_through_all_samples_once_per_epoch():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(x[:, 0].clone())
            return super().forward(x)

    x = torch.arange(12.0).reshape(12, 1)
    fit(Spy(1, 2), (x, (x[:, 0] > 5).long()), steps=6, batch_size=4, lr=1e-6, generator=seeded())
    assert torch.cat(seen[:3]).sort().values.equal(x[:, 0])
    assert torch.cat(seen[3:]).sort().values.equal(x[:, 0])
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))


def test_modes_and_gradients_are_put_back():
    model = net(0.5)
    model[2].eval()
    fit(model, blobs(), steps=2, generator=seeded())
    assert model.training
    assert not model[2].training
    assert all(p.grad is None for p in model.parameters())


def test_running_mean_and_best_match_a_direct_computation():
    curve = fit(net(), blobs(), steps=25, generator=seeded())
    means = [sum(curve.loss[i - 9 : i + 1]) / 10 for i in range(9, 25)]
    assert curve.smoothed[9:] == pytest.approx(means)
    assert curve.best == pytest.approx(min(means))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"lr": -1.0}, "lr must be a finite number > 0"),
        ({"steps": 0}, "at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fit(net(), blobs(), **{"steps": 2, **options})


def test_bad_data_and_frozen_models_are_named():
    with pytest.raises(TypeError, match="pair"):
        fit(net(), "digits", steps=1)
    with pytest.raises(ValueError, match="120 inputs and 119 targets"):
        fit(net(), (blobs()[0], blobs()[1][:-1]), steps=1)
    with pytest.raises(ValueError, match="nothing to train"):
        fit(net().requires_grad_(False), blobs(), steps=1)


def test_sequences_with_labels_left_out():
    torch.manual_seed(0)
    ids = torch.randint(5, (64, 6))
    labels = (ids + 1) % 5  # of each token by itself
    labels[:, :3] = -100
    net = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5))
    inputs = Inputs(kwargs={"input": ids})
    curve = fit(net, (inputs, labels), steps=150, lr=0.05, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = net(ids)
    wanted = torch.nn.functional.cross_entropy(logits[:, 3:].flatten(0, 1), labels[:, 3:].flatten())
    assert curve.learned
    assert curve.accuracy == 1
    assert curve.final_loss == pytest.approx(float(wanted), rel=1e-5)
