"""How much of a model a measurement of its parameters had in closed form, and what became of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from isometry._base import Result
from isometry.measure._gram_plan import Plan

__all__ = ["Coverage", "How", "Uncovered", "coverage_of", "split_measurable"]

How = Literal["closed form", "sample by sample", "unused", "not measurable"]
_NAMED = 3  # parameters that are named in the sentence


@dataclass(frozen=True)
class Uncovered(Result):
    """A parameter that was not had in closed form.

    Attributes:
        name: Its name.
        layer: The class of the module that holds it.
        how: "sample by sample" (its rows were formed by differentiating: exact too, but dearer), "unused" (the forward
            pass does not read it: its block is zero) or "not measurable" (no real floating-point numbers, such as
            packed weights: it is left out).
        size: How many numbers it holds.
        share: Of all chosen parameters' numbers.
    """

    name: str
    layer: str
    how: How
    size: int
    share: float


@dataclass(frozen=True, eq=False)
class Coverage(Result, Mapping[str, float]):
    """How the chosen parameters' contributions were had: a mapping of ways to shares of their numbers.

    The ways are "closed form", "sample by sample", "unused" and "not measurable".

    Attributes:
        size: How many numbers the chosen parameters hold, those that cannot be measured among them.
        uncovered: Every parameter that was not had in closed form.
    """

    size: int
    uncovered: tuple[Uncovered, ...]

    def __getitem__(self, how: str) -> float:
        if how not in get_args(How):
            raise KeyError(f"{how!r}; the ways are {', '.join(get_args(How))}.")
        if how == "closed form":
            return 1 - sum(row.size for row in self.uncovered) / self.size
        return sum(row.size for row in self.uncovered if row.how == how) / self.size

    def __iter__(self) -> Iterator[str]:
        return iter(get_args(How))

    def __len__(self) -> int:
        return len(get_args(How))

    def to_dict(self) -> dict[str, Any]:
        """Give the shares, and what was not covered, as plain data.

        Returns:
            One entry per way, "size" and "uncovered".
        """
        return {**dict(self), **super().to_dict()}

    def __str__(self) -> str:
        parts = [f"{self['closed form']:.1%} of {self.size:,} parameters in closed form"]
        for how in get_args(How)[1:]:
            rows = [row for row in self.uncovered if row.how == how]
            if rows:
                named = ", ".join(row.name for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
                parts.append(f"{self[how]:.1%} {how} ({named})")
        return ", ".join(parts)


def coverage_of(model: nn.Module, plan: Plan, unmeasured: Mapping[str, nn.Parameter]) -> Coverage:
    """Sum up a plan.

    Args:
        model: The model.
        plan: How each parameter's rows are had.
        unmeasured: Chosen parameters that are not in the plan, since they cannot be measured.

    Returns:
        The coverage.
    """
    ways: list[tuple[How, Mapping[str, nn.Parameter]]] = [
        ("sample by sample", {name: plan.parameters[name] for name in plan.general}),
        ("unused", {name: plan.parameters[name] for name in plan.unused}),
        ("not measurable", unmeasured),
    ]
    size = plan.size + sum(p.numel() for p in unmeasured.values())
    rows = [
        Uncovered(name, _layer(model, plan.group_of(name)), how, p.numel(), p.numel() / size)
        for how, parameters in ways
        for name, p in parameters.items()
    ]
    return Coverage(size, tuple(rows))


def _layer(model: nn.Module, owner: str) -> str:
    kind = type(model.get_submodule(owner))
    base = kind.__mro__[1]  # parametrize replaces the class by a subclass named ParametrizedLinear
    return base.__name__ if kind.__name__ == f"Parametrized{base.__name__}" else kind.__name__


def split_measurable(
    parameters: Mapping[str, nn.Parameter],
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Tell parameters that have real gradients from those that have none.

    Args:
        parameters: By name.

    Returns:
        Those of a real floating-point type, and the others.

    Raises:
        ValueError: If there are only others.
    """
    real = {name: p for name, p in parameters.items() if p.is_floating_point()}
    others = {name: p for name, p in parameters.items() if name not in real}
    if not real:
        name, first = next(iter(others.items()))
        raise ValueError(
            f"params: none of the {len(others)} chosen parameters can be measured ({name!r} is {first.dtype}, which "
            "has no real gradients); choose some of a floating-point type, or unpack the weights first."
        )
    return real, others
