"""Prints what the verbs about releases and keys return: lines for people, or the records as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from edgedeploy.cli.console import out, print_json
from edgedeploy.cli.visits import print_errors, print_passed_over, visit_record
from edgedeploy.cli.words import bytes_text, milliseconds
from edgedeploy.errors import ExitCode
from edgedeploy.lab import worst_exit_code

if TYPE_CHECKING:
    from edgedeploy.deploy import Activated, Collected, Enrolled, SigningKey
    from edgedeploy.lab import Visited
    from edgedeploy.records import BoardReleases, Release


def print_activated(visits: Sequence[Visited[Activated]], *, as_json: bool) -> int:
    """What became active on each board; returns the exit code."""
    if as_json:
        return _records(visits)
    for visited in visits:
        done = visited.value
        if done is None:
            continue
        if done.enrolled:
            _line(f"{done.device}: enrolled; from now on it takes releases of the key {done.enrolled} alone.")
        if done.already:
            _line(f"{done.device}: {done.variant} is active already, as release {done.number}; --afresh deploys again.")
            continue
        before = done.state.previous
        took = f", {milliseconds(done.p50_ms)} ms a run" if done.p50_ms is not None else ""
        beside = f" ({milliseconds(done.before_p50_ms)} ms before)" if done.before_p50_ms is not None else ""
        was = f"; before: release {before.number}, {before.variant_name}" if before else ""
        _line(f"{done.device}: release {done.number}, {done.variant}, is active{took}{beside}{was}.")
        for note in done.notes:
            _line(f"  {note}")
    print_passed_over(visits)
    return print_errors(visits)


def print_status(
    visits: Sequence[Visited[BoardReleases | None]], stored: Mapping[str, BoardReleases | None], *, as_json: bool
) -> int:
    """What each board has, or had when it was last seen; exit code 1 where files strayed from what was signed."""
    if as_json:
        print_json([_record(visited, releases=stored[visited.device]) for visited in visits])
    for visited in visits if not as_json else ():
        name, seen = visited.device, stored[visited.device]
        if visited.passed_over:
            continue
        if seen is None:
            _line(f"{name}: never seen by `deploy` or `status`.")
            continue
        when = "" if visited.value is not None else f" (as of {seen.seen_at})"
        trust = f"trusts {seen.trusted}" if seen.trusted else "not enrolled"
        if seen.current is None:
            _line(f"{name}: no release is active{when}; {trust}.")
        else:
            _line(f"{name}: {_release(seen.current)}{when}; {trust}.")
        if seen.previous is not None:
            _line(f"  before: {_release(seen.previous, 'kept as the one before since')}")
        for release in (seen.current, seen.previous):
            for drift in release.drift if release else ():
                out.print(
                    f"  [red]release {release.number if release else ''} strayed[/]: {escape(drift)}", soft_wrap=True
                )
        if seen.recovered:
            _line(f"  last set right after a crash: {seen.recovered}")
    if not as_json:
        print_passed_over(visits)
    code = print_errors(visits)
    strayed = any(release.drift for seen in stored.values() if seen for release in (seen.current,) if release)
    return code or (ExitCode.NOTHING_QUALIFIES if strayed else ExitCode.DONE)


def print_collected(visits: Sequence[Visited[Collected]], *, as_json: bool) -> int:
    """What was removed from each board; returns the exit code."""
    if as_json:
        return _records(visits)
    for visited in visits:
        if (done := visited.value) is not None:
            will = "would remove" if done.dry_run else "removed"
            freed = "would free" if done.dry_run else "freed"
            _line(f"{done.device}: {will} {done.count}, {freed} {bytes_text(done.freed_bytes)}.")
            for name in done.removed:
                _line(f"  {name}")
    print_passed_over(visits)
    return print_errors(visits)


def print_enrolled(visits: Sequence[Visited[Enrolled]], *, as_json: bool) -> int:
    """Which key each board trusts now; returns the exit code."""
    if as_json:
        return _records(visits)
    for visited in visits:
        if (done := visited.value) is not None:
            _line(f"{done.device}: takes releases of the key {done.key} ({done.fingerprint}) alone.")
    print_passed_over(visits)
    return print_errors(visits)


def print_keys(keys: Sequence[SigningKey], *, as_json: bool) -> None:
    """Names, fingerprints and files."""
    if as_json:
        print_json([_key(key) for key in keys])
        return
    for key in keys:
        _line(f"{key.name}  {key.fingerprint}  {key.path}")
    if not keys:
        _line("No key yet; make one with `edgedeploy keys new NAME`.")


def print_key(key: SigningKey, *, as_json: bool) -> None:
    """All about one key but its secret."""
    if as_json:
        print_json(_key(key))
        return
    for name, value in _key(key).items():
        _line(f"{name}: {value}")


def _key(key: SigningKey) -> dict[str, str]:
    return {"name": key.name, "fingerprint": key.fingerprint, "public": key.public, "file": str(key.path)}


def _release(release: Release, state: str = "since") -> str:
    return (
        f"release {release.number}, {release.variant_name or 'unknown'}, {state} {release.since}, "
        f"signed by {release.key or 'nobody'}"
    )


def _line(text: str) -> None:
    out.print(escape(text), soft_wrap=True)


def _records(visits: Sequence[Visited[Any]]) -> int:
    print_json([_record(visited, result=visited.value) for visited in visits])
    return worst_exit_code(visits)


def _record(visited: Visited[Any], **more: Any) -> dict[str, Any]:
    told = {name: None if value is None else asdict(value) for name, value in more.items()}
    return visit_record(visited) | {"passed_over": visited.passed_over or None} | told
