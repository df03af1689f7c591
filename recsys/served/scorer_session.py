"""The scorer's network as serving runs it: its products, between compiled loops.

Legend as in `recsys.kernels.scorer_arrays`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.scorer_network import ScorerNetwork
from recsys.served.onnx_graph import Graph, Session
from recsys.types import FloatArray

USER, CANDIDATES, RECENT, BIAS, CONTEXT = "user", "candidates", "recent", "bias", "context"


def scorer_session(network: ScorerNetwork, n_threads: int) -> Session:
    """Residual and deviations of action log odds of candidates, [B, C, 1 + A].

    The session reads `USER` [B, 1, D], `CANDIDATES` [B, C, X], `RECENT` [B, E, D], `BIAS`
    [B, 1, E] and `CONTEXT` [B, E, F], all float32.
    """
    graph = Graph()
    dim = len(network.item_weight)
    vectors = _columns(graph, CANDIDATES, 0, dim)
    keys = graph.add("MatMul", RECENT, graph.constant(_array(network.key)))
    logits = graph.add(".FusedMatMul", vectors, keys, transB=1)
    attention = graph.add("Softmax", graph.add("Add", logits, BIAS), axis=-1)
    # One product instead of four and their sums: what a candidate has, beside what it attends to.
    joined = graph.add("Concat", CANDIDATES, attention, axis=-1)
    hidden = graph.add("Relu", graph.add("MatMul", joined, _first_weights(graph, network)))
    flat = graph.constant(np.array([-1, network.item_weight.shape[1]]))
    hidden = graph.add("Reshape", hidden, flat)
    for layer in network.deeper:
        weight, bias = graph.constant(_array(layer.weight)), graph.constant(_array(layer.bias))
        hidden = graph.add("Relu", graph.add("Gemm", hidden, weight, bias, transB=1))
    heads = (network.residual_head, network.action_head)
    weight = graph.constant(np.concatenate([_array(head.weight) for head in heads]))
    bias = graph.constant(np.concatenate([_array(head.bias) for head in heads]))
    output = graph.add("Gemm", hidden, weight, bias, transB=1)
    inputs = dict.fromkeys((USER, CANDIDATES, RECENT, BIAS, CONTEXT), 3)
    return graph.load(inputs, output, n_threads)


def _first_weights(graph: Graph, network: ScorerNetwork) -> str:
    """The first layer's weights of each request, [B, X + E, F]: of all that a candidate is."""
    user_column = graph.add("Transpose", USER, perm=[0, 2, 1])
    products = graph.add("Mul", user_column, graph.constant(_array(network.product_weight)))
    items = graph.add("Add", products, graph.constant(_array(network.item_weight)))
    user_weight = graph.constant(_array(network.user_layer.weight.T))
    user_bias = graph.constant(_array(network.user_layer.bias))
    user = graph.add("Add", graph.add("MatMul", USER, user_weight), user_bias)  # [B, 1, F]
    value = graph.constant(_array(network.value.weight.T))
    values = graph.add("Add", graph.add("MatMul", RECENT, value), CONTEXT)
    own = graph.add("Concat", items, _for_all(graph, _array(network.side_weight)), axis=1)
    chance = np.zeros((1, network.item_weight.shape[1]), np.float32)
    if network.reads_successors:
        chance[0] = _array(network.chance_weight)
    return graph.add("Concat", own, user, _for_all(graph, chance), values, axis=1)


def _for_all(graph: Graph, rows: FloatArray) -> str:
    """Constant rows [n, F] for every request, [B, n, F]."""
    n_requests = graph.add("Shape", USER, start=0, end=1)
    shape = graph.add("Concat", n_requests, graph.constant(np.array(rows.shape)), axis=0)
    return graph.add("Expand", graph.constant(rows), shape)


def _columns(graph: Graph, name: str, begin: int, end: int) -> str:
    bounds = [graph.constant(np.array([bound])) for bound in (begin, end, -1)]
    return graph.add("Slice", name, *bounds)


def _array(tensor: Any) -> FloatArray:
    return np.asarray(tensor.detach().numpy(), np.float32)
