"""What has no curvature is refused with a sentence: which argument, what was given, what to do."""

import pytest
import torch
from torch import nn

from isometry import Inputs, measure
from isometry.measure import _curvature_kernels


def mlp(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))


class Wrapped(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.net, self.change = mlp(), change

    def forward(self, x):
        return self.change(self.net, x)


class Once(torch.autograd.Function):
    """An operation that can be differentiated only once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3
V = torch.zeros(6, 3)


def explosive():
    model = mlp()
    with torch.no_grad():
        model[2].weight.fill_(float("inf"))
    return model


@pytest.mark.parametrize(
    ("model", "x", "y", "options", "error", "message"),
    [
        ("mlp", X, Y, {}, TypeError, r"model must be a torch.nn.Module, got str"),
        (mlp(), [1.0], Y, {}, TypeError, r"x must be a torch.Tensor, a tuple of tensors or a dict.*got list"),
        (mlp(), X.masked_fill(X > 1, float("nan")), Y, {}, ValueError, r"x holds \d+ non-finite values"),
        (mlp(), X.double(), Y, {}, ValueError, r"pass x.to\(torch.float32\)"),
        (nn.Tanh(), X, Y, {}, ValueError, r"model has no parameters, so its loss has no curvature"),
        (mlp(), X, Y, {"kind": "hesian"}, ValueError, r"unknown kind 'hesian'; did you mean 'hessian'"),
        (mlp(), X, Y, {"loss": "crossentropy"}, ValueError, r"unknown loss.*did you mean 'cross-entropy'"),
        (mlp(), X, Y, {"loss": 3}, TypeError, r"loss must be 'cross-entropy' or 'mse' or a function.*got int"),
        (mlp(), X, Y, {"params": "3.*"}, ValueError, r"unknown params pattern '3.\*'"),
        (mlp(), X, [0] * 6, {}, TypeError, r"y must be a torch.Tensor, got list"),
        (mlp(), X, Y.float(), {}, TypeError, r"y must be integer class labels.*got torch.float32"),
        (mlp(), X, Y[:5], {}, ValueError, r"y must have shape \(6,\) for.*classes last, got \(5,\)"),
        (mlp(), X, torch.arange(6), {}, ValueError, r"labels from 0 to 2, got labels from 0 to 5"),
        (mlp(), X, Y - 100, {}, ValueError, r"labels from 0 to 2, got labels from -99 to -98"),
        (mlp(), X, Y * 0 - 100, {}, ValueError, r"y and mask leave no label that counts"),
        (
            mlp(), Inputs((X,), mask=torch.ones(6, 3)), V, {"loss": "mse"},
            ValueError, r"x has a mask, which loss mse does not see",
        ),
        (mlp(1), X, Y, {}, ValueError, r"at least two classes, the model gives \(6, 1\); use two logits"),
        (mlp(), X, V[:, :2], {"loss": "mse"}, ValueError, r"y must have the output's shape \(6, 3\).*got \(6, 2\)"),
        (mlp(), X, V / 0, {"loss": "mse"}, ValueError, r"y holds 18 non-finite values"),
        (mlp(), X, V, {"loss": lambda o, y: (o - y) ** 2}, ValueError, r"returned shape \(6, 3\); return one number"),
        (mlp(), X, V, {"loss": lambda o, y: 1.0}, TypeError, r"returned float; it must return one real-valued tensor"),
        (mlp(), X, V, {"loss": lambda o, y: o.sum() / 0}, ValueError, r"is (-?inf|nan) though the outputs are finite"),
        (mlp(), X, V, {"loss": lambda o, y: 1 / 0}, ValueError, r"loss <lambda> raised ZeroDivisionError on outputs"),
        (mlp(), X, V, {"loss": lambda o, y: o.detach().sum()}, ValueError, r"does not depend on the model's outputs"),
        (mlp(), X, V, {"loss": lambda o, y: (o * torch.rand(3)).sum()}, ValueError, r"loss <lambda> is random"),
        (nn.Sequential(mlp(), nn.Dropout(0.1)), X, Y, {}, ValueError, r"'1' \(Dropout\) drops units.*\.eval\(\)"),
        (nn.Sequential(mlp(), nn.RReLU()), X, Y, {}, ValueError, r"'1' \(RReLU\) draws slopes at random"),
        (Wrapped(lambda n, x: n(x) + 1e-4 * torch.rand(())), X, Y, {}, ValueError, r"model is random: two passes"),
        (Wrapped(lambda n, x: ("logits", 3)), X, Y, {}, TypeError, r"returned a tuple of 2 elements"),
        (Wrapped(lambda n, x: n(x).argmax(1)), X, Y, {}, TypeError, r"returned a tensor of torch.int64"),
        (Wrapped(lambda n, x: n(x).detach()), X, Y, {}, ValueError, r"does not depend on the chosen parameters"),
        (explosive(), X, Y, {}, ValueError, r"output is empty or not finite.*for 6 of 6 samples"),
        (Wrapped(lambda n, x: (n(x) * 0).sqrt()), X, Y, {}, ValueError, r"the loss's gradient overflows"),
    ],
)  # fmt: skip
def test_bad_input(model, x, y, options, error, message):
    with pytest.raises(error, match=message):
        measure.curvature(model, x, y, **options)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_an_operation_without_a_second_derivative(kind):
    """torch itself says nothing: what lies behind the operation silently counts as zero."""
    model = Wrapped(lambda n, x: n[2](Once.apply(n[0](x))))
    with pytest.raises(ValueError, match=r"operation without a second derivative \(marked.*use its plain form"):
        measure.curvature(model, X, Y, kind=kind)
    with pytest.raises(ValueError, match=r"operation without a second derivative"):
        measure.curvature(mlp(), X, V, kind=kind, loss=lambda o, y: Once.apply(o).square().sum())


def test_wrong_second_derivatives_are_noticed(monkeypatch):
    """torch's fused weight normalization takes a norm for a constant when it is differentiated twice."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    assert measure.curvature(model, X, Y).asymmetry < 1e-4
    monkeypatch.setattr(_curvature_kernels, "_weight_norm", torch._weight_norm)
    with pytest.raises(RuntimeError, match=r"second derivatives contradict each other.*custom backward pass"):
        measure.curvature(model, X, Y)


def test_an_own_generator_is_noticed_too():
    generator = torch.Generator().manual_seed(0)
    model = Wrapped(lambda n, x: n(x) + torch.randn(3, generator=generator))
    with pytest.raises(ValueError, match=r"model is random"):
        measure.curvature(model, X, Y)


def test_random_numbers_without_influence_are_no_reason():
    def change(net, x):
        torch.rand(3)
        return net(x)

    assert measure.curvature(Wrapped(change), X, Y).top(1).converged


def test_vectors():
    found = measure.curvature(mlp(), X, Y)
    with pytest.raises(ValueError, match=r"vector must have shape \(43,\) or \(43, k\), got \(42,\)"):
        found.matvec(torch.zeros(42))
    with pytest.raises(TypeError, match=r"vector must be real floating point, got torch.int64"):
        found.matvec(torch.zeros(43).long())
    with pytest.raises(ValueError, match=r"vector must have shape \(43,\), got \(43, 1\)"):
        found.split(torch.zeros(43, 1))
    with pytest.raises(ValueError, match=r"unknown method 'exact'"):
        found.trace("exact")


def test_an_overflowing_norm_is_no_eigenvalue():
    """Products of finite numbers whose squares overflow: the residual would be infinite, and below any bound of it."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 1e18
    found = measure.curvature(nn.Linear(4, 3), x, torch.zeros(6, 3), loss="mse")
    with pytest.raises(ValueError, match=r"norm overflows torch\.float32"):
        found.top(1)


def test_over_budget_a_single_sample_is_not_told_to_be_fewer():
    for count in (1, 6):
        with pytest.raises(MemoryError, match=r"the graph of 1 sample needs .*\. Pass smaller samples, or pass"):
            measure.curvature(mlp(), X[:count], Y[:count], budget=10)


def test_weights_that_are_not_finite_are_told_as_such():
    model = nn.Linear(2, 3)
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="output is empty or not finite"):
        measure.curvature(model, torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
