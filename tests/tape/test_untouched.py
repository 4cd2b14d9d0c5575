"""The promise of every measurement: the model is afterwards exactly as before."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from isometry.tape import untouched


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[2].eval()
    return model


def state(model):
    return {
        "modes": [m.training for m in model.modules()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "buffers": {n: (id(b), b.clone()) for n, b in model.named_buffers()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), numpy_state()),
        "dtype": torch.get_default_dtype(),
    }


def numpy_state():
    return np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002 - the global generator is the point


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def make_a_mess(model):
    model.train(not model.training)
    model(torch.randn(6, 3)).sum().backward()
    model.requires_grad_(True)
    model[1].running_mean = torch.full((4,), float("nan"))
    model[1].running_var.fill_(7)
    model[0].register_forward_hook(lambda *_: None)
    model[3].register_full_backward_hook(lambda *_: None)
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("training", [None, True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_before(training, fails):
    model = build()
    before = state(model)
    try:
        with untouched(model, training=training) as same_model:
            assert same_model is model
            if training is not None:
                assert all(m.training is training for m in model.modules())
            assert all(p.grad is None for p in model.parameters())
            make_a_mess(model)
            if fails:
                raise KeyError("halfway")
    except KeyError:
        assert fails
    after = state(model)
    for what, value in before.items():
        assert same(value, after[what]), what


def test_gradients_do_not_accumulate_into_the_owners():
    model = build()
    owner = model[0].weight.grad
    with untouched(model):
        model(torch.randn(6, 3)).sum().backward()
    assert model[0].weight.grad is owner
    assert torch.equal(owner, torch.ones_like(owner))


class Looks(nn.Module):
    """Looks rows up in all the ways that shorten them in place."""

    def __init__(self):
        super().__init__()
        self.one = nn.Embedding(5, 3, max_norm=0.5)
        self.bag = nn.EmbeddingBag(5, 3, max_norm=0.5, norm_type=1.0)
        self.plain = nn.Parameter(torch.randn(5, 3))
        self.register_buffer("table", torch.randn(5, 3))

    def forward(self, x):
        plain = functional.embedding(x, self.plain, None, 0.5) + functional.embedding(x, self.table, max_norm=0.5)
        return self.one(x).sum(1) + self.bag(x) + plain.sum(1)


def tables(model):
    return [*model.parameters(), *model.buffers()]


def test_rows_with_a_largest_norm_are_shortened_in_passing():
    torch.manual_seed(0)
    model, x = Looks(), torch.tensor([[0, 1], [3, 3]])
    before = [(p.detach().clone(), p._version) for p in tables(model)]
    with untouched(model):
        out = model(x)
        copied = copy.deepcopy(model)
        copied(x)  # a copy is nobody's measurement, so its rows are shortened as ever
        grads = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    for now, other, (value, at) in zip(tables(model), tables(copied), before, strict=True):
        assert torch.equal(now, value)
        assert now._version == at
        assert not torch.equal(other, value)
    torch.testing.assert_close(out, model(x))  # torch's own, which shortens them in place
    wanted = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    torch.testing.assert_close(grads, wanted)


def test_other_threads_find_torch_as_it_was():
    def changes():
        model = Looks()
        before = model.one.weight.detach().clone()
        model(torch.tensor([[0, 1]]))
        return not torch.equal(model.one.weight, before)

    own = functional.embedding
    with untouched(Looks()), ThreadPoolExecutor(1) as pool:
        assert pool.submit(changes).result()
    assert functional.embedding is own


def test_equal_nan_is_no_change():
    model = nn.Linear(1, 1)
    model.register_buffer("cache", torch.tensor([float("nan"), 1.0]))
    with untouched(model):
        pass
    assert model.cache._version == 0
    with untouched(model):
        model.cache[1] = 2
    assert model.cache[1] == 1
