"""AuON against its formulas written out in float64, closed forms, and bounds that follow from them."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.optim import AuON, auon_update
from isometry.optim import _auon as module
from isometry.optim import _base as base
from isometry.optim import _rms_cosh as cosines
from isometry.roles import Axes

GAMMA = {"paper": 1.0, "released": 1.5}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=gen(seed), dtype=dtype)


def textbook_update(u, variant="paper", gamma=None, eps=1e-7):
    """The paper's steps 1 to 3 for one tensor, and the released code's, word for word, in float64."""
    u = u.double()
    x = u / (u.norm() + eps)
    rms = ((gamma or GAMMA[variant]) * x).cosh().square().mean().sqrt()
    return (x if variant == "paper" else u) / (rms + 1e-8), rms


class Textbook:
    """AuON one tensor at a time."""

    def __init__(self, lr, momentum, nesterov, weight_decay, variant, scale):
        self.lr, self.mu, self.nesterov, self.wd = lr, momentum, nesterov, weight_decay
        self.variant, self.scale, self.buffers = variant, scale, {}

    def step(self, key, weight, gradient):
        buffer = self.mu * self.buffers.get(key, torch.zeros_like(weight)) + (1 - self.mu) * gradient
        self.buffers[key] = buffer
        update, _ = textbook_update(
            (1 - self.mu) * gradient + self.mu * buffer if self.nesterov else buffer, self.variant
        )
        rows = weight.shape[0] if weight.ndim > 1 else 1
        factor = max(1, rows / (weight.numel() / rows)) ** 0.5 if self.scale == "original" else 1
        return weight * (1 - self.lr * self.wd) - self.lr * factor * update


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["none", "original"])
@pytest.mark.parametrize("variant", GAMMA)
def test_its_steps_are_those_of_the_formulas(variant, scale, nesterov):
    shapes = [(6, 6), (9, 4), (4, 9), (1, 7), (7, 1), (5,), (), (3, 2, 2, 2), (6, 6)]
    parameters = [nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(shapes)]
    expected = [p.detach().clone() for p in parameters]
    options = {"lr": 0.03, "momentum": 0.8, "nesterov": nesterov, "weight_decay": 0.1}
    optimizer = AuON([{"params": parameters, "layout": "conv"}], variant=variant, scale=scale, **options)
    textbook = Textbook(**options, variant=variant, scale=scale)
    for step in range(4):
        for i, p in enumerate(parameters):
            p.grad = draw(*p.shape, seed=100 * step + i)
            expected[i] = textbook.step(i, expected[i], p.grad)
        optimizer.step()
    assert all(torch.allclose(p.detach(), e, rtol=1e-12, atol=1e-12) for p, e in zip(parameters, expected, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    kind=st.sampled_from(["gaussian", "cauchy", "rank one", "spiked", "signs"]),
    exponent=st.integers(-3, 6),
    gamma=st.one_of(st.none(), st.floats(0.01, 3)),
    variant=st.sampled_from(sorted(GAMMA)),
    seed=st.integers(0, 1000),
)
def test_any_matrix_has_the_update_of_the_formulas(rows, columns, kind, exponent, gamma, variant, seed):
    u = zoo(kind, rows, columns, seed) * 10.0**exponent
    update, rms = auon_update(u, variant=variant, gamma=gamma)
    wanted, wanted_rms = textbook_update(u, variant, gamma)
    assert torch.allclose(update, wanted, rtol=1e-10, atol=0)
    assert math.isclose(rms, wanted_rms, rel_tol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    kind=st.sampled_from(["gaussian", "cauchy", "rank one", "spiked", "signs"]),
    gamma=st.floats(0.1, 2),
    seed=st.integers(0, 1000),
)
def test_what_the_docstring_says_of_every_matrix(rows, columns, kind, gamma, seed):
    """rms^2 - 1 is between gamma^2 / N and sinh(gamma)^2 / N (the mean of g(x^2) under weights x^2 that sum to 1, where
    g(s) = sinh(gamma s^(1/2))^2 / s rises from gamma^2 at 0 to sinh(gamma)^2 at 1); |Y|_2 <= |Y|_F = 1 / rms < 1."""
    u = zoo(kind, rows, columns, seed)
    update, rms = auon_update(u, gamma=gamma, eps=0)
    excess = u.numel() * (float(rms) ** 2 - 1)
    assert gamma**2 * (1 - 1e-9) <= excess <= math.sinh(gamma) ** 2 * (1 + 1e-9)
    assert math.isclose(update.norm() * rms, 1, rel_tol=1e-7)
    assert torch.linalg.matrix_norm(update, 2) < 1
    assert torch.allclose(update * u.norm() * rms, u, rtol=1e-7)  # a positive multiple of U


def zoo(kind, rows, columns, seed):
    if kind == "gaussian":
        return draw(rows, columns, seed=seed)
    if kind == "cauchy":
        return draw(rows, columns, seed=seed) / draw(rows, columns, seed=seed + 5000)
    if kind == "rank one":
        return draw(rows, 1, seed=seed) * draw(1, columns, seed=seed + 5000)
    if kind == "spiked":
        u = 1e-3 * draw(rows, columns, seed=seed)
        u[seed % rows, seed % columns] = 1.0
        return u
    return draw(rows, columns, seed=seed).sign()


def test_of_a_large_layer_nothing_is_left_of_the_cosines():
    """N (rms - 1) in [0.50, 0.70], as the docstring has it; a Gaussian matrix is at the lower end."""
    for n in (32, 128, 512):
        u = draw(n, n)
        update, rms = auon_update(u)
        assert 0.50 * (1 - 1 / n) < n * n * (float(rms) - 1) < 0.51
        assert torch.allclose(update, u / u.norm(), rtol=0.6 / n**2, atol=0)
    assert math.isclose(torch.linalg.matrix_norm(update, 2), 2 / math.sqrt(512), rel_tol=0.03)  # the edge, 0.089
    assert math.isclose(auon_update(torch.eye(1))[1], math.cosh(1), rel_tol=1e-6)


def concentrated(kind, n=400):
    """400 x 400 matrices whose squares sit in one entry, in a few, in many, and in between."""
    u = torch.zeros(n * n, dtype=torch.float64)
    if isinstance(kind, int):  # that many equal entries
        u[:: n * n // kind][:kind] = 1.0
    elif kind == "geometric":
        u = 0.7 ** torch.arange(n * n, dtype=torch.float64)
    elif kind == "cauchy":
        u = draw(n * n) / draw(n * n, seed=1)
    else:  # one entry with a share of all squares
        u = draw(n * n)
        u[0] = (kind / (1 - kind)) ** 0.5 * u[1:].norm()
    return u.reshape(n, n)


KINDS = [1, 2, 3, 10, 17, 18, 20, 1000, 160_000, "geometric", "cauchy", 0.03, 0.05, 0.06, 0.1, 0.3, 0.65, 0.95]


@pytest.mark.parametrize("kind", KINDS)
def test_with_or_without_cosines_the_root_mean_square_is_right_to_a_rounding(kind, monkeypatch):
    """400 x 400 in float32: 1/4 epsilon for the middle of the bounds, 1/4 for 1 + x, 1/2 for the root."""
    u = concentrated(kind).float()
    _, wanted = textbook_update(u)
    taken = []
    monkeypatch.setattr(cosines, "rms_cosh", lambda *a, f=cosines.rms_cosh, **k: taken.append(a) or f(*a, **k))
    _, rms = auon_update(u)
    assert abs(float(rms) - float(wanted)) < torch.finfo(torch.float32).eps
    share = float(u.double().abs().max() / u.double().norm()) ** 2
    assert bool(taken) == (share > 0.0557)  # (sinh(s^(1/2))^2 / s - 1) / 160,000 is 2^-23 there


def test_one_concentrated_matrix_of_a_batch_is_enough_to_take_cosines():
    u = torch.stack([concentrated(160_000), concentrated(1)]).float()
    _, rms = auon_update(u)
    for value, matrix in zip(rms, u, strict=True):
        assert abs(float(value) - float(textbook_update(matrix)[1])) < torch.finfo(torch.float32).eps


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(0.001, 1), min_size=1, max_size=30), gamma=st.floats(0.05, 4))
def test_the_bounds_hold_the_sum(values, gamma):
    x = np.array(values) / np.linalg.norm(values)
    total = (np.sinh(gamma * x) ** 2).sum()
    assert gamma**2 * (1 - 1e-12) <= total <= cosines._most(gamma, 1 / x.max()) * (1 + 1e-12)


@pytest.mark.parametrize("gamma", [1e-60, 1e-8, 1e-3, 0.3, 40.0])
def test_extreme_gammas_are_taken(gamma):
    for u in (draw(30, 30), draw(300, 300, dtype=torch.float32), torch.eye(1)):
        update, rms = auon_update(u, gamma=gamma)
        wanted, wanted_rms = textbook_update(u, gamma=gamma)
        assert math.isclose(rms, wanted_rms, rel_tol=1e-5)
        assert torch.allclose(update.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e-8, 1e15, 1e35])
def test_squares_neither_overflow_nor_vanish(size):
    for n in (5, 300):
        u = (draw(n, n).clamp(-3, 3) * size).float()
        for variant in GAMMA:
            update, rms = auon_update(u, variant=variant)
            wanted, wanted_rms = textbook_update(u, variant)
            assert math.isclose(rms, wanted_rms, rel_tol=1e-5)
            assert torch.allclose(update.double(), wanted, rtol=1e-4, atol=1e-37)  # 1e-40 has few digits left
        below = auon_update(-u.abs())[0]  # the largest absolute value is of the smallest entry
        assert torch.equal(below, -auon_update(u.abs())[0])


def test_zero_matrices_have_zero_updates():
    for shape in ((3, 4), (300, 300)):
        for eps in (1e-7, 0.0):
            for variant in GAMMA:
                update, rms = auon_update(torch.zeros(shape), variant=variant, eps=eps)
                assert torch.equal(update, torch.zeros(shape))
                assert float(rms) == 1.0


def test_batches_are_their_matrices_and_the_input_stays():
    u = draw(2, 3, 6, 5)
    before = u.clone()
    update, rms = auon_update(u)
    assert torch.equal(u, before)
    assert rms.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone, alone_rms = auon_update(u[i, j])
            assert torch.equal(update[i, j], alone)
            assert torch.equal(rms[i, j], alone_rms)
    assert torch.allclose(auon_update(u.mT)[0], update.mT, rtol=1e-14)


def test_half_precision_is_worked_on_in_float32():
    u = draw(40, 30, dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        low = u.to(dtype)
        update, rms = auon_update(low)
        wanted, wanted_rms = textbook_update(low)
        assert update.dtype == dtype
        assert rms.dtype == torch.float32
        assert math.isclose(rms, wanted_rms, rel_tol=1e-6)  # rms - 1 is 4e-4, a tenth of bfloat16's rounding
        assert torch.allclose(update.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_the_matrices_of_a_fused_projection_have_norms_of_their_own():
    weights = [nn.Parameter(draw(4, 6, seed=i)) for i in range(3)]
    fused = nn.Parameter(torch.cat([w.detach() for w in weights]))
    axes = Axes(out=(0,), in_=(1,), blocks=("q", "k", "v")).to_dict()
    row = {"name": "qkv", "shape": [12, 6], "role": "attention_in", "rule": "matrix", "reason": "", "axes": axes}
    ours = AuON([{"params": [("qkv", fused)], "routes": [row]}], lr=0.1)
    apart = AuON(weights, lr=0.1)
    for step in range(3):
        for i, w in enumerate(weights):
            w.grad = draw(4, 6, seed=10 * step + i) * 10**i
        fused.grad = torch.cat([w.grad for w in weights])
        ours.step()
        apart.step()
    assert torch.allclose(fused.detach(), torch.cat([w.detach() for w in weights]), rtol=1e-13)


def test_stacked_matrices_have_norms_of_their_own_and_kernels_have_one():
    gradient = draw(4, 3, 2) * torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)[:, None, None]
    steps = {}
    for layout in ("batch", "conv"):
        p = nn.Parameter(torch.zeros(4, 3, 2, dtype=torch.float64))
        p.grad = gradient.clone()
        AuON([{"params": [p], "layout": layout}], lr=1.0).step()
        steps[layout] = p.detach()
    assert torch.allclose(steps["batch"].flatten(1).norm(dim=1), torch.ones(4, dtype=torch.float64), atol=0.1)
    assert math.isclose(steps["conv"].norm(), 1, abs_tol=0.03)


def test_released_is_sgd_with_momentum():
    """Up to its inert divisor, within 2.3 / N of 1; the momentum of torch's SGD, damped by mu, is the same average."""
    ours, theirs = (nn.Parameter(draw(60, 50)) for _ in range(2))
    a = AuON([ours], lr=0.1, momentum=0.9, nesterov=False, variant="released")
    b = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, dampening=0.9)
    ours.grad = torch.zeros_like(ours)  # torch takes the first gradient undamped
    theirs.grad = torch.zeros_like(theirs)
    before = ours.detach().clone()
    for step in range(5):
        a.step()
        b.step()
        ours.grad = draw(60, 50, seed=step)
        theirs.grad = ours.grad.clone()
    change, wanted = ours.detach() - before, theirs.detach() - before
    assert float((change - wanted).norm() / wanted.norm()) < 2.3 / 3000
    assert not torch.equal(change, wanted)


