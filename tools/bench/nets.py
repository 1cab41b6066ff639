"""Builds ONNX files of convolutional nets with random weights: what is timed is the arithmetic, not the sense of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Net:
    """A stack of 3x3 convolutions with ReLU, (channels, stride) each, then average pooling and a linear layer."""

    name: str
    input_shape: tuple[int, int, int]
    convolutions: Sequence[tuple[int, int]]
    classes: int = 10

    def parameters(self) -> int:
        """How many weights and biases there are."""
        total, channels = 0, self.input_shape[0]
        for width, _ in self.convolutions:
            total += width * channels * 9 + width
            channels = width
        return total + channels * self.classes + self.classes

    def onnx(self, seed: int = 0) -> bytes:
        """The net as an ONNX file with input `x` of shape (1, channels, height, width) and output `y`."""
        from onnx import TensorProto, helper, numpy_helper

        rng = np.random.default_rng(seed)
        nodes, weights = [], []

        def weight(name: str, *shape: int) -> str:
            fan_in = int(np.prod(shape[1:])) or 1
            weights.append(numpy_helper.from_array(_normal(rng, shape, fan_in), name))
            return name

        channels, last = self.input_shape[0], "x"
        for at, (width, stride) in enumerate(self.convolutions):
            kernel, bias = weight(f"w{at}", width, channels, 3, 3), weight(f"b{at}", width)
            nodes.append(helper.make_node("Conv", [last, kernel, bias], [f"c{at}"], strides=[stride] * 2, pads=[1] * 4))
            nodes.append(helper.make_node("Relu", [f"c{at}"], [f"r{at}"]))
            channels, last = width, f"r{at}"
        nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
        nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
        head, bias = weight("head", self.classes, channels), weight("head_bias", self.classes)
        nodes.append(helper.make_node("Gemm", ["flat", head, bias], ["y"], transB=1))
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *self.input_shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, self.classes])],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        content: bytes = model.SerializeToString()
        return content


def _normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    scaled: np.ndarray[Any, Any] = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
    return scaled.astype(np.float32)


SMALL = Net("small CNN", (1, 8, 8), [(16, 1), (32, 2), (64, 2)])
MEDIUM = Net("mid-size CNN", (3, 64, 64), [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)])
