"""The contract that every measurement keeps: the model is afterwards exactly as before, even if it raised midway.

A new measurement joins ``MEASUREMENTS``: a name and a call that does all its work on a model and a batch.
"""

import pytest
import torch
from torch import nn

from isometry import measure

SIZE = 6


def labels(x):
    return torch.arange(len(x)) % 3


MEASUREMENTS = {
    "signal": lambda model, x: measure.signal(model, x, training=False),
    "signal of a loss": lambda model, x: measure.signal(model, x, labels(x), training=True),
    "jacobian": lambda model, x: measure.jacobian(model, x).spectrum(),
    "jacobian of a part": lambda model, x: measure.jacobian(model, x, start="0", stop="8", training=False).matrix(),
    "extremes": lambda model, x: measure.jacobian(model, x).extremes(),
    "fisher": lambda model, x: measure.fisher(model, x).eigenvalues(),
    "empirical fisher": lambda model, x: measure.fisher(model, x, targets=labels(x), kind="empirical").eigenvalues(),
    "monte-carlo fisher": lambda model, x: measure.fisher(
        model, x, kind="monte-carlo", generator=torch.Generator().manual_seed(0)
    ).eigenvalues(),
    "fisher by groups": lambda model, x: measure.fisher(model, x).per_group(by="layer"),
    "gradient confusion": lambda model, x: measure.gradient_confusion(model, x, labels(x)),
    "gradient confusion by passes": lambda model, x: measure.gradient_confusion(
        model, x, labels(x), batch_size=2, pairs=3, route="passes"
    ),
    "curvature": lambda model, x: measure.curvature(model, x, labels(x)).top(1),
    "gauss-newton": lambda model, x: measure.curvature(model, x, labels(x), kind="gauss-newton").dense(),
    "laziness": lambda model, x: measure.laziness(model, model, x),
    "products": lambda model, x: measure.jacobian(model, x).rmatvec(measure.jacobian(model, x).matvec(x)),
}
# These refuse models that draw random numbers, or that write their buffers, in the forward pass.
CALM = {
    *("fisher", "empirical fisher", "monte-carlo fisher", "fisher by groups"),
    *("gradient confusion", "gradient confusion by passes", "laziness"),
}


class Noisy(nn.Module):
    """Draws random numbers and updates a buffer whenever it is called, as sloppy modules do; unless it is calm."""

    def __init__(self, calm):
        super().__init__()
        self.calm = calm
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if not self.calm:
            self.calls += 1
            torch.rand(3)
        return x


class Bomb(nn.Module):
    """Raises in the forward or the backward pass, once armed."""

    armed = None

    def forward(self, x):
        if self.armed == "forward":
            raise RuntimeError("bang in the forward pass")
        if self.armed == "backward" and x.requires_grad:
            x = x.clone()
            x.register_hook(self.explode)
        return x

    @staticmethod
    def explode(_gradient):
        raise RuntimeError("bang in the backward pass")


def build(name):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(SIZE, SIZE),
        nn.BatchNorm1d(SIZE),
        nn.Tanh(),
        Noisy(calm=name in CALM),
        nn.Dropout(0.2),
        nn.utils.parametrizations.weight_norm(nn.Linear(SIZE, SIZE)),
        Bomb(),
        nn.ReLU(inplace=True),
        nn.Linear(SIZE, 3),
    )
    # A state that no measurement would leave by itself: mixed modes, a frozen layer, gradients, a user's hook.
    model.train()
    model[1].eval()
    model[4].eval()
    model[0].requires_grad_(False)
    model[8].weight.grad = torch.ones_like(model[8].weight)
    model[8].register_forward_hook(lambda *_: None)
    model[8].register_full_backward_hook(lambda *_: None)
    return model


def hooks(model):
    tables = [k for k in vars(nn.Module()) if k.endswith(("_hooks", "_with_kwargs", "_always_called"))]
    return [{t: dict(getattr(m, t)) for t in tables} for m in model.modules()]


def state(model):
    return {
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad identity": [id(p.grad) for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "parameter identity": [id(p) for p in model.parameters()],
        "parameters": [p.detach().clone() for p in model.parameters()],
        "parameter hooks": [p._backward_hooks for p in model.parameters()],
        "buffer identity": [id(b) for b in model.buffers()],
        "buffers": [b.clone() for b in model.buffers()],
        "hooks": hooks(model),
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "rng": torch.get_rng_state(),
    }


def assert_same(before, after):
    for key, value in before.items():
        if isinstance(value, list) and value and any(isinstance(v, torch.Tensor) for v in value):
            for a, b in zip(value, after[key], strict=True):
                assert (a is None and b is None) or torch.equal(a, b), key
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, after[key]), key
        else:
            assert value == after[key], key


def batch():
    return torch.randn(5, SIZE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_no_trace(name):
    model, x = build(name), batch()
    kept = x.clone()
    before = state(model)
    MEASUREMENTS[name](model, x)
    assert_same(before, state(model))
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert x.grad is None


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_no_trace_when_it_raises(name, where, monkeypatch):
    model, x = build(name), batch()
    monkeypatch.setattr(Bomb, "armed", where)
    before = state(model)
    with pytest.raises((ValueError, RuntimeError), match=f"bang in the {where} pass"):
        MEASUREMENTS[name](model, x)
    assert_same(before, state(model))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_works_without_grad_mode(name):
    with torch.no_grad():
        model, x = build(name), batch()
        before = state(model)
        MEASUREMENTS[name](model, x)
        assert_same(before, state(model))
