"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from isometry._version import __version__
from isometry.cli._compare import compare
from isometry.cli._diagnose import diagnose
from isometry.cli._papers import papers
from isometry.cli._prescribe import prescribe
from isometry.cli._processes import as_one_of_many, launched
from isometry.cli._report import report
from isometry.cli._roles import roles
from isometry.cli._theory import theory

__all__ = ["app", "main"]

app = typer.Typer(
    name="isometry",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(diagnose)
app.command()(prescribe)
app.command()(compare)
app.add_typer(theory)
app.add_typer(papers)
app.command()(roles)
app.command()(report)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"isometry {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback deals with it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Where neural-network weights start and how they move: measure, compare with theory, prescribe, prove.

    [bold]Examples[/bold]
      isometry diagnose mlp:depth=100,width=100,activation=tanh --prove 300
      isometry diagnose model.py:build --data data.npz --out report
      isometry prescribe model.py:build --write init.safetensors
      isometry compare experiment.toml --out results
      isometry theory critical tanh --q-star 1/64
      isometry papers list
      isometry report probe.jsonl --out report

    [bold]MODEL[/bold] is a reference model (mlp:depth=100,width=100), one of a
    library (transformers:gpt2, transformers:FOLDER, timm:resnet18),
    path/to/file.py:NAME or package.module:NAME, where NAME is a module, or a
    class or function that makes one.

    [bold]DATA[/bold] is a name (digits, fashion-mnist, shakespeare), an .npz or
    IDX file, a text (.txt), a folder of images (one subfolder a class), or
    path/to/file.py:NAME.

    Exit codes: 0 healthy, 1 findings of severity error, 2 bad usage or
    input, 70 a bug in isometry, 130 interrupted, 141 the reader of the
    output left.
    """  # noqa: DOC501 - bad usage
    if launched() and context.invoked_subcommand not in (None, "diagnose"):
        raise typer.BadParameter(
            f"torchrun divides the work of diagnose alone; run isometry {context.invoked_subcommand} in one process."
        )


def main() -> None:
    """Run the command line."""
    as_one_of_many(app)
