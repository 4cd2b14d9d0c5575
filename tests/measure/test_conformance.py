"""Every measurement on every kind of model: what must hold whatever the numbers are.

A new measurement joins ``MEASURES`` (a call that gives numbers which do not depend on the order of the samples), a new
kind of model joins ``MODELS``. What a pair cannot do stands in ``REFUSALS`` with the words of its refusal. The numbers
themselves are tested against their definitions elsewhere; here it is the state of the model, the order of the batch, a
batch of one, tied and frozen parameters, the two modes, and half precision.
"""

import pytest
import torch
from torch import nn

from isometry import measure
from isometry.tape import as_inputs

from .fisher_models import Tied
from .test_families import FOREIGN, PLAIN
from .test_families import build as family
from .test_no_trace import assert_same, state

START = {"gpt2": "transformer.drop", "bert": "bert.embeddings", "llama": "model.layers.0", "tied": "norm"}


def labels(model, x, rows=None):
    """Give class labels of one sample per row that do not depend on where the sample stands."""
    inputs = as_inputs(x)
    with torch.no_grad():
        out = inputs.run(model)
    one = torch.arange(out[0, ..., 0].numel()).reshape(out.shape[1:-1])
    each = torch.arange(len(out)) if rows is None else rows
    return (each.reshape(-1, *[1] * one.ndim) + one) % out.shape[-1]


def bottom(values, count=6):
    """Cut sorted values to the largest: the tail of a spectrum is rounding."""
    return values.double().sort(descending=True).values[:count]


def signal(model, x, y, **_):
    found = measure.signal(model, x, y)
    return torch.tensor([found.loss, *(layer.gradient_norm for layer in found.weight_layers)])


def jacobian(model, x, _y, start=None):
    values = measure.jacobian(model, x, start=start).singular_values()
    return bottom(values.flatten(), 4)


def fisher(model, x, _y, **_):
    return bottom(measure.fisher(model, x).eigenvalues())


def empirical(model, x, y, **_):
    return bottom(measure.fisher(model, x, targets=y, kind="empirical").eigenvalues())


def ntk(model, x, _y, **_):
    return bottom(measure.ntk(model, x, form="full").eigenvalues())


def hessian(model, x, y, **_):
    return measure.curvature(model, x, y).top(1).eigenvalues.double()


def gauss_newton(model, x, y, **_):
    return measure.curvature(model, x, y, kind="gauss-newton").top(1).eigenvalues.double()


def confusion(model, x, y, **_):
    return confusion_of(measure.gradient_confusion(model, x, y))


def confusion_of(found):
    return torch.tensor([found.eta, found.min_cosine, found.mean], dtype=torch.float64)


MEASURES = {
    "signal": signal,
    "jacobian": jacobian,
    "fisher": fisher,
    "empirical fisher": empirical,
    "ntk": ntk,
    "hessian": hessian,
    "gauss-newton": gauss_newton,
    "confusion": confusion,
}


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def convolutional():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_var.uniform_(0.5, 2.0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), norm, nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(36, 3)
    )


def own(name):
    generator = torch.Generator().manual_seed(1)
    if name == "mlp":
        return perceptron().double(), torch.randn(4, 4, generator=generator).double()
    if name == "cnn":
        return convolutional().double().eval(), torch.randn(4, 2, 5, 5, generator=generator).double()
    torch.manual_seed(0)
    return Tied().double(), torch.randint(1, 6, (4, 5), generator=generator)


MODELS = ("mlp", "cnn", "tied", *(name for name in PLAIN if name != "one graph"), *FOREIGN)


def build(name):
    model, x = own(name) if name in ("mlp", "cnn", "tied") else family(name)
    return model, as_inputs(x)


def run(measured, name, model, x, rows=None):
    """Measure, from the embedding on where the inputs are tokens."""
    return MEASURES[measured](model, x, labels(model, x, rows), start=START.get(name))


TABLE = [(measured, name) for name in MODELS for measured in MEASURES]
# Norms and rotary embeddings of Llama compute in float32; a Lanczos eigenvalue has its residual's accuracy.
LOOSE = {"llama": 1e-5, "hessian": 1e-4, "gauss-newton": 1e-4}


def close(measured, name, a, b):
    tolerance = max(1e-8, LOOSE.get(measured, 0), LOOSE.get(name, 0))
    scale = float(b.abs().max())
    assert scale > 0, "nothing was measured"
    assert a.shape == b.shape
    assert torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance * scale), (a, b)


@pytest.mark.parametrize(("measured", "name"), TABLE)
def test_state_and_order(measured, name):
    """The model is as before, and the order of the batch is of no account."""
    model, x = build(name)
    before = state(model)
    found = run(measured, name, model, x)
    assert_same(before, state(model))
    order = torch.arange(len(x)).flip(0)
    close(measured, name, run(measured, name, model, x[order], order), found)


@pytest.mark.parametrize(("measured", "name"), TABLE)
def test_batch_of_one(measured, name):
    """One sample is measured as one of several is, where that has a meaning."""
    model, x = build(name)
    if measured == "confusion":
        with pytest.raises(ValueError, match="two"):
            run(measured, name, model, x[:1])
        return
    found = run(measured, name, model, x[:1])
    twice = run(measured, name, model, x[torch.tensor([0, 0])], torch.tensor([0, 0]))
    if measured == "jacobian":
        close(measured, name, twice[::2], found[: len(twice[::2])])  # each value comes twice
    elif measured == "ntk":
        count = min(3, len(found))
        close(measured, name, twice[:count] / 2, found[:count])  # the kernel of two equal samples is twice as large
    else:
        count = min(3, len(found))
        close(measured, name, twice[:count], found[:count])  # a mean over equal samples is that of one


