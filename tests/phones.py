"""Phones for the tests: a real adbd, seen through an adb server of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from edgedeploy.transport.adb import AdbTransport
from tools.adbd import SERIAL, NoAdbd, NoNamespaces, Phone, phone

# The same phone twice: as it is, and as one from before Android 7, which keeps neither streams nor exit codes.
PHONE_KINDS = ["adb", "adb-v1"]


@contextlib.contextmanager
def a_phone() -> Iterator[Phone]:
    """A phone. Where it cannot be had the test fails; only what a kernel forbids, and nobody can install, skips it."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(phone())
        except NoNamespaces as why:
            pytest.skip(f"no adbd: {why}")
        except NoAdbd as why:
            pytest.fail(f"no adbd: {why}", pytrace=False)
        yield found


def transport_to_phone(phone: Phone, kind: str = "adb", silence_s: float = 5.0) -> AdbTransport:
    """A transport to the phone, not yet connected."""
    return AdbTransport(
        "board", SERIAL, environment=phone.environment, legacy=kind == "adb-v1", silence_s=silence_s, ready_s=3.0
    )
