"""A file is there whole or not at all."""

from __future__ import annotations

import os
import stat

import pytest

from isometry import report
from isometry.report import _write


def test_the_page_is_written_into_a_new_folder(tmp_path):
    path = report.write({"verdict": "healthy"}, tmp_path / "deep" / "index.html")
    assert path.read_text(encoding="utf-8") == report.render({"verdict": "healthy"})
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "index.html"
    path.write_text("old")

    def interrupt(*_):
        raise KeyboardInterrupt

    for moment in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(_write.os, moment, interrupt)
            with pytest.raises(KeyboardInterrupt):
                report.write_text("new", path)
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


def test_content_that_cannot_be_drawn_leaves_the_old_file(tmp_path):
    path = tmp_path / "index.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="schema 7"):
        report.write({"schema": 7}, path)
    assert path.read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_others_may_read_the_report_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        path = report.write_text("x", tmp_path / "a.json")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give a file in it, such as"):
        report.write_text("x", tmp_path)
