"""``isometry diagnose``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isometry.cli._progress import progress_bar
from isometry.cli._shell import FOUND, alone, console, guarded, number, print_json

__all__ = ["Data", "Model", "QStar", "Samples", "Seed", "diagnose", "open_case"]

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="mlp:depth=100,width=100,activation=tanh, path/to/file.py:NAME or package.module:NAME."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="digits, fashion-mnist, an .npz or IDX file, a folder of images, or path/to/file.py:NAME.",
    ),
]
Samples = Annotated[int, typer.Option("--samples", min=2, metavar="N", help="Size of the batch that is measured.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the model's draw, the batch and the training.")]
QStar = Annotated[
    float | None,
    typer.Option("--q-star", parser=number, metavar="Q", help="Second moment to prescribe; chosen by default."),
]


@guarded
def diagnose(
    model: Model,
    data: Data = "digits",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write index.html and diagnosis.json there.")
    ] = None,
    prove: Annotated[
        int, typer.Option("--prove", min=0, metavar="STEPS", help="Train model and cure for so many steps, compare.")
    ] = 0,
    samples: Samples = 100,
    seed: Seed = 0,
    q_star: QStar = None,
    json: Annotated[bool, typer.Option("--json", help="Print diagnosis.json alone on standard output.")] = False,
) -> None:
    """Say why a model does not train, and what to do about it.

    Measures signal, gradient, Jacobian and Fisher information on a batch of
    DATA, lays theory beside them, lists findings with remedies and
    prescribes an initialization. Exit code 1 means: as it stands the model
    will not train.

    isometry diagnose mlp:depth=100,width=100,activation=tanh --prove 300
    isometry diagnose model.py:build --data data.npz --json
    """  # noqa: DOC501 - typer.Exit carries the exit code
    with alone(json), progress_bar("Diagnosis"):
        from isometry.diagnosis import diagnose as measure

        net, dataset = open_case(model, data, seed)
        found = measure(net, dataset, prove=prove, samples=samples, seed=seed, q_star=q_star)
        if out is not None:
            found.save(out)
    if json:
        print_json(found.to_dict())
    else:
        console().print(found)
        if out is not None:
            console().print(f"report: {out / 'index.html'}", markup=False, highlight=False)
    if found.verdict == "error":
        raise typer.Exit(FOUND)


def open_case(model: str, data: str, seed: int) -> tuple[Any, Any]:
    """Load DATA and build MODEL for it, reproducibly.

    Returns:
        The module and the data set.
    """
    import torch

    from isometry.data import load
    from isometry.nn import resolve_model

    dataset = load(data)
    torch.manual_seed(seed)
    return resolve_model(model, in_shape=dataset.shape, classes=dataset.outputs), dataset
