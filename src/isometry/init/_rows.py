"""Keeps the book of a model-wide initialization: every parameter ends up with exactly one row."""

from __future__ import annotations

from torch import Tensor

from isometry.init._slots import Slot
from isometry.init._table import Action, InitRow
from isometry.roles import ParameterRow, ParameterTable

__all__ = ["FROZEN", "Ledger"]

FROZEN = "frozen (requires_grad is False), so its value is taken to be meant"


class Ledger:
    """Rows and notes, collected while parameters are written.

    Args:
        table: The model's parameters.
    """

    def __init__(self, table: ParameterTable) -> None:
        self.table = table
        self.rows: dict[str, InitRow] = {}
        self.notes: list[str] = []

    def row(self, module: str, tensor: str) -> ParameterRow:
        """Find the parameter that a module uses under an attribute; of a parametrization's pieces the main one.

        Args:
            module: The module's name.
            tensor: The attribute.

        Returns:
            Its row.

        Raises:
            KeyError: If there is none.
        """
        found = [row for row in self.table if row.module_name == module and row.tensor_name == tensor]
        found = [row for row in found if row.axes.known] or found
        return found[0] if found else self.table[f"{module}.{tensor}" if module else tensor]

    def note(self, text: str) -> None:
        """Add a remark on the model as a whole, once."""
        if text not in self.notes:
            self.notes.append(text)

    def record(self, name: str, action: Action, why: str, **details: object) -> None:
        """Enter (or replace) a parameter's row.

        Args:
            name: The parameter's name.
            action: What was done.
            why: The reason.
            **details: ``scheme``, ``sigma_w``, ``sigma_b``.
        """
        row = self.table[name]
        if row.aliases and "tied" not in why:
            why = f"{why}; " if why else ""
            why += f"tied to {', '.join(row.aliases)}: set once"
        self.rows[row.name] = InitRow(row.name, row.role, action, why=why, **details)  # type: ignore[arg-type]

    def write(
        self,
        slot: Slot,
        value: Tensor,
        scheme: str,
        *,
        sigma_w: float | None = None,
        sigma_b: float | None = None,
        why: str = "",
    ) -> bool:
        """Write a parameter and enter its row; frozen ones and unwritable parametrizations are skipped.

        Args:
            slot: Where it goes.
            value: What to write.
            scheme: How it was made.
            sigma_w: Factor of a weight.
            sigma_b: Standard deviation of a bias.
            why: Further remarks.

        Returns:
            Whether it was written.
        """
        name = slot.row.name
        if not slot.row.trainable:
            self.record(name, "skipped", FROZEN)
            return False
        if not slot.write(value):
            kind = type(slot.module).__name__
            self.record(name, "skipped", f"parametrized in {kind}, and the parametrization cannot be set to this value")
            return False
        if slot.row.parametrized:
            why = f"{why}; " if why else ""
            why += "set through its parametrization"
            self._companions(slot, why)
        self.record(name, "set", why, scheme=scheme, sigma_w=sigma_w, sigma_b=sigma_b)
        return True

    def _companions(self, slot: Slot, why: str) -> None:
        for row in self.table:
            same = row.module_name == slot.row.module_name and row.tensor_name == slot.row.tensor_name
            if same and row.parametrized and row.name != slot.row.name:
                self.record(row.name, "set", why, scheme="-")

    def scaled(self, name: str, factor: float, why: str, *, action: Action = "scaled") -> None:
        """Turn a row into one that was rescaled on data, or add a remark to it.

        Args:
            name: The parameter's name.
            factor: What its weight was multiplied with.
            why: The reason.
            action: What the row then says.
        """
        old = self.rows.get(self.table[name].name)
        if old is None or old.action == "skipped":
            return
        sigma_w = None if old.sigma_w is None else old.sigma_w * factor
        sigma_b = None if old.sigma_b is None else old.sigma_b * factor
        text = "; ".join(part for part in (old.why, why) if part)
        self.rows[old.name] = InitRow(old.name, old.role, action, old.scheme, sigma_w, sigma_b, text)

    def finish(self) -> tuple[InitRow, ...]:
        """Give all rows in the order of the parameters; what nobody touched is listed as kept, with the reason.

        Returns:
            One row per parameter.
        """
        for row in self.table:
            if row.name not in self.rows:
                action: Action = "kept"
                reason = "a raw parameter whose use is not known; name its role in overrides= to have it set"
                if not row.trainable:
                    action, reason = "skipped", FROZEN
                elif row.role in ("embedding", "scale"):
                    reason = f"a raw {row.role} parameter: left as the model made it"
                self.record(row.name, action, reason)
        return tuple(self.rows[row.name] for row in self.table)
