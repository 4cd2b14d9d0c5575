"""``isometry theory``: predictions that need no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isometry.cli._progress import progress_bar
from isometry.cli._shell import alone, console, guarded, number, print_json

if TYPE_CHECKING:
    from isometry._base import Result

__all__ = ["theory"]

theory = typer.Typer(
    name="theory", no_args_is_help=True, help="Predict signals, gradients and Jacobians without a model."
)

Act = Annotated[
    str,
    typer.Argument(metavar="ACT", help="An activation: tanh, relu, GELU, ..., or path/to/file.py:NAME for a function."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]
QStar = Annotated[
    float | None, typer.Option("--q-star", parser=number, metavar="Q", help="Second moment of the pre-activations.")
]
SigmaW = Annotated[
    float | None,
    typer.Option("--sigma-w", parser=number, metavar="S", help="Weight scale: standard deviation times sqrt(fan_in)."),
]
SigmaB = Annotated[
    float | None, typer.Option("--sigma-b", parser=number, metavar="S", help="Standard deviation of the biases.")
]


@theory.command()
@guarded
def critical(
    activation: Act, q_star: QStar = None, sigma_w: SigmaW = None, sigma_b: SigmaB = None, json: Json = False
) -> None:
    """Find the weight and bias scales at which signals neither vanish nor explode, by one of three coordinates.

    isometry theory critical tanh --q-star 1/64
    isometry theory critical erf --sigma-w 1.2 --json
    """
    with alone(json):
        from isometry.theory import MeanField

        point = MeanField(_activation(activation)).critical(q_star, sigma_w=sigma_w, sigma_b=sigma_b)
    _show(point, json)


@theory.command(name="phase-diagram")
@guarded
def phase_diagram(
    activation: Act,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", dir_okay=False, help="Draw it on a page.")
    ] = None,
    json: Json = False,
) -> None:
    """Map the ordered and the chaotic phase over weight and bias scales, and the critical line between them.

    isometry theory phase-diagram tanh --out phase.html
    """
    with alone(json), progress_bar("Phase diagram"):
        from isometry.theory import MeanField

        diagram = MeanField(_activation(activation)).phase_diagram()
        if out is not None:
            from isometry.report import render_phase_diagram, write_text

            write_text(render_phase_diagram(diagram.to_dict()), out)
    if json:
        print_json(diagram.to_dict())
        return
    from rich.table import Table

    table = Table("sigma_w", "sigma_b", "q*", title="critical line")
    line = diagram.critical
    stride = max(1, len(line.sigma_w) // 12)
    for row in list(zip(line.sigma_w, line.sigma_b, line.q_star, strict=True))[::stride]:
        table.add_row(*(f"{value:.5g}" for value in row))
    console().print(str(diagram), markup=False, highlight=False)
    if table.row_count:
        console().print(table)
    if out is not None:
        console().print(f"drawn in {out}", markup=False, highlight=False)


@theory.command(name="jacobian-law")
@guarded
def jacobian_law(
    activation: Act,
    depth: Annotated[int, typer.Option("--depth", min=1, metavar="L", help="Number of layers.")],
    q_star: QStar = None,
    sigma_w: SigmaW = None,
    weights: Annotated[
        str, typer.Option("--weights", metavar="orthogonal|gaussian", help="Kind of weights.")
    ] = "orthogonal",
    json: Json = False,
) -> None:
    """Predict the singular values of the input-output Jacobian of a deep network.

    isometry theory jacobian-law tanh --depth 50 --q-star 1/64
    isometry theory jacobian-law relu --depth 50 --sigma-w 1.414 --json
    """
    with alone(json), progress_bar("Jacobian law"):
        from isometry.theory import jacobian_law as solve

        chosen: Any = weights
        law = solve(_activation(activation), depth=depth, q_star=q_star, sigma_w=sigma_w, weights=chosen)
    _show(law, json)


def _activation(text: str) -> Any:
    from isometry._base import load_callable

    return load_callable(text, argument="ACT") if ":" in text else text


def _show(result: Result, json: bool) -> None:
    """Print a result: as JSON, or its words and its numbers."""
    plain = result.to_dict()
    if json:
        print_json(plain)
        return
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in plain.items():
        if isinstance(value, bool | int | float | str) and value != "":
            table.add_row(name, f"{value:.8g}" if isinstance(value, float) else str(value))
    console().print(table, markup=False, highlight=False)
