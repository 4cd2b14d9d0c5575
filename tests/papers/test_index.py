"""The index page is generated, and the committed one is current."""

from __future__ import annotations

from pathlib import Path

from isometry import papers
from tests.papers.fake_paper import write_paper
from tests.papers.test_run import run_both

DOCS = Path(__file__).parents[2] / "docs" / "papers.md"


def test_the_committed_page_is_current():
    assert DOCS.read_text(encoding="utf-8") == papers.index(), "run: isometry papers list --markdown > docs/papers.md"


def test_an_empty_house(tmp_path):
    assert papers.index(tmp_path).endswith("There are no papers yet.\n")


def test_claims_and_verdicts_stand_in_a_table(tmp_path):
    write_paper(tmp_path)
    row = "| balls-roll | Balls roll, cubes do not. | Section 3 \\| Fig. 2 | {} |"
    assert row.format("not run") in papers.index(tmp_path)
    run_both(tmp_path)
    page = papers.index(tmp_path)
    assert row.format("holds") in page
    assert "Evidence: 5 seeds, slopes; isometry " in page
