"""The contract that every measurement keeps: the model is afterwards exactly as before, even if it raised midway.

A new measurement joins ``MEASUREMENTS``: a name and a call that does all its work on a model and a batch.
"""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from isometry import measure
from isometry.training import Probe

SIZE = 6


def labels(x):
    return torch.arange(len(x)) % 3


def states(model):
    """Two states of the model, neither of them its own."""
    own = {name: t.detach().clone() for name, t in model.state_dict().items()}
    return [{name: t * factor if t.is_floating_point() else t for name, t in own.items()} for factor in (0.9, 1.1)]


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
    "local smoothness": lambda model, x: measure.local_smoothness(model, x, labels(x), states(model), k=2),
    "products": lambda model, x: measure.jacobian(model, x).rmatvec(measure.jacobian(model, x).matvec(x)),
}
# These refuse models that draw random numbers, or that write their buffers, in the forward pass.
CALM = {
    *("fisher", "empirical fisher", "monte-carlo fisher", "fisher by groups"),
    *("gradient confusion", "gradient confusion by passes", "laziness", "local smoothness"),
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


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_nan_in_an_unused_buffer_is_no_change(name):
    model = build(name)
    model.register_buffer("cache", torch.tensor(float("nan")))
    MEASUREMENTS[name](model, batch())
    assert model.cache.isnan()
    assert model.cache._version == 0 or name == "local smoothness"  # which puts states into the model


# Measured of a model whose embedding shortens rows in place, and of the same model with these rows short beforehand.
OF_TOKENS = {
    "signal": lambda model, x: [layer.q for layer in measure.signal(model, x, labels(x)).layers],
    "jacobian": lambda model, x: measure.jacobian(model, x, start="tokens").singular_values(),
    "fisher": lambda model, x: measure.fisher(model, x).eigenvalues(),
    "fisher by products": lambda model, x: measure.fisher(model, x, dense=False).top(1).eigenvalues,
    "fisher by groups": lambda model, x: [group.trace for group in measure.fisher(model, x).per_group(by="layer")],
    "tangent kernel": lambda model, x: measure.ntk(model, x).matrix(),
    "gradient confusion": lambda model, x: measure.gradient_confusion(model, x, labels(x)).min_cosine,
    "gradient confusion by passes": lambda model, x: (
        measure.gradient_confusion(model, x, labels(x), route="passes").min_cosine
    ),
    "curvature": lambda model, x: measure.curvature(model, x, labels(x)).top(1).eigenvalues,
    "gauss-newton": lambda model, x: measure.curvature(model, x, labels(x), kind="gauss-newton").dense(),
}


class Tokens(nn.Module):
    def __init__(self, max_norm):
        super().__init__()
        self.tokens = nn.Embedding(7, 4, max_norm=max_norm)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.tokens(x).mean(1)))


@pytest.mark.parametrize("name", OF_TOKENS)
def test_embeddings_with_a_largest_norm_keep_their_weights(name):
    torch.manual_seed(0)
    model, short = Tokens(0.5), Tokens(None)
    short.load_state_dict(model.state_dict())
    with torch.no_grad():
        short.tokens.weight.renorm_(2, 0, 0.5)
    x = torch.arange(15).view(5, 3) % 7
    before, versions = state(model), [p._version for p in model.parameters()]
    found, wanted = (torch.as_tensor(OF_TOKENS[name](m, x)) for m in (model, short))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert_same(before, state(model))
    assert versions == [p._version for p in model.parameters()]


def test_a_tied_weight_with_a_largest_norm_is_refused():
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=0.5), nn.Linear(4, 7))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"'0' shortens the rows that it looks up .* '1' reads the same weight"):
        measure.signal(model, torch.arange(4).view(2, 2))


@pytest.mark.parametrize("made", ["outside", "inside"])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_works_in_inference_mode(name, made):
    model, x = build(name), batch()
    before = state(model)
    with torch.inference_mode():
        MEASUREMENTS[name](model, x if made == "outside" else x.clone())
    assert_same(before, state(model))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_takes_inputs_that_were_made_in_inference_mode(name):
    with torch.inference_mode():
        x = batch()
    MEASUREMENTS[name](build(name), x)


def test_a_model_that_was_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = nn.Linear(SIZE, 3)
    with pytest.raises(ValueError, match=r"'weight' was made inside torch.inference_mode\(\) .* copy.deepcopy"):
        measure.fisher(model, batch())
    measure.fisher(copy.deepcopy(model), batch())


def test_a_probe_leaves_an_embedding_with_a_largest_norm_to_its_training():
    def trained(probed):
        torch.manual_seed(0)
        model = Tokens(0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        x, others = (
            torch.arange(15).view(5, 3) % 4,
            torch.arange(15).view(5, 3) % 3 + 4,
        )  # the probe looks up other rows
        probe = Probe(model, others, labels(others), every=1, max_overhead=1e9) if probed else nullcontext()
        with probe:
            for _ in range(3):
                loss = nn.functional.cross_entropy(model(x), labels(x))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if probed:
                    probe.step(loss)
        return model.tokens.weight.detach()

    assert torch.equal(trained(probed=True), trained(probed=False))
