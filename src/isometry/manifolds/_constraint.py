"""The record that a weight lives on a manifold.

A constrained weight stays the module's own parameter, W = s Q, stored in place. The record hangs in the module's
``__dict__`` beside it and refers to it by module and name, so it survives whatever replaces the parameter object
(``load_state_dict(assign=True)``, ``model.to``, FSDP2); copies and pickles of the module carry copies of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isometry.linalg._precision import working_dtype
from isometry.manifolds._manifold import Manifold
from isometry.manifolds._registry import constraint_of, register, registered, revision
from isometry.manifolds._sharded import whole, write_whole
from isometry.roles import Axes

__all__ = ["Constraint", "ScaleKind", "constraint_of", "registered", "revision"]

ScaleKind = Literal["fixed", "learned"]
RECORDS = "_isometry_constraints"  # the module attribute that holds its records by parameter name


class Constraint:
    """A weight W = s Q with Q on a manifold.

    Made by ``constrain_``. A weight is seen as a batch of k matrices: one for a plain layer, one per block of a fused
    projection or of a recurrent layer's gates, one per group of a convolution, one per expert. All share the scale s.

    Attributes:
        module: The module that owns the parameter.
        name: The parameter's name in it.
        label: The parameter's name in the model that was constrained.
        given: The manifold that was asked for.
        manifold: The manifold of the matrices that ``matrix`` gives: these stand upright, so that it is their columns
            that are orthonormal, or of unit length.
        scale_kind: ``"fixed"`` (s is a number kept here) or ``"learned"`` (s is read off the weight).
        axes: What the parameter's dimensions are.
        shape: The parameter's shape.
        transposed: Whether the matrices are transposes of (out, in * kernel).
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        manifold: Manifold,
        axes: Axes,
        *,
        scale_kind: ScaleKind,
        scale: float | None,
        shape: Sequence[int],
        label: str,
    ) -> None:
        self.module = module
        self.name = name
        self.label = label
        self.given = manifold
        self.manifold = manifold.upright
        self.scale_kind: ScaleKind = scale_kind
        self.axes = axes
        self.shape = tuple(shape)
        self.transposed = manifold.transposes(self._laid_out_shape())
        self._scale = scale

    @property
    def parameter(self) -> Tensor:
        """The constrained parameter.

        Raises:
            ValueError: If the module no longer has it, for instance since it was parametrized.
        """
        found = self.find()
        if found is None:
            raise ValueError(
                f"{self.label} is no longer a parameter of its {type(self.module).__name__} (was it parametrized or "
                "deleted?); call isometry.manifolds.release, or undo that."
            )
        return found

    def find(self) -> Tensor | None:
        """Look the parameter up in its module.

        Returns:
            The parameter as it is now; None if the module no longer has it.
        """
        return self.module._parameters.get(self.name)

    @property
    def lost(self) -> bool:
        """Whether the module no longer has the parameter."""
        return self.find() is None

    def matrix(self, tensor: Tensor) -> Tensor:
        """Lay a tensor of the parameter's shape (the weight, a gradient, a momentum) out as upright matrices.

        Args:
            tensor: Shape ``self.shape``.

        Returns:
            Shape ``(k, n, p)``, a view where the layout allows it; its columns are what the manifold constrains.

        Raises:
            ValueError: If the shape is another one.
        """
        if tuple(tensor.shape) != self.shape:
            raise ValueError(
                f"tensor must have the shape of {self.label}, {self.shape}, got {tuple(tensor.shape)}; gather sharded "
                "tensors first."
            )
        matrices = self.axes.matrices(tensor)
        return matrices.mT if self.transposed else matrices

    def tensor(self, matrix: Tensor) -> Tensor:
        """Undo ``matrix``.

        Args:
            matrix: Shape ``(k, n, p)``.

        Returns:
            A tensor of the parameter's shape.
        """
        return self.axes.restore(matrix.mT if self.transposed else matrix, self.shape)

    def scale(self) -> float | Tensor:
        """Give s.

        Returns:
            The number that is kept if the scale is fixed. If it is learned, ``|W|_F / sqrt(k p)``, read off the weight:
            a tensor without dimensions, in float32 at the least.
        """
        if self._scale is not None:
            return self._scale
        return self.measured_scale(self.weight())

    def point(self) -> Tensor:
        """Give Q = W / s.

        Returns:
            Shape ``(k, n, p)``, detached, in float32 at the least.

        Raises:
            ValueError: If the scale has become zero.
        """
        weight = self.weight()
        matrices = self.matrix(weight.to(working_dtype(weight.dtype)))
        scale = self._scale if self._scale is not None else self.measured_scale(weight)
        if float(scale) == 0:
            raise ValueError(f"{self.label} is zero and has no point on {self.given.name}; initialize it anew.")
        return matrices / scale

    def write_(self, q: Tensor, scale: float | Tensor | None = None) -> Tensor:
        """Overwrite the weight with s Q.

        Args:
            q: Shape ``(k, n, p)``, on the manifold (not checked).
            scale: s; default: the present one. A fixed scale can only be changed by ``constrain_``.

        Returns:
            The parameter.

        Raises:
            ValueError: If the scale is fixed and another one is given.
        """
        if self._scale is not None and scale is not None and not math.isclose(float(scale), self._scale, rel_tol=1e-6):
            raise ValueError(
                f"the scale of {self.label} is fixed at {self._scale:.6g}, got {float(scale):.6g}; constrain it again "
                'with scale="learned" or another number.'
            )
        factor = self._scale if self._scale is not None else (self.scale() if scale is None else scale)
        parameter = self.parameter
        with torch.no_grad():
            write_whole(parameter, self.tensor(q * factor))
        return parameter

    def weight(self) -> Tensor:
        """Read the whole weight, gathered from its shards if it has any.

        Returns:
            A detached tensor of the parameter's shape and dtype.
        """
        return whole(self.parameter)

    def measured_scale(self, weight: Tensor) -> Tensor:
        """Read a scale off a weight: the s of the s Q nearest to it is near this where it is near the manifold.

        Args:
            weight: Shape ``self.shape``.

        Returns:
            ``|W|_F / sqrt(k p)``, a tensor without dimensions.
        """
        work = weight.detach().to(working_dtype(weight.dtype))
        norm: Tensor = torch.linalg.vector_norm(work)
        return norm / math.sqrt(self.columns)

    def set_scale(self, scale: float | None) -> None:
        """Fix s at a number, or let it be read off the weight; the weight itself is not touched.

        Args:
            scale: s, or None for a learned scale.
        """
        self._scale = scale

    @property
    def columns(self) -> int:
        """How many columns of length s the weight has: k p."""
        k, rows, columns = self._laid_out_shape()
        return k * (rows if self.transposed else columns)

    def _laid_out_shape(self) -> tuple[int, int, int]:
        fan_in, fan_out = self.axes.fans(self.shape)
        taps = math.prod(self.shape[d] for d in self.axes.kernel)
        rows = fan_out // max(1, taps)
        return math.prod(self.shape) // (rows * fan_in), rows, fan_in

    # -- identity: a record is itself; a copied or unpickled one is registered anew ------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Constraint:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        register(twin)
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        register(self)

    def __repr__(self) -> str:
        kept = f"{self._scale:.4g}, fixed" if self._scale is not None else "learned"
        return f"Constraint({self.label!r}, {self.given.name}, scale {kept}, shape {self.shape})"
