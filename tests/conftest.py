"""What every test may rely on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tools.adbd import Phone
    from tools.lab import Lab


# The nets of the tests are small: more threads wait for each other longer than they compute, and every core has a
# process of pytest already. It holds for the programs that the tests start, and torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Let Ctrl-C be felt here and by the programs that the tests start.

    Whoever runs the tests in the background hands down a SIGINT that is ignored, and so would all our children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The virtual lab with all its boards, which other test processes use too. Where it cannot be had its tests fail.

    A test that breaks something has the board to itself: `with lab.borrow("pi4") as board:` also mends it.
    """
    from tools.lab import Lab, LabError

    with ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab().in_use())
        except LabError as error:
            pytest.fail(str(error), pytrace=False)
        yield lab


@pytest.fixture(scope="session")
def phone() -> Iterator[Phone]:
    """A phone for all tests that leave it as it was; one that breaks it starts its own."""
    from tests.phones import a_phone

    with a_phone() as phone:
        yield phone
