"""What a model is called with, and which of the things that it returns is measured.

Models take one tensor, or several, by position or by keyword; they return a tensor, a tuple or a dictionary. Everything
that runs a model does it through ``Inputs``, so that no measurement needs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from isometry.tape._outputs import select_output

__all__ = ["Inputs", "as_inputs"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch of arguments for a model, of which some have a row per sample and others are shared by all samples.

    A tensor whose first dimension is the number of samples has a row per sample, unless it is named in ``shared``; the
    number of samples is the first dimension of the first tensor that is not. What is no tensor is shared.

    Attributes:
        args: Positional arguments; tuples, lists and dictionaries of tensors may be among them.
        kwargs: Keyword arguments, likewise.
        output: Which of the model's outputs is measured: a key, an attribute or an index. None takes the tensor itself;
            of a dictionary ``logits``, ``last_hidden_state`` or the only real-valued tensor; of a tuple the first.
        shared: Names of keyword arguments, and numbers of positional ones, that are the same for all samples although
            their first dimension might look like a batch.
        mask: Which positions of the outputs count, shape ``(samples, *positions)`` (of one whole graph ``(nodes,)``),
            True or 1 where they do. None takes a two-dimensional ``attention_mask`` from the keyword arguments.
        class_dim: The dimension of the output along which the classes (or features) lie; it is moved to the end. None
            leaves the output as it is, with the classes last.
        whole: The whole call is one sample, and what looks like its batch are positions that influence each other: the
            nodes of a graph.

    Example:
        >>> inputs = Inputs((torch.ones(5, 3),), {"scale": torch.ones(5, 1), "adjacency": torch.eye(4)})
        >>> len(inputs), [tuple(t.shape) for t in inputs[:2].rows()]
        (5, [(2, 3), (2, 1)])
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: str | int | None = None
    shared: frozenset[str | int] = frozenset()
    mask: Tensor | None = None
    class_dim: int | None = None
    whole: bool = False
    _samples: int = field(init=False, default=0)
    _is_row: tuple[bool, ...] = field(init=False, default=())  # of each tensor; settled once, kept by other batches

    def __post_init__(self) -> None:
        """Count the samples, and tell the tensors with a row per sample from the shared ones.

        Raises:
            TypeError: If ``args`` is no tuple, or no argument is a tensor.
            ValueError: If ``shared`` names an argument that is not there.
        """
        if not isinstance(self.args, tuple):
            raise TypeError(f"args must be a tuple of arguments, got {type(self.args).__name__}; write Inputs((x,)).")
        object.__setattr__(self, "kwargs", dict(self.kwargs))
        object.__setattr__(self, "shared", frozenset(self.shared))
        known = {*range(len(self.args)), *self.kwargs}
        strangers = sorted(map(str, self.shared - known))
        if strangers:
            raise ValueError(
                f"shared names {strangers[0]!r}, which is no argument; known are {', '.join(map(str, known))}."
            )
        own = [(leaf, not self.whole and leaf.ndim > 0 and not shared) for leaf, shared in self._leaves()]
        count = 1 if self.whole else next((leaf.shape[0] for leaf, free in own if free), None)
        if not own or count is None:
            raise TypeError("x holds no tensor with a row per sample; pass a tensor, or a dict or tuple with tensors.")
        object.__setattr__(self, "_samples", count)
        object.__setattr__(self, "_is_row", tuple(free and leaf.shape[0] == count for leaf, free in own))

    # -- what is in it -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._samples

    def rows(self) -> list[Tensor]:
        """List the tensors that have a row per sample, in the order of the arguments; none if ``whole``.

        Returns:
            Tensors whose first dimension is the number of samples.
        """
        return [leaf for leaf, row in zip(self.tensors(), self._is_row, strict=True) if row]

    def tensors(self) -> list[Tensor]:
        """List all tensors, shared ones too.

        Returns:
            Tensors in the order of the arguments.
        """
        return [leaf for leaf, _ in self._leaves()]

    @property
    def first(self) -> Tensor:
        """The first tensor: what most models are about."""
        return next(iter(self.rows() or self.tensors()))

    @property
    def leaf(self) -> Tensor | None:
        """The first real-valued tensor with a row per sample: what a Jacobian can be taken in. None for tokens."""
        return next((t for t in self.rows() if t.is_floating_point()), None)

    @property
    def device(self) -> torch.device:
        """Where the first tensor is."""
        return self.first.device

    def counted(self, shape: Sequence[int]) -> Tensor | None:
        """Give the mask of positions that count.

        Args:
            shape: Shape of the mask that would fit the outputs: ``(samples, *positions)``.

        Returns:
            A boolean tensor of that shape; None where all positions count.

        Raises:
            ValueError: If a given mask does not fit, or holds something else than True and False.
        """
        wanted = tuple(shape)
        if self.mask is not None:
            mask = self.mask.unsqueeze(0) if self.whole and tuple(self.mask.shape) == wanted[1:] else self.mask
            if tuple(mask.shape) != wanted:
                shown = wanted[1:] if self.whole else wanted
                raise ValueError(
                    f"mask must have the shape of the outputs' positions, {shown}, got {tuple(self.mask.shape)}; pass "
                    "one True or False for each."
                )
            if mask.dtype != torch.bool:
                odd = mask[(mask != 0) & (mask != 1)]
                if odd.numel():
                    raise ValueError(
                        f"mask must hold True and False, or 1 and 0, got {odd.flatten()[0].item():g}; pass mask > 0.5, "
                        "say, if it holds weights."
                    )
            return mask.bool()
        found = self.kwargs.get("attention_mask")
        if isinstance(found, Tensor) and found.ndim == 2 and tuple(found.shape) == wanted and len(wanted) > 1:
            return found.bool()
        return None

    def __str__(self) -> str:
        named = {**{f"argument {i}": a for i, a in enumerate(self.args)}, **self.kwargs}
        if len(named) == 1 and isinstance(self.first, Tensor):
            return f"x of shape {tuple(self.first.shape)} and dtype {self.first.dtype}"
        parts = [
            f"{name} {tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"
            for name, value in named.items()
            for leaf in tree_flatten(value)[0]
            if isinstance(leaf, Tensor)
        ]
        return f"inputs {', '.join(parts)}"

    # -- other batches -----------------------------------------------------------------------------------------------

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Inputs:
        """Choose samples.

        Args:
            index: A slice, or sample numbers.

        Returns:
            Inputs with these samples.

        Raises:
            ValueError: If the whole call is one sample and another number of them is asked for.
        """
        if self.whole:
            if isinstance(index, slice) and len(range(*index.indices(1))) == 1:
                return self
            raise ValueError("x is one whole sample (whole=True), so it cannot be split or repeated.")
        return self.mapped(lambda t: t[index])

    def mapped(self, function: Callable[[Tensor], Tensor], *, shared: bool = False) -> Inputs:
        """Apply a function to every tensor that has a row per sample, the mask among them.

        Args:
            function: Of a tensor.
            shared: Apply it to the shared tensors too.

        Returns:
            New inputs.
        """
        pairs = zip(self.tensors(), self._is_row, strict=True)
        mask = None if self.mask is None else function(self.mask)
        return self._with([function(t) if shared or row else t for t, row in pairs], mask)

    def clone(self) -> Inputs:
        """Copy every tensor, detached: a model may overwrite what it is given.

        Returns:
            New inputs.
        """
        return self.mapped(lambda t: t.detach().clone(), shared=True)

    def to(self, device: torch.device | str | torch.dtype, dtype: torch.dtype | None = None) -> Inputs:
        """Move every tensor; convert the real-valued ones if a dtype is given, alone or after the device.

        Returns:
            New inputs.
        """
        if isinstance(device, torch.dtype):
            return self.to(self.device, device)
        return self.mapped(
            lambda t: t.to(device, dtype) if dtype is not None and t.is_floating_point() else t.to(device), shared=True
        )

    def with_leaf(self, tensor: Tensor) -> Inputs:
        """Put another tensor in the place of ``leaf``.

        Args:
            tensor: Of the same shape.

        Returns:
            New inputs.
        """
        old = self.leaf
        return self._with([tensor if leaf is old else leaf for leaf in self.tensors()], self.mask)

    def scaled(self, factor: float) -> Inputs:
        """Multiply ``leaf``; inputs without real numbers stay as they are.

        Args:
            factor: The factor.

        Returns:
            New inputs.
        """
        return self if self.leaf is None else self.with_leaf(self.leaf * factor)

    def with_rows(self, rows: Sequence[Tensor]) -> Inputs:
        """Put other tensors in the place of ``rows()``.

        Args:
            rows: As many, each with a row per sample; the number of samples may be another, and the mask is dropped.

        Returns:
            New inputs.
        """
        left = iter(rows)
        pairs = zip(self.tensors(), self._is_row, strict=True)
        return self._with([next(left) if row else t for t, row in pairs], None)

    def changed(self, **fields: Any) -> Inputs:
        """Replace fields, as ``dataclasses.replace`` does, and keep what is known of which tensors have rows.

        Args:
            fields: New values by field name.

        Returns:
            New inputs.
        """
        other = replace(self, **fields)
        # A smaller batch may happen to have the size of something shared, which stays shared.
        object.__setattr__(other, "_is_row", self._is_row)
        if not self.whole:
            object.__setattr__(other, "_samples", other.rows()[0].shape[0])
        return other

    # -- the call ----------------------------------------------------------------------------------------------------

    def run(self, model: nn.Module) -> Tensor:
        """Call a model and choose the output that is measured.

        Args:
            model: The model.

        Returns:
            The output; with one more dimension in front if the call is one whole sample.
        """
        return self.chosen(model(*self.args, **self.kwargs))

    def run_with(self, model: nn.Module, values: Mapping[str, Tensor]) -> Tensor:
        """Call a model with other parameters, as ``torch.func.functional_call`` does.

        Args:
            model: The model.
            values: Parameters and buffers by name.

        Returns:
            The output, as from ``run``.
        """
        return self.chosen(functional_call(model, dict(values), self.args, dict(self.kwargs)))

    def chosen(self, output: Any) -> Tensor:
        """Choose the output that is measured of what a model returned.

        Args:
            output: What it returned.

        Returns:
            A tensor; with one more dimension in front if the call is one whole sample.
        """
        chosen = select_output(output, self.output)
        if self.class_dim is not None and chosen.ndim > 1:
            chosen = chosen.movedim(self.class_dim, -1)
        return chosen.unsqueeze(0) if self.whole else chosen

    # -- how it is done ----------------------------------------------------------------------------------------------

    def _leaves(self) -> list[tuple[Tensor, bool]]:
        """List the tensors.

        Returns:
            Each with whether it is declared shared.
        """
        named: list[tuple[str | int, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        return [
            (leaf, name in self.shared)
            for name, value in named
            for leaf in tree_flatten(value)[0]
            if isinstance(leaf, Tensor)
        ]

    def _with(self, tensors: Sequence[Tensor], mask: Tensor | None) -> Inputs:
        leaves, spec = tree_flatten((self.args, dict(self.kwargs)))
        left = iter(tensors)
        args, kwargs = tree_unflatten([next(left) if isinstance(x, Tensor) else x for x in leaves], spec)
        return self.changed(args=args, kwargs=kwargs, mask=mask)


def as_inputs(x: object) -> Inputs:
    """Read what a user passes as a batch: a tensor, a tuple of positional arguments, a dictionary of keyword ones.

    Args:
        x: A tensor, a tuple or list, a mapping, or ``Inputs``.

    Returns:
        The inputs.

    Raises:
        TypeError: If it is anything else, or holds no tensor.
    """
    if isinstance(x, Inputs):
        return x
    if isinstance(x, Tensor):
        return Inputs((x,)) if x.ndim else Inputs((x,), whole=True)
    if isinstance(x, Mapping | tuple | list) and any(isinstance(leaf, Tensor) for leaf in tree_flatten(_plain(x))[0]):
        return Inputs(kwargs=dict(x)) if isinstance(x, Mapping) else Inputs(tuple(x))
    empty = " without a tensor in it" if isinstance(x, Mapping | tuple | list) else ""
    raise TypeError(
        "x must be a torch.Tensor, a tuple of tensors or a dict of them by argument name, got "
        f"{type(x).__name__}{empty}; convert it first."
    )


def _plain(x: object) -> object:
    return dict(x) if isinstance(x, Mapping) else x
