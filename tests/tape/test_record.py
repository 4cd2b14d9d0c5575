"""Recorded activations and streamed cotangents, against torch's own Jacobians."""

import pytest
import torch
from torch import nn
from torch.func import jacrev

from isometry.tape import StaleActivationError, record


def linear(_name, module):
    return isinstance(module, nn.Linear)


def identity(out):
    """All cotangents of each sample's outputs: (C, N, C)."""
    return torch.eye(out[0].numel(), dtype=out.dtype).unsqueeze(1).expand(-1, len(out), -1)


def cotangents(model, x, select=None, **options):
    """Run a model and gather every call's cotangents: {(name, index): (V, *output)}."""
    found = {}

    def hear(call, back):
        assert (call.name, call.index) not in found  # once per call
        found[call.name, call.index] = back.clone()

    with record(model, select, cotangents=True) as recording:
        out = model(x)
        recording.pull_back(out, identity(out.detach()), hear, **options)
    return found, recording, out.detach()


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()


X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_calls_know_names_inputs_and_outputs(mlp):
    plain = nn.Sequential(*[nn.ReLU() if isinstance(m, nn.ReLU) else m for m in mlp])
    with record(mlp, copy=True) as recording:
        mlp(X)
    h = X
    assert [call.name for call in recording.calls] == ["0", "1", "2", "3", "4"]
    assert [call.order for call in recording.calls] == [0, 1, 2, 3, 4]
    for call, module in zip(recording.calls, plain, strict=True):
        expected = module(h).detach()
        assert call.module is mlp[int(call.name)]
        assert call.output_shape == expected.shape
        assert torch.equal(call.output, expected)
        if call.name != "3":  # which overwrote its input before it was copied
            assert torch.equal(call.input, h)
        assert not call.output.requires_grad
        h = expected


def test_activations_are_given_at_once_or_kept(mlp):
    seen = []
    with record(mlp, linear, on_call=lambda call: seen.append(call.input.sum()), keep=False) as recording:
        mlp(X)
    assert len(seen) == 3
    assert recording.calls == []


def test_overwritten_activations_are_not_handed_out(mlp):
    with record(mlp, linear) as recording:
        mlp(X)
    with pytest.raises(StaleActivationError, match=r"activation of '2' was overwritten in place.*copy=True"):
        _ = recording.calls[1].output
    assert torch.equal(recording.calls[0].input, X)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_cotangents_are_the_jacobians(mlp, batched, trainable):
    mlp.requires_grad_(trainable)
    found, recording, _ = cotangents(mlp, X, batched=batched)
    assert list(found) == [("4", 0), ("3", 0), ("2", 0), ("1", 0), ("0", 0)]  # later calls first
    outs = [X]
    for module in mlp:
        outs.append(module(outs[-1].clone()).detach())
    for i in range(5):
        for n in range(len(X)):
            wanted = (
                jacrev(lambda h, i=i: mlp[i + 1 :](h * 1))(outs[i + 1][n])
                if i < 4
                else torch.eye(2, dtype=torch.float64)
            )
            assert torch.allclose(found[str(i), 0][:, n], wanted, atol=1e-14)
    assert not recording._anchors  # the graph is released
    assert all(p.requires_grad is trainable and p.grad is None for p in mlp.parameters())


def test_graph_can_be_kept_for_another_sweep(mlp):
    heard = []
    with record(mlp, linear, cotangents=True) as recording:
        out = mlp(X)
        for retain in (True, False):
            recording.pull_back(
                out, identity(out.detach()), lambda _c, back: heard.append(back.sum()), retain_graph=retain
            )
    assert len(heard) == 6
    assert heard[:3] == heard[3:]


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(3, 3), nn.Linear(3, 2)
        self.also_a = self.a  # a second name for the same module

    def forward(self, x):
        x = torch.tanh(self.a(x))
        return self.out(x + self.also_a(x))


def test_reused_modules_are_told_apart_by_index():
    torch.manual_seed(0)
    model = Reused().double()
    found, recording, _ = cotangents(model, X, linear)
    assert [(c.name, c.index, c.order) for c in recording.calls] == [("a", 0, 0), ("a", 1, 1), ("out", 0, 2)]
    weight, out = model.a.weight.detach(), model.out.weight.detach()
    assert torch.allclose(found["a", 1], out.unsqueeze(1).expand(-1, 5, -1))
    slope = 1 - torch.tanh(model.a(X).detach()) ** 2
    assert torch.allclose(found["a", 0], ((out + out @ weight).unsqueeze(1) * slope))


def test_integer_inputs_need_no_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 2)).double()
    tokens = torch.randint(0, 7, (5, 2))
    found, recording, _ = cotangents(model, tokens)
    assert torch.equal(recording.calls[0].input, tokens)
    wanted = model[2].weight.detach().view(2, 1, 2, 3).expand(-1, 5, -1, -1)
    assert torch.allclose(found["0", 0], wanted)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.ignored, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        self.ignored(x)
        h, (last, _) = self.cell(x)
        return self.out(h[:, -1] + last[0])


