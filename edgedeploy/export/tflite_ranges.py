"""The ranges of activations that a static TFLite file needs, seen once on the float file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.export.calibration import Observed, Range, ranges_of
from edgedeploy.export.flatbuffer import FLOAT32, is_constant, position
from edgedeploy.export.tflite_masks import BOUND, INFINITE
from edgedeploy.export.tflite_names import weight_index
from edgedeploy.quiet import quiet
from edgedeploy.records import Calibration
from edgedeploy.task import Task


class _Unbounded(Observed):
    """The values that one tensor took, of which infinities make an end infinite."""

    def __init__(self, name: str, calibration: Calibration) -> None:
        super().__init__(name, calibration)
        self._below = self._above = False

    def see(self, values: np.ndarray) -> None:
        """Take in values of any shape. Raises ExportError where one is NaN."""
        infinite = np.abs(values) > INFINITE
        self._below |= bool((values[infinite] < 0).any())
        self._above |= bool((values[infinite] > 0).any())
        super().see(values[~infinite])

    def range(self, calibration: Calibration, levels: int = 256) -> Range:
        """The lowest and highest value to encode in `levels` steps, or the infinity that was seen beyond it."""
        low, high = super().range(calibration, levels)
        return -math.inf if self._below else low, math.inf if self._above else high


def ranges(source: Path, model: Any, task: Task, calibration: Calibration, levels: int) -> Mapping[str, Range]:
    """The range of each activation of `source`, whose object tree is `model`; an end is infinite where a mask was."""
    return ranges_of(source, calibration, levels, lambda: _observe(source, model, task, calibration))


def statistics(model: Any, seen: Mapping[str, Range]) -> dict[str, dict[str, np.ndarray]]:
    """What ai-edge-quantizer wants to know of each activation of `model`, of which the ranges `seen` are known.

    Its own calibrator takes moving averages by default, which cut off every outlier: eight times the error on a GRU.
    """
    found = {
        name: (-BOUND if low == -math.inf else low, BOUND if high == math.inf else high)
        for name, (low, high) in seen.items()
    }
    for names in _meeting_the_same_weights(model):
        found |= dict.fromkeys(names, (min(found[name][0] for name in names), max(found[name][1] for name in names)))
    dimensions = {tensor.name.decode(): len(tensor.shape) for tensor in model.subgraphs[0].tensors}
    for name, (low, high) in found.items():
        if low == high:
            # Any scale holds a tensor of zeros; with the smallest, the biases it is multiplied with would overflow.
            found[name] = (low, low + 1.0)
    return {
        name: {"min": np.full((1,) * dimensions[name], low), "max": np.full((1,) * dimensions[name], high)}
        for name, (low, high) in found.items()
    }


def _meeting_the_same_weights(model: Any) -> Iterator[list[str]]:
    """The activations that one layer's weights meet in turn, as the states of an unrolled recurrent net.

    With one range for all, the biases, whose scale is that of the weights times that of the input, are the same.
    """
    graph = model.subgraphs[0]
    groups: dict[int, list[str]] = {}
    for operator in graph.operators:
        weights = weight_index(model, graph, operator)
        data = [index for index in operator.inputs if index >= 0 and not is_constant(model, graph, index)]
        if weights is not None and graph.tensors[data[0]].type == FLOAT32:
            groups.setdefault(weights, []).append(graph.tensors[data[0]].name.decode())
    return (names for names in groups.values() if len(names) > 1)


def _observe(source: Path, model: Any, task: Task, calibration: Calibration) -> Iterator[tuple[str, Observed]]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    graph = model.subgraphs[0]
    observed = {
        index: _Unbounded(tensor.name.decode(), calibration)
        for index, tensor in enumerate(graph.tensors)
        if tensor.type == FLOAT32 and not is_constant(model, graph, index)
    }
    with quiet():
        # A delegate would keep what is inside of it to itself.
        interpreter = Interpreter(
            str(source),
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        details = {detail["index"]: detail for detail in interpreter.get_input_details()}
        entries = sorted(model.signatureDefs[0].inputs, key=position)
        inputs = task.calibration.spread(calibration.examples)
        for example in range(len(inputs[0])):
            for entry, array in zip(entries, inputs, strict=True):
                index = int(entry.tensorIndex)
                # A file that takes several at once gets one several times over, which changes no range.
                values = np.repeat(array[example : example + 1], details[index]["shape"][0], axis=0)
                interpreter.set_tensor(index, values.astype(details[index]["dtype"]))
            interpreter.invoke()
            for index, tensor in observed.items():
                tensor.see(interpreter.get_tensor(index))
    for index, tensor in observed.items():
        yield graph.tensors[index].name.decode(), tensor
