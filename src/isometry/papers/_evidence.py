"""What a study returns: numbers per seed, by name."""

from __future__ import annotations

import dataclasses
import numbers
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from isometry._base import Result, progress

__all__ = ["Evidence", "Value", "collect"]

Value = float | Sequence[float]
_NAME = re.compile(r"[a-z0-9][a-z0-9_./-]*")


@dataclass(frozen=True)
class Evidence(Result):
    """The measurements of a study.

    Attributes:
        scale: The scale it ran at.
        seeds: Its seeds.
        quantities: By name, one value a seed (a number, or a series of numbers of equal length), or a bare number for a
            quantity that was pooled over the seeds. Names are lower case, with ``/`` between parts: ``digits/pearson``.
        axes: What the entries of a series stand for, by the quantity's name: ``{"digits/lambda_max": ("1/64",
            "1/2")}``.
        datasets: Names of the data sets that were used.
        skipped: Quantities that were not measured, with the reason.
        notes: Settings and departures worth keeping with the numbers.
    """

    scale: str
    seeds: tuple[int, ...]
    quantities: Mapping[str, float | tuple[float, ...] | tuple[tuple[float, ...], ...]]
    axes: Mapping[str, tuple[str | float, ...]] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty; run at least one seed.")
        for name in (*self.quantities, *self.skipped):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"quantity {name!r} is not a good name; use lower-case letters, digits and any of _ . / -"
                )
        both = sorted(set(self.quantities) & set(self.skipped))
        if both:
            raise ValueError(f"quantities {', '.join(both)} are both measured and skipped; keep one.")
        for name, axis in self.axes.items():
            if name not in self.quantities:
                raise ValueError(f"axes name {name!r}, which is no quantity; measured: {', '.join(self.quantities)}.")
            array = self.array(name)
            if array.ndim != 2 or array.shape[1] != len(axis):
                raise ValueError(f"axes[{name!r}] has {len(axis)} entries but the values have shape {array.shape}.")
        for name in self.quantities:
            self.array(name)

    def array(self, name: str) -> np.ndarray:
        """Give a quantity as an array.

        Args:
            name: Name of the quantity.

        Returns:
            (seeds,) or (seeds, entries), float64; a pooled quantity has one row.

        Raises:
            ValueError: If the values are not one number, or one series of equal length, a seed.
        """
        value: object = self.quantities[name]
        if isinstance(value, numbers.Real):
            return np.array([float(value)])
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"quantity {name!r} must hold one number, or one series of equal length, a seed ({error})."
            ) from error
        if array.ndim not in (1, 2) or len(array) != len(self.seeds):
            raise ValueError(
                f"quantity {name!r} has shape {array.shape} for {len(self.seeds)} seeds; give one value a seed, or a "
                "bare number if it is pooled."
            )
        return array

    def with_pooled(self, **quantities: float) -> Evidence:
        """Add numbers that were computed from all seeds together.

        Args:
            quantities: Numbers by name; ``__`` stands for ``/``.

        Returns:
            A copy with these quantities.
        """
        pooled = {name.replace("__", "/"): float(value) for name, value in quantities.items()}
        return dataclasses.replace(self, quantities={**self.quantities, **pooled})


def collect(
    scale: str,
    seeds: Iterable[int],
    measure: Callable[[int], Mapping[str, Value]],
    *,
    axes: Mapping[str, Sequence[str | float]] | None = None,
    datasets: Iterable[str] = (),
    skipped: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
) -> Evidence:
    """Run a measurement for each seed and gather what it returns.

    Args:
        scale: The scale, as ``run`` was given it.
        seeds: The seeds, as ``run`` was given them.
        measure: Called with one seed; returns numbers or series by name, the same names for every seed.
        axes: What the entries of series stand for.
        datasets: Names of the data sets that were used.
        skipped: Quantities that were not measured, with the reason.
        notes: Settings and departures.

    Returns:
        The evidence.

    Raises:
        ValueError: If the names differ from seed to seed.

    Example:
        >>> collect("smoke", (0, 1), lambda seed: {"error": 0.1 * seed}).quantities
        {'error': (0.0, 0.1)}
    """
    all_seeds = tuple(seeds)
    rows: list[dict[str, Value]] = []
    for index, seed in enumerate(all_seeds):
        progress("Seeds of the study", index, len(all_seeds))
        rows.append(dict(measure(seed)))
        if rows[-1].keys() != rows[0].keys():
            differing = ", ".join(sorted(rows[-1].keys() ^ rows[0].keys()))
            raise ValueError(f"seed {seed} measured other quantities than seed {all_seeds[0]}: {differing}.")
    progress("Seeds of the study", len(all_seeds), len(all_seeds))
    quantities = {name: tuple(_plain(row[name]) for row in rows) for name in (rows[0] if rows else ())}
    return Evidence(
        scale,
        all_seeds,
        quantities,  # type: ignore[arg-type]
        {name: tuple(axis) for name, axis in (axes or {}).items()},
        tuple(datasets),
        dict(skipped or {}),
        tuple(notes),
    )


def _plain(value: Value) -> float | tuple[float, ...]:
    if isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0:
        return tuple(float(v) for v in value)  # type: ignore[union-attr]
    return float(value)
