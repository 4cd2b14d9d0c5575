"""Progress reaches whoever listens, and nobody else."""

from __future__ import annotations

import pytest

from isometry._base import progress, reporting


def test_without_a_listener_nothing_happens():
    progress("work", 1, 2)


def raising(heard):
    with reporting(lambda *a: heard.append(a)):
        progress("work", 1, 2)
        raise KeyError


def test_the_innermost_listener_hears_and_the_outer_one_comes_back():
    outer, inner = [], []
    with reporting(lambda *a: outer.append(a)):
        progress("work", 0, 2)
        with pytest.raises(KeyError):
            raising(inner)
        progress("work", 2, 2)
    progress("work", 3, 2)
    assert outer == [("work", 0, 2), ("work", 2, 2)]
    assert inner == [("work", 1, 2)]
