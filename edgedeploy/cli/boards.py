"""Prints what is found out about boards, and asks about their host keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from edgedeploy.cli.console import out, print_json
from edgedeploy.errors import HostKeyError, OfferedKey
from edgedeploy.lab.discovery import PROFILE_TO_CHOOSE, Candidate
from edgedeploy.lab.enrolment import Enrolled
from edgedeploy.plan import FLEET_FILE
from edgedeploy.plan.enrolling import device_toml
from edgedeploy.transport.known_hosts import fingerprint


class HostKeys:
    """Decides on host keys that are not known yet: by fingerprints given, by a blanket yes, or by asking."""

    def __init__(self, *, yes: bool, fingerprints: Sequence[str], may_ask: bool) -> None:
        self._yes, self._fingerprints, self._may_ask = yes, fingerprints, may_ask

    def confirm(self, key: OfferedKey) -> bool:
        """Whether to trust the key. Raises HostKeyError where another one was to be shown."""
        shown = fingerprint(key.blob)
        if self._fingerprints:
            if shown not in self._fingerprints:
                wanted = ", ".join(self._fingerprints)
                raise HostKeyError(key.name, f"it shows the {key.key_type} host key {shown}, not {wanted}.")
            return True
        if self._yes:
            return True
        if not self._may_ask:
            return False
        typer.echo(f"{key.name} is not known yet and shows this {key.key_type} host key:\n  {shown}", err=True)
        typer.echo("On the board, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` shows its own.", err=True)
        return typer.confirm(f"Is it the same? Then it is added to {key.file}.", default=False, err=True)


def print_candidates(found: Sequence[Candidate], notes: Sequence[str], *, as_json: bool) -> None:
    """Tables to paste into fleet.toml."""
    if as_json:
        print_json([asdict(candidate) for candidate in found])
    else:
        for candidate in found:
            print(f"# {candidate.seen}" + (f"; {candidate.state}" if candidate.state else ""))
            print(device_toml(candidate.table()))
        if any(candidate.profile is None for candidate in found):
            print(f"# Put a kind of board in place of {PROFILE_TO_CHOOSE}; or `edgedeploy devices add NAME ADDRESS`,")
            print("# which asks the board what it is.")
        if not found:
            out.print("No board was found that is not in the fleet already.")
    for note in notes:
        typer.echo(f"edgedeploy: {note}.", err=True)


def print_enrolled(enrolled: Enrolled, project: Path, *, as_json: bool) -> None:
    """What was added, and how to go on."""
    keys = [{"name": k.name, "fingerprint": fingerprint(k.blob), "file": str(k.file)} for k in enrolled.keys]
    if as_json:
        print_json(
            {"device": dict(enrolled.table), "machine": enrolled.machine, "model": enrolled.model, "host_keys": keys}
        )
        return
    for key in keys:
        out.print(f"{key['name']}: {key['fingerprint']} is known from now on ({key['file']}).", soft_wrap=True)
    name = enrolled.table["name"]
    what = enrolled.model or enrolled.machine
    out.print(f"{project / FLEET_FILE}: {name} added ({what}, profile {enrolled.table['profile']}).", soft_wrap=True)
    there = "" if project.resolve() == Path.cwd() else f" --project {project}"
    out.print(f"Next: edgedeploy doctor --device {name}{there}", soft_wrap=True)
