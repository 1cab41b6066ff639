"""Where in a file its weights lie: what both formats' readers give to the packer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class NotParsed(Exception):
    """The file is not of the format that it is said to be."""


class Element(Enum):
    """What a tensor is made of; the value is numpy's name of it, little-endian. bfloat16 passes for a short float."""

    INT8 = "<i1"
    UINT8 = "<u1"
    INT16 = "<i2"
    INT32 = "<i4"
    INT64 = "<i8"
    FLOAT16 = "<f2"
    FLOAT32 = "<f4"
    FLOAT64 = "<f8"

    @property
    def size_bytes(self) -> int:
        """Of one entry."""
        return int(self.value[2])

    @property
    def floating(self) -> bool:
        """Whether it has an exponent."""
        return "f" in self.value


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor of a file: its bytes are `content[start:end]`, little-endian in row-major order.

    `shape` is as the file says and not yet checked against the length.
    """

    name: str
    start: int
    end: int
    element: Element
    shape: tuple[int, ...]
