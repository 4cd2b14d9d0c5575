"""Checkpointed activations and PReLU are measured as what they compute, by every measurement.

Seen to fail: with checkpoints left on, all refuse the reentrant kind, and signal and products the other; with torch's
own PReLU, one direction at a time gives gradients that are off by some percent, and (N, C) raises.
"""

import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from isometry import measure
from isometry.tape import Inputs, plain_operations

Y = torch.arange(6) % 3
QUESTIONS = {
    "signal": lambda model, x: [layer.gradient_norm for layer in measure.signal(model, x, Y).layers],
    "jacobian": lambda model, x: measure.jacobian(model, x).singular_values(),
    "extremes": lambda model, x: measure.jacobian(model, x).extremes().values,
    "fisher": lambda model, x: measure.fisher(model, x).eigenvalues(),
    "fisher by products": lambda model, x: measure.fisher(model, x, dense=False).top(1).eigenvalues,
    "fisher by groups": lambda model, x: [group.trace for group in measure.fisher(model, x).per_group(by="layer")],
    "tangent kernel": lambda model, x: measure.ntk(model, x).matrix(),
    "gradient confusion": lambda model, x: measure.gradient_confusion(model, x, Y).min_cosine,
    "gradient confusion by passes": lambda model, x: measure.gradient_confusion(model, x, Y, route="passes").min_cosine,
    "curvature": lambda model, x: measure.curvature(model, x, Y).top(1).eigenvalues,
    "gauss-newton": lambda model, x: measure.curvature(model, x, Y, kind="gauss-newton").dense(),
}


class Net(nn.Module):
    """Keeps or computes again what is in its middle."""

    def __init__(self, reentrant=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.reentrant = reentrant

    def middle(self, h):
        return torch.tanh(self.b(h))

    def forward(self, x):
        h = self.a(x)
        kept = self.reentrant is None
        return self.c(self.middle(h) if kept else checkpoint(self.middle, h, use_reentrant=self.reentrant))


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", QUESTIONS)
def test_checkpoints_change_nothing(name, reentrant):
    x = normal(6, 4)
    own = CheckpointFunction.apply
    found, wanted = (torch.as_tensor(QUESTIONS[name](model, x)) for model in (Net(reentrant), Net()))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    assert CheckpointFunction.apply == own


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_the_transformers_library(reentrant):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).train()  # checkpoints are for training mode
    x = {"input_ids": torch.arange(12).view(3, 4) % 11}

    def values():
        return torch.tensor(
            [
                measure.fisher(model, x, dense=False).trace,
                measure.signal(model, x, training=True, generator=torch.Generator().manual_seed(0)).input_gradient_norm,
            ]
        )

    wanted = values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the name that all versions of the library know
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    torch.testing.assert_close(values(), wanted, equal_nan=True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


class Pooled(nn.Module):
    def forward(self, x):
        return x.mean(-1)


PRELUS = {
    "one number": (nn.Linear(4, 5), nn.PReLU(), nn.Linear(5, 3), (6, 4)),
    "a number a channel": (nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 3), (6, 4)),
    "positions behind": (nn.Linear(4, 7), nn.PReLU(5), nn.Sequential(Pooled(), nn.Linear(5, 3)), (6, 5, 4)),
    "as many positions": (nn.Linear(4, 5), nn.PReLU(5), nn.Sequential(Pooled(), nn.Linear(5, 3)), (6, 5, 4)),
    "images": (nn.Conv2d(2, 5, 3), nn.PReLU(5), nn.Sequential(nn.Flatten(), nn.Linear(45, 3)), (6, 2, 5, 5)),
}


@pytest.mark.parametrize("name", PRELUS)
def test_prelu_in_any_shape(name):
    *modules, shape = PRELUS[name]
    model, x = nn.Sequential(*modules).double(), normal(*shape).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-0.5, 0.9, model[1].weight.numel()))
    each = jacrev(lambda values: functional_call(model, values, (x,)))(
        {n: p.detach() for n, p in model.named_parameters()}
    )
    rows = torch.cat([part.flatten(2) for part in each.values()], 2)  # (N, C, numbers)
    torch.testing.assert_close(measure.ntk(model, x).values, torch.einsum("nap,mbp->anbm", rows, rows))
    fisher = measure.fisher(model, x, likelihood="gaussian")
    flat = rows.flatten(0, 1)
    torch.testing.assert_close(fisher.trace, float(flat.square().sum()) / len(x))
    for products in (measure.fisher(model, x, likelihood="gaussian", dense=False), fisher):
        top = float(torch.linalg.matrix_norm(flat, 2) ** 2) / len(x)
        torch.testing.assert_close(float(products.top(1).eigenvalues[0]), top, rtol=1e-4, atol=0.0)
    by_gram, by_passes = (measure.gradient_confusion(model, x, Y, route=route) for route in ("gram", "passes"))
    assert by_gram.min_cosine == pytest.approx(by_passes.min_cosine, rel=1e-9)


