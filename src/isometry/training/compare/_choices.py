"""What an experiment may name: initializations, constraints and optimizers, each in one visible table.

The rooms behind the names load on first use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import unknown_name
from isometry.roles import MATRIX_ROLES
from isometry.roles import table as parameter_table
from isometry.tape import Inputs

__all__ = [
    "CONSTRAINTS",
    "INITS",
    "apply_constraint",
    "apply_init",
    "knows_manifolds",
    "make_optimizer",
    "needed_options",
    "optimizer_class",
    "optimizer_options",
]

Applied = Callable[[nn.Module, Mapping[str, Any], Tensor | Inputs, torch.Generator], str]


@dataclass(frozen=True)
class Init:
    """An initialization.

    Attributes:
        apply: Overwrites the model, given options, a batch of inputs and a generator; returns what there is to note.
        options: The options that it takes, with the type of each.
        about: One line.
    """

    apply: Applied
    options: dict[str, type]
    about: str


def _critical(model: nn.Module, options: Mapping[str, Any], batch: Tensor | Inputs, generator: torch.Generator) -> str:
    from isometry.init import critical_

    done = critical_(model, data=batch, generator=generator, **options)
    skipped = [row.name for row in done.by_action("skipped")]
    return f"critical left out {', '.join(skipped)}" if skipped else ""


def _each_weight(draw: Callable[[Tensor, Mapping[str, Any], int, torch.Generator], object]) -> Applied:
    """Make an initialization of a draw: each weight matrix from it, biases zero, all else as it was built.

    Returns:
        The initialization.
    """

    def apply(model: nn.Module, options: Mapping[str, Any], _batch: Tensor | Inputs, generator: torch.Generator) -> str:
        named = dict(model.named_parameters())
        left = []
        for row in parameter_table(model):
            if row.role in MATRIX_ROLES and not row.parametrized:
                draw(named[row.name], options, row.fan_in, generator)
            elif row.role == "bias" and not row.parametrized:
                with torch.no_grad():
                    named[row.name].zero_()
            elif row.role != "norm":
                left.append(row.name)
        return f"left as built: {', '.join(left)}" if left else ""

    return apply


def _orthogonal(tensor: Tensor, options: Mapping[str, Any], _fan_in: int, generator: torch.Generator) -> None:
    from isometry.init import orthogonal_

    orthogonal_(tensor, generator=generator, **options)


def _delta_orthogonal(tensor: Tensor, options: Mapping[str, Any], _fan_in: int, generator: torch.Generator) -> None:
    from isometry.init import delta_orthogonal_, orthogonal_

    (orthogonal_ if tensor.ndim == 2 else delta_orthogonal_)(tensor, generator=generator, **options)


def _gaussian(tensor: Tensor, options: Mapping[str, Any], fan_in: int, generator: torch.Generator) -> None:
    from isometry.init import gaussian_

    gaussian_(tensor, fan_in=fan_in, generator=generator, **options)


def _torch(name: str) -> Applied:
    def draw(tensor: Tensor, options: Mapping[str, Any], _fan_in: int, generator: torch.Generator) -> None:
        getattr(nn.init, name)(tensor, generator=generator, **options)

    return _each_weight(draw)


_KAIMING = {"mode": str, "nonlinearity": str, "a": float}
INITS: dict[str, Init] = {
    "default": Init(lambda *_: "", {}, "as the model is built"),
    "critical": Init(
        _critical,
        {
            "q_star": float,
            "weights": str,
            "activation": str,
            "method": str,
            "shift": str,
            "absorb_inputs": bool,
        },
        "isometry.init.critical_, calibrated on a batch of the training data where theory does not reach",
    ),
    "orthogonal": Init(_each_weight(_orthogonal), {"gain": float}, "isometry.init.orthogonal_, biases zero"),
    "delta-orthogonal": Init(
        _each_weight(_delta_orthogonal), {"gain": float}, "isometry.init.delta_orthogonal_ for kernels, biases zero"
    ),
    "gaussian": Init(_each_weight(_gaussian), {"sigma": float}, "isometry.init.gaussian_, biases zero"),
    "kaiming-normal": Init(_torch("kaiming_normal_"), _KAIMING, "torch.nn.init.kaiming_normal_, biases zero"),
    "kaiming-uniform": Init(_torch("kaiming_uniform_"), _KAIMING, "torch.nn.init.kaiming_uniform_, biases zero"),
    "xavier-normal": Init(_torch("xavier_normal_"), {"gain": float}, "torch.nn.init.xavier_normal_, biases zero"),
    "xavier-uniform": Init(_torch("xavier_uniform_"), {"gain": float}, "torch.nn.init.xavier_uniform_, biases zero"),
}


def apply_init(
    name: str, model: nn.Module, options: Mapping[str, Any], batch: Tensor | Inputs, generator: torch.Generator
) -> str:
    """Overwrite a model's weights by the initialization of a name.

    Args:
        name: One of ``INITS``.
        model: Overwritten in place.
        options: As in the experiment.
        batch: Training inputs, for initializations that look at data.
        generator: Of the draw.

    Returns:
        What there is to note in words; mostly nothing.
    """
    return INITS[name].apply(model, options, batch, generator)


# Names of isometry.manifolds, and what one may say of each.
CONSTRAINTS: dict[str, dict[str, type]] = {
    "none": {},
    "stiefel": {"scale": object, "names": object},
    "oblique": {"scale": object, "names": object},
    "orthogonal": {"scale": object, "names": object},
}


def apply_constraint(name: str, model: nn.Module, options: Mapping[str, Any]) -> None:
    """Put a model's weights on a manifold, as it is given.

    Args:
        name: One of ``CONSTRAINTS``.
        model: Projected in place.
        options: As in the experiment.
    """
    if name == "none":
        return
    from isometry.manifolds import constrain_

    constrain_(model, name, **options)  # type: ignore[arg-type]  # one of the names that it takes


# What torch's optimizers ask for besides a step: a closure, sparse gradients.
_UNFIT = {"Optimizer", "MatrixOptimizer", "LBFGS", "SparseAdam"}


def _optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """List the optimizers of torch and, where a name is in both, rather those of this library.

    Returns:
        Classes by name.
    """
    from isometry import optim

    found: dict[str, type[torch.optim.Optimizer]] = {}
    for room in (torch.optim, optim):
        for name in getattr(room, "__all__", None) or dir(room):
            kind = getattr(room, name, None)
            if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in _UNFIT:
                found[name] = kind
    return found


def optimizer_class(name: str) -> tuple[str, type[torch.optim.Optimizer]]:
    """Find an optimizer of ``torch.optim`` or ``isometry.optim`` by name; case does not matter.

    Args:
        name: Such as ``"adam"``.

    Returns:
        The name as its library writes it, and the class.

    Raises:
        unknown_name: A ValueError with near matches.
    """
    known = _optimizers()
    for full, kind in known.items():
        if full.lower() == name.lower().replace("-", "").replace("_", ""):
            return full, kind
    raise unknown_name("optimizer", name, map(str.lower, known) if name.islower() else known)


def optimizer_options(kind: type[torch.optim.Optimizer]) -> dict[str, type]:
    """List the options that an optimizer takes besides parameters and learning rate.

    Args:
        kind: Its class.

    Returns:
        The type of each, as far as its default tells: numbers and truth values; else ``object``.
    """
    known = {bool: bool, int: float, float: float}
    skipped = ("params", "lr", "defaults", "self", "args", "kwargs")
    signature = inspect.signature(kind).parameters
    return {n: known.get(type(p.default), object) for n, p in signature.items() if n not in skipped}


def needed_options(kind: type[torch.optim.Optimizer]) -> tuple[str, ...]:
    """List the options that an optimizer cannot do without.

    Args:
        kind: Its class.

    Returns:
        Their names.
    """
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(kind).parameters
    needed = {name for name, p in signature.items() if p.default is p.empty and p.kind not in many}
    return tuple(name for name in optimizer_options(kind) if name in needed)


def knows_manifolds(name: str) -> bool:
    """Tell whether an optimizer keeps constrained weights on their manifold.

    Args:
        name: Its name.

    Returns:
        What its class says.
    """
    return bool(getattr(optimizer_class(name)[1], "manifold_aware", False))


def make_optimizer(
    name: str, model: nn.Module, lr: float, options: Mapping[str, Any], example: Tensor | Inputs | None = None
) -> torch.optim.Optimizer:
    """Make an optimizer of everything in a model that requires a gradient.

    Optimizers for hidden matrices get the groups of ``isometry.roles.route``: the learning rate is the matrices', and
    the rest moves by AdamW with the rate that the option ``adamw`` says.

    Args:
        name: Its name.
        model: The model.
        lr: Learning rate.
        options: As in the experiment; lists become tuples.
        example: Inputs, from which routing knows which layers are first and last.

    Returns:
        The optimizer.

    Raises:
        ValueError: If nothing requires a gradient, or the optimizer turns an option down.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]  # refusals name them
    if not trained:
        raise ValueError("model has no parameter that requires a gradient; unfreeze some, there is nothing to train.")
    make: Any = optimizer_class(name)[1]
    try:
        params = _routed(model, example) if _takes_routes(make) else trained
        made: torch.optim.Optimizer = make(params, lr=lr, **{key: _tuples(value) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        why = str(error).rstrip(".")
        raise ValueError(f"optimizer {name} turned its options down: {why}; mend them in the experiment.") from error
    return made


def _takes_routes(kind: type[torch.optim.Optimizer]) -> bool:
    from isometry.optim import MatrixOptimizer

    return issubclass(kind, MatrixOptimizer)


def _routed(model: nn.Module, example: Tensor | Inputs | None) -> Iterable[Any]:
    from isometry.roles import route

    return route(model, example=example)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value
