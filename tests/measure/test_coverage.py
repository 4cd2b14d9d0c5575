"""What was not had in closed form is listed with its share, and nothing is dropped in silence."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from isometry import measure
from tests.measure.fisher_models import case


class Packed(nn.Module):
    """A packed weight, a complex one, a parameter that nothing reads, attention, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.packed = nn.Parameter(torch.tensor([[1, -2, 0, 3]] * 4, dtype=torch.int8), requires_grad=False)
        self.phases = nn.Parameter(torch.ones(4, dtype=torch.complex64) * 1j)
        self.spare = nn.Parameter(torch.zeros(5))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = x @ self.packed.to(x.dtype)
        x = (x * self.phases).imag
        return self.head(x + self.attention(x.unsqueeze(1), x.unsqueeze(1), x.unsqueeze(1))[0].squeeze(1))


def packed():
    torch.manual_seed(0)
    return Packed(), torch.randn(3, 4)


def test_every_way_is_listed_with_its_share():
    model, x = packed()
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    whole = sum(sizes.values())
    for found in (measure.fisher(model, x), measure.ntk(model, x)):
        coverage = found.coverage
        assert coverage.size == whole
        assert found.size == whole - 16 - 4
        ways = {row.name: row.how for row in coverage.uncovered}
        assert ways == {
            **{name: "sample by sample" for name in sizes if name.startswith("attention")},
            "spare": "unused",
            "packed": "not measurable",
            "phases": "not measurable",
        }
        assert coverage["not measurable"] == pytest.approx(20 / whole)
        assert coverage["unused"] == pytest.approx(5 / whole)
        assert coverage["closed form"] == pytest.approx(10 / whole)
        assert sum(coverage.values()) == pytest.approx(1)
        assert all(row.share == pytest.approx(sizes[row.name] / whole) for row in coverage.uncovered)
        assert {row.layer for row in coverage.uncovered} == {
            "MultiheadAttention",
            "NonDynamicallyQuantizableLinear",
            "Packed",
        }
        assert f"{20 / whole:.1%} not measurable (packed, phases)" in str(found)
        assert f"{10 / whole:.1%} of {whole} parameters in closed form" in str(found)


def test_what_cannot_be_measured_changes_nothing_about_the_rest():
    """With the complex weight a constant, the spectrum is that of the same model without the parameter."""
    model, x = packed()
    with_it = measure.fisher(model, x).eigenvalues()
    phases = model.phases.detach()
    del model.phases
    model.register_buffer("phases", phases)
    assert torch.equal(measure.fisher(model, x).eigenvalues(), with_it)


def test_what_is_in_closed_form_needs_no_words():
    model, x, _ = case("mlp")
    found = measure.fisher(model, x)
    assert found.coverage.uncovered == ()
    assert dict(found.coverage) == {
        "closed form": 1.0,
        "sample by sample": 0.0,
        "unused": 0.0,
        "not measurable": 0.0,
    }
    assert "coverage" not in str(found)
    assert "coverage" not in str(measure.ntk(model, x))


def test_coverage_is_of_the_chosen_parameters_and_plain_data():
    model, x = packed()
    found = measure.fisher(model, x, params=["head.*", "packed"])
    assert found.coverage.size == 26
    plain = json.loads(json.dumps(found.to_dict()))["coverage"]
    assert plain["closed form"] == pytest.approx(10 / 26)
    assert plain["uncovered"] == [
        {"name": "packed", "layer": "Packed", "how": "not measurable", "size": 16, "share": 16 / 26}
    ]
    with pytest.raises(KeyError, match="'by hand'; the ways are closed form, sample by sample, unused"):
        found.coverage["by hand"]


def test_a_choice_that_cannot_be_measured_at_all_is_refused():
    model, x = packed()
    with pytest.raises(ValueError, match=r"none of the 2 chosen.*'packed' is torch\.int8, which has no real gradients"):
        measure.fisher(model, x, params=["packed", "phases"])


def test_a_parametrized_layer_is_called_what_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Linear(3, 2)))
    rows = measure.fisher(model, torch.randn(3, 3)).coverage.uncovered
    assert {row.layer for row in rows} == {"Linear"}


def test_measurements_without_a_list_refuse_what_they_cannot_measure():
    model, x = packed()
    y = torch.tensor([0, 1, 0])
    for run in (measure.gradient_confusion, measure.gradient_gram, measure.curvature):
        with pytest.raises(ValueError, match=r"'packed' is torch\.int8 and has no real gradients; leave it out"):
            run(model, x, y)
        run(model, x, y, params=["head.*", "attention.*"])
