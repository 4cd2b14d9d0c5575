"""What each operation of an arbitrary model should give, read off its graph before anything is calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from isometry.init._graph import Graph, Node
from isometry.init._kinds import ENDINGS, Kind, activation_at, kind_of, norm_family
from isometry.init._operating_point import OperatingPoint, Shift, operating_point
from isometry.init._slots import DELTA_DEPTH
from isometry.theory import Activation

__all__ = ["AddPlan", "Plan", "WeightPlan", "make_plan"]

Consumer = Literal["activation", "norm", "add", "output", "weight", "other"]
# A chain of this many normalized layers multiplies gradients noticeably (1.47 per layer for batch norm and ReLU).
_DEEP_NORMALIZED = 8
_THROUGH: tuple[Kind, ...] = ("reshape", "dropout", "scale")


@dataclass(frozen=True)
class WeightPlan:
    """What a weight's output should look like.

    Attributes:
        consumer: What reads the output first.
        point: The operating point, where an activation reads it; an RMS normalization in between changes nothing.
        centre: Whether the bias takes away the inputs' mean; with a point, it also holds the point's shift.
        delta: Whether a convolution starts with its centre tap alone.
    """

    consumer: Consumer
    point: OperatingPoint | None = None
    centre: bool = False
    delta: bool = False


@dataclass(frozen=True)
class AddPlan:
    """A residual sum.

    Attributes:
        branch: Number of the operation whose result is the branch.
        tail: Number of the last operation in the branch that can be scaled; None if there is none.
        bends: Whether an odd activation that is not homogeneous (tanh) ends the branch: a small branch would be linear.
    """

    branch: int
    tail: int | None
    bends: bool = False


@dataclass(frozen=True)
class Plan:
    """The plan of a model.

    Attributes:
        weights: By number of the operation.
        norms: Operating points of normalized layers in a deep chain, by number of the operation.
        adds: Residual sums, by number of the operation.
        depth: Layers with an activation along the trunk, outside of all branches.
        points: Operating points in use, the trunk's first.
        notes: What the caller should know.
    """

    weights: Mapping[int, WeightPlan]
    norms: Mapping[int, OperatingPoint]
    adds: Mapping[int, AddPlan]
    depth: int
    points: tuple[OperatingPoint, ...]
    notes: tuple[str, ...] = ()


def make_plan(graph: Graph, *, q_star: float | None, shift: Shift, given: Activation | None) -> Plan:
    """Read a plan off a graph.

    Args:
        graph: The model's operations.
        q_star: Variance of the pre-activations; None chooses it per activation and depth.
        shift: Whether operating points of the trunk may leave the origin.
        given: The activation that the caller names, for operations that cannot be resolved.

    Returns:
        The plan.
    """
    return _Planner(graph, q_star, shift, given).plan()


class _Planner:
    def __init__(self, graph: Graph, q_star: float | None, shift: Shift, given: Activation | None) -> None:
        self.graph, self.q_star, self.shift, self.given = graph, q_star, shift, given
        self.users = graph.users()
        self.kinds = {node.index: kind_of(node) for node in graph.nodes}
        self.ancestors: list[int] = []  # a bit per operation
        for node in graph.nodes:
            bits = 1 << node.index
            for parent in node.parents:
                bits |= self.ancestors[parent]
            self.ancestors.append(bits)
        self.points: dict[tuple[str, int, Shift], OperatingPoint] = {}
        self.shifted: set[int] = set()  # activations whose mean the weights behind them must take away
        self.notes: list[str] = []

    def plan(self) -> Plan:
        adds = {node.index: found for node in self.graph.nodes if (found := self.residual(node)) is not None}
        inside = 0
        for index, add in adds.items():
            shortcut = next((p for p in self.graph.nodes[index].parents if p != add.branch), 0)
            inside |= self.ancestors[add.branch] & ~self.ancestors[shortcut]
        trunk = [n for n in self.graph.nodes if self.kinds[n.index] == "activation" and not inside >> n.index & 1]
        depth = len(trunk)
        weights: dict[int, WeightPlan] = {}
        norms: dict[int, OperatingPoint] = {}
        normalized = sum(
            1 for n in self.graph.nodes if self.kinds[n.index] == "norm" and self.consumer(n)[0] == "activation"
        )
        for node in self.graph.nodes:
            kind, on_trunk = self.kinds[node.index], not inside >> node.index & 1
            if kind == "weight":
                weights[node.index] = self.weight(node, on_trunk, depth)
            elif kind == "norm" and on_trunk and normalized > _DEEP_NORMALIZED and not adds:
                norms.update(self.normalized(node, depth, weights))
        return Plan(weights, norms, adds, depth, tuple(self.points.values()), tuple(self.notes))

    def weight(self, node: Node, on_trunk: bool, depth: int) -> WeightPlan:
        consumer, reader = self.consumer(node)
        point = None if consumer != "activation" else self.point(reader, depth if on_trunk else 2, on_trunk)
        # A shift pays in a long chain only; in a short one the layers' own biases find it.
        centre = on_trunk and point is not None and bool(point.shift or point.mean)
        if centre and reader is not None:
            self.shifted.add(reader.index)
        if consumer == "norm" and reader is not None and norm_family(reader) != "batch":
            centre = bool(self.shifted.intersection(self.behind(node)))
        delta = on_trunk and consumer == "activation" and depth >= DELTA_DEPTH
        return WeightPlan(consumer, point, centre, delta)

    def normalized(self, node: Node, depth: int, weights: dict[int, WeightPlan]) -> dict[int, OperatingPoint]:
        """Choose the operating point of a normalization in a deep chain.

        A shift needs a place in front of the activation (the normalization's own, or in front of an RMS normalization
        the weight's bias) and a bias behind it that takes the mean away again; where one is missing the point stays at
        the origin. Batch normalization takes the mean away by itself.

        Args:
            node: The normalization.
            depth: Length of the chain.
            weights: Plans of the weights in front of it; one in front of an RMS normalization is changed.

        Returns:
            The operating point by the node's number; nothing where no activation reads it.
        """
        consumer, reader = self.consumer(node)
        if consumer != "activation" or reader is None:
            return {}
        rms = norm_family(node) == "rms"
        fronts = [n for n in self.behind(node) if self.kinds[n] == "weight"] if rms else []
        room = bool(fronts) and all(self.biased(self.graph.nodes[n]) for n in fronts)
        if not rms:
            room = any(name.endswith("bias") for name in node.params)
        released = all(self.released(w) for w in self.weights_reading(reader))
        try:
            point = self.point(reader, depth, True, None if room and released else "never")
        except ValueError as error:
            self.notes.append(f"{node.label!r} stays at scale 1, since no bias can hold a shift: {error}")
            return {}
        if point is None:
            return {}
        if point.shift or point.mean:
            self.shifted.add(reader.index)
            for front in fronts:
                weights[front] = replace(weights[front], consumer="activation", point=point, centre=True)
        return {node.index: point}

    def released(self, weight: Node) -> bool:
        """Tell whether the mean of the activations that a weight reads can be taken away.

        Returns:
            True where its bias can do so, a batch normalization does, or the outputs come next.
        """
        consumer, reader = self.consumer(weight)
        centred = consumer == "norm" and reader is not None and norm_family(reader) == "batch"
        return centred or consumer == "output" or self.biased(weight)

    @staticmethod
    def biased(node: Node) -> bool:
        return any(name.endswith("bias") for name in node.params)

    def weights_reading(self, node: Node) -> list[Node]:
        return [n for n in self.graph.nodes if self.kinds[n.index] == "weight" and node.index in self.behind(n)]

    def behind(self, node: Node) -> set[int]:
        """Find what a node reads, looking back through reshapes, dropout, fixed factors and pooling.

        Returns:
            Numbers of the operations.
        """
        found: set[int] = set()
        waiting = list(node.parents)
        while waiting:
            index = waiting.pop()
            if self.kinds[index] in (*_THROUGH, "pool"):
                waiting += self.graph.nodes[index].parents
            else:
                found.add(index)
        return found

    def point(
        self, reader: Node | None, depth: int, on_trunk: bool, limit: Shift | None = None
    ) -> OperatingPoint | None:
        activation = (activation_at(reader) if reader is not None else None) or self.given
        if activation is None:
            return None
        shift: Shift = limit or (self.shift if on_trunk else "auto")
        key = (activation.name, depth, shift)
        if key not in self.points:
            self.points[key] = operating_point(activation, depth=max(1, depth), q_star=self.q_star, shift=shift)
        return self.points[key]

    def consumer(self, node: Node) -> tuple[Consumer, Node | None]:
        """Find what reads a result first, looking through reshapes, dropout and fixed factors.

        Returns:
            Its kind and the node; of several readers the one that asks for most.
        """
        found: dict[Consumer, Node] = {}
        waiting = [node]
        while waiting:
            current = waiting.pop()
            readers = self.users[current.index]
            if current.index == self.graph.output or (readers and all(r.op in ENDINGS for r in readers)):
                found["output"] = current
            for reader in readers:
                kind = self.kinds[reader.index]
                if kind in _THROUGH:
                    waiting.append(reader)
                elif kind in ("activation", "norm", "add", "weight"):
                    found[kind] = reader
                elif reader.op not in ENDINGS:
                    found["other"] = reader
        order: tuple[Consumer, ...] = ("output", "activation", "norm", "add", "weight", "other")
        return next(((kind, found[kind]) for kind in order if kind in found), ("other", None))

    def residual(self, node: Node) -> AddPlan | None:
        """Recognise the sum of a shortcut and a branch.

        Returns:
            The plan; None for other sums and other operations.
        """
        if self.kinds[node.index] != "add" or len(node.parents) != 2:
            return None
        a, b = node.parents
        only_a = self.work(self.ancestors[a] & ~self.ancestors[b])
        only_b = self.work(self.ancestors[b] & ~self.ancestors[a])
        if only_a == only_b:
            return None
        branch = a if only_a > only_b else b
        return AddPlan(branch, *self.tail(branch, self.ancestors[a if branch == b else b]))

    def work(self, bits: int) -> int:
        return sum(
            1
            for node in self.graph.nodes
            if bits >> node.index & 1 and self.kinds[node.index] in ("weight", "attention", "recurrent")
        )

    def tail(self, index: int, shortcut: int) -> tuple[int | None, bool]:
        """Walk back from a branch's end to the last operation whose parameters scale it.

        Returns:
            Its number, or None, and whether the walk passed an odd activation that is not homogeneous.
        """
        bends = False
        while not shortcut >> index & 1:
            node = self.graph.nodes[index]
            if self.kinds[index] in ("weight", "attention") or (self.kinds[index] == "norm" and node.params):
                return index, bends
            if self.kinds[index] == "activation":
                known = activation_at(node) or self.given
                bends |= known is not None and known.odd and known.homogeneous is None
            if not node.parents or len(node.parents) > 1:
                break
            index = node.parents[0]
        return None, bends
