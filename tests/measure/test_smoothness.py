"""Local smoothness against closed forms and a plain transcription; the fitted line against a linear program."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, nnls
from torch import nn

from isometry._base import MemoryBudgetError
from isometry.measure import Snapshots, fit_l0_l1, local_smoothness
from isometry.tape import Inputs


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=gen(seed), dtype=torch.float64)


class Hyperbolic(nn.Module):
    """Gives w, so that a loss of the outputs is a loss of w."""

    def __init__(self, d):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d, dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), -1)


CURVATURES = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)


def cosh(out, _y):
    return ((torch.cosh(CURVATURES * out) - 1) / CURVATURES).sum()


def test_closed_form_of_unbounded_smoothness():
    """grad_j = sinh(L_j w_j), so every difference is known."""
    path = [draw(3, seed=s) for s in range(4)]
    found = local_smoothness(Hyperbolic(3), torch.zeros(2, 1), torch.zeros(2), [{"w": w} for w in path], loss=cosh, k=5)
    for t in range(3):
        a, d = path[t], path[t + 1] - path[t]
        gaps = [torch.sinh(CURVATURES * (a + i / 5 * d)) - torch.sinh(CURVATURES * a) for i in range(1, 6)]
        wanted = max(float(gap.norm()) / (i / 5 * float(d.norm())) for i, gap in enumerate(gaps, 1))
        assert float(found.smoothness[t]) == pytest.approx(wanted, rel=1e-10)
        assert float(found.grad_norm[t]) == pytest.approx(float(torch.sinh(CURVATURES * a).norm()))
        assert float(found.step_norm[t]) == pytest.approx(float(d.norm()))
    assert found.parameters[0].name == "w"
    assert torch.equal(found.parameters[0].smoothness, found.smoothness)


def test_a_quadratic_has_the_smoothness_of_its_matrix_along_the_step():
    x, y = draw(20, 4), draw(20, 1, seed=1)
    model = nn.Linear(4, 1, bias=False).double()
    path = [draw(1, 4, seed=s) for s in range(3)]
    found = local_smoothness(model, x, y, [{"weight": w} for w in path])
    hessian = 2 * x.T @ x / 20
    for t in range(2):
        d = path[t + 1] - path[t]
        assert float(found.smoothness[t]) == pytest.approx(float((hessian @ d[0]).norm() / d.norm()), rel=1e-9)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).double()


def trained(model, steps=5):
    x, y, kept = draw(16, 3), torch.arange(16) % 3, Snapshots(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    model.train()
    for _ in range(steps):
        kept.step()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return kept, x, y


def transcription(model, x, y, snapshots, k):
    rows = []
    for begin, end in itertools.pairwise(snapshots):
        own = copy.deepcopy(model)

        def gradient(at, own=own, begin=begin):
            own.load_state_dict(begin)
            own.load_state_dict(at, strict=False)
            own.zero_grad()
            nn.functional.cross_entropy(own(x), y).backward()
            return {n: p.grad.clone() for n, p in own.named_parameters()}

        names = [n for n, _ in model.named_parameters()]
        d = {n: end[n] - begin[n] for n in names}
        length = math.sqrt(sum(float(v.square().sum()) for v in d.values()))
        first, most, each = gradient({}), 0.0, dict.fromkeys(names, 0.0)
        for i in range(1, k + 1):
            other = gradient({n: begin[n] + i / k * d[n] for n in names})
            gaps = {n: float((other[n] - first[n]).norm()) / (i / k * length) for n in names}
            each = {n: max(each[n], gaps[n]) for n in names}
            most = max(most, math.sqrt(sum(v**2 for v in gaps.values())))
        rows.append((most, each))
    return rows


def test_a_network_with_buffers_against_the_plain_loop_and_without_a_trace():
    model = network()
    kept, x, y = trained(model)
    model.eval()
    wanted = transcription(model, x, y, list(kept), 3)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model[0].weight.grad = mine = torch.ones_like(model[0].weight)
    model[4].bias.requires_grad_(False)
    found = local_smoothness(model, x, y, kept, k=3)
    for t, (most, each) in enumerate(wanted):
        assert float(found.smoothness[t]) == pytest.approx(most, rel=1e-9)
        for parameter in found.parameters:
            assert float(parameter.smoothness[t]) == pytest.approx(each[parameter.name], rel=1e-9)
    assert all(torch.equal(a, before[n]) for n, a in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model[0].weight.grad is mine
    assert not model[4].bias.requires_grad
    assert not model.training
    assert found.cost.backward_passes == 4 * 4


def test_chosen_parameters_move_alone():
    model = network()
    kept, x, y = trained(model, 3)
    model.eval()
    found = local_smoothness(model, x, y, kept, params="4.*")
    assert [p.name for p in found.parameters] == ["4.weight", "4.bias"]
    step = torch.cat([(kept[1][n] - kept[0][n]).flatten() for n in ("4.weight", "4.bias")]).norm()
    assert float(found.step_norm[0]) == pytest.approx(float(step))


def test_steps_that_go_nowhere_are_left_out_and_said():
    path = [{"weight": torch.tensor([[w]])} for w in (0.0, 0.0, 1.0)]
    found = local_smoothness(nn.Linear(1, 1, bias=False), torch.ones(2, 1), torch.ones(2, 1), path)
    assert found.steps == (1,)
    assert found.skipped == (0,)
    assert "nothing moved in 1 steps" in str(found)
    assert found.to_dict()["steps"] == [1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"snapshots": []}, ValueError, "snapshots must hold at least two states"),
        ({"snapshots": [{"weight": torch.ones(1, 2)}] * 2}, ValueError, "nothing moved in any of 1 steps"),
        ({"snapshots": [{"w": torch.ones(1, 2)}] * 2}, ValueError, "snapshot 0 is not a state .* 'weight' is missing"),
        ({"snapshots": [{"weight": torch.ones(2)}] * 2}, ValueError, r"'weight' has shape \(2,\), the model's is \(1"),
        ({"snapshots": [torch.ones(1, 2)]}, TypeError, "snapshot 0 must be a state dict, got Tensor"),
        ({"snapshots": [{"weight": torch.full((1, 2), math.nan)}]}, ValueError, "snapshot 0 holds NaN or infinity"),
        ({"k": 0}, ValueError, "k must be a whole number of at least 1"),
        ({"budget": 3}, MemoryBudgetError, "keeping two states and three gradients"),
        ({"loss": lambda out, y: out.sum() * 1e308 * 1e10}, ValueError, "at snapshot 0: loss"),
        ({"params": "bias"}, ValueError, "bias"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_a_sentence(change, error, message):
    given = {"snapshots": [{"weight": torch.zeros(1, 2)}, {"weight": torch.ones(1, 2)}]} | change
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    with pytest.raises(error, match=message):
        local_smoothness(model, torch.ones(3, 2), torch.ones(3, 1), **given)
    assert torch.equal(model.weight.detach(), before)


def test_a_whole_graph_is_refused_with_what_takes_it():
    path = [{"weight": torch.zeros(1, 2)}, {"weight": torch.ones(1, 2)}]
    graph = Inputs((torch.ones(3, 2),), whole=True)
    with pytest.raises(ValueError, match=r"x is one whole graph, .*; use gradient_confusion"):
        local_smoothness(nn.Linear(2, 1, bias=False), graph, torch.ones(3), path)


def test_a_tied_weight_is_one_parameter():
    """Of an autoencoder x W' W the gradient is the sum over both places, as of its written-out loss."""
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False)).double()
    reader = nn.Sequential(nn.Linear(4, 3, bias=False), Transposed()).double()
    reader[1].weight = reader[0].weight
    x, path = draw(10, 4), [0.5 * draw(3, 4, seed=s) for s in range(3)]
    found = local_smoothness(reader, x, x, [{"0.weight": w, "1.weight": w} for w in path], k=2)
    assert [p.name for p in found.parameters] == ["0.weight"]

    def gradient(w):
        with torch.no_grad():
            model[0].weight.copy_(w)
            model[1].weight.copy_(w.T)
        model.zero_grad()
        nn.functional.mse_loss(model(x), x).backward()
        return model[0].weight.grad + model[1].weight.grad.T

    for t, (a, b) in enumerate(itertools.pairwise(path)):
        gaps = [float((gradient(a + s * (b - a)) - gradient(a)).norm() / (s * (b - a).norm())) for s in (0.5, 1.0)]
        assert float(found.smoothness[t]) == pytest.approx(max(gaps), rel=1e-9)


