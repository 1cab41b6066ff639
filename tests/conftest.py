"""What every test may rely on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tools.lab import Lab


def pytest_configure() -> None:
    """Let Ctrl-C be felt here and by the programs that the tests start.

    Whoever runs the tests in the background hands down a SIGINT that is ignored, and so would all our children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The virtual lab with all its boards, which other test processes use too.

    A test that breaks something has the board to itself: `with lab.borrow("pi4") as board:` also mends it.
    """
    from tools.lab import Lab, LabError
    from tools.lab.system import check_machine

    try:
        check_machine(emulated=True)
    except LabError as error:
        pytest.skip(str(error))
    with Lab().in_use() as lab:
        yield lab
