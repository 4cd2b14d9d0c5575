"""ClippedSGD and NormalizedSGD against the authors' formulas over one norm of all parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isometry.optim import ClippedSGD, NormalizedSGD, explain

SHAPES = [(4, 5), (4, 5), (3,), (), (2, 3, 2)]


def draw(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference(weights, gradients, size, *, lr, mu=0.0, decay=0.0, nesterov=False):
    """The authors' two files, but for the norm, which runs over all groups."""
    buffers = [torch.zeros_like(w) for w in weights]
    for step in gradients:
        directions = []
        for i, (w, g) in enumerate(zip(weights, step, strict=True)):
            d = g + decay * w
            if mu:
                buffers[i] = mu * buffers[i] + d
                d = d + mu * buffers[i] if nesterov else buffers[i]
            directions.append(d)
        norm = torch.cat([d.flatten() for d in directions]).norm()
        weights = [w - size(lr[i], float(norm)) * d for i, (w, d) in enumerate(zip(weights, directions, strict=True))]
    return weights


CASES = [{}, {"mu": 0.9}, {"mu": 0.9, "decay": 0.1}, {"mu": 0.5, "decay": 0.1, "nesterov": True}]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["clipped", "clipped now and then", "normalized"])
def test_their_steps_are_the_authors_over_the_norm_of_all_groups(kind, case):
    parameters = [nn.Parameter(draw(shape, i)) for i, shape in enumerate(SHAPES)]
    gradients = [[draw(shape, 10 * t + i) for i, shape in enumerate(SHAPES)] for t in range(1, 6)]
    rates = [0.1, 0.1, 0.1, 0.03, 0.03]
    options = {"momentum": case.get("mu", 0.0), "weight_decay": case.get("decay", 0.0)}
    options["nesterov"] = case.get("nesterov", False)
    groups = [{"params": parameters[:3]}, {"params": parameters[3:], "lr": 0.03}]
    clip = {"clipped": 0.02, "clipped now and then": 0.7}.get(kind)
    if clip is None:
        optimizer, size = NormalizedSGD(groups, 0.1, **options), lambda lr, n: lr / (n + 1e-10)
    else:
        optimizer, size = ClippedSGD(groups, 0.1, clip=clip, **options), lambda lr, n: min(lr, clip / (n + 1e-10))
    wanted = reference([p.detach().clone() for p in parameters], gradients, size, lr=rates, **case)
    for step in gradients:
        for p, g in zip(parameters, step, strict=True):
            p.grad = g
        optimizer.step()
    for p, expected in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_steps_are_of_the_stated_length_whatever_the_gradient(size):
    """The squares of such gradients are no float32, and the eps is not to shorten small ones unseen: it is 1e-10."""
    a, b = (nn.Parameter(torch.zeros(7, 3)) for _ in range(2))
    optimizer = NormalizedSGD([a, b], 0.5)
    a.grad, b.grad = draw((7, 3), 0, torch.float32) * size, draw((7, 3), 1, torch.float32) * size
    norm = float(torch.cat([a.grad, b.grad]).double().norm())
    optimizer.step()
    length = float(torch.cat([a, b]).detach().double().norm())
    assert length == pytest.approx(0.5 * norm / (norm + 1e-10), rel=1e-5)


def test_a_clipped_step_is_at_most_the_clip_and_unclipped_ones_are_those_of_sgd():
    a, b = nn.Parameter(draw((6, 4), 0)), nn.Parameter(draw((6, 4), 0))
    ours = ClippedSGD([a], 0.1, clip=0.2, momentum=0.9)
    theirs = torch.optim.SGD([b], 0.1, momentum=0.9)
    for t in range(3):
        a.grad = b.grad = draw((6, 4), t + 1) * 0.05
        ours.step()
        theirs.step()
    torch.testing.assert_close(a.detach(), b.detach())
    before = a.detach().clone()
    a.grad = draw((6, 4), 9) * 1e6
    ours.step()
    assert float((a.detach() - before).norm()) == pytest.approx(0.2)


def test_they_state_what_bounds_their_steps():
    w = nn.Parameter(torch.ones(2, 2))
    assert "not bounded" in str(explain(ClippedSGD([w], 0.1, clip=1.0)))
    assert "the norm of all parameters' updates together is 1" in str(explain(NormalizedSGD([w], 0.1)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: ClippedSGD([p], 0.1, clip=-1.0), ValueError, "clip must be a finite number >= 0"),
        (lambda p: ClippedSGD([p], 0.1, clip="1"), TypeError, "clip must be a number"),
        (lambda p: NormalizedSGD([p], 0.1, momentum=1.0), ValueError, "momentum must be at least 0 and below 1"),
        (lambda p: NormalizedSGD([p], 0.1, nesterov=True), ValueError, "nesterov looks ahead along the momentum"),
    ],
)
def test_what_makes_no_sense_is_refused_by_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.Parameter(torch.ones(2)))
