"""The terminal's table."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from isometry import report
from tests.report import samples


def printed(content, width=80, *, colour=False):
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    report.print_findings(content, console)
    return console.file.getvalue()


def test_verdict_first_then_errors_before_warnings_before_remarks():
    text = printed(samples.sick())
    assert text.startswith("As it stands, this network will not train.")
    places = [text.index(code) for code in ("gradient.vanishing", "fisher.effective-rank", "inputs.scale")]
    assert places == sorted(places)


def test_value_beside_expected_and_remedy():
    text = printed(samples.sick(), 200)
    line = next(line for line in text.splitlines() if "falls by 24 powers" in line and "gravest" not in line)
    assert line.split()[-2:] == ["1.82", "100"]
    assert "→ Initialize at the critical point" in text


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("make", [samples.sick, samples.hostile])
def test_no_line_is_wider_than_the_terminal(make, width):
    assert max(map(cell_len, printed(make(), width).splitlines())) <= width


def test_user_strings_neither_style_nor_steer_the_terminal():
    text = printed(samples.hostile(), 300)
    assert "[bold]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_severities_are_coloured():
    text = printed(samples.sick(), colour=True)
    assert "\x1b[1;31merror" in text
    assert "\x1b[1;33mwarning" in text


def test_no_findings_no_table():
    assert "Measured" not in printed(samples.healthy())
    assert "Nothing was judged" in printed(samples.empty())


def test_it_prints_to_standard_output_by_default(capsys):
    report.print_findings({"verdict": "healthy"})
    assert "This network is healthy." in capsys.readouterr().out


def test_null_numbers_are_dashes():
    assert "–" in printed(samples.nulled(samples.sick()))
