"""The published speed page is what the committed results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_speed_page_is_current():
    spec = importlib.util.spec_from_file_location("benchmark_page", ROOT / "benchmarks" / "page.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert page.render() == text, "run `python benchmarks/page.py` and commit docs/speed.md"
