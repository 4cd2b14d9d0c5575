"""``isometry papers``: claims of papers, run and verified."""

from __future__ import annotations

from typing import Annotated

import typer

from isometry.cli._progress import progress_bar
from isometry.cli._shell import FOUND, alone, console, guarded, numbers, print_json

__all__ = ["papers"]

papers = typer.Typer(name="papers", no_args_is_help=True, help="Papers' claims, each tested by a study that runs here.")

Slug = Annotated[str, typer.Argument(metavar="SLUG", help="A paper; `isometry papers list` names them.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


@papers.command(name="list")
@guarded
def list_papers(
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the index page of the docs.")] = False,
) -> None:
    """List the papers with the verdicts on their claims."""
    from isometry import papers as room

    if markdown:
        typer.echo(room.index(), nl=False)
        return
    found = room.list()
    if json:
        print_json([{"slug": p.slug, "title": p.claims.title, "verdicts": p.verdicts()} for p in found])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("paper", "title", "claims")
    for paper in found:
        verdicts = "\n".join(f"{claim}: {verdict}" for claim, verdict in paper.verdicts().items())
        table.add_row(Text(paper.slug), Text(f"{paper.claims.title} ({paper.claims.year})"), Text(verdicts))
    console().print(table if found else "There are no papers yet.")


@papers.command()
@guarded
def show(slug: Slug, json: Json = False) -> None:
    """Show a paper's claims: what is measured, predicted, and what would count."""
    from isometry import papers as room

    paper = room.show(slug)
    if json:
        print_json({"slug": paper.slug, **paper.claims.to_dict(), "evidence": paper.evidence()})
    else:
        console().print(paper)


@papers.command()
@guarded
def run(
    slug: Slug,
    scale: Annotated[str, typer.Option("--scale", metavar="smoke|full|paper", help="Size of the study.")] = "smoke",
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="N or N,N,...", help="How many seeds (0, 1, ...), or which.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the evidence into the paper's folder.")] = False,
    json: Json = False,
) -> None:
    """Run a paper's study and compute the verdicts from what comes out.

    isometry papers run sokol-park
    isometry papers run sokol-park --scale full --seeds 5 --write
    """
    chosen = None if seeds is None else numbers(seeds)
    with alone(json), progress_bar(f"{slug} at scale {scale}"):
        from isometry import papers as room

        result = room.run(slug, scale=scale, seeds=chosen[0] if chosen and len(chosen) == 1 else chosen)
        path = room.write_evidence(result) if write else None
    if json:
        print_json(result.to_dict())
        return
    console().print(result)
    if path is not None:
        console().print(f"written to {path}", markup=False, highlight=False)


@papers.command()
@guarded
def verify(
    slug: Annotated[str | None, typer.Argument(metavar="[SLUG]", help="A paper; all by default.")] = None,
    json: Json = False,
) -> None:
    """Re-run at smoke scale and compare with the committed evidence; exit code 1 if anything differs."""  # noqa: DOC501
    with alone(json), progress_bar("Verifying"):
        from isometry import papers as room

        found = room.verify(slug)
    if json:
        print_json([item.to_dict() for item in found])
    else:
        for item in found:
            console().print(str(item), markup=False, highlight=False)
        if not found:
            console().print("There are no papers yet.")
    if not all(item.agrees for item in found):
        raise typer.Exit(FOUND)