def test_stacks_are_cut_to_the_cache_and_nothing_changes(monkeypatch):
    ends = []
    for limit, cut in ((4 * 25 * 4, [2, 4]), (1 << 20, [6])):
        monkeypatch.setattr(base, "CACHED_BYTES", limit)
        parameters = [nn.Parameter(draw(5, 5, seed=i, dtype=torch.float32)) for i in range(6)]
        optimizer = AuON([*parameters, nn.Parameter(torch.empty(0, 3))])
        for step in range(3):
            for i, p in enumerate(optimizer.param_groups[0]["params"]):
                p.grad = draw(*p.shape, seed=10 * step + i, dtype=torch.float32)
            optimizer.step()
        assert sorted(len(b.members) for b in optimizer._batches) == cut  # a weight without entries is in none
        ends.append(torch.stack(parameters).detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5,), ()])
@pytest.mark.parametrize("scale", ["none", "original"])
def test_a_step_has_the_size_that_its_rule_states(shape, scale):
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = AuON([p], lr=0.1, scale=scale)
    rule, _ = optimizer._rule(p, optimizer.param_groups[0])
    matrix = shape if len(shape) == 2 else (1, p.numel())
    size = rule.update_size(matrix, optimizer.param_groups[0])
    p.grad = draw(*shape)
    optimizer.step()
    step = p.detach().reshape(matrix) / 0.1
    largest = math.cosh(1) if p.numel() == 1 else 1 + 0.7 / p.numel()  # rms
    assert 0.99999 * size.rms / largest < step.square().mean().sqrt() < size.rms
    assert torch.linalg.matrix_norm(step, 2) < size.spectral_norm
    optimizer.param_groups[0]["variant"] = "released"
    assert rule.update_size(matrix, optimizer.param_groups[0]) is None


