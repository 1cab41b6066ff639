"""Checks a signature on the board by a tool or library that others keep: ssh-keygen, else cryptography or PyNaCl."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from typing import Any

from .children import Children
from .failures import Refused
from .interpreter import installed
from .sshsig import MalformedSignature, fingerprint, opened, raw_key, signed_data

SIGNER = "edgedeploy"
_TIMEOUT_S = 60.0
_FOLDERS = "/usr/bin:/usr/local/bin:/bin"
# Each with the module that does it; a provisioned runtime may bring the second.
LIBRARIES = {"cryptography": "cryptography.hazmat.primitives.asymmetric.ed25519", "nacl": "nacl.signing"}


def verify_signature(message: bytes, signature: str, signers: str, key: bytes, namespace: str, workspace: str) -> None:
    """Check that `key`, the one in the file `signers`, signed `message` for `namespace`.

    Raises Refused, with the reason, for anything else; OSError.
    """
    try:
        signer, said, raw = opened(signature)
    except MalformedSignature as error:
        raise Refused(str(error)) from error
    if signer != key:
        raise Refused(f"it is signed by the key {fingerprint(signer)}; this board trusts {fingerprint(key)} alone")
    if said != namespace:
        raise Refused(f"its signature is for {said[:40]!r}, not for {namespace!r}")
    tool = ssh_keygen()
    if tool is not None:
        _by_tool(tool, message, signature, signers, key, namespace, workspace)
        return
    question = {"key": raw_key(key).hex(), "signature": raw.hex(), "data": signed_data(message, namespace).hex()}
    # In a process of its own: one whose libraries do not fit takes the process down with it.
    children = Children(workspace)
    for library in filter(installed, LIBRARIES):
        answer = children.run("verify", dict(question, library=library), _TIMEOUT_S)
        if answer["outcome"] == "ok":
            return
        if answer["outcome"] == "mismatch":
            raise Refused("its signature is wrong: it was changed after it was signed")
    raise Refused(
        "nothing on this board can check its signature: run `edgedeploy provision`, install openssh-client 8.2 or "
        "later, or python3-cryptography or python3-nacl for the Python that edgedeploy uses"
    )


def check_by_library(library: str, key: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether one of LIBRARIES finds the signature good. Raises ImportError where it does not load."""
    module: Any = importlib.import_module(LIBRARIES[library])
    exceptions: Any = importlib.import_module(f"{library}.exceptions")
    wrong = exceptions.InvalidSignature if library == "cryptography" else exceptions.BadSignatureError
    try:
        if library == "cryptography":
            module.Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
        else:
            module.VerifyKey(key).verify(data, signature)
    except wrong:
        return False
    return True


def ssh_keygen() -> str | None:
    """Return the tool's path where it is new enough to know -Y; an old one does not know the option at all."""
    path = shutil.which("ssh-keygen", path=os.environ.get("PATH", _FOLDERS))
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, "-Y"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env=_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return path if b"requires an argument" in done.stderr else None


def _by_tool(
    tool: str, message: bytes, signature: str, signers: str, key: bytes, namespace: str, workspace: str
) -> None:
    path = os.path.join(workspace, "signature")
    with open(path, "w", encoding="ascii", errors="replace") as file:
        file.write(signature)
    argv = [tool, "-Y", "verify", "-f", signers, "-I", SIGNER, "-n", namespace, "-s", path]
    try:
        done = subprocess.run(
            argv, check=False, input=message, capture_output=True, timeout=_TIMEOUT_S, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"ssh-keygen did not check its signature within {_TIMEOUT_S:g} s") from error
    told = done.stdout.decode("utf-8", "replace")
    good = told.startswith(f'Good "{namespace}" signature for {SIGNER} ') and fingerprint(key) in told.split()
    if done.returncode != 0 or not good:
        raise Refused("its signature is wrong: it was changed after it was signed")


def _environment() -> dict[str, str]:
    return dict(os.environ, LC_ALL="C", LANGUAGE="C")
