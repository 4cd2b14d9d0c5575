"""The parameter table of a model: one description of its parameters for initializers, measurements and optimizers.

``print(table(model))`` shows it. A row knows the parameter's name, shape, axes (which dimensions are outputs, inputs,
kernel, batch; which blocks and groups are stacked), role, fans, ties and whether it is parametrized.

``route(model)`` says by which rule an optimizer for hidden matrices moves each of them, and why.
"""

from isometry.roles._axes import Axes
from isometry.roles._head_layouts import HeadLayout
from isometry.roles._heads import AttentionBlock, ParameterSlice, attention_blocks
from isometry.roles._route import route
from isometry.roles._routing import Route, Routing
from isometry.roles._rows import MATRIX_ROLES, ROLES, ParameterRow, ParameterTable, Role
from isometry.roles._table import Override, table

__all__ = [
    # the table
    "table",
    "ParameterTable",
    "ParameterRow",
    # param groups of an optimizer
    "route",
    "Routing",
    "Route",
    # the heads of attention blocks
    "attention_blocks",
    "AttentionBlock",
    "HeadLayout",
    "ParameterSlice",
    # its vocabulary
    "Axes",
    "Role",
    "ROLES",
    "MATRIX_ROLES",
    "Override",
]
