"""Converters and runtimes chatter on stdout, stderr and in warnings; what a user reads should be ours alone."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator

_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what foreign code prints, logs or warns of meanwhile, native code included.

    It works on the whole process (file descriptors 1 and 2, warning filters, logging), so only one thread at a
    time is inside; others wait. Exceptions pass.
    """
    with _LOCK, contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_no_logging())
        stack.enter_context(_no_descriptor_output())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


@contextlib.contextmanager
def _no_logging() -> Iterator[None]:
    handlers, level = list(logging.root.handlers), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        # logging.warning() and its like add a handler to a root that has none.
        logging.root.handlers[:] = handlers


@contextlib.contextmanager
def _no_descriptor_output() -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        with tempfile.TemporaryFile() as sink:
            for descriptor in saved:
                os.dup2(sink.fileno(), descriptor)
            yield
    finally:
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
