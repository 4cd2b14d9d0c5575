"""What the other tests stand on: a crash is told and tried again, an error is an error."""

from __future__ import annotations

import warnings

import pytest

from tests.distributed import pair

SAVE = "import sys, os, torch; torch.save(int(os.environ['RANK']), sys.argv[2]); "


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Make a module that ``python -m`` finds."""
    monkeypatch.setitem(pair.ENVIRONMENT, "PYTHONPATH", str(tmp_path))

    def written(code):
        (tmp_path / "job.py").write_text(code)
        return "job"

    return written


def test_results_come_in_order(module, tmp_path):
    assert pair.run(module(SAVE), tmp_path) == [0, 1]


def test_a_crash_is_tried_again_and_told_with_its_stack(module, tmp_path):
    once = f"flag = {str(tmp_path / 'flag')!r} + os.environ['RANK']\n"
    once += "if not os.path.exists(flag):\n    open(flag, 'w').close()\n    os.abort()\n"
    with warnings.catch_warnings(record=True) as told:  # under the project's filters, which make errors of others
        assert pair.run(module(SAVE + "\n" + once), tmp_path) == [0, 1]
    assert "job was ended by a signal\n--- process 0 ended with -6\nFatal Python error" in str(told[0].message)


def test_two_crashes_are_a_failure(module, tmp_path):
    with pytest.warns(UserWarning, match="signal"), pytest.raises(pytest.fail.Exception, match="ended with -6"):
        pair.run(module("import os; os.abort()"), tmp_path)


def test_an_error_is_not_tried_again(module, tmp_path):
    with pytest.raises(AssertionError, match=r"process 1 ended with 1\n(.|\n)*ValueError: no such thing"):
        pair.run(module(SAVE + "\nif os.environ['RANK'] == '1': raise ValueError('no such thing')"), tmp_path)
    assert not (tmp_path / "second").exists()
