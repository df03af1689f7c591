"""A network as a graph of operators that ONNX Runtime runs: what serving pays torch's dispatch for.

Knows how a graph is written down and loaded; not what any network computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from recsys.types import FloatArray

_OPSET, _CONTRIB_OPSET, _IR_VERSION = 20, 1, 9
_CONTRIB = "com.microsoft"
"""Operators of the runtime's own: fused attention and normalisation."""


class Graph:
    """Operators in the order they were added; a value is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, array: NDArray[Any]) -> str:
        """The name of a constant."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of an operator's first output; the name of an absent input is empty."""
        return self.add_many(operator, inputs, 1, **attributes)[0]

    def add_many(
        self, operator: str, inputs: Sequence[str], n_outputs: int, **attributes: Any
    ) -> list[str]:
        """The names of an operator's outputs; a leading dot says that it is the runtime's own."""
        outputs = [f"v{len(self._nodes)}_{n}" for n in range(n_outputs)]
        domain = _CONTRIB if operator.startswith(".") else ""
        node = helper.make_node(
            operator.removeprefix("."), list(inputs), outputs, domain=domain, **attributes
        )
        self._nodes.append(node)
        return outputs

    def load(self, inputs: Mapping[str, int], output: str, n_threads: int) -> Session:
        """The graph, ready to run.

        Args:
            inputs: number of dimensions by name, all float32.
            output: the name of what it answers.
            n_threads: that one run may use.
        """
        shapes = {name: [f"{name}_{axis}" for axis in range(n)] for name, n in inputs.items()}
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self._constants,
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, _CONTRIB_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return Session(model.SerializeToString(), output, n_threads)


class Session:
    """A loaded graph. Safe to run from several threads."""

    def __init__(self, model: bytes, output: str, n_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._output = output

    def run(self, inputs: Mapping[str, FloatArray]) -> FloatArray:
        """The answer to inputs by name."""
        answer: FloatArray = self._session.run([self._output], dict(inputs))[0]
        return answer
