"""Whole matrices out of rows, with threads for processes: any number of them, of rows and of parameters.

Real processes are in tests/distributed. Seen to fail: without the padding, with members in their own order instead of
their owners', with the rows of rank r taken from r * rows // world.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from isometry.optim._matrix import MatrixRule
from isometry.optim._muon import MuonRule
from isometry.optim._shards import Shards, shards_of
from isometry.roles import Axes

MUON = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True, "scale": "original", "polar": "accurate"}
MUON["compute_dtype"] = "float32"


class Post:
    """What the processes of a group have in common, while they are threads."""

    def __init__(self, world):
        self.barrier = threading.Barrier(world, timeout=20)
        self.sent = [None] * world
        self.numbers = 0  # that went from one process to another

    def pass_round(self, rank, parts):
        self.sent[rank] = parts
        self.barrier.wait()
        got = [parts[rank] for parts in self.sent]
        self.barrier.wait()
        if rank == 0:
            self.numbers += sum(p.numel() for i, parts in enumerate(self.sent) for j, p in enumerate(parts) if i != j)
        return got


@dataclass(frozen=True)
class Threads(Shards):
    """Shards whose processes are threads."""

    def _exchange(self, got, sent, outs, ins):
        parts = self.group.pass_round(self.rank, sent.split(ins))
        assert [len(part) for part in parts] == outs  # as all_to_all_single wants it
        got.copy_(torch.cat(parts))

    def _gather_all(self, got, sent):
        got.copy_(torch.cat(self.group.pass_round(self.rank, [sent] * self.world)))


def everywhere(world, rows, owners, work):
    """Run ``work(shards)`` on every process; results by rank."""
    post = Post(world)
    with ThreadPoolExecutor(world) as pool:
        waiting = [pool.submit(work, Threads(post, rank, world, rows, owners)) for rank in range(world)]
        return [done.result() for done in waiting], post


def cut(stack, world):
    """Rows as DTensor's Shard(0) deals them out: torch.chunk, and nothing for those who come too late."""
    parts = list(stack.chunk(world, dim=1))
    return parts + [stack[:, :0]] * (world - len(parts))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def spreads(draw):
    world, rows = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    owners = draw(st.lists(st.integers(0, world - 1), min_size=1, max_size=6))
    return world, rows, tuple(owners), draw(st.sampled_from([(), (3,), (2, 1, 2)]))


@settings(max_examples=60, deadline=None)
@given(spreads())
def test_every_process_gets_its_parameters_whole_and_all_their_rows_back(spread):
    world, rows, owners, rest = spread
    whole = random(len(owners), rows, *rest)

    def work(shards):
        part = cut(whole, world)[shards.rank]
        mine = shards.gather(part)
        return mine, shards.scatter(2 * mine), part

    found, _ = everywhere(world, rows, owners, work)
    for rank, (mine, back, part) in enumerate(found):
        assert torch.equal(mine, whole[[i for i, owner in enumerate(owners) if owner == rank]])
        assert torch.equal(back, 2 * part)


@settings(max_examples=40, deadline=None)
@given(spreads(), st.integers(1, 3))
def test_states_of_matrices_are_parted_and_put_together(spread, matrices):
    world, rows, owners, rest = spread
    stack = random(len(owners) * matrices, 2, *rest)

    def work(shards):
        mine = shards.mine(stack)
        return mine, shards.everyones(-mine, stack)

    found, _ = everywhere(world, rows, owners, work)
    by_member = stack.unflatten(0, (len(owners), matrices))
    for rank, (mine, everyones) in enumerate(found):
        assert torch.equal(mine, by_member[[i for i, owner in enumerate(owners) if owner == rank]].flatten(0, 1))
        assert torch.equal(everyones, -stack)


def test_a_number_is_sent_twice_at_most():
    """Out and back; gathering each matrix on each process would send it world - 1 times."""
    whole = random(8, 12, 5)
    _, post = everywhere(4, 12, (0, 1, 2, 3) * 2, lambda s: s.scatter(s.gather(cut(whole, 4)[s.rank])))
    assert post.numbers == 2 * whole.numel() * 3 // 4  # a quarter stays where it is


# -- rules -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighed(MatrixRule):
    """A rule that uses everything there is: a state an entry, a state a matrix, a part used up, an end."""

    small: ClassVar[tuple[str, ...]] = ("weights",)

    @property
    def in_parts(self):
        return True

    def names(self):
        return "buffer", "weights"

    def begin_small(self, value, members):
        count = len(self.axes.stacked().matrices(value.new_empty(members, *SHAPE)))
        return {"weights": torch.zeros(count, 1, 1, dtype=value.dtype)}

    def prepare(self, gradient, state, options):
        buffer = state["buffer"] + gradient
        return buffer, {"buffer": buffer}

    def move(self, matrices, small, options):
        return self.move_part(matrices, small, options)[::2]

    def move_part(self, matrices, small, options):
        weights = small["weights"] + torch.linalg.matrix_norm(matrices)[:, None, None]
        update = matrices @ matrices.mT @ matrices / weights
        return update, matrices.cumsum(1), {"weights": weights}

    def finish(self, update, used, state, options):
        return update + used, {"buffer": state["buffer"] - 0.1 * used}


