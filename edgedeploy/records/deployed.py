"""What is active on a board, and how a user wants releases to be made so."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class DeploySettings:
    """What a user says about deploying; None for what is left to the next authority: device, plan, defaults.

    `key` names the signing key. `reload` and `health` are commands on the board, as argv: the first tells the
    application of a new release, the second succeeds once it is well. `unit` is a systemd unit that stands for both,
    `user_unit` one of the user who logs in. A median run may take `max_slowdown` times what it took when the variant
    was selected, and compared with the release before, measured in the same minute, that much more than then.
    """

    key: str | None = None
    valid_days: float | None = None
    reload: tuple[str, ...] | None = None
    reload_timeout_s: float | None = None
    health: tuple[str, ...] | None = None
    health_timeout_s: float | None = None
    unit: str | None = None
    user_unit: str | None = None
    attempts: int | None = None
    pause_s: float | None = None
    max_slowdown: float | None = None
    steady_s: float | None = None

    def over(self, others: DeploySettings) -> DeploySettings:
        """These settings where they say something, else the others'. Commands and units are one thing to say."""
        said = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        if not said.keys().isdisjoint(_TELLING):
            said = dict.fromkeys(_TELLING) | said
        return replace(others, **said)


_TELLING = ("reload", "health", "unit", "user_unit")


@dataclass(frozen=True, slots=True)
class Release:
    """A release on a board; times are ISO 8601 in UTC.

    `key` is the fingerprint of the key that signed it, `since` when the board made it what it is, the active one or
    the one before, by the board's clock.
    `drift` says what of its files is no longer as it was signed, empty where all is.
    """

    number: int
    variant_id: str
    variant_name: str
    model_sha256: str
    model_bytes: int
    key: str
    issued_at: str
    expires_at: str
    since: str
    drift: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BoardReleases:
    """What a board had when it was last seen: the active release, the one before, and whom it trusts.

    `trusted` is the fingerprint of the key whose releases it takes, None before its enrolment. `recovered` says what
    was last set right after a crash, or "".
    """

    device: str
    profile: str
    current: Release | None
    previous: Release | None
    highest: int
    trusted: str | None
    seen_at: str
    recovered: str = ""
