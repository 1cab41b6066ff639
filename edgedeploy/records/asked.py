"""What is asked for: formats, precisions, passes and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task


class Format(StrEnum):
    """What kind of file a variant is."""

    ONNX = "onnx"
    TFLITE = "tflite"


# Every ONNX file is written in this opset: with IR version 8 it is read by every onnxruntime since 1.14, the last one
# for Python 3.7.
ONNX_OPSET = 18


class Precision(StrEnum):
    """What a variant's weights and arithmetic were made, in one vocabulary for both formats.

    W8 and W4 are integer weights in float arithmetic. INT8_DYNAMIC takes the ranges of activations anew at each
    inference, INT8 and INT16X8 (16-bit activations, 8-bit weights) from the calibration split.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    W8 = "w8"
    W4 = "w4"
    INT8_DYNAMIC = "int8-dynamic"
    INT8 = "int8"
    INT16X8 = "int16x8"

    @property
    def calibrated(self) -> bool:
        """Whether the ranges of activations are taken from examples."""
        return self in (Precision.INT8, Precision.INT16X8)


class Int8Form(StrEnum):
    """How a static int8 file encodes activations, then weights: unsigned or signed, with a zero point or symmetric.

    Weights are symmetric and per output channel, but for U8U8, whose weights have a zero point. U8S7 is U8S8 with
    weights of seven bits, of which no two products overflow sixteen bits. S8S8_SYMMETRIC has no zero point at all.
    TFLite knows one form alone, signed with a zero point.
    """

    U8S8 = "u8s8"
    U8S7 = "u8s7"
    U8U8 = "u8u8"
    S8S8 = "s8s8"
    S8S8_SYMMETRIC = "s8s8-symmetric"

    @property
    def trainable(self) -> bool:
        """Whether it holds what is trained once for both formats: zero points, and weights of eight bits."""
        return self in (Int8Form.U8S8, Int8Form.S8S8, Int8Form.U8U8)


CalibrationMethod = Literal["minmax", "percentile", "mse", "entropy"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the ranges of activations are taken from examples of the calibration split.

    "minmax" keeps all that was seen, "percentile" cuts off the rest, "mse" takes the range with the least squared
    error, "entropy" that with the least divergence.
    """

    method: CalibrationMethod = "minmax"
    percentile: float = 99.99
    examples: int = 128


@runtime_checkable
class Pass(Protocol):
    """One step from a torch net to a smaller or better torch net.

    An implementation is a frozen dataclass: its fields are its identity, together with `kind` and `version`.
    Raise `version` whenever the same fields would give another net. `tools` names the distributions whose
    version can change the result. A pass that reads files beside the task's names them in a property `reads`, by paths
    from the task's folder: their content then is part of what is asked for.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    tools: ClassVar[tuple[str, ...]]

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the compressed net; may change `model` in place. Raises CompressionError."""


def unwrapped(step: Pass) -> Pass:
    """The pass that does the work: the innermost where passes wrap others in their field `pass_`, else itself."""
    while (inner := getattr(step, "pass_", None)) is not None:
        step = inner
    return step


@dataclass(frozen=True, slots=True)
class Target:
    """One file to export.

    `form` is None where the precision has no choice of forms, or to leave it to the exporter. `calibration` is
    None where no range is taken from examples, or for the default one. `batch` is how many examples the file takes
    at once, None for what the format does by itself: any number in ONNX, one in TFLite.
    """

    format: Format
    precision: Precision
    form: Int8Form | None = None
    calibration: Calibration | None = None
    batch: int | None = None

    def __str__(self) -> str:
        parts = (self.format, self.precision, self.form, f"batch{self.batch}" if self.batch else None)
        return "-".join(part for part in parts if part)

    @property
    def static_batch(self) -> int | None:
        """How many examples the file takes at once, None for any number."""
        return self.batch or (1 if self.format is Format.TFLITE else None)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Ordered passes and the targets to export afterwards.

    `max_drop` is what a file of any precision but fp32 may lose of the metric at most, with 95 % confidence; layers go
    back to float until it does. None leaves a file as it comes out.
    """

    name: str
    passes: tuple[Pass, ...]
    targets: tuple[Target, ...]
    max_drop: float | None = None


@dataclass(frozen=True, slots=True)
class PassSettings:
    """What is kept of a pass in a variant's record: enough to say what was done, not to do it again."""

    kind: str
    version: int
    settings: Mapping[str, Any]
