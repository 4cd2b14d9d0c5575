"""``isometry diagnose``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isometry.cli._processes import divided, speaks
from isometry.cli._progress import progress_bar
from isometry.cli._shell import FOUND, alone, check_writable, console, folder, guarded, number, numbers, print_json

__all__ = ["Data", "InShape", "Model", "QStar", "Samples", "Seed", "diagnose", "open_case"]

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="mlp:depth=100,width=100,activation=tanh, transformers:gpt2, transformers:FOLDER, timm:resnet18, "
        "path/to/file.py:NAME or package.module:NAME.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="digits (the default), fashion-mnist, shakespeare, an .npz or IDX file, a text, a folder of images, or "
        "path/to/file.py:NAME.",
    ),
]
InShape = Annotated[
    str | None,
    typer.Option("--in-shape", metavar="3,32,32", help="Measure on Gaussian inputs of this shape instead of DATA."),
]
Samples = Annotated[int, typer.Option("--samples", min=2, metavar="N", help="Size of the batch that is measured.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the model's draw, the batch and the training.")
]
QStar = Annotated[
    float | None,
    typer.Option("--q-star", parser=number, metavar="Q", help="Second moment to prescribe; chosen by default."),
]


@guarded
def diagnose(
    model: Model,
    data: Data = None,
    in_shape: InShape = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", parser=folder, help="Write index.html and diagnosis.json there."),
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
    if out is not None:
        check_writable(out, "--out")
    with alone(json), progress_bar("Diagnosis"), divided():
        from isometry.diagnosis import diagnose as measure

        net, dataset, shape = open_case(model, data, in_shape, seed)
        found = measure(
            net,
            dataset,
            prove=prove,
            samples=samples,
            in_shape=shape,
            q_star=q_star,
            names=(model, "Gaussian inputs" if dataset is None else dataset.name),
            seed=seed,
        )
        if out is not None and speaks():
            found.save(out)
    if json:
        print_json(found.to_dict())
    else:
        from isometry.cli._printed import print_diagnosis

        print_diagnosis(found, console())
        if out is not None:
            console().print(f"report: {out / 'index.html'}", markup=False, highlight=False)
    if found.verdict == "error":
        raise typer.Exit(FOUND)


def open_case(model: str, data: str | None, in_shape: str | None, seed: int) -> tuple[Any, Any, tuple[int, ...] | None]:
    """Load DATA and build MODEL for it, reproducibly.

    Returns:
        The module, the data set (None for Gaussian inputs), and the shape of one input (None for data).

    Raises:
        typer.BadParameter: If both data and a shape are given.
    """
    if data is not None and in_shape is not None:
        raise typer.BadParameter("give --data or --in-shape, not both.")
    shape = None if in_shape is None else numbers(in_shape)

    import torch

    from isometry.data import NAMES, is_text, load
    from isometry.nn import default_data, resolve_model, tokenizer_of

    if shape is not None:
        torch.manual_seed(seed)
        return resolve_model(model, in_shape=shape, classes=10), None, shape
    if data is None:
        data = default_data(model)
        typer.echo(f"DATA is {data}, since none was given; give yours with --data.", err=True)
    tokens = tokenizer_of(model) if is_text(data) else None  # of the folder that the model is read from
    dataset = load(data) if tokens is None else load(data, tokenizer=tokens[0], vocabulary=tokens[1])
    for note in () if dataset.name in NAMES else dataset.notes:
        typer.echo(f"DATA: {note}", err=True)  # what was done to the user's data must not go unseen
    torch.manual_seed(seed)
    return resolve_model(model, in_shape=dataset.shape, classes=dataset.outputs), dataset, None
