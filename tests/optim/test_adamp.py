"""AdamP and SGDP against the released code's formulas written out, and what scale invariance promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.optim import SGDP, AdamP, Muon, effective_lr, projection_report
from isometry.optim._scale_invariance import tangential

SHAPES = [(5, 7), (7, 5), (4, 3, 2, 2), (1, 6), (6, 1), (5,), ()]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=gen(seed), dtype=torch.float64)


def released_projection(w, g, p, delta, wd_ratio, eps):
    """The loop of the released code, one weight at a time."""
    if w.ndim <= 1:
        return p, 1.0, "none"
    for name, view in (("channel", lambda x: x.reshape(len(x), -1)), ("layer", lambda x: x.reshape(1, -1))):
        gv, wv = view(g), view(w)
        cosine = (gv * wv).sum(1).abs() / (gv.norm(dim=1) + eps) / (wv.norm(dim=1) + eps)
        if float(cosine.max()) < delta / math.sqrt(wv.shape[1]):
            unit = wv / (wv.norm(dim=1, keepdim=True) + eps)
            return (view(p) - unit * (unit * view(p)).sum(1, keepdim=True)).reshape(p.shape), wd_ratio, name
    return p, 1.0, "none"


class Released:
    def __init__(self, kind, lr, weight_decay=0.0, delta=0.1, wd_ratio=0.1, nesterov=False, eps=1e-8, **own):
        self.kind, self.lr, self.wd, self.delta, self.wd_ratio = kind, lr, weight_decay, delta, wd_ratio
        self.nesterov, self.eps, self.own, self.state, self.told = nesterov, eps, own, {}, {}

    def step(self, key, w, g):
        if self.kind is AdamP:
            b1, b2 = self.own["betas"]
            t, m, v = self.state.get(key, (0, torch.zeros_like(w), torch.zeros_like(w)))
            t, m, v = t + 1, b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            self.state[key] = (t, m, v)
            p = (b1 * m + (1 - b1) * g if self.nesterov else m) / (v.sqrt() / math.sqrt(1 - b2**t) + self.eps)
            rate, decay = self.lr / (1 - b1**t), self.lr * self.wd
        else:
            mu, damp = self.own["momentum"], self.own["dampening"]
            b = mu * self.state.get(key, torch.zeros_like(w)) + (1 - damp) * g
            self.state[key] = b
            p = g + mu * b if self.nesterov else b
            rate, decay = self.lr, self.lr * self.wd / (1 - mu)
        p, ratio, self.told[key] = released_projection(w, g, p, self.delta, self.wd_ratio, self.eps)
        return w * (1 - decay * ratio) - rate * p


CASES = [
    (AdamP, {"betas": (0.9, 0.99)}),
    (AdamP, {"betas": (0.8, 0.9), "nesterov": True}),
    (SGDP, {"momentum": 0.9, "dampening": 0.0}),
    (SGDP, {"momentum": 0.5, "dampening": 0.3, "nesterov": True}),
]


@pytest.mark.parametrize(("kind", "own"), CASES)
@pytest.mark.parametrize("delta", [0.1, 1.0, 5.0])
def test_its_steps_are_those_of_the_released_code(kind, own, delta):
    parameters = [nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    expected = [p.detach().clone() for p in parameters]
    options = {"lr": 0.05, "weight_decay": 0.1, "delta": delta, "wd_ratio": 0.2, **own}
    optimizer, released = kind(parameters, **options), Released(kind, **options)
    seen = set()
    for t in range(6):
        for i, p in enumerate(parameters):
            p.grad = draw(*p.shape, seed=100 * t + i)
            if t % 2 and p.ndim > 1:  # some gradients at right angles to the rows, some to the whole
                flat = p.detach().reshape(len(p) if i % 2 else 1, -1)
                g = p.grad.reshape(flat.shape)
                p.grad = (g - flat * (g * flat).sum(1, keepdim=True) / flat.square().sum(1, keepdim=True)).reshape(
                    p.shape
                )
            expected[i] = released.step(i, expected[i], p.grad)
        optimizer.step()
        assert list(projection_report(optimizer).values()) == [released.told[i] for i in range(len(SHAPES))]
        seen |= set(released.told.values())
    assert seen == ({"none", "channel", "layer"} if delta < 5 else {"none", "channel"})  # any rows pass 5 / 7^(1/2)
    for p, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nesterov", [True, False])
def test_without_a_threshold_they_are_adamw_and_sgd(nesterov):
    for ours, theirs in (
        (lambda p: AdamP(p, 0.1, weight_decay=0.1, delta=0.0), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1)),
        (
            lambda p: SGDP(p, 0.1, momentum=0.9, delta=0.0, nesterov=nesterov),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=nesterov),
        ),
    ):
        a, b = (nn.Parameter(draw(3, 4)) for _ in range(2))
        x, y = ours([a]), theirs([b])
        for t in range(4):
            a.grad = draw(3, 4, seed=t)
            b.grad = a.grad.clone()
            x.step()
            y.step()
        torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=1e-7)


@given(st.integers(1, 6), st.integers(2, 8), st.sampled_from(["channel", "layer"]), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_projected_steps_are_at_right_angles_and_projecting_twice_is_projecting_once(rows, width, view, seed):
    w, p = draw(1, rows, width, seed=seed), draw(1, rows, width, seed=seed + 1)
    flat = w.flatten(1)[:, None] if view == "layer" else w
    g = draw(1, rows, width, seed=seed + 2).reshape(flat.shape)
    g = (g - flat * (g * flat).sum(-1, keepdim=True) / flat.square().sum(-1, keepdim=True)).reshape(w.shape)
    step, taken = tangential(p, g, w, delta=1e-6, eps=0.0)
    passed = "layer" if view == "layer" and rows > 1 else "channel"
    assert int(taken) == {"channel": 1, "layer": 2}[passed]
    off = (step * w).sum(-1) if passed == "channel" else (step * w).sum((-1, -2))
    assert float(off.abs().max()) < 1e-10
    torch.testing.assert_close(tangential(step, g, w, delta=1e-6, eps=0.0)[0], step, rtol=0, atol=1e-10)


def test_a_normalized_layer_is_found_and_the_next_one_is_not():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = AdamP(net.named_parameters(), 1e-2)
    for t in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(draw(32, 6, seed=t)), torch.arange(32) % 3).backward()
        optimizer.step()
        told = projection_report(optimizer)
        assert told["0.weight"] == "channel"
        assert told["3.bias"] == "none"
    assert told["3.weight"] != "channel"


def test_momentum_makes_scale_invariant_weights_grow_and_the_projection_does_not():
    """|w|^2 grows by lr^2 |p|^2 a step, and with momentum by 2 lr^2 sum beta^(t - k) |p_k|^2 more."""
    ends = {}
    for name, make in {
        "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
        "sgdp": lambda p: SGDP(p, 0.05, momentum=0.9),
    }.items():
        w = nn.Parameter(nn.functional.normalize(draw(1, 50)))
        optimizer = make([w])
        grown, recent, before = 1.0, 0.0, w.detach().clone()
        for t in range(300):
            w.grad = draw(1, 50, seed=t)
            w.grad -= w.detach() * (w.grad * w.detach()).sum() / w.detach().square().sum()
            optimizer.step()
            size = float((w.detach() - before).square().sum())
            before = w.detach().clone()
            grown += size + 2 * recent
            recent = 0.9 * (recent + size)
            if name == "sgd":
                assert float(w.detach().square().sum()) == pytest.approx(grown, rel=1e-9)
        ends[name] = float(w.detach().norm())
    assert ends["sgdp"] < 0.5 * ends["sgd"]


def test_named_weights_are_forced_and_no_others_are_projected():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    for given_ in (["1.weight"], [net[1].weight]):
        optimizer = AdamP(net.named_parameters(), scale_invariant=given_)
        for p in net.parameters():
            p.grad = p.detach().clone()  # along the weight: no test would pass
        optimizer.step()
        assert projection_report(optimizer) == {"0.weight": "none", "1.weight": "channel"}
        again = AdamP(net.named_parameters())
        again.load_state_dict(optimizer.state_dict())
        assert again.param_groups[0]["scale_invariant"] == ["never", "always"]


def test_zero_rows_zero_gradients_and_overflowing_squares_give_finite_steps():
    w = nn.Parameter(torch.ones(3, 4))
    with torch.no_grad():
        w[0] = 0
    optimizer = SGDP([w], 0.1, momentum=0.9)
    for gradient in (torch.ones(3, 4), torch.zeros(3, 4), torch.full((3, 4), 1e30)):
        w.grad = gradient
        optimizer.step()
        assert bool(torch.isfinite(w).all())


def test_memory_formats_do_not_matter():
    ends = []
    for memory in (torch.contiguous_format, torch.channels_last):
        w = nn.Parameter(draw(4, 3, 2, 2).contiguous(memory_format=memory))
        optimizer = AdamP([w], 0.1, delta=5.0)
        w.grad = draw(4, 3, 2, 2, seed=1).contiguous(memory_format=memory)
        optimizer.step()
        ends.append(w.detach())
    assert torch.equal(*ends)


class Parts:
    """Stands for ``Shards`` on one of two processes whose sums and maxima are known."""

    def __init__(self, rows, total, largest):
        self.rows, self._total, self._largest = rows, total, largest

    def total(self, _values):
        return self._total

    def maximum(self, _values):
        return self._largest


@pytest.mark.parametrize("delta", [0.1, 1.0, 3.0, 9.0])
def test_rows_on_two_processes_are_projected_as_on_one(delta):
    p, g, w = (draw(2, 7, 5, seed=s) for s in range(3))
    whole, taken = tangential(p, g, w, delta=delta)
    seen = []

    class Recorder(Parts):
        def total(self, values):
            seen.append(values)
            return values

        def maximum(self, values):
            seen.append(values)
            return values

    pieces = [slice(0, 7), slice(7, 7)] if delta == 1.0 else [slice(0, 4), slice(4, 7)]
    for piece in pieces:
        tangential(p[:, piece], g[:, piece], w[:, piece], delta=delta, shards=Recorder(7, None, None))
    parts = Parts(7, seen[0] + seen[2], torch.maximum(seen[1], seen[3]))
    for piece in pieces:
        step, told = tangential(p[:, piece], g[:, piece], w[:, piece], delta=delta, shards=parts)
        torch.testing.assert_close(step, whole[:, piece])
        assert torch.equal(told, taken)


def test_the_effective_rate_is_that_of_the_weight_at_length_one():
    w = draw(3, 4)
    torch.testing.assert_close(effective_lr(w, 0.2), 0.2 / w.square().sum(1))
    torch.testing.assert_close(effective_lr(w, 0.2, per="layer"), 0.2 / w.square().sum())
    assert effective_lr(torch.zeros(1, 2), 0.1).isinf().all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: AdamP([p], delta=-1.0), ValueError, "delta must be a finite number >= 0"),
        (lambda p: AdamP([p], betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda p: AdamP([p], wd_ratio="half"), TypeError, "wd_ratio must be a number"),
        (lambda p: SGDP([p], 0.1, momentum=1.0), ValueError, "momentum must be at least 0 and below 1"),
        (lambda p: SGDP([p], 0.1, nesterov=1), TypeError, "nesterov"),
        (lambda p: AdamP([p], scale_invariant="always"), TypeError, "scale_invariant must be 'auto' or a list"),
        (lambda p: AdamP([("w", p)], scale_invariant=["v"]), ValueError, "unknown parameter in scale_invariant 'v'"),
        (lambda p: AdamP([p], scale_invariant=[torch.ones(2)]), ValueError, r"tensor of shape \(2,\) that is in no gr"),
        (lambda p: projection_report(Muon([p])), TypeError, "optimizer must be AdamP or SGDP, got Muon"),
        (lambda p: effective_lr(p, 0.1, per="row"), ValueError, "per"),
    ],
)
def test_what_makes_no_sense_is_refused_by_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.Parameter(torch.ones(2, 2)))
