"""Inside the block a model can be measured in any way; after it everything is as before."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from isometry.tape import measuring


class Attention(nn.Module):
    def forward(self, x):
        return functional.scaled_dot_product_attention(x, x, x)


def test_attention_has_second_derivatives_inside():
    x = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    model = Attention()

    def second():
        (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    with measuring(model):
        assert float(second().abs().sum()) > 0
    with pytest.raises(RuntimeError, match="derivative"):  # the guard is needed: without it the fused kernel is taken
        second()


@pytest.mark.parametrize("raising", [False, True])
def test_options_modes_and_flags_come_back(raising):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    model.config = SimpleNamespace(_attn_implementation="flash_attention_2")
    fast = torch.backends.mha.get_fastpath_enabled()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def inside():
        with measuring(model):
            assert model[1].inplace is False
            assert model.config._attn_implementation == "sdpa"
            assert not model[3].training
            model(torch.randn(4, 2))
            if raising:
                raise KeyError
            return True

    if raising:
        with pytest.raises(KeyError):
            inside()
    else:
        assert inside()
    assert model[1].inplace is True
    assert model.config._attn_implementation == "flash_attention_2"
    assert all(m.training for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_gradients_are_recorded_in_inference_mode():
    model = nn.Linear(2, 2)
    with torch.inference_mode(), measuring(model):
        assert model(torch.ones(1, 2)).requires_grad


def test_training_mode_on_request():
    model = nn.Sequential(nn.Dropout(0.5)).eval()
    with measuring(model, training=True):
        assert model[0].training
    with measuring(model.train(), training=None):
        assert model[0].training


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_run_once_inside(reentrant):
    calls = []

    def noted(h):
        calls.append(torch.is_grad_enabled())
        return h.tanh()

    model = nn.Linear(2, 2)
    with measuring(model):
        out = checkpoint(noted, model(torch.ones(1, 2)), use_reentrant=reentrant)
        torch.autograd.grad(out.sum(), model.weight)
    assert calls == [True]
    checkpoint(noted, model(torch.ones(1, 2)), use_reentrant=reentrant).sum().backward()
    assert len(calls) == 3  # once more on the way back, as ever
