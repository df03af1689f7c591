"""The user tower as serving runs it: the same numbers as torch, without its cost per call.

Legend: B requests, T tokens (a start token, then events), D width, H heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recsys.served.onnx_graph import Graph, Session
from recsys.tower_networks import UserTower
from recsys.transformer import CausalBlock

TOKENS, NEWEST, UNSEEN = "tokens", "newest", "unseen"


def user_tower_session(tower: UserTower, n_threads: int) -> Session:
    """What retrieval searches with, `UserTower.embedding`.

    The session reads `TOKENS` float32 [B, T, D] with the positions added; `NEWEST` float32
    [B, 2, T], 1 where the newest event's token and the one before stand; `UNSEEN` float32
    [B, 1, 2, T], -inf for a token after them, else 0. It answers [B, D].
    """
    graph = Graph()
    *inner, outer = tower.transformer.blocks
    tokens = TOKENS
    for block in inner:
        tokens = _Block(graph, block).all_tokens(tokens)
    states = _Block(graph, outer).tokens_at(tokens, NEWEST, UNSEEN)
    states = _norm(graph, states, tower.transformer.final_norm)
    shares = np.array([[[1.0], [tower.previous_share.item()]]], np.float32)
    weighted = graph.add("Mul", states, graph.constant(shares))
    summed = graph.add("ReduceSum", weighted, graph.constant(np.array([1])), keepdims=0)
    output = graph.add("Add", summed, graph.constant(_array(tower.common)))
    return graph.load({TOKENS: 3, NEWEST: 3, UNSEEN: 4}, output, n_threads)


class _Block:
    """Writes a `CausalBlock` down."""

    def __init__(self, graph: Graph, block: Any) -> None:
        assert isinstance(block, CausalBlock)
        self._graph = graph
        self._block = block

    def all_tokens(self, x: str) -> str:
        normed = _norm(self._graph, x, self._block.attention_norm)
        return self._finish(x, self._attend(normed, normed, unidirectional=1))

    def tokens_at(self, x: str, places: str, unseen: str) -> str:
        normed = _norm(self._graph, x, self._block.attention_norm)
        asking = self._graph.add("MatMul", places, normed)
        mixed = self._attend(asking, normed, unseen)
        return self._finish(self._graph.add("MatMul", places, x), mixed)

    def _attend(self, asking: str, normed: str, unseen: str = "", **attributes: int) -> str:
        graph, block = self._graph, self._block
        query = graph.add("MatMul", asking, graph.constant(_array(block.query.weight.T)))
        both = graph.add("MatMul", normed, graph.constant(_array(block.key_value.weight.T)))
        key, value = graph.add_many("Split", [both], 2, axis=-1, num_outputs=2)
        bias = np.concatenate([_array(block.query.bias), _array(block.key_value.bias)])
        inputs = [query, key, value, graph.constant(bias), "", unseen]
        mixed = graph.add(
            ".MultiHeadAttention",
            *(inputs if unseen else inputs[:4]),
            num_heads=block.n_heads,
            **attributes,
        )
        return graph.add("MatMul", mixed, graph.constant(_array(block.attention_out.weight.T)))

    def _finish(self, x: str, mixed: str) -> str:
        graph, block = self._graph, self._block
        norm = block.feed_norm
        # Of its four outputs: what is normalised, two of training, and the sum before it.
        normed, _, _, residual = graph.add_many(
            ".SkipLayerNormalization",
            [
                mixed,
                x,
                graph.constant(_array(norm.weight)),
                graph.constant(_array(norm.bias)),
                graph.constant(_array(block.attention_out.bias)),
            ],
            4,
            epsilon=norm.eps,
        )
        hidden = graph.add("MatMul", normed, graph.constant(_array(block.feed_in.weight.T)))
        hidden = graph.add(".BiasGelu", hidden, graph.constant(_array(block.feed_in.bias)))
        hidden = graph.add("MatMul", hidden, graph.constant(_array(block.feed_out.weight.T)))
        hidden = graph.add("Add", hidden, graph.constant(_array(block.feed_out.bias)))
        return graph.add("Add", residual, hidden)


def _norm(graph: Graph, x: str, norm: Any) -> str:
    weight, bias = graph.constant(_array(norm.weight)), graph.constant(_array(norm.bias))
    return graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=norm.eps)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().numpy().astype(np.float32)
