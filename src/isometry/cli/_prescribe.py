"""``isometry prescribe``: the remedy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isometry.cli._diagnose import Data, InShape, Model, QStar, Samples, Seed, open_case
from isometry.cli._progress import progress_bar
from isometry.cli._shell import alone, check_writable, console, guarded, print_json

__all__ = ["prescribe"]


@guarded
def prescribe(
    model: Model,
    data: Data = None,
    in_shape: InShape = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE.safetensors", dir_okay=False, help="Write the prescribed weights there."),
    ] = None,
    samples: Samples = 100,
    seed: Seed = 0,
    q_star: QStar = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")] = False,
) -> None:
    """Prescribe an initialization for a model, and write the weights.

    isometry prescribe mlp:depth=100,width=100,activation=tanh --write init.safetensors
    isometry prescribe model.py:build --data data.npz --write init.safetensors

    In Python: safetensors.torch.load_model(model, "init.safetensors").
    """
    if write is not None:
        check_writable(write, "--write")
    with alone(json), progress_bar("Prescription"):
        from isometry.diagnosis import prescribe as find

        net, dataset, shape = open_case(model, data, in_shape, seed)
        found = find(net, dataset, samples=samples, in_shape=shape, q_star=q_star, seed=seed)
        if write is not None:
            found.save(write)
    if json:
        print_json(found.to_dict())
        return
    from isometry.cli._printed import print_prescription

    print_prescription(found, console())
    if write is not None:
        console().print(f"written to {write}", markup=False, highlight=False)
