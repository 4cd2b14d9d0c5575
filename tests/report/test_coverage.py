"""The coverage of the Fisher spectrum on the page and in words."""

import io
import re

import pytest
import torch
from rich.console import Console
from torch import nn

import isometry as iso
from isometry import report
from isometry.cli._printed import print_diagnosis
from isometry.report._coverage import _percent, coverage_sentence, coverage_table
from isometry.report._tidy import tidy


def content(uncovered, closed=0.5, parameters=1000):
    return tidy({"fisher": {"coverage": {"parameters": parameters, "closed_form": closed, "uncovered": uncovered}}})


def row(name, layer="Odd", how="sample by sample", share=0.1):
    return {"name": name, "layer": layer, "how": how, "size": 100, "share": share}


def test_the_sentence_names_each_way_with_its_share():
    rows = [row("a"), row("b"), row("c", "Other"), row("d", how="unused"), row("e", "Packed", "not measurable")]
    assert coverage_sentence(content(rows)) == (
        "The Fisher spectrum has 50.0% of 1,000 parameters in closed form, 30.0% by differentiating sample by sample "
        "(Odd, Other), 10.0% not read by the forward pass (Odd) and 10.0% left out, since they have no real gradients "
        "(Packed)."
    )
    many = coverage_sentence(content([row(str(i), f"Kind{i}") for i in range(5)]))
    assert "(Kind0, Kind1, Kind2, …)" in many
    assert coverage_sentence(content([])) == "The Fisher spectrum has all 1,000 parameters in closed form."


@pytest.mark.parametrize(
    "missing", [{}, {"fisher": None}, {"fisher": {"coverage": None}}, {"fisher": {"coverage": {}}}]
)
def test_where_it_is_not_known_nothing_is_said(missing):
    assert coverage_sentence(tidy(missing)) == ""
    assert coverage_table(tidy(missing)) == ""
    report.render(missing)


def test_the_page_lists_what_is_not_in_closed_form_by_kind_of_layer():
    rows = [row(f"layers.{i}.w") for i in range(5)] + [row("spare", "Net", "unused", 0.0001)]
    page = report.render({"fisher": {"eigenvalues": [1.0], "coverage": content(rows)["fisher"]["coverage"]}})
    table = page[page.index('id="coverage"') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 3
    assert "layers.0.w</code> … <code>layers.4.w</code> (5)" in table
    assert 'data-label="Share">50.0%<' in table
    assert 'data-label="Share">&lt; 0.1%<' in table
    assert "What is not in closed form" in table
    covered = report.render({"fisher": {"eigenvalues": [1.0], "coverage": content([])["fisher"]["coverage"]}})
    assert "has all 1,000 parameters in closed form." in covered
    assert "What is not in closed form" not in covered


def test_names_of_users_are_escaped():
    bad = "<script>alert(1)</script>"
    table = coverage_table(content([row(bad, bad, bad)]))
    assert "<script" not in table
    assert table.count("&lt;script&gt;") >= 3
    assert "<" not in re.sub(
        r"</?(div|p|details|summary|table|caption|thead|tbody|tr|th|td|span|code|br)\b[^>]*>", "", table
    )


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "0.0%"),
        (1e-6, "< 0.1%"),
        (0.5, "50.0%"),
        (0.99999, "> 99.9%"),
        (1.0, "100.0%"),
        (None, "an unknown share"),
    ],
)
def test_a_share_is_not_rounded_to_nothing_or_to_all(share, words):
    assert _percent(share) == words


def test_a_diagnosis_says_it_in_its_data_and_in_the_terminal():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.scale, self.last = nn.Linear(4, 8), nn.Parameter(torch.ones(8)), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)) * self.scale)

    torch.manual_seed(0)
    found = iso.diagnose(Net(), (torch.randn(12, 4), torch.randint(3, (12,))))
    coverage = found.to_dict()["fisher"]["coverage"]
    assert coverage["parameters"] == 40 + 8 + 27
    assert coverage["sample_by_sample"] == pytest.approx(8 / 75)
    assert [r["name"] for r in coverage["uncovered"]] == ["scale"]
    assert coverage["not_measurable"] == 0
    console = Console(width=200, record=True, file=io.StringIO())
    print_diagnosis(found, console)
    said = "has 89.3% of 75 parameters in closed form and 10.7% by differentiating sample by sample (Net)."
    assert said in console.export_text()
