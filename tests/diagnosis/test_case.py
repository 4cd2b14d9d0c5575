from __future__ import annotations

import pytest
import torch
from torch import nn

from isometry.diagnosis._case import open_case

from .nets import CLASSES, SIZE, assert_same, data, fingerprint, mlp


def opened(model, pair=None, **options):
    return open_case(
        model, data() if pair is None else pair, **{"samples": 16, "seed": 0, "likelihood": None, **options}
    )


def test_sample_is_drawn_by_seed_and_global_rng_stays():
    before = torch.get_rng_state()
    first, again, other = opened(mlp(2)), opened(mlp(2)), opened(mlp(2), seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.x.first, again.x.first)
    assert not torch.equal(first.x.first, other.x.first)
    assert len(first.x) == 16


def test_untrained_batch_norm_is_calibrated_on_a_copy():
    model = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    before = fingerprint(model)
    case = opened(model)
    assert_same(before, fingerprint(model))
    assert case.model is not model
    hidden = case.model[1](case.model[0](case.x.first))
    assert not case.model.training
    torch.testing.assert_close(hidden.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(hidden.var(0), torch.ones(8), atol=1e-2, rtol=0)
    assert "never been trained" in case.notes[0]


def test_trained_batch_norm_keeps_its_statistics():
    model = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    model(data()[0])
    assert opened(model).model is model


def test_gaussian_inputs_without_data():
    case = open_case(mlp(2), None, samples=10, seed=0, likelihood=None, in_shape=(SIZE,))
    assert case.x.first.shape == (10, SIZE)
    assert case.y is None
    with pytest.raises(ValueError, match="pass data, or the shape of one input"):
        open_case(mlp(2), None, samples=10, seed=0, likelihood=None)


class Returns(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = nn.Linear(SIZE, CLASSES), wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


@pytest.mark.parametrize(
    ("wrap", "error", "message"),
    [
        (lambda out: {"a": out, "b": out}, TypeError, "dict with keys 'a', 'b'; say which one is measured"),
        (lambda out: ("one", 2), TypeError, "a tuple of 2 elements, none of them a real-valued tensor"),
        (lambda out: out.argmax(1), ValueError, "real outputs of shape"),
        (lambda out: out.sum(1), ValueError, r"got \(16,\)"),
        (
            lambda out: out.unsqueeze(1),
            ValueError,
            r"labels of shape \(16,\) but the model's outputs have shape \(16, 1, 4",
        ),
    ],
)
def test_odd_outputs_are_refused_in_a_sentence(wrap, error, message):
    with pytest.raises(error, match=message):
        opened(Returns(wrap))


def test_tokens_and_real_numbers_that_do_not_fit_say_which_data_do():
    y, ids = torch.arange(8) % 4, torch.arange(48).reshape(8, 6) % 9
    reader = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 4))
    with pytest.raises(ValueError, match="the model reads tokens, so pass data of token ids"):
        opened(reader, (torch.randn(8, 6), y))
    with pytest.raises(ValueError, match="embeddings have 9 rows, the token ids reach 11 and a sequence has 6 posit"):
        opened(reader, (ids + 3, y))
    with pytest.raises(ValueError, match="takes real numbers and the data are token ids: pass other data") as caught:
        opened(nn.Sequential(nn.Linear(6, 4)), (ids, y))
    assert "the model with .to" not in str(caught.value)  # no module can be made of whole numbers
    with pytest.raises(ValueError, match=r"inputs with \.to\(torch.float32\) or the model with \.to\(torch.float64\)"):
        opened(nn.Sequential(nn.Linear(6, 4)), (torch.randn(8, 6, dtype=torch.float64), y))


def test_data_that_do_not_fit_are_refused_in_a_sentence():
    x, y = data()
    with pytest.raises(ValueError, match="make the model's first layer fit the data"):
        opened(mlp(2), (x[:, :5], y))
    with pytest.raises(ValueError, match="labels up to 7 but the model has 4 outputs"):
        opened(mlp(2), (x, y + 4))
    with pytest.raises(ValueError, match=r"targets of shape .* outputs have shape"):
        opened(mlp(2), (x, torch.randn(len(x), 3)))
    with pytest.raises(ValueError, match="likelihood is 'categorical' but the targets are"):
        opened(mlp(2), (x, torch.randn(len(x), 4)), likelihood="categorical")
    with pytest.raises(ValueError, match="likelihood must be"):
        opened(mlp(2), likelihood="poisson")
    with pytest.raises(ValueError, match="samples must be an integer of at least 2, got 1"):
        opened(mlp(2), samples=1)
    with pytest.raises(ValueError, match="no parameters"):
        opened(nn.Flatten())
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        opened("mlp")
