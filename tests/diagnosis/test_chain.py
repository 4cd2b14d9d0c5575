from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isometry.diagnosis._case import open_case
from isometry.diagnosis._chain import find_chain
from isometry.diagnosis._prediction import predict
from isometry.theory import MeanField

from .nets import data, mlp


def chain(model):
    return find_chain(open_case(model, data(), samples=8, seed=0, likelihood=None))


class Functional(nn.Module):
    def __init__(self, skip):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.skip = skip

    def forward(self, x):
        h = torch.tanh(self.a(x))
        h = torch.tanh(self.b(h)) + (h if self.skip else 0)
        return self.c(torch.relu(h) if self.skip is None else h)


def test_scales_are_those_that_were_drawn():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp(6)
        for layer in model[::2]:
            nn.init.normal_(layer.weight, std=1.3 / 4)
            nn.init.normal_(layer.bias, std=0.2)
    found, why = chain(model)
    assert why == ""
    assert found.activation == "tanh"
    assert found.depth == 6
    assert found.sigma_w == pytest.approx(1.3, rel=0.05)
    assert found.sigma_b == pytest.approx(0.2, rel=0.3)
    assert found.weights == "gaussian"
    assert chain(mlp(6, gain=1.1))[0].weights == "orthogonal"


def test_functions_without_modules_are_found_and_skips_are_not_taken_for_chains():
    assert chain(Functional(skip=False))[0].activation == "tanh"
    assert "no elementwise function" in chain(Functional(skip=True))[1]


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (nn.LayerNorm(16), "normalizes its signal"),
        (nn.Linear(16, 16), "the model has one hidden layer; mean-field theory follows"),
    ],
)
def test_what_is_no_chain_is_said(extra, why):
    assert (
        why
        in chain(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)) if "hidden" in why else _normed(extra))[
            1
        ]
    )


def _normed(norm):
    return nn.Sequential(nn.Linear(16, 16), norm, nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


def test_the_article_before_a_layer_that_starts_with_a_vowel():
    model = nn.Sequential(nn.Embedding(9, 16), nn.Flatten(), nn.Tanh(), nn.Linear(32, 4))
    tokens = (torch.arange(16).reshape(8, 2) % 9, torch.arange(8) % 4)
    case = open_case(model, tokens, samples=8, seed=0, likelihood=None)
    assert find_chain(case)[1] == "the model has an Embedding, which is no layer of a plain chain"


def test_reused_layers_are_no_chain():
    shared = nn.Linear(16, 16)
    assert chain(nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(16, 4)))[0] is None


def test_prediction_is_the_recursion_written_out():
    found, _ = chain(mlp(5))
    prediction = predict(found, 0.5, 0.2)
    mf, q, c = MeanField("tanh"), 0.5, 0.2
    for index, layer in enumerate(found.layers[1:-1], start=1):
        c = float(mf.correlation_map(c, q=q, sigma_w=layer.sigma_w, sigma_b=layer.sigma_b))
        ratio = float(mf.chi(q, layer.sigma_w))
        assert prediction.gradient[index - 1] / prediction.gradient[index] == pytest.approx(ratio)
        q = float(mf.length_map(q, layer.sigma_w, layer.sigma_b))
        assert prediction.q[index] == pytest.approx(q)
        assert prediction.correlation[index] == pytest.approx(c)
    assert prediction.trainable_depth == pytest.approx(6 * prediction.xi_c)
    assert math.isfinite(prediction.xi_grad)