class Transposed(nn.Linear):
    """Reads its weight the other way."""

    def __init__(self):
        super().__init__(3, 4, bias=False)

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_kept_in_half_precision(dtype):
    """Of a float32 model they are its rounded states; a model in half precision walks over rounded points."""
    model = network().float().eval()
    kept, x, y = trained(network(), 3)
    rounded = [
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in s.items()} for s in kept
    ]
    exact = [{name: value.to(model.state_dict()[name].dtype) for name, value in s.items()} for s in rounded]
    x = x.float()
    found, wanted = local_smoothness(model, x, y, rounded), local_smoothness(model, x, y, exact)
    assert torch.equal(found.smoothness, wanted.smoothness)
    half = local_smoothness(copy.deepcopy(model).to(dtype), x.to(dtype), y, rounded)
    assert half.smoothness.isfinite().all()
    assert half.smoothness.tolist() == pytest.approx(wanted.smoothness.tolist(), rel=0.5)
    assert half.step_norm.tolist() == pytest.approx(wanted.step_norm.tolist(), rel=0.02)


def test_points_are_named_by_their_snapshots():
    path, model = [{"weight": torch.tensor([[w]])} for w in (0.0, 1.0, 0.0, 1e30)], nn.Linear(1, 1, bias=False)
    steep = {"loss": lambda out, _: (out**12).sum(), "paired": True}
    with pytest.raises(ValueError, match=r"at the point 1/6 of the way from snapshot 2 to 3: "):
        local_smoothness(model, torch.ones(2, 1), torch.ones(2, 1), path, **steep)


