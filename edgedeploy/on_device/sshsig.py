"""The container of OpenSSH's signatures and keys, taken apart and put together; the mathematics is left to libraries.

The formats are those of PROTOCOL.sshsig of OpenSSH and of RFC 8709, for ed25519 alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

KEY_TYPE = b"ssh-ed25519"
MANIFEST_NAMESPACE = "edgedeploy"
ROTATION_NAMESPACE = "edgedeploy-rotate"

_MAGIC = b"SSHSIG"
_VERSION = 1
_HASH = b"sha512"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_LINE = 70
_MAX_CHARACTERS = 4096


class MalformedSignature(ValueError):
    """A key or signature is not written as OpenSSH writes those of ed25519."""


def public_blob(line: str) -> bytes:
    """Return the key of a public key's line, such as `ssh-ed25519 AAAA... name`. Raises MalformedSignature."""
    parts = line.split()
    if len(line) > _MAX_CHARACTERS or "\n" in line.strip() or len(parts) < 2 or parts[0] != KEY_TYPE.decode():
        raise MalformedSignature("the key is no ed25519 key in OpenSSH's form")
    blob = _decoded(parts[1])
    raw_key(blob)
    return blob


def raw_key(blob: bytes) -> bytes:
    """Return the 32 bytes of an ed25519 key. Raises MalformedSignature."""
    kind, rest = _string(blob)
    raw, rest = _string(rest)
    if kind != KEY_TYPE or len(raw) != 32 or rest:
        raise MalformedSignature("the key is no ed25519 key in OpenSSH's form")
    return raw


def fingerprint(blob: bytes) -> str:
    """Return what `ssh-keygen -l` calls the key."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def signed_data(message: bytes, namespace: str) -> bytes:
    """Return the bytes that a signature of `message` is really made over."""
    digest = hashlib.sha512(message).digest()
    return _MAGIC + b"".join(map(_packed, (namespace.encode(), b"", _HASH, digest)))


def armoured(blob: bytes, namespace: str, signature: bytes) -> str:
    """Return the file that `ssh-keygen -Y verify -s` reads, from a key and the 64 bytes of its signature."""
    fields = (blob, namespace.encode(), b"", _HASH, _packed(KEY_TYPE) + _packed(signature))
    content = _MAGIC + struct.pack(">I", _VERSION) + b"".join(map(_packed, fields))
    text = base64.b64encode(content).decode()
    lines = [text[place : place + _LINE] for place in range(0, len(text), _LINE)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def opened(text: str) -> tuple[bytes, str, bytes]:
    """Return key, namespace and the 64 bytes of a signature's file. Raises MalformedSignature."""
    lines = text.strip().split("\n")
    if len(text) > _MAX_CHARACTERS or len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise MalformedSignature("the signature is not in OpenSSH's form")
    content = _decoded("".join(lines[1:-1]))
    head = _MAGIC + struct.pack(">I", _VERSION)
    if not content.startswith(head):
        raise MalformedSignature("the signature is of another version than 1")
    fields, rest = [], content[len(head) :]
    for _ in range(5):
        field, rest = _string(rest)
        fields.append(field)
    blob, namespace, _, hashing, signature = fields
    kind, after = _string(signature)
    raw, end = _string(after)
    if rest or end or hashing != _HASH or kind != KEY_TYPE or len(raw) != 64:
        raise MalformedSignature("the signature is not one of ed25519 over SHA-512")
    raw_key(blob)
    return blob, namespace.decode("utf-8", "replace"), raw


def _packed(field: bytes) -> bytes:
    return struct.pack(">I", len(field)) + field


def _string(content: bytes) -> tuple[bytes, bytes]:
    if len(content) < 4:
        raise MalformedSignature("a key or signature ends too early")
    (size,) = struct.unpack(">I", content[:4])
    if size > len(content) - 4:
        raise MalformedSignature("a key or signature ends too early")
    return content[4 : 4 + size], content[4 + size :]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedSignature("a key or signature is no base64") from error
