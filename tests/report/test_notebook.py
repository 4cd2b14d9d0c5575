"""The notebook's fragment: compact, static, escaped."""

from __future__ import annotations

import pytest

from isometry import report
from tests.report import samples
from tests.report.test_wording import Reader


@pytest.mark.parametrize("make", [samples.sick, samples.healthy, samples.empty, samples.hostile])
def test_it_is_small_and_has_neither_script_nor_request(make):
    html = report.notebook_html(make())
    assert len(html) < 40_000
    assert not {"script", "img", "link", "iframe", "a", "style"} & set(Reader(html).tags)
    for word in ("http", "url(", "@import"):
        assert word not in html.replace("https://example.org/x", "")


def test_findings_gravest_first_with_value_expected_remedy():
    html = report.notebook_html(samples.sick())
    assert html.index("gradient falls by 24 powers") < html.index("nearly all of the loss")
    assert "1.82" in html
    assert "3.4&#8239;×&#8239;10<sup>−26</sup>" in html
    assert "→ Initialize" in html


def test_the_signal_is_drawn_with_theory_over_it():
    html = report.notebook_html(samples.sick())
    assert html.count("<svg width") == 2
    assert html.count("<polyline") == 4
    points = html.split('<polyline points="')[1].split('"')[0].split()
    assert len(points) == 100
    assert all(0 <= float(x) <= 260 and 0 <= float(y) <= 64 for x, y in (point.split(",") for point in points))


def test_nothing_measured_draws_nothing():
    assert "<svg width" not in report.notebook_html(samples.nulled(samples.sick()))
    assert "<table" not in report.notebook_html(samples.empty())
