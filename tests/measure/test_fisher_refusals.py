"""What cannot be measured is refused with a sentence: which argument, what was given, what to do."""

import pytest
import torch
from torch import nn

from isometry import measure


def mlp(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))


class Wrapped(nn.Module):
    """A perceptron whose output, or input, is tampered with."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = mlp(), change

    def forward(self, x):
        return self.change(self.net, x)


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "x", "options", "error", "message"),
    [
        ("mlp", X, {}, TypeError, r"model must be a torch.nn.Module, got str"),
        (mlp(), [1.0], {}, TypeError, r"x must be a torch.Tensor.*got list without a tensor"),
        (mlp(), X[:0], {}, ValueError, r"x is empty \(shape \(0, 4\)\)"),
        (mlp(), X.masked_fill(X > 1, float("nan")), {}, ValueError, r"x holds \d+ non-finite values"),
        (mlp(), X.double(), {}, ValueError, r"dtype torch.float64.*pass x.to\(torch.float32\)"),
        (mlp(), X[:, :3], {}, ValueError, r"model raised RuntimeError on x of shape \(6, 3\)"),
        (nn.Tanh(), X, {}, ValueError, r"model has no parameters"),
        (mlp(), X, {"kind": "monte_carlo"}, ValueError, r"unknown kind 'monte_carlo'; did you mean 'monte-carlo'"),
        (mlp(), X, {"likelihood": "softmax"}, ValueError, r"unknown likelihood 'softmax'.*categorical"),
        (mlp(1), X, {}, ValueError, r'at least two outputs.*Use likelihood="gaussian", or two logits'),
        (mlp(), X, {"kind": "empirical"}, ValueError, r'kind="empirical" needs targets'),
        (mlp(), X, {"kind": "monte-carlo", "draws": 0}, ValueError, r"draws must be a whole number >= 1, got 0"),
        (mlp(), X, {"targets": [0] * 6}, TypeError, r"targets must be a torch.Tensor, got list"),
        (mlp(), X, {"targets": torch.zeros(6)}, TypeError, r"targets must be integer class labels, got torch.float32"),
        (mlp(), X, {"targets": torch.zeros(5).long()}, ValueError, r"targets must have shape \(6,\), got \(5,\)"),
        (mlp(), X, {"targets": torch.arange(6)}, ValueError, r"labels from 0 to 2, got labels from 0 to 5"),
        (mlp(), X, {"targets": torch.zeros(6, 2), "likelihood": "gaussian"}, ValueError, r"output's shape \(6, 3\)"),
        (
            mlp(), X, {"targets": torch.full((6, 3), float("inf")), "likelihood": "gaussian"},
            ValueError, r"targets hold non-finite values",
        ),
        (nn.Sequential(mlp(), nn.Dropout(0.1)), X, {}, ValueError, r"'1' \(Dropout\) drops units.*model.eval\(\)"),
        (nn.Sequential(nn.BatchNorm1d(4), mlp()), X, {}, ValueError, r"'0' \(BatchNorm1d\).*batch's statistics"),
        (
            nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), mlp()).eval(), X, {},
            ValueError, r"BatchNorm1d.*batch's statistics",
        ),
        (Wrapped(lambda n, x: {"a": n(x), "b": x}), X, {}, TypeError, r"returned a dict with keys 'a', 'b'; say which"),
        (Wrapped(lambda n, x: ("no", x.long())), X, {}, TypeError, r"tuple of 2 elements, none of them a real"),
        (Wrapped(lambda n, x: n(x).argmax(1)), X, {}, TypeError, r"returned a tensor of torch.int64"),
        (Wrapped(lambda n, x: n(x).sum(0)), X, {}, ValueError, r"returned shape \(3,\) for 6 inputs"),
        (Wrapped(lambda n, x: n(x).sum(1)), X, {}, ValueError, r"shape \(N, classes\) or.*got \(6,\)"),
        (Wrapped(lambda n, x: n(x)[:, None, None]), X, {}, ValueError, r"pass class_dim=1 for \(N, classes, height"),
        (Wrapped(lambda n, x: n(x) / 0), X, {}, ValueError, r"output is not finite.*6 of 6 samples \(0, 1, 2"),
        (Wrapped(lambda n, x: n(x) + torch.rand(())), X, {}, ValueError, r"draws random numbers in its forward pass"),
        (Wrapped(lambda n, x: n(x) - n(x).mean(0)), X, {}, ValueError, r"depends on the other samples"),
    ],
)  # fmt: skip
def test_bad_input(model, x, options, error, message):
    with pytest.raises(error, match=message):
        measure.fisher(model, x, **options)


def test_samples_that_mix_through_raw_parameters_are_noticed():
    """No module with a closed form sees it; the comparison with a plain backward pass does."""

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            h = x @ self.w
            return h - h.mean(0)

    with pytest.raises(RuntimeError, match=r"disagree by .* not a function of each sample alone"):
        measure.fisher(Mixing(), X)


def test_behaviour_that_depends_on_the_batch_size_is_noticed():
    def change(net, x):
        return net(x) if len(x) < 5 else net(2 * x) + net(x)

    with pytest.raises((ValueError, RuntimeError), match=r"called differently on the whole batch|disagree"):
        measure.fisher(Wrapped(change), X)


def test_overflowing_gradients_are_named():
    class Steep(nn.Module):
        def forward(self, x):
            return torch.sin(x * 1e38)

    steep = nn.Sequential(nn.Linear(4, 4), Steep(), nn.Linear(4, 3))
    with torch.no_grad():
        steep[2].weight.mul_(1e3)
    with pytest.raises(ValueError, match=r"gradients overflow on this batch .*model.double\(\)"):
        measure.fisher(steep, X, likelihood="gaussian")


def test_later_questions_refuse_bad_arguments():
    f = measure.fisher(mlp(), X)
    with pytest.raises(ValueError, match=r"unknown form 'rigourous'; did you mean 'rigorous'"):
        f.bound(form="rigourous")
    with pytest.raises(ValueError, match=r"vector must have shape \(43,\), got \(3,\)"):
        f.matvec(torch.zeros(3))


def test_over_budget_drawn_labels_are_named_where_they_save_rows():
    model = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 50))
    ids = torch.arange(6).view(2, 3)
    with pytest.raises(MemoryError, match=r'dense=False.*kind="monte-carlo".*largest eigenvalue is too large'):
        measure.fisher(model, ids, budget=10_000)
    with pytest.raises(MemoryError) as few:
        measure.fisher(mlp(), X, budget=1000)
    assert "monte-carlo" not in str(few.value)


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), 2])
def test_a_mask_of_weights_is_refused(value):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.full((2, 3), value)
    with pytest.raises(ValueError, match=rf"mask must hold True and False, or 1 and 0, got {value:g}; pass mask > 0.5"):
        measure.fisher(model, ids, mask=mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_mask_of_ones_and_zeros_is_one_of_truths(dtype):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    ids = torch.arange(6).view(2, 3) % 5
    mask = torch.tensor([[True, True, False], [True, False, True]])
    assert measure.fisher(model, ids, mask=mask.to(dtype)).trace == measure.fisher(model, ids, mask=mask).trace


def test_an_operation_whose_derivative_has_none():
    model = nn.Sequential(nn.EmbeddingBag(7, 4, mode="max"), nn.Linear(4, 3))
    x = torch.arange(12).view(4, 3) % 7
    with pytest.raises(ValueError, match=r"neither be differentiated again nor taken in forward mode .* dense=True"):
        measure.fisher(model, x, dense=False).top(1)
    assert measure.fisher(model, x).lambda_max > 0
