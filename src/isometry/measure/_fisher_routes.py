"""Where the contributions of parameters go when they are summed by group."""

from __future__ import annotations

from dataclasses import dataclass, field

from isometry.measure._fisher_grouping import Groups
from isometry.measure._gram_plan import Bundle, Plan
from isometry.roles import ParameterSlice

__all__ = ["Route", "RoutedPlan"]


@dataclass(frozen=True)
class RoutedPlan(Plan):
    """A plan whose contributions go by parameter, not by layer."""

    keys: dict[str, str] = field(default_factory=dict)

    def group_of(self, name: str) -> str:
        """Name the key under which a parameter's contributions go.

        Returns:
            The key.
        """
        return self.keys[name]


@dataclass(frozen=True)
class Route:
    """Where contributions go.

    Attributes:
        plan: The plan, with a key for each parameter: parameters of the same groups that are whole have theirs
            in common, so that a layer's weight and bias stay together.
        slices: Keys to the slices of one of their parameters, each with its group.
    """

    plan: RoutedPlan
    slices: dict[str, tuple[tuple[ParameterSlice, str], ...]]

    @classmethod
    def of(cls, plan: Plan, groups: Groups) -> Route:
        """Route a plan's parameters to groups.

        Args:
            plan: The plan.
            groups: Groups to slices; every parameter is in some group.

        Returns:
            The route.
        """
        of_name: dict[str, list[tuple[ParameterSlice, str]]] = {name: [] for name in plan.parameters}
        for group, slices in groups.items():
            for one in slices:
                of_name[one.name].append((one, group))
        keys, targets = {}, {}
        for name, pairs in of_name.items():
            whole = all(one.dim is None for one, _ in pairs)
            key = "in " + ", ".join(repr(group) for _, group in pairs) if whole else name
            keys[name] = key
            targets[key] = tuple(pairs)
        bundles: list[Bundle] = []
        for bundle in plan.bundles:
            for key in dict.fromkeys(keys[name] for name in bundle.names.values()):
                names = {word: name for word, name in bundle.names.items() if keys[name] == key}
                bundles.append(Bundle(names, bundle.calls, key))
        routed = RoutedPlan(
            plan.samples, plan.parameters, plan.calls, tuple(bundles), plan.general, plan.unused, plan.watched, keys
        )
        return cls(routed, targets)

    def most_alive(self) -> int:
        """Foresee how many groups' sums are held at a time: from their first contribution to their last.

        Returns:
            The number, by the order of the calls of the planning run.
        """
        times: dict[str, list[int]] = {}  # groups to when, in the backward sweep, something comes in for them
        for bundle in self.plan.bundles:
            for _, group in self.slices[bundle.group]:
                times.setdefault(group, []).append(-min(bundle.calls))
        for name in self.plan.general:  # behind the sweep
            for _, group in self.slices[self.plan.keys[name]]:
                times.setdefault(group, []).append(1)
        spans = [(min(when), max(when)) for when in times.values()]
        return max((sum(a <= now <= b for a, b in spans) for now, _ in spans), default=0)
