"""Foreign chatter is swallowed, and everything is as before afterwards."""
# ruff: noqa: T201  what is printed here is what must not be heard

import logging
import os
import sys
import warnings

import pytest

from edgedeploy.quiet import quiet


def test_prints_logs_warnings_and_native_output_are_swallowed(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.root.handlers)
    print("before")
    with quiet():
        print("python")
        print("python", file=sys.stderr)
        os.write(1, b"native")
        os.write(2, b"native")
        warnings.warn("a warning", stacklevel=1)
        logging.warning("a log entry")  # adds a handler where there is none
        logging.getLogger("deep.inside").error("another")
    print("after")
    os.write(2, b"native again")
    assert capfd.readouterr() == ("before\nafter\n", "native again")
    assert logging.root.handlers == handlers
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


def test_exceptions_pass_and_it_nests(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with quiet(), quiet():
            print("inside")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    print("outside")
    assert capfd.readouterr().out == "outside\n"
    assert logging.getLogger().isEnabledFor(logging.CRITICAL)
