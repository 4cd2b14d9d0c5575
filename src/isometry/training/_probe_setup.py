"""What a probe is about: the model and its batch, the measures, and the fingerprints that a file is known by."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn

from isometry import roles
from isometry._base import unknown_name
from isometry._version import __version__
from isometry.tape import Inputs, as_inputs
from isometry.training._objective import Likelihood, infer_likelihood
from isometry.training._probe_log import FORMAT, VERSION
from isometry.training._probe_measures import BUILT_IN, NEED_TARGETS, Batch, Values

__all__ = ["Measure", "Subject", "Taker", "choose_measures", "make_header"]

Measure: TypeAlias = Callable[[nn.Module, Any, Any], Mapping[str, Any]]  # (model, x, y) -> numbers by name
RESERVED = ("training", "skipped", "nonfinite")  # what the file itself calls records


class Subject:
    """The model and the batch at which it is measured.

    Args:
        model: The model.
        x: The batch, as it was given.
        y: Its targets, or None.
        samples: How many of the batch the named measures see.
        likelihood: Of the outputs; None: from the targets.
        seed: Of what the measures draw.

    Raises:
        TypeError: If the model is no module.
        ValueError: If an option is out of range.
        unknown_name: A ValueError with near matches, for an unknown likelihood.
    """

    def __init__(
        self, model: nn.Module, x: Any, y: Any, *, samples: int, likelihood: Likelihood | None, seed: int
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; build the model first.")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be a whole number >= 1, got {samples!r}.")
        if likelihood is not None and likelihood not in get_args(Likelihood):
            raise unknown_name("likelihood", likelihood, get_args(Likelihood))
        count = len(as_inputs(x))
        if count == 0:
            raise ValueError("x holds no samples; pass at least one.")
        if isinstance(y, Tensor) and (y.ndim == 0 or len(y) != count):
            raise ValueError(f"y has shape {tuple(y.shape)} for {count} samples in x; pass one target a sample.")
        self.model, self.x, self.y = model, x, y
        self.samples, self.seed = min(samples, count), seed
        inferred = infer_likelihood(y) if isinstance(y, Tensor) else "categorical"
        self.likelihood: Likelihood = likelihood if likelihood is not None else inferred

    def settle(self) -> None:
        """Move the batch to where the model is, at the start of the training.

        Raises:
            ValueError: If the model is not whole in this process.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            from torch.distributed.tensor import DTensor

            sharded = next((n for n, p in self.model.named_parameters() if isinstance(p, DTensor)), None)
            if sharded is not None:
                raise ValueError(
                    f"parameter {sharded!r} is distributed over processes, and a probe measures a model that is whole "
                    "in one; follow a data-parallel training, or functions of your own in the training loop."
                )
        parameter = next(self.model.parameters(), None)
        if parameter is not None:
            self.x, self.y = _moved(self.x, parameter.device), _moved(self.y, parameter.device)

    @property
    def batch(self) -> Batch:
        """What the named measures see."""
        x = as_inputs(self.x)
        y = self.y if isinstance(self.y, Tensor) else None
        if self.samples < len(x):
            x, y = x[: self.samples], None if y is None else y[: self.samples]
        return Batch(x, y, self.likelihood, self.seed)

    def synchronize(self, wanted: bool) -> None:
        """Wait for the model's device, so that what still runs there is counted to the right side."""
        if not wanted:
            return
        parameter = next(self.model.parameters(), None)
        if parameter is not None and parameter.device.type == "cuda":
            torch.cuda.synchronize(parameter.device)


Taker: TypeAlias = Callable[[Subject], Values]


