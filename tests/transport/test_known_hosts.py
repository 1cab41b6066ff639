from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest

from edgedeploy.errors import HostKeyError
from edgedeploy.transport.known_hosts import check_host_key, fingerprint, host_pattern, known_keys

KEY = b"\0\0\0\x0bssh-ed25519" + bytes(36)
OTHER = b"\0\0\0\x0bssh-ed25519" + bytes(35) + b"\1"


def line(names: str, blob: bytes = KEY, kind: str = "ssh-ed25519") -> str:
    return f"{names} {kind} {base64.b64encode(blob).decode()} a comment\n"


def hashed(name: str) -> str:
    digest = hmac.digest(b"salt", name.encode(), hashlib.sha1)
    return f"|1|{base64.b64encode(b'salt').decode()}|{base64.b64encode(digest).decode()}"


def check(tmp_path: Path, text: str, name: str = "board", blob: bytes = KEY) -> None:
    (tmp_path / "known").write_text(text)
    files = [tmp_path / "absent", tmp_path / "known"]
    check_host_key("x", name, "ssh-ed25519", blob, known_keys(files, name), files)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (line("board"), "board"),
        (line("other,BOARD,10.0.0.1"), "board"),
        (line("[board]:2222"), "[board]:2222"),
        (line("*.lab,!bad.lab"), "good.lab"),
        (line("[10.0.0.?]:22*"), "[10.0.0.7]:2222"),
        (line(hashed("board")), "board"),
        ("# comment\n\nnonsense\nboard ssh-ed25519 !!!\n|1|x ssh-ed25519 AAAA\n" + line("board"), "board"),
        (line("board", OTHER, "ssh-rsa") + line("board"), "board"),
    ],
)
def test_known_keys_are_accepted(tmp_path: Path, text: str, name: str) -> None:
    check(tmp_path, text, name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "board"),
        (line("other"), "board"),
        (line("board"), "[board]:2222"),
        (line("[board]:2222"), "board"),
        (line("*.lab,!bad.lab"), "bad.lab"),
        (line("[board]:2222"), "b"),
        (line(hashed("other")), "board"),
        ("@cert-authority " + line("board"), "board"),
        ("# " + line("board"), "board"),
    ],
)
def test_unknown_hosts_are_refused_with_the_fingerprint(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(HostKeyError, match=r"^x: .*is not known yet.*ssh-keyscan") as caught:
        check(tmp_path, text, name)
    assert fingerprint(KEY) in str(caught.value)


def test_changed_key_tells_both_fingerprints_and_the_file(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="HAS CHANGED") as caught:
        check(tmp_path, line("[board]:2222", OTHER), "[board]:2222")
    message = str(caught.value)
    assert fingerprint(KEY) in message
    assert fingerprint(OTHER) in message
    assert f"ssh-keygen -f {tmp_path / 'known'} -R '[board]:2222'" in message


def test_revoked_key_is_refused_even_where_it_is_known(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="revoked"):
        check(tmp_path, line("board") + "@revoked " + line("*"))


def test_names_carry_the_port_unless_it_is_the_usual_one() -> None:
    assert (host_pattern("board", 22), host_pattern("board", 2200)) == ("board", "[board]:2200")