class Threads:
    """Stands for ``Shards``: the processes are threads, and what they exchange lies on one table."""

    def __init__(self, table, barrier, rank):
        self.table, self.barrier, self.rank = table, barrier, rank

    def _gathered(self, values):
        self.table[self.rank] = values
        self.barrier.wait()
        found = torch.stack(list(self.table))
        self.barrier.wait()
        return found

    def maximum(self, values):
        return self._gathered(values).amax(0)

    def total(self, values):
        return self._gathered(values).sum(0)


@pytest.mark.parametrize("rows", [[3, 0, 5], [8, 0, 0], [150, 100, 50]])
@pytest.mark.parametrize("variant", GAMMA)
def test_rows_that_several_processes_hold_move_as_the_whole(rows, variant):
    """300 x 300 in float32 takes the bounds with gamma = 1; the others are summed entry by entry."""
    n = sum(rows)
    spiked = torch.zeros(n, n)
    spiked[-1, -1] = 1.0
    for u in (draw(n, n, dtype=torch.float32), -draw(n, n).abs() * 1e30, spiked, torch.zeros(n, n)):
        whole, rms = module.auon_update_(u[None].clone(), variant=variant, gamma=GAMMA[variant], eps=1e-7)
        table, barrier = [None] * len(rows), threading.Barrier(len(rows), timeout=20)

        def move(part, rank, table=table, barrier=barrier):
            exchange, options = (
                Threads(table, barrier, rank),
                {"variant": variant, "gamma": GAMMA[variant], "eps": 1e-7},
            )
            return module.auon_update_(part[None].clone(), entries=n * n, shards=exchange, **options)

        with ThreadPoolExecutor(len(rows)) as pool:
            moved = list(pool.map(move, u.split(rows), range(len(rows))))
        assert torch.allclose(torch.cat([part for part, _ in moved], dim=1), whole, rtol=1e-5, atol=0)
        assert all(torch.allclose(r, rms, rtol=2e-7) for _, r in moved)


