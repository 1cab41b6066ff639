"""Tells a board which key to trust: on first use, or when the user says so, and never otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgedeploy.board import Board
from edgedeploy.deploy.keys import SigningKey
from edgedeploy.deploy.state import ask, look_timeout_s, read_state
from edgedeploy.errors import BoardError
from edgedeploy.on_device.sshsig import ROTATION_NAMESPACE
from edgedeploy.records import BoardReleases, Device


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A board that trusts a key. `known` says whether it was enrolled before, with this key or with another.

    `state` is what it has afterwards.
    """

    device: str
    key: str
    fingerprint: str
    known: bool
    state: BoardReleases


def enrol(board: Board, device: Device, key: SigningKey, replaces: str | None = None) -> Enrolled:
    """Have the board trust the key, and know itself as this device of this profile.

    `replaces` is the fingerprint of the key that it trusts now, where that is another one. Raises BoardError where
    the board trusts another key than that, and the errors of `Board.run_job`.
    """
    operation = {
        "op": "enrol",
        "key": key.public,
        "profile": device.profile,
        "device": device.name,
        "replaces": replaces,
    }
    result, state = _done(board, device, operation, key)
    return Enrolled(device.name, key.name, key.fingerprint, bool(result["known"]), state)


def rotate(board: Board, device: Device, old: SigningKey, new: SigningKey) -> Enrolled:
    """Have the board trust `new` in the place of `old`, by a statement that `old` signs. Raises BoardError."""
    state = ask(board)
    check_trust(board, device, old, state["trust"])
    if state["trust"] is None:
        raise BoardError(f"{device.name}: not enrolled yet; run `edgedeploy keys enrol --device {device.name}`.")
    statement = json.dumps(
        {
            "kind": "rotation",
            "key": new.public,
            "device": device.name,
            "profile": device.profile,
            "serial": state["trust"]["serial"] + 1,
        },
        sort_keys=True,
    )
    operation = {"op": "rotate", "statement": statement, "signature": old.sign(statement, ROTATION_NAMESPACE)}
    _, after = _done(board, device, operation, new)
    return Enrolled(device.name, new.name, new.fingerprint, known=True, state=after)


def check_trust(board: Board, device: Device, key: SigningKey, trust: Mapping[str, Any] | None) -> None:
    """Raise BoardError where an enrolled board trusts another key, or knows itself as another board."""
    if trust is None:
        return
    if trust["fingerprint"] != key.fingerprint:
        raise BoardError(
            f"{board.name}: the board trusts another key than `{key.name}` ({key.fingerprint}): {_shown(trust)}; "
            f"if that is an old one of yours, run `edgedeploy keys rotate --device {device.name} --to {key.name}`, "
            "else find out who changed it."
        )
    for what, ours in (("profile", device.profile), ("device", device.name)):
        if trust[what] != ours:
            raise BoardError(
                f"{board.name}: the board was enrolled as {what} {trust[what]!r} and fleet.toml says {ours!r}; correct "
                f"fleet.toml, or run `edgedeploy keys enrol --device {device.name}`."
            )


def _shown(trust: Mapping[str, Any]) -> str:
    said = str(trust["fingerprint"])
    return said if len(said) == 50 and said.isascii() and said.isprintable() else "an unreadable one"


def _done(
    board: Board, device: Device, operation: Mapping[str, Any], key: SigningKey
) -> tuple[dict[str, Any], BoardReleases]:
    """What came of an operation that makes the board trust the key, and what the board has then, in one round trip."""
    report = board.run_job([operation, {"op": "releases"}], timeout_s=look_timeout_s(board))
    result = board.result(report, 0)
    if result["fingerprint"] != key.fingerprint:
        raise BoardError(f"{board.name}: the board did not take the key {key.fingerprint}; look at it by hand.")
    return result, read_state(device, board.result(report, 1))