def test_pairs_are_taken_two_by_two():
    model = network()
    kept, x, y = trained(model, 5)
    model.eval()
    chain, pairs = local_smoothness(model, x, y, kept), local_smoothness(model, x, y, kept, paired=True)
    assert pairs.steps == (0, 1)  # snapshots 0 and 1, 2 and 3; the fifth has no partner
    assert torch.equal(pairs.smoothness, chain.smoothness[::2])
    recorder = Snapshots(model, every=3, paired=True, limit=4)
    for t in range(8):
        with torch.no_grad():
            model[4].bias.fill_(float(t))
        recorder.step()
    assert [float(state["4.bias"][0]) for state in recorder] == [3.0, 4.0, 6.0, 7.0]
    assert local_smoothness(model, x, y, recorder).steps == (0, 1)
    with pytest.raises(ValueError, match="every= of at least 2"):
        Snapshots(model, paired=True)
    with pytest.raises(ValueError, match="limit must be even for pairs, got 3"):
        Snapshots(model, every=2, paired=True, limit=3)


def test_snapshots_keep_the_latest_at_their_intervals():
    model = nn.Linear(1, 1, bias=False)
    kept = Snapshots(model, every=2, limit=3)
    for t in range(10):
        with torch.no_grad():
            model.weight.fill_(float(t))
        kept.step()
    assert [float(state["weight"]) for state in kept] == [4.0, 6.0, 8.0]
    assert kept.bytes == 3 * 4
    with pytest.raises(ValueError, match="every must be a whole number of at least 1"):
        Snapshots(model, every=0)
    with pytest.raises(ValueError, match="limit must be a whole number of at least 2"):
        Snapshots(model, limit=1)


positive = st.floats(0, 1e3, allow_nan=False)


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=12), st.sampled_from([1e-12, 1.0, 1e12]))
@settings(max_examples=120, deadline=None)
def test_the_lines_are_those_of_general_solvers(points, scale):
    g, s = (np.array(column) for column in zip(*points, strict=True))
    if np.ptp(g) < 1e-3:
        return
    design = np.stack([np.ones_like(g), g], 1)
    ours = fit_l0_l1(g * scale, s)
    _, residual = nnls(design, s)
    mine = float(np.linalg.norm(design @ [ours.l0, ours.l1 * scale] - s))
    assert mine <= residual + 1e-6 * (1 + residual)
    above = fit_l0_l1(g * scale, s, method="envelope")
    line = above.l0 + above.l1 * scale * g
    assert (line >= s - 1e-6 * (1 + s)).all()
    best = linprog([1.0, float(g.mean())], A_ub=-design, b_ub=-s, bounds=[(0, None)] * 2)
    if best.success:
        assert above.l0 + above.l1 * scale * g.mean() <= best.fun + 1e-5 * (1 + best.fun)
    assert min(ours.l0, ours.l1, above.l0, above.l1) >= 0


def test_slope_and_correlation_are_those_of_a_power_law():
    g = torch.tensor([0.0, 1.0, 2.0, 4.0])
    fit = fit_l0_l1(g, 3 * g**0.5)
    assert fit.slope == pytest.approx(0.5)
    assert fit.correlation == pytest.approx(1.0)
    assert math.isnan(fit_l0_l1(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])).slope)
    assert "L = " in str(fit)


@pytest.mark.parametrize(
    ("g", "s", "options", "message"),
    [
        ([1.0, 1.0], [1.0, 2.0], {}, "holds 1 different values, and a line needs two"),
        ([1.0, 2.0], [1.0], {}, "grad_norm has 2 points and smoothness 1"),
        ([1.0, -2.0], [1.0, 1.0], {}, "grad_norm holds negative or non-finite"),
        ([1.0, 2.0], [1.0, math.inf], {}, "smoothness holds negative or non-finite"),
        ([[1.0, 2.0]], [1.0, 1.0], {}, r"grad_norm has shape \(1, 2\)"),
        ([1.0, 2.0], [1.0, 1.0], {"method": "least_squares"}, "did you mean 'least-squares'"),
    ],
)
def test_points_that_fit_no_line_are_refused(g, s, options, message):
    with pytest.raises(ValueError, match=message):
        fit_l0_l1(torch.tensor(g), torch.tensor(s), **options)