SHAPE = (6, 4, 3)
CASES = {
    "one matrix": ((7, 5), Axes(out=(0,), in_=(1,))),
    "blocks over the edges of shards": ((9, 4), Axes(out=(0,), in_=(1,), blocks=("q", "k", "v"))),
    "kernels": ((5, 3, 2), Axes(out=(0,), in_=(1,), kernel=(2,))),
    "groups": ((6, 2, 2), Axes(out=(0,), in_=(1,), kernel=(2,), groups=3)),
    "a stack along the sharded dimension": ((3, 4, 5), Axes(batch=(0,), out=(1,), in_=(2,))),
    "inputs first": ((4, 7), Axes(out=(1,), in_=(0,))),
    "fewer rows than processes": ((1, 6), Axes(out=(0,), in_=(1,))),
}


def steps(rule, shape, members, share, shards=None, options=MUON):
    """Two steps of a rule on a share of the rows."""
    context = {"shape": shape, "shards": shards}
    value = share(random(members, *shape))
    small = rule.begin_small(random(members, *shape), members)
    state = {name: torch.zeros_like(value) for name in rule.names() if rule.shaped(name)} | small
    for step in (1, 2):
        gradient = share(random(members, *shape, seed=step))
        value, state = rule.update(value, gradient, state, step, options, context)
    return value, state


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_muon_on_rows_is_muon(case, world):
    shape, axes = CASES[case]
    rule, owners = MuonRule(axes), tuple(i % world for i in range(3))
    wanted, state = steps(rule, shape, 3, lambda t: t)
    found, _ = everywhere(world, shape[0], owners, lambda s: steps(rule, shape, 3, lambda t: cut(t, world)[s.rank], s))
    # The same products in batches of another length: rounding.
    assert_close(torch.cat([value for value, _ in found], 1), wanted, rtol=1e-10, atol=1e-12)
    momentum = torch.cat([state["momentum_buffer"] for _, state in found], 1)
    assert torch.equal(momentum, state["momentum_buffer"])  # entry by entry


@pytest.mark.parametrize(("world", "members"), [(2, 1), (2, 5), (3, 4), (5, 2)])
def test_all_that_a_rule_may_have_survives(world, members):
    rule, owners = Weighed(Axes(batch=(0,), out=(1,), in_=(2,))), tuple((1 + i) % world for i in range(members))
    wanted, state = steps(rule, SHAPE, members, lambda t: t)
    found, _ = everywhere(
        world, SHAPE[0], owners, lambda s: steps(rule, SHAPE, members, lambda t: cut(t, world)[s.rank], s)
    )
    assert_close(torch.cat([value for value, _ in found], 1), wanted, rtol=1e-10, atol=1e-12)
    assert_close(torch.cat([state["buffer"] for _, state in found], 1), state["buffer"], rtol=1e-10, atol=1e-12)
    for _, own in found:
        assert_close(own["weights"], state["weights"], rtol=1e-10, atol=1e-12)


# -- how parameters are spread -----------------------------------------------------------------------------------------


def test_plain_parameters_need_no_process_group():
    assert not torch.distributed.is_initialized()
    assert shards_of([torch.nn.Parameter(torch.ones(3, 3))], ["w"]) is None


@pytest.fixture
def mesh(tmp_path):
    """A mesh of one process: placements can be told apart on it."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield lambda *sizes: init_device_mesh("cpu", sizes)
    torch.distributed.destroy_process_group()


def spread(mesh, *placements):
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(torch.ones(4, 4), mesh, placements)


def test_rows_are_taken_and_other_placements_refused(mesh):
    from torch.distributed.tensor import Replicate, Shard

    assert shards_of([spread(mesh(1), Replicate())], ["w"]) is None
    found = shards_of([spread(mesh(1), Shard(0))] * 3, ["w"] * 3)
    assert (found.world, found.rank, found.rows, found.owners) == (1, 0, 4, (0, 0, 0))
    assert shards_of([spread(mesh(1, 1), Replicate(), Shard(0))], ["w"]).world == 1
    for sizes, placements in (((1,), [Shard(1)]), ((1, 1), [Shard(0), Shard(1)]), ((1, 1), [Shard(0), Shard(0)])):
        with pytest.raises(
            ValueError, match=r"w is sharded as .*, but whole matrices are put together from rows alone"
        ):
            shards_of([spread(mesh(*sizes), *placements)], ["w"])
