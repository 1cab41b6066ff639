"""Has ssh-agent sign with a key that it holds, by OpenSSH's own tools: such a key is never in our hands."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgedeploy.errors import PlanError
from edgedeploy.on_device.sshsig import MalformedSignature, public_blob

_ASKING_S = 30.0
# A person may have to confirm it, or to touch a token.
_SIGNING_S = 120.0


def held_by_agent(public: str) -> bool:
    """Whether the agent that SSH_AUTH_SOCK names holds the private part of this public key. Raises PlanError."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        return False
    listed = _run(["ssh-add", "-L"], b"", _ASKING_S).stdout.decode("utf-8", "replace").splitlines()
    return public_blob(public) in {blob for line in listed if (blob := _blob(line)) is not None}


def sign_by_agent(public: str, message: bytes, namespace: str) -> str:
    """The signature in OpenSSH's form, as the text of its file. Raises PlanError with what the tool says."""
    with tempfile.TemporaryDirectory(prefix="edgedeploy-") as folder:
        # A public key with no private file beside it, so that the agent alone is asked.
        path = Path(folder) / "key.pub"
        path.write_text(f"{public}\n", "utf-8")
        done = _run(["ssh-keygen", "-Y", "sign", "-q", "-n", namespace, "-f", str(path)], message, _SIGNING_S)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
        raise PlanError(f"ssh-agent did not sign the release ({said}); unlock it or add the key again with `ssh-add`.")
    return done.stdout.decode("utf-8", "replace")


def _blob(line: str) -> bytes | None:
    try:
        return public_blob(line)
    except MalformedSignature:
        return None  # of another kind than ed25519


def _run(argv: Sequence[str], content: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    try:
        # Without a terminal of its own, so that it asks nobody but the agent.
        return subprocess.run(
            argv, input=content, capture_output=True, check=False, timeout=timeout_s, start_new_session=True
        )
    except subprocess.TimeoutExpired as error:
        raise PlanError(f"ssh-agent did not answer within {timeout_s:g} s; is it waiting to be unlocked?") from error
    except OSError as error:
        raise PlanError(
            f"`{argv[0]}` cannot be run ({error.strerror}), and it is what asks ssh-agent; install openssh-client."
        ) from error
