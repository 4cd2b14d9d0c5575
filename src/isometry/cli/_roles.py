"""``isometry roles``: the parameter table of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from isometry.cli._shell import alone, console, guarded, numbers, print_json

__all__ = ["roles"]


@guarded
def roles(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A reference model or path/to/file.py:NAME.")],
    in_shape: Annotated[
        str, typer.Option("--in-shape", metavar="1,28,28", help="Shape of one input, for reference models.")
    ] = "1,8,8",
    classes: Annotated[int, typer.Option("--classes", min=1, help="Number of outputs, for reference models.")] = 10,
    routes: Annotated[
        bool, typer.Option("--routes", help="Show which rule an optimizer for hidden matrices moves each by, and why.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")] = False,
) -> None:
    """Show every parameter of a model: name, shape, role, fans, ties.

    isometry roles mlp:depth=4,width=64
    isometry roles model.py:build --json
    isometry roles transformer --routes
    """
    shape = numbers(in_shape)
    with alone(json):
        from isometry.nn import resolve_model
        from isometry.roles import route, table

        built = resolve_model(model, in_shape=shape, classes=classes)
        rows = route(built) if routes else table(built)
    if json:
        print_json(rows.to_dict())
    else:
        console().print(rows)