@pytest.mark.parametrize("measured", MEASURES)
def test_tied_weights_count_once(measured):
    """An embedding that the head shares by being the same parameter, or by its use in a function."""
    shared, x = build("tied")
    by_use, _ = build("tied")
    by_use.functional = True
    by_use.head = None
    if (
        measured == "signal"
    ):  # its rows are the modules', of which one is gone: the loss says that they are the same net
        assert run(measured, "tied", shared, x)[0] == run(measured, "tied", by_use, x)[0]
        return
    close(measured, "tied", run(measured, "tied", by_use, x), run(measured, "tied", shared, x))


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt2", "resnet", "lstm"])
@pytest.mark.parametrize("measured", MEASURES)
def test_frozen_parameters_are_measured_like_others(measured, name):
    """A frozen layer shapes the function as much as any other; who wants it left out says so by ``params``."""
    model, x = build(name)
    whole = run(measured, name, model, x)
    for parameter in list(model.parameters())[:-1:2]:
        parameter.requires_grad_(False)
    found = run(measured, name, model, x)
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    close(measured, name, found, whole)


@pytest.mark.parametrize("measured", ["fisher", "ntk", "gauss-newton"])
def test_a_choice_of_parameters_leaves_out_the_others(measured):
    """By Cauchy's interlacing the largest eigenvalue of a principal block is not above that of the whole."""
    model, x = build("mlp")
    y, rest = labels(model, x), ["2.weight", "4.*"]
    few = {
        "fisher": lambda: measure.fisher(model, x, params=rest).eigenvalues(),
        "ntk": lambda: measure.ntk(model, x, params=rest).eigenvalues(),
        "gauss-newton": lambda: measure.curvature(model, x, y, params=rest, kind="gauss-newton").top(1).eigenvalues,
    }[measured]()
    assert 0 < float(few.max()) < 0.999 * float(run(measured, "mlp", model, x).max())


# What a mode of training means differs: dropout draws, batch norm couples the samples.
RANDOM = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
COUPLED = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
DETERMINISTIC = ("jacobian", "fisher", "empirical fisher", "ntk", "hessian", "gauss-newton", "confusion")


@pytest.mark.parametrize("measured", MEASURES)
def test_modes_do_not_matter_where_the_model_has_none(measured):
    model, x = build("mlp")
    training = run(measured, "mlp", model.train(), x)
    close(measured, "mlp", run(measured, "mlp", model.eval(), x), training)


@pytest.mark.parametrize("model", [RANDOM, COUPLED], ids=["dropout", "batch norm"])
@pytest.mark.parametrize("measured", DETERMINISTIC)
def test_modes_that_leave_per_sample_quantities_undefined(measured, model):
    """In training mode either the answer is refused by name, or it is one that the mode gives without doubt."""
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(4) % 3
    wanted = MEASURES[measured](model.eval(), x, y)
    assert torch.equal(MEASURES[measured](model, x, y), wanted)
    model.train()
    if measured in ("hessian", "gauss-newton") and model is COUPLED:
        assert not torch.allclose(MEASURES[measured](model, x, y), wanted)  # the loss of a coupled batch has a Hessian
        return
    with pytest.raises(ValueError, match=r"eval\(\)|eval mode|evaluation mode|random numbers|depends on the other"):
        MEASURES[measured](model, x, y)


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt2", "bert", "vit", "encoder"])
@pytest.mark.parametrize("measured", MEASURES)
def test_half_precision(measured, name):
    """Weights in bfloat16 against the same weights in float32: 8 bits, over a handful of layers."""
    model, x = build(name)
    half = model.bfloat16()
    low = run(measured, name, half, x.to(torch.bfloat16))
    high = run(measured, name, half.float(), x.to(torch.bfloat16).to("cpu", torch.float32))
    count = min(len(low), 3)
    scale = float(high[:count].abs().max())
    assert torch.allclose(low[:count].double(), high[:count].double(), rtol=0, atol=0.1 * scale), (low, high)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


@pytest.mark.parametrize("measured", ["fisher", "empirical fisher", "ntk", "hessian", "gauss-newton", "confusion"])
def test_outputs_without_gradient_are_refused(measured):
    """A zero would be a wrong answer: nobody's model is meant to be a constant of its parameters."""
    model = nn.Sequential(nn.Linear(4, 3), Detached()).double()
    x = as_inputs(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double())
    with pytest.raises(ValueError, match="differentiable operations; look for"):
        run(measured, "mlp", model, x)


@pytest.mark.parametrize(("budget", "error"), [("1GB", TypeError), (-1, ValueError), (float("nan"), ValueError)])
def test_a_budget_that_is_no_number_of_bytes_is_refused_at_once(budget, error):
    """Lazy measurements too: not by the first question that happens to need bytes."""
    model, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.arange(6) % 3
    for measure_it in (
        lambda: measure.fisher(model, x, budget=budget),
        lambda: measure.fisher(model, x, dense=False, budget=budget),
        lambda: measure.ntk(model, x, budget=budget),
        lambda: measure.gradient_confusion(model, x, y, budget=budget),
        lambda: measure.curvature(model, x, y, budget=budget),
        lambda: measure.jacobian(model, x, budget=budget),
    ):
        with pytest.raises(error, match="budget must be a number of bytes"):
            measure_it()
