"""One process's share of a batch, and the check that all processes were given the same whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from isometry._base import Team, current_team, fingerprint, team_for
from isometry.measure._gram_plan import Plan
from isometry.tape import Inputs

__all__ = ["Share", "insist_on_same", "outputs_of_all", "share_of"]


@dataclass(frozen=True, eq=False)
class Share:
    """The samples that this process runs the model on; all of them outside of a ``data_parallel`` block.

    Attributes:
        team: The processes that divide the batch.
        part: Which samples.
        x: These samples.
        plan: The plan for them.
    """

    team: Team
    part: slice
    x: Inputs
    plan: Plan


def share_of(x: Inputs, plan: Plan) -> Share:
    """Take this process's share.

    Args:
        x: The whole batch.
        plan: The plan for the whole batch, which is the same on all processes.

    Returns:
        The share.
    """
    team = team_for(plan.samples)
    part = team.parts(plan.samples)[team.rank]
    if team.size == 1:
        return Share(team, part, x, plan)
    return Share(team, part, x[part], replace(plan, samples=part.stop - part.start))


def outputs_of_all(run: Callable[[Inputs], Tensor], x: Inputs) -> Tensor:
    """Run a model on this process's share and put the outputs of all processes together.

    Args:
        run: Gives the outputs for some samples.
        x: The whole batch.

    Returns:
        The outputs for the whole batch.
    """
    team = team_for(len(x))
    own = run(x if team.size == 1 else x[team.parts(len(x))[team.rank]])
    return team.gather(own, len(x), "the outputs")


def insist_on_same(model: nn.Module, x: Inputs, targets: Any = None) -> None:
    """Refuse to share a measurement that is not the same on all processes.

    Args:
        model: The model.
        x: The whole batch.
        targets: Its targets, if there are any.
    """
    team = current_team()
    if team.size == 1:
        return
    leaves = [leaf for leaf in tree_flatten(targets)[0] if isinstance(leaf, Tensor)]
    words = {
        "the model": [*model.parameters(), *model.buffers()],
        "the batch": x.tensors(),
        "the targets": leaves,
    }
    for name, tensors in words.items():
        if tensors:
            team.agree(f"{name} with checksum {fingerprint(tensors)}")
