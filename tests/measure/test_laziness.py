"""Laziness against dense Jacobians and naive formulas, and what has no value is named."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from isometry import init, measure
from isometry.nn import RateNetwork


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def moved(model, size=0.1, seed=1):
    after = copy.deepcopy(model)
    with torch.no_grad():
        for p in after.parameters():
            p += size * torch.randn(p.shape, generator=gen(seed), dtype=p.dtype)
    return after


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def dense_kernel(model, x, names):
    """The kernel over all pairs of outputs, samples and steps, from a dense Jacobian in the named parameters."""
    chosen = {n: p.detach() for n, p in model.named_parameters() if n in names}
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)).flatten())(chosen)
    rows = torch.cat([j.flatten(1) for j in jacobian.values()], 1)
    return rows @ rows.T


def cosine(a, b):
    return float(((a * b).sum() / a.norm() / b.norm()).detach())


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_perceptron_against_dense_jacobians(per_layer):
    before = perceptron()
    after, x = moved(before), torch.randn(6, 5, generator=gen(2)).double()
    found = measure.laziness(before, after, x, per_layer=per_layer)
    names = [n for n, _ in before.named_parameters()]
    assert found.kernel_alignment == pytest.approx(
        cosine(*(dense_kernel(m, x, names) for m in (before, after))), rel=1e-9
    )
    start, end = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (before, after))
    difference, size = end - start, start.norm()
    assert found.weight_change == pytest.approx(float(difference.norm()), rel=1e-12)
    assert found.relative_weight_change == pytest.approx(float(difference.norm() / size), rel=1e-12)
    assert found.representation == "3"
    a, b = before[:4](x), after[:4](x)
    assert found.representation_alignment == pytest.approx(cosine(a @ a.T, b @ b.T), rel=1e-9)
    assert found.sign_similarity == float((a.sign() == b.sign()).double().mean())
    assert [c.name for c in found.representations] == ["0", "1", "2", "3", "4"]
    relu = found.representations[1]
    on = [m[:2](x) > 0 for m in (before, after)]
    assert relu.sign_similarity == float((on[0] == on[1]).double().mean())
    assert [w.name for w in found.layers] == ["0", "2", "4"]
    for layer in found.layers:
        own = [f"{layer.name}.weight", f"{layer.name}.bias"]
        expected = cosine(*(dense_kernel(m, x, own) for m in (before, after))) if per_layer else None
        assert layer.kernel_alignment == (pytest.approx(expected, rel=1e-9) if per_layer else None)
    assert found.undefined == ()


def test_a_recurrent_network_by_its_recurrent_weights():
    torch.manual_seed(1)
    before = RateNetwork(3, 9, 2, leak=0.7).double()
    after, x = moved(before, 0.05), torch.randn(4, 5, 3, generator=gen()).double()
    found = measure.laziness(before, after, x, params="recurrent.*")
    names = ["recurrent.weight"]
    assert found.kernel_alignment == pytest.approx(
        cosine(*(dense_kernel(m, x, names) for m in (before, after))), rel=1e-9
    )
    gap = (after.recurrent.weight - before.recurrent.weight).detach()
    assert found.weight_change == pytest.approx(float(gap.norm()), rel=1e-12)
    assert found.representation == "activation"

    def last_state(net):
        h = torch.zeros(4, 9).double()
        for t in range(5):
            h = torch.relu(0.3 * h + 0.7 * (x[:, t] @ net.input.weight.T + h @ net.recurrent.weight.T))
        return h

    a, b = last_state(before), last_state(after)
    assert found.representation_alignment == pytest.approx(cosine(a @ a.T, b @ b.T), rel=1e-9)
    some = measure.laziness(before, after, x, params="recurrent.*", outputs=[8, 9])  # of the last step
    last = [dense_kernel(m, x, names).view(4, 10, 4, 10)[:, 8:, :, 8:].reshape(8, 8) for m in (before, after)]
    assert some.kernel_alignment == pytest.approx(cosine(*last), rel=1e-9)


def test_torchs_own_recurrent_modules_are_taken():
    torch.manual_seed(2)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.RNN(3, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    before = Last().double()
    after, x = moved(before, 0.05), torch.randn(3, 4, 3, generator=gen()).double()
    found = measure.laziness(before, after, x, params="rnn.weight_hh_l0")
    pair = (dense_kernel(m, x, ["rnn.weight_hh_l0"]) for m in (before, after))
    assert found.kernel_alignment == pytest.approx(cosine(*pair), rel=1e-8)
    assert found.representation == "rnn"


def test_nothing_moved_is_all_lazy_and_a_scale_turns_no_kernel():
    before, x = perceptron(), torch.randn(4, 5, generator=gen()).double()
    same = measure.laziness(before, copy.deepcopy(before), x)
    assert (same.weight_change, same.sign_similarity) == (0.0, 1.0)
    assert same.kernel_alignment == pytest.approx(1, abs=1e-12)
    assert same.representation_alignment == pytest.approx(1, abs=1e-12)
    # Only the last layer's own rows and those below it scale differently; with the last layer alone nothing turns.
    scaled = copy.deepcopy(before)
    scaled[4].weight.data *= 3
    assert measure.laziness(before, scaled, x, params="4.*").kernel_alignment == pytest.approx(1, abs=1e-12)
    assert measure.laziness(before, scaled, x).kernel_alignment < 0.999


def test_a_silent_network_is_named_not_nan_in_silence():
    net = RateNetwork(2, 5, 1)
    init.low_rank_(net.recurrent.weight, 1, generator=gen())
    silent = copy.deepcopy(net)
    nn.init.constant_(silent.input.weight, -1.0)
    x = torch.rand(3, 4, 2, generator=gen()) + 0.1
    found = measure.laziness(net, silent, x, params="recurrent.*")
    assert math.isnan(found.kernel_alignment)
    assert math.isnan(found.representation_alignment)
    assert "kernel alignment: the tangent kernel is zero after, and zero has no direction" in found.undefined
    assert any("representation alignment of 'activation': its output is zero after" in why for why in found.undefined)
    assert "kernel alignment          undefined" in str(found)
    assert found.to_dict()["kernel_alignment"] is None


def test_zero_weights_have_no_relative_change():
    before = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    nn.init.zeros_(before[2].weight)
    nn.init.zeros_(before[2].bias)
    found = measure.laziness(before, moved(before), torch.randn(3, 2, generator=gen()))
    assert math.isnan(found.layers[1].relative)
    assert "relative weight change of '2': its parameters were all zero before" in found.undefined


def test_another_module_can_be_the_representation():
    before, x = perceptron(), torch.randn(4, 5, generator=gen()).double()
    found = measure.laziness(before, moved(before), x, representation="1")
    assert found.representation_alignment == found.representations[1].alignment
    with pytest.raises(ValueError, match="unknown representation '9'"):
        measure.laziness(before, before, x, representation="9")


def two(a, b):
    return nn.Sequential(nn.Linear(2, a), nn.Tanh(), nn.Linear(a, b))


def dropping():
    return nn.Sequential(two(3, 1), nn.Dropout(0.5))


@pytest.mark.parametrize(("call", "message"), [
    (lambda x: measure.laziness(two(3, 1), two(4, 1), x), r"not two states of one model: '0.weight' has shape \(3,"),
    (lambda x: measure.laziness(two(3, 1), nn.Linear(2, 1), x), r"'0.weight' has shape \(3, 2\) in the first and"),
    (lambda x: measure.laziness(two(3, 1), two(3, 1), x[:1]), r"probe holds one sample, .* pass at least two"),
    (lambda x: measure.laziness(dropping(), dropping(), x),
     r"Laziness at a batch is undefined here: '1' \(Dropout\) drops units at random\. Call \.eval\(\) on both models"),
    (lambda x: measure.laziness(nn.Linear(2, 1), nn.Linear(2, 1), x), r"model has no module before its output's"),
    (lambda x: measure.laziness(two(3, 1), two(3, 1), x, params="9.*"), r"unknown params pattern '9\.\*'"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(4, 2, generator=gen()))


def test_overflow_in_a_recurrence_is_named():
    net = RateNetwork(1, 4, 1)
    wild = copy.deepcopy(net)
    nn.init.constant_(wild.recurrent.weight, 1e5)
    nn.init.ones_(wild.input.weight)
    x = torch.ones(2, 30, 1)
    with pytest.raises(
        ValueError, match=r"the output of 'recurrent' overflows on the probe.*a spectral radius above 1"
    ):
        measure.laziness(net, wild, x)
    net.recurrent.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"the parameters of 'recurrent' are not finite, so they have no change"):
        measure.laziness(wild, net, x)


@pytest.mark.parametrize("kind", ["algebraic", "stable", "entropy"])
def test_ranks_of_projections_are_their_dimension(kind):
    q = torch.linalg.qr(torch.randn(8, 3, generator=gen()).double()).Q
    assert measure.effective_rank(5 * q @ q.T, kind) == pytest.approx(3, rel=1e-9)


def test_ranks_against_their_formulas():
    w = torch.randn(6, 4, generator=gen()).double()
    s = torch.linalg.svdvals(w)
    p = s / s.sum()
    assert measure.effective_rank(w) == pytest.approx(float(w.norm() ** 2 / s[0] ** 2))
    assert measure.effective_rank(w, "entropy") == pytest.approx(math.exp(-float((p * p.log()).sum())))
    assert measure.effective_rank(w, "algebraic") == 4
    assert measure.effective_rank(w, "algebraic", tol=float(0.5 * (s[1] + s[2]) / s[0])) == 2
    assert measure.effective_rank(w.view(6, 2, 2)) == pytest.approx(measure.effective_rank(w))
    assert measure.effective_rank((w[:, :1] @ w[:1]).float(), "algebraic") == 1  # rounding is no rank


def test_ranks_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="unknown kind 'numeric'"):
        measure.effective_rank(torch.eye(2), "numeric")
    with pytest.raises(ValueError, match="matrix is zero, so it has no singular directions"):
        measure.effective_rank(torch.zeros(2, 2))
    with pytest.raises(ValueError, match='tol is for kind="algebraic" only'):
        measure.effective_rank(torch.eye(2), "stable", tol=0.1)
    with pytest.raises(TypeError, match="matrix must be real floating point"):
        measure.effective_rank(torch.ones(2, 2, dtype=torch.int64))


def test_modules_are_ordered_by_their_last_calls():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.second, self.out = nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x):
            return self.out(self.act(self.second(self.act(self.first(x)))))

    torch.manual_seed(0)
    net, x = Shared(), torch.randn(4, 2, generator=gen())
    found = measure.laziness(net, moved(net), x)
    assert [c.name for c in found.representations] == ["first", "second", "act", "out"]
    assert found.representation == "act"
