"""Carry learning rates over between implementations of Muon, which measure them in different units.

An implementation steps by lr c O, O an orthogonalized matrix and c a factor of the matrix's sizes that each names in
its own way. Equal products lr c are equal steps.

"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from isometry._base import Result, unknown_name
from isometry.optim._base import check_number
from isometry.optim._conventions import CONVENTIONS, Shape, times
from isometry.roles import Routing

__all__ = ["ConvertedRate", "ConvertedRates", "convert_lr"]

Named: TypeAlias = str | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ConvertedRate(Result):
    """The learning rate of the parameters of one shape.

    Attributes:
        shape: The shape.
        lr: The learning rate in the convention that was asked for.
        weight_decay: The weight decay there, under which weights shrink as before; None if none was given.
        names: Names of the parameters of this shape, where they are known.
    """

    shape: tuple[int, ...]
    lr: float
    weight_decay: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConvertedRates(Result):
    """Learning rates in another convention, by shape.

    Attributes:
        rows: A row per shape.
        from_: The convention that they came from.
        to: The convention that they are in.
    """

    rows: tuple[ConvertedRate, ...]
    from_: str = field(default="")
    to: str = field(default="")

    def __iter__(self) -> Iterator[ConvertedRate]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __float__(self) -> float:
        return self.lr

    @property
    def lr(self) -> float:
        """The learning rate for all shapes.

        Raises:
            ValueError: If shapes want different ones.
        """
        return self._common("lr", "learning rate")

    @property
    def weight_decay(self) -> float:
        """The weight decay for all shapes.

        Raises:
            ValueError: If shapes want different ones, or none was given.
        """
        if self.rows[0].weight_decay is None:
            raise ValueError("weight_decay was not given; pass weight_decay= to convert_lr.")
        return self._common("weight_decay", "weight decay")

    def _common(self, name: str, words: str) -> float:
        values = [getattr(row, name) for row in self.rows]
        first = float(values[0])
        if all(math.isclose(value, first, rel_tol=1e-9) for value in values):
            return first
        told = ", ".join(f"{value:.4g} for {times(row.shape)}" for value, row in zip(values, self.rows, strict=True))
        raise ValueError(
            f"no single {words} in {self.to} makes the steps of {self.from_}: it would be {told}. Give each shape its "
            "own (a group per row of this result; options() writes them for isometry.roles.route), or a convention "
            "with the same dependence on shape."
        )

    def options(self) -> dict[str, dict[str, float]]:
        """Write the learning rates (and weight decays) as ``isometry.roles.route(model, options=...)`` takes them.

        Returns:
            A dictionary of options by parameter name.

        Raises:
            ValueError: If the shapes came without names.
        """
        if not all(row.names for row in self.rows):
            raise ValueError("the shapes have no names; pass shape=isometry.roles.route(model) to convert_lr.")
        return {
            name: {"lr": row.lr} | ({} if row.weight_decay is None else {"weight_decay": row.weight_decay})
            for row in self.rows
            for name in row.names
        }

    def __str__(self) -> str:
        from rich.console import Console  # only printing needs it

        stream = io.StringIO()
        Console(file=stream, width=200, color_system=None, emoji=False, markup=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def __rich__(self) -> object:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, caption=f"{self.from_} -> {self.to}", caption_justify="left")
        for head in ("shape", "parameters", "lr", "weight decay"):
            table.add_column(head, justify="left" if head == "shape" else "right")
        for row in self.rows:
            decay = "-" if row.weight_decay is None else f"{row.weight_decay:.4g}"
            cells = (times(row.shape), str(len(row.names) or "-"), f"{row.lr:.4g}", decay)
            table.add_row(*(Text(cell) for cell in cells))
        return table


def convert_lr(
    lr: float,
    from_: Named,
    to: Named,
    shape: Shape | Iterable[Shape] | Routing,
    *,
    weight_decay: float | None = None,
) -> ConvertedRates:
    """Give the learning rate at which another implementation of Muon takes the same steps.

    lr' = lr c(shape) / c'(shape). Every implementation shrinks weights by lr times its weight decay, unscaled, so the
    weight decay that shrinks them as before is wd' = wd lr / lr'.

    A convention is a name of ``CONVENTIONS``, or such a name with the options of that library that matter here::

        "torch.optim.Muon"   adjust_lr_fn: "original" (default), "match_rms_adamw"
        "dion"               adjust_lr: "spectral_norm" (default), "rms_norm", None; flatten: False (default), True
        "KellerJordan"
        "Moonlight"
        "NVIDIA"             scale_mode: "spectral" (default), "unit_rms_norm", "shape_scaling"; extra_scale_factor: 1.0
        "isometry"           scale: "original" (default), "spectral", "match_rms_adamw", "none"
        "adamw"

    Beware of the words: NVIDIA's "spectral" is max(out, in)^(1/2), five times Moonlight's factor; Dion's
    "spectral_norm" is (out / in)^(1/2), which NVIDIA calls "unit_rms_norm". KellerJordan takes a convolution's factor
    of its last two sizes, the taps. AdamW's own steps are no multiples of orthogonal matrices: from and to "adamw" the
    entries' root mean square is kept, taking 0.2 for AdamW's. Steps are the same where the other options are: momentum,
    ``nesterov`` (False by default in dion and NVIDIA), the iteration.

    Args:
        lr: The learning rate.
        from_: The convention that it is in.
        to: The convention to give it in.
        shape: The parameter's shape ``(out, in)``, or ``(out, in, *kernel)``; several shapes; or
            ``isometry.roles.route(model)``: the sizes of its hidden matrices, by name.
        weight_decay: Decoupled weight decay, to be converted too.

    Returns:
        A row per shape. ``.lr`` (or ``float(...)``) is the one rate for all of them, and says so by an error if there
        is none; ``.options()`` gives each parameter of a routing its own.

    Raises:
        TypeError: If the learning rate is no number, or a shape is none.
        ValueError: If a convention or an option is unknown, or a convention cannot take a shape.

    Example:
        >>> convert_lr(0.02, "KellerJordan", "Moonlight", (400, 100)).lr
        0.01
        >>> rates = convert_lr(0.02, "torch.optim.Muon", "dion", [(400, 100), (100, 400)], weight_decay=0.1)
        >>> [(row.shape, row.lr, row.weight_decay) for row in rates]
        [((400, 100), 0.02, 0.1), ((100, 400), 0.04, 0.05)]
    """
    check_number("lr", lr)
    check_number("weight_decay", weight_decay, optional=True)
    before, after = _convention("from_", from_), _convention("to", to)
    rows = []
    for size, names in _shapes(shape).items():
        ratio = before[1](size) / after[1](size)
        decay = None if weight_decay is None else float(weight_decay) / ratio
        rows.append(ConvertedRate(size, float(lr) * ratio, decay, tuple(names)))
    return ConvertedRates(tuple(rows), before[0], after[0])


# -- what was asked ----------------------------------------------------------------------------------------------------


def _convention(argument: str, named: object) -> tuple[str, Callable[[Shape], float]]:
    """Read a convention.

    Returns:
        What to call it, and its factor of a shape.

    Raises:
        TypeError: If it is neither a name nor a name with options.
        ValueError: If a name or a value is not known.
    """  # noqa: DOC501
    name, given = named if isinstance(named, tuple) and len(named) == 2 else (named, {})
    if not isinstance(name, str) or not isinstance(given, Mapping):
        raise TypeError(
            f"{argument} must be the name of a convention, or a pair of it and its options such as "
            f"('isometry', {{'scale': 'spectral'}}), got {named!r}."
        )
    if name not in CONVENTIONS:
        raise unknown_name(argument, name, CONVENTIONS)
    convention = CONVENTIONS[name]
    for option, value in given.items():
        if option not in convention.options:
            raise unknown_name(f"option of {name}", option, convention.options)
        if option not in convention.choices:
            check_number(option, value)
            if float(value) == 0:
                raise ValueError(f"{option} must be above 0, got {value}.")
        elif value not in convention.choices[option]:
            raise unknown_name(option, value, map(str, convention.choices[option]))
    told = ", ".join(f"{option}={value}" for option, value in given.items())
    options = {**convention.options, **given}
    return f"{name} ({told})" if told else name, lambda shape: convention.factor(shape, options)


def _shapes(given: object) -> dict[tuple[int, ...], list[str]]:
    """Read the shapes.

    Returns:
        For each shape the names of its parameters, where they are known.

    Raises:
        TypeError: If it is nothing of the kind.
        ValueError: If there is no shape in it, or one of less than two dimensions.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    if isinstance(given, Routing):
        for row in given.by_rule("matrix"):
            if row.matrices is not None:
                found.setdefault(row.matrices[1:], []).append(row.name)
        if not found:
            raise ValueError("shape: the routing has no hidden matrix, so there is no learning rate to convert.")
        return found
    if isinstance(given, str | Tensor | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"shape must be (out, in), several of them, or a routing, got {type(given).__name__}.")
    items = list(given)
    shapes = [items] if items and all(isinstance(n, int) for n in items) else items
    for shape in shapes:
        sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
        if len(sizes) < 2 or not all(isinstance(n, int) and n >= 1 for n in sizes):
            raise ValueError(f"shape must be (out, in) or (out, in, *kernel), whole numbers >= 1, got {shape!r}.")
        found.setdefault(sizes, [])
    if not found:
        raise ValueError("shape is empty; pass (out, in), several of them, or isometry.roles.route(model).")
    return found
