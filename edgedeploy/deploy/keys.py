"""The keys that sign releases: ed25519, in OpenSSH's own files, used by the cryptography package or by ssh-agent."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.deploy.agent_keys import held_by_agent, sign_by_agent
from edgedeploy.errors import PlanError
from edgedeploy.on_device.sshsig import (
    MalformedSignature,
    armoured,
    fingerprint,
    opened,
    public_blob,
    raw_key,
    signed_data,
)
from edgedeploy.plan import did_you_mean

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_MAX_KEY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of this user. `public` is its line in OpenSSH's form, without a comment; `path` the private file.

    The private part is in our hands, or ssh-agent holds it, and then there may be no such file.
    """

    name: str
    path: Path
    public: str
    _private: Ed25519PrivateKey | None = field(default=None, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """What `ssh-keygen -l` calls it."""
        return fingerprint(public_blob(self.public))

    def sign(self, message: str, namespace: str) -> str:
        """The signature that `ssh-keygen -Y verify` checks, as the text of its file. The key must be loaded.

        Raises PlanError where ssh-agent holds the key and does not sign with it.
        """
        if self._private is None:
            text = sign_by_agent(self.public, message.encode(), namespace)
            if signer_of(message, text, namespace) != self.fingerprint:
                raise PlanError(
                    f"{self.path}: ssh-agent signed with another key, or something else; look at the agent."
                )
            return text
        signature = self._private.sign(signed_data(message.encode(), namespace))
        return armoured(public_blob(self.public), namespace, signature)


def keys_folder() -> Path:
    """Where this user's keys lie."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(config) if config.startswith("/") else Path.home() / ".config") / "edgedeploy" / "keys"


def new_key(name: str) -> SigningKey:
    """Make a key of this name, for its user alone to read. Raises PlanError where it is there or cannot be kept."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    # A private key of that name would lie where the public one of another key is written.
    if not _NAME.match(name) or name.endswith(".pub"):
        raise PlanError(
            f"a key cannot be called {name!r}: use letters, digits, '.', '_' and '-', at most 64, and no '.pub' at its "
            "end."
        )
    private = Ed25519PrivateKey.generate()
    content = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path = keys_folder() / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        _public_path(path).write_text(f"{public.decode()} edgedeploy {name}\n")
    except FileExistsError:
        raise PlanError(f"{path}: a key of this name is there already; give the new one another name.") from None
    except OSError as error:
        raise PlanError(f"{path}: the key cannot be kept: {error.strerror}.") from error
    return SigningKey(name, path, public.decode(), private)


def list_keys() -> list[SigningKey]:
    """All keys of this user by name, not loaded; files that are no keys are passed over."""
    found = []
    for path in sorted(keys_folder().glob("*.pub")):
        try:
            found.append(_public(path.with_name(path.name.removesuffix(".pub"))))
        except PlanError:
            continue
    return found


def find_key(name: str | None) -> SigningKey:
    """The key of this name, or the only one there is; not loaded. Raises PlanError that lists what is there."""
    keys = {key.name: key for key in list_keys()}
    there = ", ".join(keys) or "none"
    if not keys:
        raise PlanError(f"{keys_folder()}: no key to sign releases with; make one with `edgedeploy keys new NAME`.")
    if name is None and len(keys) > 1:
        raise PlanError(f"there is more than one key ({there}): name one by `--key`, or by `key` of [deploy].")
    if name is not None and name not in keys:
        raise PlanError(f"no key `{name}`{did_you_mean(name, keys)} in {keys_folder()}; there: {there}.")
    return keys[name] if name is not None else next(iter(keys.values()))


def load_key(name: str | None = None, ask: Callable[[str], str] | None = None) -> SigningKey:
    """The key of this name, or the only one, ready to sign. Raises PlanError.

    A key without a private file, or with one that has a passphrase, is left to ssh-agent where that holds it. Else
    `ask` is called with a prompt for the passphrase, where there is somebody to ask.
    """
    key = find_key(name)
    try:
        mode = stat.S_IMODE(key.path.stat().st_mode)
        content = _bounded(key.path)
    except FileNotFoundError:
        if held_by_agent(key.public):
            return key
        raise PlanError(
            f"{key.path}: the private key is not there, and no ssh-agent that SSH_AUTH_SOCK names holds it; add it to "
            "one with `ssh-add`."
        ) from None
    except OSError as error:
        raise PlanError(f"{key.path}: the private key cannot be read: {error.strerror}.") from error
    if mode & 0o077:
        raise PlanError(f"{key.path}: others may read this private key (mode {mode:o}); run `chmod 600` on it.")
    if not _locked(content):
        return replace(key, _private=_opened(key, content, None))
    if held_by_agent(key.public):
        return key
    if ask is None:
        raise PlanError(
            f"{key.path}: the private key has a passphrase, and there is no terminal to ask for it; add the key to "
            f"ssh-agent with `ssh-add {key.path}`."
        )
    return replace(key, _private=_opened(key, content, ask(f"Passphrase of {key.path}: ").encode()))


def _locked(content: bytes) -> bool:
    """Whether a private key has a passphrase; False too for what is no key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        load_ssh_private_key(content, password=None)
    except TypeError:
        return True  # which is how the library asks for one
    except (ValueError, UnsupportedAlgorithm):
        pass
    return False


def _opened(key: SigningKey, content: bytes, passphrase: bytes | None) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        private = serialization.load_ssh_private_key(content, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = "this is not its passphrase" if passphrase is not None else "no private key in OpenSSH's form"
        raise PlanError(f"{key.path}: {what}: {error}.") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise PlanError(f"{key.path}: releases are signed by ed25519 keys, and this is another one.")
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    if public.decode() != key.public:
        raise PlanError(f"{key.path}: the file beside it, {_public_path(key.path).name}, is of another key.")
    return private


def signer_of(message: str, signature: str, namespace: str) -> str | None:
    """The fingerprint of the key that signed the message; None where the signature is wrong or no signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        blob, said, raw = opened(signature)
        Ed25519PublicKey.from_public_bytes(raw_key(blob)).verify(raw, signed_data(message.encode(), namespace))
    except (MalformedSignature, InvalidSignature, UnicodeEncodeError):
        return None
    return fingerprint(blob) if said == namespace else None


def _public(path: Path) -> SigningKey:
    public = _public_path(path)
    try:
        line = _bounded(public).decode()
        public_blob(line)
    except OSError as error:
        raise PlanError(f"{public}: cannot be read: {error.strerror}.") from error
    except (MalformedSignature, UnicodeDecodeError) as error:
        raise PlanError(f"{public}: no ed25519 public key in OpenSSH's form: {error}.") from error
    return SigningKey(path.name, path, " ".join(line.split()[:2]))


def _public_path(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_KEY_BYTES)
