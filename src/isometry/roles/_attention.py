"""Attention projections recognised by how libraries name them; nothing but names can tell them from other layers."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from isometry.roles._rows import Role

__all__ = ["Attention", "attention_role"]

_PLAIN: dict[str, Role] = {
    **dict.fromkeys(("q_proj", "to_q", "wq", "q_lin", "query_proj", "q_attn", "w_q", "linear_q"), "attention_q"),
    **dict.fromkeys(("k_proj", "to_k", "wk", "k_lin", "key_proj", "w_k", "linear_k"), "attention_k"),
    **dict.fromkeys(("v_proj", "to_v", "wv", "v_lin", "value_proj", "w_v", "linear_v"), "attention_v"),
    **dict.fromkeys(
        ("qkv", "c_attn", "to_qkv", "qkv_proj", "wqkv", "query_key_value", "to_kv", "kv_proj"), "attention_qkv"
    ),
}
# Names that mean something only beside their two companions.
_SHORT: dict[str, Role] = {
    "query": "attention_q",
    "key": "attention_k",
    "value": "attention_v",
    "q": "attention_q",
    "k": "attention_k",
    "v": "attention_v",
}
_OUTPUTS = ("o_proj", "wo", "to_out", "out_lin", "out_proj", "proj", "c_proj", "dense", "o", "out", "w_o", "linear_out")
_KEY_VALUE = ("to_kv", "kv_proj")


class Attention(NamedTuple):
    """A projection's role and the blocks stacked in its output dimension."""

    role: Role
    blocks: tuple[str, ...] = ()


def attention_role(name: str, shape: tuple[int, int], layers: Collection[str]) -> Attention | None:
    """Recognise a linear layer of an attention block by its name and its neighbours' names.

    Args:
        name: The layer's qualified name ("blocks.0.attn.qkv").
        shape: Its (outputs, inputs).
        layers: The qualified names of all layers of the model.

    Returns:
        The role and blocks, or None for a layer that is no attention projection.
    """
    parent, _, last = name.rpartition(".")
    last = last.lower()
    if last in _PLAIN:
        return Attention(_PLAIN[last], _stacked(last, shape))
    if last in _SHORT:
        companions = ("query", "key", "value") if len(last) > 1 else ("q", "k", "v")
        if all(_join(parent, c) in layers for c in companions):
            return Attention(_SHORT[last])
    if last.isdigit() and parent.rpartition(".")[2].lower() == "to_out":  # to_out = Sequential(Linear, Dropout)
        return Attention("attention_out")
    if last in _OUTPUTS and (_has_queries(parent, layers) or _inside_attention(parent)):
        return Attention("attention_out")
    return None


def _stacked(last: str, shape: tuple[int, int]) -> tuple[str, ...]:
    """Name the blocks of a stacked projection; grouped-query layers stack unequal blocks, which get no names.

    Returns:
        The names, or nothing where the sizes do not say.
    """
    if _PLAIN[last] != "attention_qkv":
        return ()
    names = ("k", "v") if last in _KEY_VALUE else ("q", "k", "v")
    return names if shape[0] == len(names) * shape[1] else ()


def _has_queries(parent: str, layers: Collection[str]) -> bool:
    return any(_join(parent, spelled) in layers for spelled in (*_PLAIN, "Wqkv", "WQ")) or any(
        all(_join(parent, short) in layers for short in companions)
        for companions in (("q", "k", "v"), ("query", "key", "value"))
    )


def _inside_attention(parent: str) -> bool:
    # BERT keeps the output beside the block of queries: attention.self.query and attention.output.dense
    parts = parent.lower().split(".")
    return len(parts) >= 2 and parts[-1] == "output" and parts[-2] in ("attention", "attn", "crossattention")


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child
