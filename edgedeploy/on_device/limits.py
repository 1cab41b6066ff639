"""Bounds that more than one kind of document keeps to."""

from __future__ import annotations

MAX_OBJECT_BYTES = 1 << 36
MAX_MANIFEST_BYTES = 64 << 10
# Of a release.
MAX_NUMBER = 1 << 31
