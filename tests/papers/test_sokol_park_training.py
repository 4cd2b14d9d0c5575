"""Claim 4 of Sokół and Park: what the nets in training do, on tiny nets, and the paper's sizes in little."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

import isometry as iso
from isometry import papers
from isometry.papers.sokol_park import manifold_task, manifold_training
from isometry.papers.sokol_park.manifold_net import STATISTICS, Net
from isometry.papers.sokol_park.manifold_task import SETTINGS, Choice

CHOICE = Choice(rate=3e-3, others=3e-3, rho=0.0)


@pytest.fixture
def tiny(monkeypatch):
    """Put a setting of seconds in the place of the paper's."""
    caches = (manifold_task.task, manifold_task.start, manifold_training.tuned, manifold_training._search)
    small = replace(SETTINGS["smoke"], width=16, depth=4, marks=(1, 2, 5, 10), seconds=0.0, rho=(1e-4, 1e-2))
    monkeypatch.setitem(SETTINGS, "paper", small)
    for cache in caches:
        cache.cache_clear()
    yield small
    for cache in caches:
        cache.cache_clear()


def hidden(net):
    return [p.detach().clone() for name, p in net.model.named_parameters() if manifold_task.hidden_matrix(name)]


@pytest.mark.parametrize("kind", ["euclidean", "stiefel", "oblique", "frozen"])
def test_weights_go_where_their_kind_says(tiny, kind):
    net = Net("paper", kind, "large_q", 0, CHOICE)
    before = hidden(net)
    net.train(1)
    after = hidden(net)
    assert len(after) == tiny.depth
    assert all(torch.equal(a, b) == (kind == "frozen") for a, b in zip(before, after, strict=True))
    scales = [w.norm() / math.sqrt(min(w.shape)) for w in after]
    grams = [(w.mT @ w if len(w) >= w.shape[1] else w @ w.mT) / s**2 for w, s in zip(after, scales, strict=True)]
    defects = [(gram - torch.eye(len(gram))).abs() for gram in grams]
    orthonormal = all(defect.max() < 1e-5 for defect in defects)
    unit = all(defect.diagonal().max() < 1e-5 for defect in defects)
    assert (orthonormal, unit) == {
        "euclidean": (False, False),
        "stiefel": (True, True),
        "oblique": (False, True),
        "frozen": (True, True),
    }[kind]
    # The scales move on both manifolds, and with nothing else.
    begun = [w.norm() / math.sqrt(min(w.shape)) for w in before]
    moved = any(abs(float(s / b) - 1) > 1e-4 for s, b in zip(scales, begun, strict=True))
    assert moved == (kind != "frozen")


def test_the_first_steps_have_the_lengths_that_the_rates_say(tiny):
    """Adam's first step divides each gradient by itself: sign for single numbers, unit length for a matrix."""
    choice = Choice(rate=1e-4, others=1e-3, rho=0.0)
    net = Net("paper", "stiefel", "large_q", 0, choice)
    biases = {n: p.detach().clone() for n, p in net.model.named_parameters() if not manifold_task.hidden_matrix(n)}
    points = [constraint.point() for constraint in net.constraints]
    scales = [float(constraint.scale()) for constraint in net.constraints]
    net.setting = replace(tiny, batch=len(net.labels[0]))  # one step an epoch
    net.train(1)
    for name, before in biases.items():
        assert float((net.model.get_parameter(name).detach() - before).abs().max()) == pytest.approx(1e-3, rel=0.01)
    for constraint, q, s in zip(net.constraints, points, scales, strict=True):
        # step_scale "rows": Frobenius norm rate * sqrt(rows of the upright matrix).
        assert float((constraint.point() - q).norm()) == pytest.approx(1e-4 * math.sqrt(q.shape[-2]), rel=0.02)
        assert abs(float(constraint.scale()) - s) == pytest.approx(tiny.share * 1e-3, rel=0.01)