def choose_measures(measures: Iterable[str] | Mapping[str, Measure | bool], subject: Subject) -> dict[str, Taker]:
    """Look up the named measures, and take in functions.

    Args:
        measures: Names, or a mapping of names to functions (or True for a named one).
        subject: What they will be taken of.

    Returns:
        Functions of the subject by name.

    Raises:
        TypeError: If a value is no function, or a name no string.
        ValueError: If there are none, a name is reserved, or a measure needs targets and there are none.
        unknown_name: A ValueError with near matches, for an unknown name.
    """
    given: dict[str, Any] = (
        dict(measures)
        if isinstance(measures, Mapping)
        else dict.fromkeys([measures] if isinstance(measures, str) else measures, True)
    )
    if not given:
        raise ValueError(f"measures is empty; name some of {', '.join(BUILT_IN)}, or pass functions by name.")
    chosen: dict[str, Taker] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise TypeError(
                f"measures must be names or functions by name, got {type(name).__name__}; see the docstring."
            )
        if value is True:
            if name not in BUILT_IN:
                raise unknown_name("measure", name, BUILT_IN)
            if name in NEED_TARGETS and not isinstance(subject.y, Tensor):
                raise ValueError(f"measure {name!r} needs targets; pass y to the probe, or leave it out of measures.")
            importlib.import_module("isometry.measure")  # now, not in the training's time
            chosen[name] = _built_in(name)
            continue
        if not callable(value):
            raise TypeError(f"measure {name!r} must be a function of (model, x, y), got {type(value).__name__}.")
        if name in RESERVED or "/" in name:
            raise ValueError(
                f"measure name {name!r} cannot be used; avoid slashes and the names {', '.join(RESERVED)}."
            )
        chosen[name] = _function(name, value)
    return chosen


def make_header(subject: Subject, measures: Iterable[str], **options: Any) -> dict[str, Any]:
    """Describe a probe: what must agree for a file to go on, and what a reader wants to know.

    Args:
        subject: Model and batch.
        measures: Names.
        options: More to write down, as text.

    Returns:
        Plain data.
    """
    rows = roles.table(subject.model)
    described = "\n".join(f"{row.name} {tuple(row.shape)} {row.role}" for row in rows)
    return {
        "format": FORMAT,
        "version": VERSION,
        "isometry": str(__version__),
        "torch": str(torch.__version__),
        "model": type(subject.model).__name__,
        "parameters": _digest(described.encode()),
        "size": sum(p.numel() for p in subject.model.parameters()),
        "batch": _fingerprint(subject),
        "samples": subject.samples,
        "likelihood": subject.likelihood,
        "measures": list(measures),
        "seed": subject.seed,
        **{
            key: value if isinstance(value, int | float | str | None) else repr(value) for key, value in options.items()
        },
    }


def _built_in(name: str) -> Taker:
    return lambda subject: BUILT_IN[name](subject.model, subject.batch)


def _function(name: str, function: Measure) -> Taker:
    def take(subject: Subject) -> Values:
        before = [(key, p, p.detach().clone()) for key, p in subject.model.named_parameters()]
        try:
            given = function(subject.model, subject.x, subject.y)
        finally:  # one that raises may have altered them as well
            altered = _put_back(before)
            if altered:
                of = f"{altered[0]!r}" + (f" and {len(altered) - 1} more" if altered[1:] else "")
                note = f"altered the parameter {of}, which was put back"
                warnings.warn(f"probe: measure {name!r} {note}; let it work on a copy of the model.", stacklevel=2)
        return given, note if altered else None  # type: ignore[return-value]  # checked by the caller

    return take


def _put_back(before: list[tuple[str, nn.Parameter, Tensor]]) -> list[str]:
    altered = []
    for key, parameter, kept in before:
        same_kind = (parameter.shape, parameter.dtype) == (kept.shape, kept.dtype)
        if not (same_kind and torch.equal(_bits(parameter), _bits(kept))):
            altered.append(key)
            if same_kind:
                parameter.data.copy_(kept)
            else:
                parameter.data = kept
    return altered


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)  # NaN equals itself, and -0.0 is not 0.0


def _fingerprint(subject: Subject) -> str:
    tensors = [*as_inputs(subject.x).tensors(), *([subject.y] if isinstance(subject.y, Tensor) else [])]
    parts = []
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        parts.append(f"{plain.dtype} {tuple(plain.shape)}".encode())
        parts.append(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return _digest(*parts)


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor | Inputs):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_moved(item, device) for item in value)
    return value
