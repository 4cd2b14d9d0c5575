"""How implementations of Muon name the factor on their orthogonalized update: a table, read in their code.

Sources:
    torch.optim.Muon (torch 2.13). microsoft/dion, dion/megabatch_base.py. KellerJordan/Muon, muon.py.
    MoonshotAI/Moonlight, examples/toy_train.py. NVIDIA-NeMo/Emerging-Optimizers, orthogonalized_optimizers/muon.py.
    J. Liu et al., Muon is scalable for LLM training, 2025. arXiv:2502.16982 (AdamW's root mean square)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from isometry.optim._update_scale import scale_factor

__all__ = ["CONVENTIONS", "Convention", "Shape", "times"]

Shape: TypeAlias = Sequence[int]


@dataclass(frozen=True)
class Convention:
    """How an implementation scales its orthogonalized update.

    Attributes:
        source: Whose it is.
        options: Its options that decide about the factor, with their defaults.
        choices: What an option that is a word may be.
        factor: The factor of a parameter of a shape, given the options.
    """

    source: str
    options: Mapping[str, Any]
    choices: Mapping[str, tuple[Any, ...]]
    factor: Callable[[Shape, Mapping[str, Any]], float]


def times(shape: Shape) -> str:
    """Write a shape.

    Returns:
        Its sizes, as in "400 x 100".
    """
    return " x ".join(map(str, shape))


def _matrix(shape: Shape, name: str) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(
            f"{name} takes matrices only, and the shape {times(shape)} is none; pass the (out, in) of the matrices "
            "that you make of it."
        )
    return shape[0], shape[1]


def _flat(shape: Shape) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _torch(shape: Shape, options: Mapping[str, Any]) -> float:
    return scale_factor(options["adjust_lr_fn"], *_matrix(shape, "torch.optim.Muon"))


def _dion(shape: Shape, options: Mapping[str, Any]) -> float:
    if len(shape) > 2 and not options["flatten"]:
        raise ValueError(
            f"dion with flatten=False orthogonalizes slices of the last two dimensions of {times(shape)}, which no "
            "learning rate undoes; pass ('dion', {'flatten': True}), or the (out, in) of one matrix of a stack."
        )
    scale = {"spectral_norm": "spectral", "rms_norm": "match_rms_adamw", None: "none"}[options["adjust_lr"]]
    return scale_factor(scale, *_flat(shape))  # type: ignore[arg-type]


def _keller_jordan(shape: Shape, _options: Mapping[str, Any]) -> float:
    if len(shape) == 4:  # flattened for the iteration, but the factor is of the gradient's last two sizes: the taps
        return math.sqrt(max(1.0, shape[2] / shape[3]))
    return scale_factor("original", *_matrix(shape, "KellerJordan"))


def _moonlight(shape: Shape, _options: Mapping[str, Any]) -> float:
    return scale_factor("match_rms_adamw", *_matrix(shape, "Moonlight"))


def _nvidia(shape: Shape, options: Mapping[str, Any]) -> float:
    out, in_ = _matrix(shape, "NVIDIA")
    factors = {
        "spectral": math.sqrt(max(out, in_)),
        "unit_rms_norm": scale_factor("spectral", out, in_),
        "shape_scaling": scale_factor("original", out, in_),
    }
    factor: float = factors[options["scale_mode"]]
    return factor * float(options["extra_scale_factor"])


def _isometry(shape: Shape, options: Mapping[str, Any]) -> float:
    return scale_factor(options["scale"], *_flat(shape))


def _adamw(shape: Shape, _options: Mapping[str, Any]) -> float:
    return scale_factor("match_rms_adamw", *_flat(shape))


CONVENTIONS: Mapping[str, Convention] = {
    "torch.optim.Muon": Convention(
        "torch.optim.Muon, 2.9 and later",
        {"adjust_lr_fn": "original"},
        {"adjust_lr_fn": ("original", "match_rms_adamw")},
        _torch,
    ),
    "dion": Convention(
        "Muon and NorMuon of microsoft/dion",
        {"adjust_lr": "spectral_norm", "flatten": False},
        {"adjust_lr": ("spectral_norm", "rms_norm", None), "flatten": (True, False)},
        _dion,
    ),
    "KellerJordan": Convention("the first release, KellerJordan/Muon", {}, {}, _keller_jordan),
    "Moonlight": Convention("MoonshotAI/Moonlight", {}, {}, _moonlight),
    "NVIDIA": Convention(
        "NVIDIA-NeMo/Emerging-Optimizers, Megatron-LM",
        {"scale_mode": "spectral", "extra_scale_factor": 1.0},
        {"scale_mode": ("spectral", "unit_rms_norm", "shape_scaling")},
        _nvidia,
    ),
    "isometry": Convention(
        "isometry.optim",
        {"scale": "original"},
        {"scale": ("original", "spectral", "match_rms_adamw", "none")},
        _isometry,
    ),
    "adamw": Convention("AdamW, by the root mean square of its steps", {}, {}, _adamw),
}