def test_everything_else_moves_by_adamw_in_the_same_object():
    model = nn.Linear(5, 4)
    twin = nn.Parameter(model.bias.detach().clone())
    optimizer = AuON(
        [{"params": [model.weight]}, {"params": [model.bias], "rule": "adamw", "lr": 0.01}], lr=0.1, adamw={"eps": 1e-8}
    )
    reference = torch.optim.AdamW([twin], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for step in range(3):
        model.weight.grad = draw(4, 5, seed=step, dtype=torch.float32)
        model.bias.grad = draw(4, seed=step, dtype=torch.float32)
        twin.grad = model.bias.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.allclose(model.bias, twin, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 0.0}, r"gamma must be above 0 and at most 40, beyond which cosh overflows in float32, got 0.0"),
        ({"gamma": 41}, "gamma must be above 0 and at most 40"),
        ({"gamma": float("nan")}, "gamma must be above 0 and at most 40"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"eps": -1.0}, "eps must be a finite number >= 0, got -1.0"),
        ({"lr": -1.0}, "lr must be a finite number >= 0, got -1.0"),
        ({"variant": "release"}, "variant .*released"),
        ({"scale": "spectral"}, "scale .*none.*original"),
    ],
)
def test_senseless_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AuON([nn.Parameter(torch.ones(2, 2))], **options)


def test_what_is_no_matrix_is_refused_by_the_function_and_types_are_looked_at():
    with pytest.raises(ValueError, match=r"momentum .*2"):
        auon_update(torch.ones(3))
    with pytest.raises(ValueError, match="gamma must be above 0 and at most 40"):
        auon_update(torch.ones(3, 3), gamma=-1.0)
    with pytest.raises(ValueError, match=r"variant .*paper"):
        auon_update(torch.ones(3, 3), variant="papr")
    with pytest.raises(TypeError, match="gamma must be a number or None, got str"):
        AuON([nn.Parameter(torch.ones(2, 2))], gamma="1")
    with pytest.raises(TypeError, match="nesterov must be True or False, got 1"):
        AuON([nn.Parameter(torch.ones(2, 2))], nesterov=1)
    with pytest.raises(ValueError, match=r"parameter 0 of group 0 .*say layout='conv' or layout='batch'"):
        AuON([nn.Parameter(torch.ones(2, 2, 2))])
