"""Every paper that ships keeps the house rules, and its committed verdicts follow from its committed numbers."""

from __future__ import annotations

import ast

import pytest

from isometry import papers
from isometry.papers._verify import _stale

SHIPPED = papers.list()


def test_the_shipped_claims_are_sound():
    assert all(paper.claims.claims for paper in SHIPPED)


@pytest.mark.parametrize("paper", SHIPPED, ids=lambda p: p.slug)
def test_the_folder_holds_what_it_should(paper):
    names = {path.name for path in paper.folder.iterdir() if path.name != "__pycache__"}
    assert {"__init__.py", "claims.toml", "study.py", "evidence.json", "README.md"} <= names
    assert all(len(path.read_text().splitlines()) <= 160 for path in paper.folder.glob("*.py"))
    assert len((paper.folder / "README.md").read_text().splitlines()) <= 40


@pytest.mark.parametrize("paper", SHIPPED, ids=lambda p: p.slug)
def test_the_study_uses_the_public_api_only(paper):
    for node in (node for path in paper.folder.glob("*.py") for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("isometry"):
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            assert not any(part.startswith("_") for part in parts), ast.unparse(node)
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__"), ast.unparse(node)


@pytest.mark.parametrize("paper", SHIPPED, ids=lambda p: p.slug)
def test_the_evidence_has_its_scales_five_seeds_and_current_verdicts(paper):
    evidence = paper.evidence()
    assert {"smoke", "full"} <= set(evidence) <= {scale.name for scale in paper.claims.scales}
    assert len(evidence["full"]["seeds"]) >= 5
    assert [line for scale, run in evidence.items() for line in _stale(paper, scale, run)] == []
