"""A file is there whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from isometry import report
from isometry.report import _write
from isometry.report._files import whole_file


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


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_others_may_read_what_another_writer_has_made_anew(tmp_path):
    """A writer that takes a path, as safetensors does, may do so."""
    old = os.umask(0o022)
    try:
        with whole_file(tmp_path / "deep" / "a.bin") as part:
            part.unlink()
            part.write_bytes(b"whole")
            part.chmod(0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "deep" / "a.bin").stat().st_mode) == 0o644
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.bin"]


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give a file in it, such as"):
        report.write_text("x", tmp_path)


def test_a_place_that_takes_no_files_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place, why in ((tmp_path / "file" / "deep", "Not a directory"), (Path("/proc/none"), "No such file")):
        if place.parent.exists():
            words = rf"nothing can be written to '{place}' \({why}.*\); give another folder\."
            with pytest.raises(OSError, match=words) as caught:
                report.write_text("x", place / "index.html")
            assert caught.value.errno is None  # else the system's words would be all that is shown
