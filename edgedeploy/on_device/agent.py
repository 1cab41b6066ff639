"""The board's side of a job: read it, do its operations one by one, leave a report or nothing at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from .documents import read_json, write_json
from .facts import board_summary
from .failures import Refused
from .interpreter import VARIABLE, installed, own_zip
from .lock import Locked, board_lock
from .objects import admit, inventory
from .plain_files import write_all
from .reply import frame, take_output, unpack_job
from .schema import SCHEMA, MalformedDocument, check_envelope, check_operation
from .stopping import Stopped, stop_by_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_USAGE = """\
usage: agent (JOB | --inline PACKED_JOB) (REPORT | --reply TOKEN) [--tethered] [--bundle SHA256]
       agent --recover ROOT

JOB is the JSON document that says what to do, REPORT is where to write what came out; with --reply that goes to
standard output, framed. A tethered agent stops when standard input ends. --bundle is the provisioned runtime under the
job's root to use. --recover only sets right what a crash left among the releases there."""
_IMPORT_TIMEOUT_S = 120.0
_GRACE_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when a report was written, 2 for a job that cannot be read, 1 for a report that cannot be written.

    After a signal, or after the end of input when tethered, children are dead, an activation under way is taken back
    (or brought to its end where it was proven), there is no report, and the status is 128 plus the signal's number.
    """
    given = _options(sys.argv[1:] if arguments is None else arguments)
    if given is None:
        print(_USAGE, file=sys.stderr)  # noqa: T201
        return 2
    if "--recover" in given:
        return _recover(given["--recover"])
    output = take_output() if "--reply" in given else -1
    stop_by_signals()
    try:
        if "--tethered" in given:
            threading.Thread(target=_stop_at_end_of_input, name="tether", daemon=True).start()
        return _run(given, output)
    except Stopped as stopped:
        return 128 + stopped.signal_number


def _options(arguments: list[str]) -> dict[str, str] | None:
    """Return what is given, by its name in the usage, or None where that is no usage.

    By hand because a slow board feels what argparse takes to load.
    """
    given: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if word == "--tethered":
            given[word] = ""
        elif word in ("--inline", "--reply", "--bundle", "--recover"):
            value = next(words, None)
            if value is None:
                return None
            given[word] = value
        else:
            place = "report" if "job" in given else "job"
            if word.startswith("-") or place in given:
                return None
            given[place] = word
    once = ("job" in given) != ("--inline" in given) and ("report" in given) != ("--reply" in given)
    return given if once or list(given) == ["--recover"] else None


def _recover(root: str) -> int:
    """Do before the application starts what the next operation would do first. Returns 0, or 1 where it cannot."""
    try:
        _settle(os.path.abspath(root), starting=True)
    except (Refused, OSError) as error:
        print(f"edgedeploy-agent: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run(given: dict[str, str], output: int) -> int:
    started_unix_ns = time.time_ns()
    try:
        job = unpack_job(given["--inline"]) if "--inline" in given else read_json(given["job"])
        check_envelope(job)
    except (OSError, ValueError) as error:
        print(f"edgedeploy-agent: the job cannot be used: {error}", file=sys.stderr)  # noqa: T201
        return 2
    os.environ.pop(VARIABLE, None)
    if "--bundle" in given:
        os.environ[VARIABLE] = os.path.join(job["root"], "runtimes", given["--bundle"])
    results = [
        _attempt(operation, f"operations[{place}]", job["root"]) for place, operation in enumerate(job["operations"])
    ]
    report = {
        "schema": SCHEMA,
        "agent_sha256": own_digest(),
        "board": board_summary(),
        "started_unix_ns": started_unix_ns,
        "finished_unix_ns": time.time_ns(),
        "results": results,
    }
    try:
        if "--reply" in given:
            content = json.dumps(report, allow_nan=False, default=list).encode()
            write_all(output, frame(content, given["--reply"]))
        else:
            write_json(given["report"], report)
    except OSError as error:
        print(f"edgedeploy-agent: the report cannot be written: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _attempt(operation: Any, where: str, root: str) -> dict[str, Any]:
    """Return the operation's result, or what kept it from one; the next operation is tried either way."""
    name = operation.get("op") if isinstance(operation, dict) else None
    try:
        check_operation(operation, where)
        _settle(root)
        return _OPERATIONS[operation["op"]](operation, root)
    except Locked as error:
        return _error(name, "locked", error)
    except MalformedDocument as error:
        return _error(name, "bad_job", error)
    except Refused as error:
        return _error(name, "refused", error)
    except OSError as error:
        return _error(name, "io", error)


