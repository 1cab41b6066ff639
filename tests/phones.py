"""Phones for the tests: a real adbd where this machine can have one, and peers that only say they are phones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from edgedeploy.transport.adb import AdbTransport
from tools.adbd import SERIAL, NoAdbd, Phone, phone

# The same phone twice: as it is, and as one from before Android 7, which keeps neither streams nor exit codes.
PHONE_KINDS = ["adb", "adb-v1"]


@contextlib.contextmanager
def a_phone() -> Iterator[Phone]:
    """A phone, or the test is skipped with the reason."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(phone())
        except NoAdbd as why:
            pytest.skip(f"no adbd: {why}")
        yield found


def transport_to_phone(phone: Phone, kind: str = "adb", silence_s: float = 5.0) -> AdbTransport:
    """A transport to the phone, not yet connected."""
    return AdbTransport(
        "board", SERIAL, environment=phone.environment, legacy=kind == "adb-v1", silence_s=silence_s, ready_s=3.0
    )