def test_the_penalty_is_that_of_the_points_and_leaves_the_scales_alone(tiny):
    net = Net("paper", "oblique", "large_q", 0, CHOICE)
    net.train(2)
    points = [constraint.point()[0] for constraint in net.constraints]
    naive = sum(float((q.mT @ q - torch.eye(q.shape[1])).square().sum()) for q in points)
    penalty = net.penalty()
    assert naive > 0.01
    assert float(penalty.detach()) == pytest.approx(naive, rel=1e-4)
    net.optimizer.zero_grad()
    penalty.backward()
    for constraint in net.constraints:
        weight, gradient = constraint.weight(), constraint.parameter.grad
        radial = float((gradient * weight).sum())
        assert abs(radial) < 1e-4 * float(gradient.norm() * weight.norm())
    # A strong penalty keeps weights nearer to orthogonal.
    strong = Net("paper", "oblique", "large_q", 0, replace(CHOICE, rho=10.0))
    strong.train(2)
    assert float(strong.penalty().detach()) < 0.3 * naive


def test_divergence_is_noticed_and_kept_as_nan(tiny):
    net = Net("paper", "euclidean", "large_q", 0, Choice(1e-3, 3e37, 0.0))
    net.train(2)
    assert net.diverged
    assert list(net.statistics()) == list(STATISTICS)
    assert all(math.isnan(value) for value in net.statistics().values())


def test_the_choice_has_the_lowest_held_out_loss_on_its_way(tiny):
    found = manifold_training.tuned("paper")
    assert found["frozen", "large_q"] == found["euclidean", "large_q"]
    assert {choice.rho for (kind, _), choice in found.items() if kind != "oblique"} == {0.0}

    def loss(choice):
        net = Net("paper", "oblique", "small_q", 0, choice)
        net.train(tiny.tuning)
        return net.loss(1)

    chosen = found["oblique", "small_q"]
    assert loss(chosen) == min(loss(replace(chosen, rho=rho)) for rho in tiny.rho)


def test_held_out_images_are_not_trained_on(tiny):
    data, task = iso.data.load("digits"), manifold_task.task("paper")
    assert [len(part) for part in task.labels] == [len(data) - tiny.held_out, tiny.held_out, len(data.test_targets)]
    kept, held = (part.flatten(1) for part in task.inputs["large_q"][:2])
    assert float(torch.cdist(held, kept).min()) > 0


def test_the_papers_sizes_run_and_stop_in_time(tiny, tmp_path):
    result = papers.run("sokol-park", scale="paper")
    assert [c.id for c in result.claims] == [
        "manifolds-train-faster",
        "curvature-jumps-early",
        "manifolds-forget-q-star",
    ]
    evidence = result.evidence
    assert evidence.seeds == (0,)
    assert evidence.array("training/epochs").tolist() == [2.0]  # no time for more, but the claims need two
    series = evidence.array("training/stiefel/large_q/train_loss")[0]
    assert (~torch.from_numpy(series).isnan()).tolist() == [True, True, True, False, False]
    assert evidence.axes["training/stiefel/large_q/train_loss"] == (0, 1, 2, 5, 10)
    assert "Trained on the CPU, 4 layers of width 16" in evidence.notes[0]
    written = json.dumps(result.to_dict(), allow_nan=False)
    assert "training/frozen/large_q/s_max" in written
    losses = evidence.array("training/euclidean/large_q/train_loss")[0], series
    assert evidence.array("training/stiefel/less_loss")[0] == pytest.approx(losses[0][2] - losses[1][2])
    top = evidence.array("training/euclidean/small_q/lambda_max")[0]
    assert evidence.array("training/euclidean/small_q/lambda_growth")[0] == pytest.approx(max(top[1:3]) / top[0])


def test_with_time_all_marks_are_reached(tiny, monkeypatch):
    monkeypatch.setitem(SETTINGS, "paper", replace(tiny, seconds=math.inf, marks=(1, 2, 3)))
    found = manifold_training.measure("paper", 0)
    assert found["training/epochs"] == 3
    assert not any(math.isnan(v) for v in found["training/oblique/small_q/s_max"])
