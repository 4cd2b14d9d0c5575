"""The tangent kernel against dense Jacobians, its own other forms, closed forms and the infinite-width prediction."""

import json
import math
import re

import pytest
import torch
from torch import nn

from isometry import measure, theory
from isometry._base import MemoryBudgetError
from isometry.tape import Inputs, as_inputs
from tests.measure.fisher_models import case, cases
from tests.measure.test_families import build


def dense(model, inputs):
    """J_n of every sample by backward passes, then every product: (C, N, C, N); what does not count is left out."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    rows = []
    for n in range(len(inputs)):
        leaves = {k: v.clone().requires_grad_() for k, v in parameters.items()}
        out = inputs[n : n + 1].clone().run_with(model, leaves)[0].flatten()
        sample = []
        for value in out:
            found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
            parts = zip(found, leaves.values(), strict=True)
            sample.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in parts]))
        rows.append(torch.stack(sample))
    stacked = torch.stack(rows, 1)  # (C, N, P)
    return torch.einsum("cnp,dmp->cndm", stacked, stacked)


def chain(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(cases()))
def test_every_kind_of_parameter(name):
    model, x = case(name)[:2]
    wanted = dense(model, as_inputs(x))
    found = measure.ntk(model, x)
    scale = float(wanted.abs().max())
    assert torch.allclose(found.values, wanted, rtol=0, atol=1e-10 * scale)
    own = torch.stack([wanted[c, :, c] for c in range(len(wanted))])
    assert torch.allclose(measure.ntk(model, x, form="per-output").values, own, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit", "lstm", "one graph", "encoder"])
def test_families_of_models(name):
    model, x = build(name)
    inputs = as_inputs(x)
    wanted = dense(model, inputs)
    found = measure.ntk(model, x, form="trace")
    with torch.no_grad():
        shape = inputs.run(model).shape
    mask = inputs.mask if inputs.whole else inputs.counted(shape[:-1])
    own = torch.stack([wanted[c, :, c] for c in range(len(wanted))])
    if mask is not None:  # rows of masked positions are zero; outputs that never count are left out of the mean
        counts = mask.reshape(shape[:-1]).bool().unsqueeze(-1).expand(shape).flatten(1).T  # (C, N)
        own = (own * counts.unsqueeze(1) * counts.unsqueeze(2))[counts.any(1)]
    trace = own.mean(0)
    assert torch.allclose(found.values, trace, rtol=0, atol=1e-9 * float(trace.abs().max()))


def test_forms_agree():
    model, x = chain(), normal(7, 4)
    full = measure.ntk(model, x)
    each = measure.ntk(model, x, form="per-output")
    trace = measure.ntk(model, x, form="trace")
    assert torch.allclose(full.values.diagonal(dim1=0, dim2=2).movedim(2, 0), each.values, atol=1e-12)
    assert torch.allclose(each.values.mean(0), trace.values, atol=1e-12)
    some = measure.ntk(model, x, outputs=[2, 0])
    assert torch.allclose(some.values, full.values[[2, 0]][:, :, [2, 0]], atol=1e-12)
    assert full.eigenvalues().shape == (21,)
    assert each.eigenvalues().shape == (3, 7)


def test_between_two_batches():
    model, x, other = chain(), normal(3, 4), normal(5, 4, seed=2)
    wanted = dense(model, as_inputs(torch.cat([x, other])))
    assert torch.allclose(measure.ntk(model, x, other).values, wanted[:, :3, :, 3:], atol=1e-12)
    cross = measure.ntk(model, x, other, form="trace")
    assert cross.values.shape == (3, 5)
    assert "at 3 samples and 5 others" in str(cross)
    with pytest.raises(ValueError, match="between two batches has no eigenvalues"):
        cross.eigenvalues()
    with pytest.raises(ValueError, match="between two batches has no alignment"):
        cross.alignment(torch.zeros(3).long())


def test_it_is_the_gaussian_fisher_matrix_times_samples():
    model, x = chain(), normal(6, 4)
    fisher = measure.fisher(model, x, likelihood="gaussian")
    assert torch.allclose(measure.ntk(model, x).eigenvalues(), 6 * fisher.eigenvalues(), rtol=1e-9, atol=1e-9)


def test_permuted_batch():
    model, x = chain(), normal(5, 4)
    order = torch.tensor([3, 0, 4, 1, 2])
    once, again = measure.ntk(model, x, form="trace").values, measure.ntk(model, x[order], form="trace").values
    assert torch.allclose(once[order][:, order], again, atol=1e-12)


def test_alignment_with_its_own_eigenvectors():
    model, x = chain(), normal(6, 4)
    kernel = measure.ntk(model, x, form="trace")
    vectors = torch.linalg.eigh(kernel.values).eigenvectors
    found = kernel.alignment(vectors[:, -1:])
    assert found.share_in_top(1) == pytest.approx(1)
    mixed = kernel.alignment(vectors[:, -1:] + vectors[:, :1])
    assert mixed.energy[[0, -1]].tolist() == pytest.approx([0.5, 0.5])
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    y = nn.functional.one_hot(labels).double()
    h = torch.eye(6) - 1 / 6
    k, ideal = (h.double() @ m @ h.double() for m in (kernel.values, y @ y.T))  # naive centring
    assert kernel.alignment(labels).cosine == pytest.approx(float((k * ideal).sum() / k.norm() / ideal.norm()))
    assert measure.ntk(model, x).alignment(labels).cosine == pytest.approx(kernel.alignment(labels).cosine)


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_wide_nets_have_the_predicted_kernel(activation):
    width, depth, nets, x = 512, 2, 12, normal(5, 8)
    module = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}[activation]
    torch.manual_seed(0)
    total = 0
    for _ in range(nets):
        first, second, last = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 8)
        for layer in (first, second, last):
            nn.init.normal_(layer.weight, std=1.3 / layer.in_features**0.5)
            nn.init.normal_(layer.bias, std=0.2)
        model = nn.Sequential(first, module(), second, module(), last).double()
        total = total + measure.ntk(model, x, form="trace").values / nets
    wanted = theory.wide_kernels(activation, x, widths=(width,) * depth, sigma_w=1.3, sigma_b=0.2)
    # E phi^4 / (E phi^2)^2 - 1 is at most 5 (ReLU), so a net's kernel fluctuates by sqrt(2 layers * 5 / 512) = 0.14,
    # the mean over 12 nets by 0.04
    assert float((total - wanted.ntk).norm() / wanted.ntk.norm()) < 0.12
    assert wanted.residual < 1e-3


def test_bf16_weights_are_close_to_float32():
    model, x = chain().float(), normal(4, 4).float()
    single = measure.ntk(model, x, form="trace").values
    half = measure.ntk(model.bfloat16(), x.bfloat16(), form="trace").values
    assert float((half - single).norm() / single.norm()) < 0.05


def test_result_is_plain_and_printed():
    found = measure.ntk(chain(), normal(4, 4), form="trace")
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["samples"], plain["outputs"], plain["form"]) == (4, 3, "trace")
    assert "effective rank" in str(found)
    assert "of 4" in str(found)


def huge():
    model = chain()
    with torch.no_grad():
        model[0].weight.mul_(1e200)
        model[2].weight.mul_(1e200)
    return nn.Sequential(nn.Linear(4, 4), *[m for m in model if not isinstance(m, nn.Tanh)]).double()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"form": "mean"}, ValueError, r"unknown form 'mean'; known names: full, per-output, trace"),
        ({"outputs": [3]}, ValueError, r"outputs must be numbers from 0 to 2, at least one of them, got \[3\]"),
        ({"outputs": []}, ValueError, r"at least one of them, got \[\]"),
        ({"other": normal(2, 3)}, ValueError, r"other must hold samples like those of x"),
        ({"params": "5.*"}, ValueError, r"unknown params pattern '5.\*'"),
        ({"budget": 8000}, MemoryBudgetError, r"tangent kernel of 6 samples and 3 outputs needs .*form=\"trace\""),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        measure.ntk(chain(), normal(6, 4), **options)


def test_targets_that_do_not_fit():
    kernel = measure.ntk(chain(), normal(6, 4), form="trace")
    with pytest.raises(ValueError, match="targets have 5 rows for 6 samples"):
        kernel.alignment(torch.zeros(5).long())
    for strangers in (torch.arange(6) % 3 + 1, torch.arange(6) % 3 - 1):
        with pytest.raises(ValueError, match=r"class labels must be 0..2, one for each output; number the classes"):
            kernel.alignment(strangers)


def test_labels_go_with_a_part_of_the_outputs():
    labels = torch.arange(6) % 3
    assert measure.ntk(chain(), normal(6, 4), outputs=[0, 1]).alignment(labels).cosine > -1


def test_overflow_is_said():
    with pytest.raises(ValueError, match=r"overflow|not finite"):
        measure.ntk(huge(), normal(3, 4))


def test_inputs_object():
    model, x = chain(), normal(4, 4)
    assert torch.equal(measure.ntk(model, Inputs((x,))).values, measure.ntk(model, x).values)
    assert math.isfinite(measure.ntk(model, x).cost.seconds)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x):
        return self.body(x + torch.randn_like(x))


def test_refusals_name_this_measurement():
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match="The tangent kernel at a batch is undefined here: '1' \\(Dropout\\)"):
        measure.ntk(nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train(), x)
    with pytest.raises(ValueError, match="so its tangent kernel at a batch is undefined"):
        measure.ntk(Noisy(), x)
    with pytest.raises(ValueError, match="so its Fisher matrix at a batch is undefined"):
        measure.fisher(Noisy(), x)


def test_a_function_is_no_model():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        measure.ntk(torch.tanh, torch.randn(3, 2))


def test_over_budget_only_what_would_fit_is_advised():
    model = nn.Sequential(nn.Embedding(500, 4), nn.Linear(4, 500))
    ids = torch.arange(24).view(4, 6)
    with pytest.raises(MemoryError, match=r"of 4 samples and 3000 outputs .* at most \d+ outputs by outputs=") as full:
        measure.ntk(model, ids, budget=10**7)
    assert "form=" not in str(full.value)
    for form in ("full", "trace"):
        with pytest.raises(MemoryError) as error:
            measure.ntk(model, ids, form=form, budget=10**7)
        count = int(re.search(r"at most (\d+) outputs", str(error.value))[1])
        assert measure.ntk(model, ids, form=form, outputs=range(count), budget=10**7).outputs == count
        with pytest.raises(MemoryError, match=f"at most {count} outputs"):
            measure.ntk(model, ids, form=form, outputs=range(count + 1), budget=10**7)
    with pytest.raises(MemoryError, match=r"Take fewer samples, or pass"):
        measure.ntk(model, ids, form="trace", budget=10)