BAGS = {
    "mean": {},
    "sum": {"mode": "sum"},
    "padded": {"padding_idx": 2},
    "short": {"mode": "sum", "include_last_offset": True},
    "max": {"mode": "max"},
    "by frequency": {"scale_grad_by_freq": True},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", BAGS.values(), ids=BAGS)
def test_bags_of_embeddings_hold_what_they_held(options, dtype):
    torch.manual_seed(0)
    bags = nn.EmbeddingBag(7, 4, **options).to(dtype)
    tokens, offsets = torch.tensor([1, 2, 2, 0, 6, 2, 3]), torch.tensor([0, 3, 3, 6])  # one is empty, one all padding
    if "include_last_offset" in options:
        tokens = tokens[:6]
    weights = {"per_sample_weights": normal(7).to(dtype)} if options == BAGS["sum"] else {}
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    wanted = bags(tokens, offsets, **weights)
    gradient = torch.autograd.grad(wanted.square().sum(), bags.weight)[0]
    with plain_operations():
        found = bags(tokens, offsets, **weights)
        torch.testing.assert_close(found, wanted, **tolerance)
        torch.testing.assert_close(torch.autograd.grad(found.square().sum(), bags.weight)[0], gradient, **tolerance)
        if "include_last_offset" not in options:
            square = tokens[:6].view(2, 3)
            torch.testing.assert_close(bags(square), torch.stack([bags(row[None])[0] for row in square]), **tolerance)


def test_bags_leave_out_what_comes_after_the_last_offset():
    bags = nn.EmbeddingBag(7, 4, mode="sum", include_last_offset=True)
    offsets = torch.tensor([0, 2, 4])
    with plain_operations():
        found, wanted = (bags(torch.arange(n), offsets) for n in (6, 4))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found, bags(torch.arange(6), offsets))


def test_bags_of_many_are_summed_in_more_than_half_precision():
    bags = nn.EmbeddingBag(500, 3).to(torch.bfloat16)
    bags.weight.data.abs_()  # as a running sum grows, entries fall below its rounding
    with plain_operations():
        found = bags(torch.arange(500)[None])
    exact = bags.weight.detach().double().mean(0, keepdim=True)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=0)


class Recommender(nn.Module):
    """A tower of bags and one of numbers, as in recommendation."""

    def __init__(self, mode):
        super().__init__()
        torch.manual_seed(0)
        self.bags, self.dense, self.out = nn.EmbeddingBag(9, 5, mode=mode), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, tokens, x):
        return self.out(torch.tanh(self.bags(tokens) + self.dense(x)))


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_models_with_bags_are_measured_as_torch_func_has_them(mode):
    model = Recommender(mode).double()
    tokens, x = torch.arange(18).view(6, 3) % 9, normal(6, 4).double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def plain(values):  # by a look-up and a sum, as one would write it by hand
        rows = values["bags.weight"][tokens].sum(1) / (3 if mode == "mean" else 1)
        hidden = torch.tanh(rows + x @ values["dense.weight"].T + values["dense.bias"])
        return hidden @ values["out.weight"].T + values["out.bias"]

    def loss(flat):
        parts = flat.split([p.numel() for p in parameters.values()])
        values = {k: part.view_as(p) for (k, p), part in zip(parameters.items(), parts, strict=True)}
        return nn.functional.cross_entropy(plain(values), Y)

    flat = torch.cat([p.flatten() for p in parameters.values()])
    hessian = torch.func.hessian(loss)(flat)
    inputs = Inputs((tokens, x))
    torch.testing.assert_close(measure.curvature(model, inputs, Y).dense(), hessian, rtol=1e-8, atol=1e-10)
    jacobians = jacrev(plain)(parameters)
    rows = torch.cat([j.flatten(2) for j in jacobians.values()], -1)
    p = torch.softmax(plain(parameters), -1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    fisher = torch.einsum("nai,nab,nbj->ij", rows, middle, rows) / 6
    wanted = torch.linalg.eigvalsh(fisher)[-1]
    for dense in (True, False):
        found = measure.fisher(model, inputs, dense=dense).top(1).eigenvalues[0]
        torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float64), wanted, rtol=1e-7, atol=0)
    gradient = measure.gradient_confusion(model, inputs, Y).min_cosine
    by_passes = measure.gradient_confusion(model, inputs, Y, route="passes").min_cosine
    assert gradient == pytest.approx(by_passes, rel=1e-6)