def test_tuples_of_outputs_carry_cotangents_and_unused_calls_have_none():
    torch.manual_seed(0)
    model = Branches().double()
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    found, _, _ = cotangents(model, x)
    assert set(found) == {("cell", 0), ("out", 0)}
    assert found["cell", 0].shape == (2, 5, 4, 4)
    # only the first tensor's cotangent is delivered: h[:, -1], not the last state
    assert torch.allclose(found["cell", 0][:, :, -1], model.out.weight.detach().unsqueeze(1).expand(-1, 5, -1))
    assert not found["cell", 0][:, :, :-1].any()


def test_parallel_branches_all_carry_cotangents():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.a(x) * self.b(x)

    torch.manual_seed(0)
    model = Parallel().double()
    for x in (X, X.clone().requires_grad_()):  # an input that requires a gradient is cut off
        found, _, _ = cotangents(model, x)
        b = model.b(X).detach()
        assert torch.allclose(found["a", 0], torch.diag_embed(b).transpose(0, 1))
        assert x.grad is None


def test_keyword_arguments_and_hooks_of_others_are_seen_through():
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.out(self.a(input=x))

    torch.manual_seed(0)
    model = ByKeyword().double()
    model.a.register_forward_hook(lambda _m, _a, out: 10 * out)
    found, recording, out = cotangents(model, X, linear)
    assert torch.equal(recording.calls[0].input, X)
    assert torch.allclose(recording.calls[0].output, model.a.forward(X).detach())  # the module's own output
    assert torch.allclose(found["a", 0], 10 * model.out.weight.detach().unsqueeze(1).expand(-1, 5, -1))
    assert torch.allclose(out, model(X).detach())


def test_attention_modules_are_not_passed_over():
    """In evaluation mode without gradients PyTorch fuses the whole layer; then no module inside would be called."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval().requires_grad_(False)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2).requires_grad_(False))
    fast = torch.backends.mha.get_fastpath_enabled()
    found, _, _ = cotangents(model, torch.randn(5, 3, 4))
    assert {"0.linear1", "0.linear2", "0.norm1", "0.norm2"} <= {name for name, _ in found}
    assert torch.backends.mha.get_fastpath_enabled() is fast
    with record(model):
        assert torch.backends.mha.get_fastpath_enabled() is False


def test_operations_that_vmap_cannot_batch_are_swept_one_by_one():
    class Awkward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, back):
            if float(back.abs().max()) < 0:  # reads a value: vmap refuses
                return back
            return 2 * back * ctx.saved_tensors[0]

    class Square(nn.Module):
        def forward(self, x):
            return Awkward.apply(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), Square(), nn.Linear(4, 2)).double()
    with pytest.raises(RuntimeError, match="vmap"):
        cotangents(model, X)
    found, _, _ = cotangents(model, X, batched=False)
    wanted = 2 * model[0](X).detach() * model[2].weight.detach().unsqueeze(1)
    assert torch.allclose(found["0", 0], wanted)


def test_a_backward_pass_for_all_directions_multiplies_once_per_layer(mlp):
    """Counted work: one matrix product per linear layer, not one per direction."""
    with record(mlp, linear, cotangents=True) as recording:
        out = mlp(X)
        back = torch.randn(9, *out.shape, dtype=out.dtype)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            recording.pull_back(out, back, lambda _c, _b: None)
    events = list(profile.events())
    # vmap's own layer reports a product once more, around the real one
    products = [e for e in events if e.name == "aten::mm" and not any(c.name == "aten::mm" for c in descendants(e))]
    assert not any(e.name == "aten::bmm" for e in events)
    assert len(products) == 2  # the first layer's input needs no gradient


def descendants(event):
    for child in event.cpu_children:
        yield child
        yield from descendants(child)


def test_what_does_not_fit_is_refused(mlp):
    with record(mlp, cotangents=True) as recording:
        out = mlp(X)
        with pytest.raises(ValueError, match=r"cotangents must have shape \(V, \*\(5, 2\)\), got \(3, 5, 4\)"):
            recording.pull_back(out, torch.zeros(3, 5, 4), lambda _c, _b: None)
    with record(mlp) as recording:
        out = mlp(X)
    with pytest.raises(ValueError, match=r"does not depend on any recorded module.*cotangents=True"):
        recording.pull_back(out, torch.zeros(3, *out.shape), lambda _c, _b: None)
    with torch.no_grad(), record(mlp, cotangents=True) as recording:
        out = mlp(X)
        with pytest.raises(ValueError, match="gradients enabled"):
            recording.pull_back(out, torch.zeros(3, *out.shape), lambda _c, _b: None)


def test_hooks_are_gone_afterwards_even_after_an_error(mlp):
    with pytest.raises(RuntimeError), record(mlp, cotangents=True):
        mlp(torch.zeros(5, 7, dtype=torch.float64))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in mlp.modules())
    assert all(p.requires_grad for p in mlp.parameters())


def test_checkpointed_modules_are_recorded_once():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.a, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.out(checkpoint(lambda h: torch.tanh(self.a(h)), self.inp(x), use_reentrant=False))

    torch.manual_seed(0)
    model = Checkpointed().double()
    try:
        found, recording, _ = cotangents(model, X, linear, batched=False)
    except RuntimeError as error:  # pragma: no cover - depends on torch's version
        pytest.skip(f"this torch cannot sweep through checkpoints: {error}")
    assert [c.name for c in recording.calls] == ["inp", "a", "out"]
    assert set(found) >= {("inp", 0), ("out", 0)}
