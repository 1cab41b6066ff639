"""What we run from on this board, which Python starts our processes, and where it finds what was provisioned."""

from __future__ import annotations

import glob
import os
import sys

# Set by the agent for itself alone: what its workers start with, and nothing else that it runs.
VARIABLE = "EDGEDEPLOY_BUNDLE"


def own_zip() -> str | None:
    """Return the path of the zip that this code runs from; None where it runs from a folder."""
    path = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return path if os.path.isfile(path) else None


def bundle_in_use() -> str | None:
    """Return the folder of the provisioned runtime that this job is to use, if any."""
    return os.environ.get(VARIABLE) or None


def interpreter(bundle: str | None) -> list[str]:
    """Return the command that starts Python: the bundle's own, else the one that runs now, with its loader.

    `sys.executable` alone does not start where the loader that it names is not on the board, or is another one's.
    """
    for folder in ([bundle] if bundle else []) + [os.path.dirname(os.path.dirname(sys.executable))]:
        python = os.path.join(folder, "bin", "python3")
        loaders = sorted(glob.glob(os.path.join(glob.escape(folder), "lib", "ld-linux*")))
        if loaders and os.path.isfile(python) and os.path.isfile(os.path.join(folder, "bundle.json")):
            return [loaders[-1], "--library-path", os.path.join(folder, "lib"), python]
    return [sys.executable]


def installed(package: str) -> bool:
    """Return whether a worker of this job would find the package, which is not to say that it can import it."""
    # Only here: every job asks what it runs from, few whether a package is there.
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    bundle = bundle_in_use()
    try:
        if bundle and PathFinder.find_spec(package, [os.path.join(bundle, "site")]):
            return True
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return True  # found, and odd: the worker will tell


def environment(bundle: str | None) -> dict[str, str] | None:
    """Return the environment of a worker that is to find the bundle's packages and libraries; None for our own."""
    if not bundle:
        return None
    variables = dict(os.environ, PYTHONPATH=os.path.join(bundle, "site"))
    if interpreter(bundle) == [sys.executable]:
        # Before the board's own: what was brought is what the board lacks or has too old.
        folders = [os.path.join(bundle, "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, folders))
    return variables
