"""Releases on a board: keys, signed manifests, activation with probation, rollback, what is active, garbage."""

from edgedeploy.deploy.activation import Activated, Collected, Wanted, activate, back, collect, look
from edgedeploy.deploy.enrolment import Enrolled, enrol, rotate
from edgedeploy.deploy.keys import SigningKey, list_keys, load_key, new_key
from edgedeploy.deploy.manifest import Run, settled

__all__ = [
    "Activated",
    "Collected",
    "Enrolled",
    "Run",
    "SigningKey",
    "Wanted",
    "activate",
    "back",
    "collect",
    "enrol",
    "list_keys",
    "load_key",
    "look",
    "new_key",
    "rotate",
    "settled",
]
