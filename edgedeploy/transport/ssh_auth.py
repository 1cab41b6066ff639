"""Logging in with keys, from files or from the agent, and saying what was tried when none is taken."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.errors import AuthError, TransportTimeout

if TYPE_CHECKING:
    import paramiko

    from edgedeploy.transport.ssh_config import Host


def authenticate(board: str, transport: paramiko.Transport, host: Host) -> None:
    """Log in with the first key that the server takes; never asks for a password.

    Raises AuthError naming user and keys, TransportTimeout, and paramiko's exceptions when the connection breaks.
    """
    import paramiko

    tried: list[str] = []
    for label, key in _keys(host, tried):
        tried.append(label)
        started = time.monotonic()
        try:
            still_wanted = transport.auth_publickey(host.user, key)
        except paramiko.BadAuthenticationType as error:
            raise AuthError(
                board,
                f"{host.hostname} lets nobody in by key as {host.user} (it takes: {', '.join(error.allowed_types)}); "
                "allow PubkeyAuthentication in the board's sshd_config.",
            ) from error
        except paramiko.AuthenticationException as error:
            if transport.is_active() and time.monotonic() - started >= transport.auth_timeout:
                raise TransportTimeout(
                    board, f"{host.hostname} did not answer the login as {host.user} in {transport.auth_timeout:g} s."
                ) from error
            if transport.is_active():
                continue
            raise AuthError(
                board,
                f"{host.hostname} closed the connection during the login as {host.user} (tried: {', '.join(tried)}); "
                "name the right key alone with IdentityFile and IdentitiesOnly in your ssh_config.",
            ) from error
        if not still_wanted:
            return
        raise AuthError(
            board,
            f"{host.hostname} takes the key {label} of {host.user} but wants a second proof; "
            "let the key alone suffice (AuthenticationMethods in the board's sshd_config).",
        )
    names = ", ".join(tried) or f"none: neither {', '.join(map(str, host.identity_files))} nor an agent's key is there"
    raise AuthError(
        board,
        f"{host.hostname} refuses the user {host.user} with every key tried ({names}); "
        f"check the user's name, or enrol a key with `ssh-copy-id -p {host.port} {host.user}@{host.hostname}`.",
    )


def _keys(host: Host, notes: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """The keys to try in OpenSSH's order; a file that cannot be used leaves its reason in `notes`."""
    agent = _agent(notes) if host.use_agent else None
    try:
        in_agent = {key.asbytes(): key for key in agent.get_keys()} if agent is not None else {}
        named = {blob: file for file in host.identity_files if (blob := _public_blob(file)) in in_agent}
        for blob, file in named.items():
            yield f"{file} (agent)", in_agent[blob]
        if not host.only_these_identities:
            for blob, agent_key in in_agent.items():
                if blob not in named:
                    yield f"{agent_key.comment or agent_key.get_name()} (agent)", agent_key
        for file in host.identity_files:
            if file not in named.values() and file.is_file():
                key = _load(file, notes)
                if key is not None:
                    yield str(file), key
    finally:
        if agent is not None:
            agent.close()


def _agent(notes: list[str]) -> paramiko.Agent | None:
    import paramiko

    try:
        return paramiko.Agent()
    except (paramiko.SSHException, OSError) as error:
        notes.append(f"the agent does not answer, {error}")
        return None


def _load(file: Path, notes: list[str]) -> paramiko.PKey | None:
    import paramiko
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return paramiko.PKey.from_path(file)
    except (TypeError, paramiko.PasswordRequiredException):
        notes.append(f"{file} has a passphrase: run `ssh-add {file}` first")
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType, UnsupportedAlgorithm) as error:
        notes.append(f"{file} cannot be used: {error}")
    return None


def _public_blob(file: Path) -> bytes:
    try:
        fields = Path(f"{file}.pub").read_text("utf-8").split()
        return base64.b64decode(fields[1], validate=True)
    except (OSError, ValueError, IndexError):
        return b""
