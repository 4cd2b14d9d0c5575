"""What has no gradient confusion is refused with a sentence: which argument, what was given, what to do."""

import pytest
import torch
from torch import nn

from isometry import measure
from isometry._base import MemoryBudgetError
from isometry.tape import Inputs


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def with_(*layers):
    return nn.Sequential(*layers, mlp())


class Wrapped(nn.Module):
    """A perceptron whose output, or input, is tampered with."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = mlp(), change

    def forward(self, x):
        return self.change(self.net, x)


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
NAN = float("nan")


@pytest.mark.parametrize(
    ("model", "y", "options", "error", "message"),
    [
        ("mlp", Y, {}, TypeError, r"model must be a torch.nn.Module, got str"),
        (mlp(), [0] * 6, {}, TypeError, r"y must be a torch.Tensor of targets, got list; convert it first"),
        (mlp(), Y[:5], {}, ValueError, r"y has shape \(5,\) for 6 samples; pass one target a sample"),
        (mlp(), Y.bool(), {}, TypeError, r"y has dtype torch.bool, which suggests no loss.*callable loss="),
        (mlp(), torch.full((6, 3), NAN), {}, ValueError, r"y holds non-finite values.*drop them"),
        (mlp(), torch.zeros(6, 2), {}, ValueError, r"y has shape \(6, 2\), the outputs \(6, 3\).*outputs' shape"),
        (mlp(), Y + 1, {}, ValueError, r"y lies in 1..3, but the model has 3 outputs; labels must be 0..2"),
        (mlp(), Y.unsqueeze(1), {}, ValueError, r"y has shape \(6, 1\), the outputs \(6, 3\).*classes last"),
        (mlp(), Y.float(), {"loss": "cross-entropy"}, TypeError, r"class indices.*got torch.float32.*\.long\(\)"),
        (mlp(), Y, {"loss": "cross_entropy"}, ValueError, r"unknown loss 'cross_entropy'.*mean 'cross-entropy'"),
        (mlp(), Y, {"loss": 3}, TypeError, r"loss must be a name, a callable or None, got int"),
        (mlp(), Y, {"loss": lambda o, t: o}, ValueError, r"one real number for one sample.*shape \(1, 3\)"),
        (mlp(), Y, {"loss": lambda o, t: 0.0}, ValueError, r"one real number for one sample.*got float"),
        (mlp(), Y, {"loss": lambda o, t: 1 / 0}, ValueError, r"loss '<lambda>' raised ZeroDivisionError on outputs"),
        (mlp(), Y, {"loss": lambda o, t: o.detach().sum()}, ValueError, r"without a graph.*differentiable function"),
        (mlp(), Y, {"loss": lambda o, t: (o * NAN).sum()}, ValueError, r"is not finite.*6 of 6 samples \(0, 1, 2"),
        (mlp(), Y, {"loss": lambda o, t: (0 * o).sqrt().sum()}, ValueError, r"gradient of loss '<lambda>'.*not finite"),
        (mlp(), Y, {"batch_size": 0}, ValueError, r"batch_size must be a whole number >= 1, got 0"),
        (mlp(), Y, {"batch_size": True}, ValueError, r"batch_size must be a whole number >= 1, got True"),
        (mlp(), Y, {"pairs": 0}, ValueError, r"pairs must be a whole number >= 1, got 0"),
        (mlp(), Y, {"batch_size": 4}, ValueError, r"batch_size=4 needs 8 samples for two disjoint.*x holds 6"),
        (mlp(), Y, {"route": "gramm"}, ValueError, r"unknown route 'gramm'; did you mean 'gram'"),
        (mlp(), Y, {"params": "wieght"}, ValueError, r"unknown params pattern 'wieght'"),
        (with_(nn.BatchNorm1d(4)), Y, {}, ValueError, r"single sample is undefined.*'0' \(BatchNorm1d\).*batch_size="),
        (
            with_(nn.BatchNorm1d(4)), Y, {"batch_size": 2, "route": "gram"},
            ValueError, r"single sample is undefined.*batch's statistics",
        ),
        (with_(nn.Dropout(0.1)), Y, {}, ValueError, r"\(Dropout\) drops units at random.*Switch the random"),
        (with_(nn.Dropout(0.1)), Y, {"batch_size": 2, "route": "passes"}, ValueError, r"\(Dropout\) drops units"),
        (Wrapped(lambda n, x: n(x) + torch.rand(())), Y, {}, ValueError, r"draws random numbers in its forward pass"),
        (
            Wrapped(lambda n, x: n(x) + torch.rand(())), Y, {"batch_size": 2, "route": "passes"},
            ValueError, r"draws random numbers.*differ by chance alone",
        ),
        (Wrapped(lambda n, x: n(x) - n(x).mean(0)), Y, {}, ValueError, r"depends on the other samples"),
        (Wrapped(lambda n, x: n(x) / 0), Y, {}, ValueError, r"model's output is not finite.*6 of 6 samples"),
        (Wrapped(lambda n, x: n(x) / 0), Y, {"route": "passes"}, ValueError, r"model's output is not finite"),
        (Wrapped(lambda n, x: n(x[:, :2])), Y, {}, ValueError, r"model raised RuntimeError on x of shape \(6, 4\)"),
    ],
)  # fmt: skip
def test_bad_input(model, y, options, error, message):
    with pytest.raises(error, match=message):
        measure.gradient_confusion(model, X, y, **options)


def test_one_sample_has_nobody_to_be_confused_with():
    with pytest.raises(ValueError, match=r"x holds 1 sample; gradient confusion compares at least two"):
        measure.gradient_confusion(mlp(), X[:1], Y[:1])


def test_gradients_that_are_not_finite_are_noticed_on_both_routes():
    class Steep(nn.Module):
        """|x - w|^(1/2) at x = w: a finite output with an infinite slope."""

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return (x - self.w).abs().sqrt()

    x, y = torch.zeros(4, 3), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"gradients are not finite .* on this batch although the outputs are"):
        measure.gradient_confusion(Steep(), x, y)
    with pytest.raises(ValueError, match=r"gradient of a mini-batch is not finite"):
        measure.gradient_confusion(Steep(), x, y, batch_size=2, route="passes")


def test_samples_that_mix_through_raw_parameters_are_noticed():
    """No module with a closed form sees it; the comparison with a plain backward pass does."""

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return (x - x.mean(0)) @ self.w

    with pytest.raises(RuntimeError, match=r'disagree by .* batch_size= and route="passes"'):
        measure.gradient_confusion(Mixing().double(), X.double(), Y)
    found = measure.gradient_confusion(Mixing().double(), X.double(), Y, batch_size=3, route="passes")
    assert found.route == "passes"


def test_too_many_samples_are_refused_with_the_way_out():
    model, x, y = nn.Linear(2, 2), torch.randn(600, 2), torch.randint(0, 2, (600,))
    with pytest.raises(MemoryBudgetError, match=r"of 600 single samples' gradients needs .*pairs=") as caught:
        measure.gradient_confusion(model, x, y, budget=12 * 1024**2)
    assert "MiB" in str(caught.value)
    with pytest.raises(MemoryBudgetError, match=r"comparing all 179700 pairs of 600 gradients needs .*by pairs="):
        measure.gradient_confusion(model, x, y, budget=2 * 1024**2)
    assert measure.gradient_confusion(model, x, y, pairs=20, budget=2 * 1024**2).route == "gram"
    with pytest.raises(MemoryBudgetError, match=r"gradient_confusion\(..., pairs=100\)"):
        measure.gradient_gram(model, x, y, budget=1024**2)


def test_too_many_formed_gradients_are_refused_with_the_way_out():
    model, x, y = nn.Linear(50, 50), torch.randn(64, 50), torch.randint(0, 50, (64,))
    options = {"batch_size": 2, "route": "passes"}
    with pytest.raises(MemoryBudgetError, match=r"gradients of 32 mini-batches in 2550 parameters .*Pass pairs="):
        measure.gradient_confusion(model, x, y, budget=300_000, **options)
    assert measure.gradient_confusion(model, x, y, pairs=3, budget=300_000, **options).pairs == 3
    with pytest.raises(MemoryBudgetError, match=r"gradients of 2 mini-batches.*Narrow params="):
        measure.gradient_confusion(model, x, y, pairs=3, budget=1000, **options)


def test_a_mask_that_the_loss_does_not_see_is_refused():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 5))
    tokens, labels = torch.randint(0, 6, (4, 3)), torch.randint(0, 5, (4, 3))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]])
    x = Inputs((tokens,), mask=mask)
    found = measure.gradient_gram(model, x, labels)
    assert torch.equal(found.gram, measure.gradient_gram(model, tokens, labels.where(mask.bool(), -100)).gram)
    with pytest.raises(ValueError, match=r"x has a mask, which loss 'mse' does not see"):
        measure.gradient_gram(model, x, torch.randn(4, 3, 5))


def test_labels_that_are_all_left_out_have_no_gradients():
    model, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.full((6,), -100)
    for measured in (measure.gradient_confusion, measure.gradient_gram):
        with pytest.raises(ValueError, match=r"y and mask leave no label that counts \(-100"):
            measured(model, x, y)
