"""Every Python block of the README and the docs runs, page by page, in one namespace a page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(page: Path) -> list[str]:
    lines = (line.strip() for text in blocks(page, "console") for line in text.splitlines())
    return [line[2:] for line in lines if line.startswith("$ isometry ")]


with_python = [p for p in PAGES if blocks(p, "python")]
with_commands = [(p, c) for p in PAGES for c in commands(p)]


@pytest.mark.parametrize("page", with_python, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "snippet"}
    for number, text in enumerate(blocks(page, "python")):
        exec(compile(text, f"{page.name}[{number}]", "exec"), namespace)


@pytest.mark.parametrize(("page", "command"), with_commands, ids=lambda v: str(v)[-60:])
def test_commands_run(page: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isometry.cli import app

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command.split("#")[0])[1:])
    assert result.exit_code in (0, 1), result.output


def test_blocks_are_found() -> None:
    assert with_python, "no page has a Python block: the pattern above no longer matches"
