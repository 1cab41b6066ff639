"""What is asked for: formats, precisions, passes and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task


class Format(StrEnum):
    """What kind of file a variant is."""

    ONNX = "onnx"
    TFLITE = "tflite"


class Precision(StrEnum):
    """The arithmetic a variant was exported for."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Pass(Protocol):
    """One step from a torch net to a smaller or better torch net.

    An implementation is a frozen dataclass: its fields are its identity, together with `kind` and `version`.
    Raise `version` whenever the same fields would give another net. `tools` names the distributions whose
    version can change the result.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    tools: ClassVar[tuple[str, ...]]

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the compressed net; may change `model` in place. Raises CompressionError."""


@dataclass(frozen=True, slots=True)
class Target:
    """One file to export: its format and its precision."""

    format: Format
    precision: Precision

    def __str__(self) -> str:
        return f"{self.format}-{self.precision}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Ordered passes and the targets to export afterwards."""

    name: str
    passes: tuple[Pass, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class PassSettings:
    """What is kept of a pass in a variant's record: enough to say what was done, not to do it again."""

    kind: str
    version: int
    settings: Mapping[str, Any]
