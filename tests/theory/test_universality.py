"""The universal limits' edges."""

import math

import numpy as np
import pytest

from isometry.theory import universal_edges


def test_smooth_edges_are_stationary() -> None:
    v = 0.7
    edges = universal_edges(v)

    def value(m: np.ndarray) -> np.ndarray:
        return (1 + 1 / m) * np.exp(v * m)

    assert edges.s_max**2 == pytest.approx(value(np.linspace(0.01, 5, 400_001)).min(), rel=1e-9)
    assert edges.s_min**2 == pytest.approx(value(np.linspace(-9, -1.0001, 400_001)).max(), rel=1e-9)


def test_linear_or_dead() -> None:
    assert universal_edges(4.0, family="linear-or-dead").s_max ** 2 == pytest.approx(4 * math.e)
    assert universal_edges(0.5, family="linear-or-dead").s_max ** 2 == pytest.approx(math.exp(0.5))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="variance must be a finite number > 0, got -1"):
        universal_edges(-1)
    with pytest.raises(ValueError, match="unknown family 'smoth'; did you mean 'smooth'"):
        universal_edges(1.0, family="smoth")  # type: ignore[arg-type]
