"""The files of one run: each is there whole or not at all, whenever the process is killed.

What an unfinished run needs stands in a single file, so that weights and optimizer can never be of different epochs. It
holds tensors and plain data only and is read without executing anything. Weights of ended runs are safetensors.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

__all__ = ["drop_checkpoint", "load_checkpoint", "load_weights", "save_checkpoint", "save_weights", "weights_path"]

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a run after an epoch, in place of the one before.

    Args:
        folder: The run's folder.
        state: Tensors and plain data.
    """
    packed = io.BytesIO()  # torch.save to a full disk would not say that it is full
    torch.save(state, packed)
    _in_one_step(folder / CHECKPOINT, lambda part: part.write_bytes(packed.getbuffer()))


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Read the state that ``save_checkpoint`` wrote last.

    Args:
        folder: The run's folder.
        device: Where its tensors go.

    Returns:
        The state, or None where there is none.

    Raises:
        ValueError: If the file is damaged, as a failing disk leaves it.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {str(path)!r} is damaged ({error}); delete it, the run begins anew.") from error
    return state


def drop_checkpoint(folder: Path) -> None:
    """Remove the state of a run that has ended."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def weights_path(folder: Path, which: str) -> Path:
    """Name the file of a run's weights.

    Args:
        folder: The run's folder.
        which: ``"final"`` or ``"best"``.

    Returns:
        The path.
    """
    return folder / f"{which}.safetensors"


def save_weights(folder: Path, which: str, model: nn.Module) -> None:
    """Write a model's weights; tied ones once.

    Args:
        folder: The run's folder.
        which: ``"final"`` or ``"best"``.
        model: The model.
    """
    _in_one_step(weights_path(folder, which), lambda part: save_model(model, str(part)))


def load_weights(folder: Path, which: str, model: nn.Module) -> None:
    """Overwrite a model's weights by those that ``save_weights`` wrote.

    Args:
        folder: The run's folder.
        which: ``"final"`` or ``"best"``.
        model: Overwritten in place.
    """
    load_model(model, str(weights_path(folder, which)))


def _in_one_step(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, and move it there when it is complete and on the disk.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")  # nobody else's, should two be at one run
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{str(target)!r} cannot be written: {why}; make room and go on with --resume.") from error
    finally:
        part.unlink(missing_ok=True)