def _error(name: Any, kind: str, error: Exception) -> dict[str, Any]:
    return {"op": name if isinstance(name, str) else "", "error": {"kind": kind, "message": str(error)[:2000]}}


# A zip keeps no compiled modules: what only some operations need is loaded by those, which a slow board feels.


def _facts(_operation: dict[str, Any], root: str) -> dict[str, Any]:
    import tempfile

    from .children import Children
    from .facts import board_facts
    from .runtimes import RUNTIMES
    from .signatures import LIBRARIES, ssh_keygen

    with tempfile.TemporaryDirectory(prefix="edgedeploy-") as folder:
        children = Children(folder)

        def versions(every: Iterable[str]) -> dict[str, str]:
            # To start Python for the others costs a slow board seconds.
            names = [name for name in every if installed(name)]
            answers = {name: children.run("version", {"runtime": name}, _IMPORT_TIMEOUT_S) for name in names}
            return {name: answer["version"] for name, answer in answers.items() if answer["outcome"] == "ok"}

        def packages() -> dict[str, str]:
            return versions(["numpy", *sorted({name for known in RUNTIMES.values() for name, _, _ in known})])

        verifier = "ssh-keygen" if ssh_keygen() else next(iter(versions(LIBRARIES)), "")
        return {"op": "facts", "facts": dict(board_facts(root, packages), verifier=verifier)}


def _health(_operation: dict[str, Any], _root: str) -> dict[str, Any]:
    from .conditions import snapshot
    from .power import open_source

    source, why_not = open_source()
    return {"op": "health", "state": snapshot(), "power": source.name if source else "", "no_power": why_not}


def _profile(operation: dict[str, Any], root: str) -> dict[str, Any]:
    from .children import Children
    from .measuring import Measurement
    from .workspace import workspace

    with board_lock(root), workspace(root) as folder:
        return {"op": "profile", "variants": Measurement(operation, root, Children(folder)).run()}


def _release(operation: dict[str, Any], root: str) -> dict[str, Any]:
    from . import activating, collecting, reporting, trust

    handlers = {
        "releases": reporting.release_state,
        "enrol": trust.enrol,
        "rotate": trust.rotate,
        "deploy": activating.deploy,
        "rollback": activating.rollback,
        "collect": collecting.collect,
    }
    return handlers[operation["op"]](operation, root)


def _settle(root: str, starting: bool = False) -> None:
    """Set right what a crash left among releases, where there ever were any. Raises Refused, OSError."""
    if os.path.isdir(os.path.join(root, "releases")):
        from .links import unsettled

        if unsettled(root):
            from .activating import settle

            settle(root, starting)


def _unpack_runtime(operation: dict[str, Any], root: str) -> dict[str, Any]:
    from .runtime_bundles import unpack_runtime

    return unpack_runtime(operation, root)


def _tidy_runtimes(operation: dict[str, Any], root: str) -> dict[str, Any]:
    from .runtime_bundles import tidy_runtimes

    return tidy_runtimes(operation, root)


_OPERATIONS: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "facts": _facts,
    "health": _health,
    "inventory": inventory,
    "admit": admit,
    "profile": _profile,
    "enrol": _release,
    "rotate": _release,
    "deploy": _release,
    "rollback": _release,
    "releases": _release,
    "collect": _release,
    "unpack_runtime": _unpack_runtime,
    "tidy_runtimes": _tidy_runtimes,
}


def own_digest() -> str:
    """Return the SHA-256 of the zip this code runs from; of its files, sorted, where it runs from a folder."""
    zipped, package = own_zip(), os.path.dirname(os.path.abspath(__file__))
    modules = [] if zipped else sorted(name for name in os.listdir(package) if name.endswith(".py"))
    paths = [zipped] if zipped else [os.path.join(package, name) for name in modules]
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def _stop_at_end_of_input() -> None:
    try:
        while os.read(0, 65536):
            pass
    except OSError:
        pass  # no standard input at all: nobody holds the other end
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)  # so long the main thread may clear up, and its end ends this thread with it
    # It sits in a call that no signal ends, such as a write to a dead disk. Workers die with us.
    os._exit(128 + signal.SIGTERM)
