"""Keys are OpenSSH's, and what is signed by them is checked by OpenSSH's own tool."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from edgedeploy.cli import main
from edgedeploy.deploy import list_keys, load_key, new_key
from edgedeploy.deploy.keys import signer_of
from edgedeploy.errors import PlanError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "edgedeploy" / "keys"


def test_a_new_key_is_for_its_user_alone_and_for_openssh_too(config: Path) -> None:
    key = new_key("release")
    assert stat.S_IMODE((config / "release").stat().st_mode) == 0o600
    assert stat.S_IMODE(config.stat().st_mode) == 0o700
    told = subprocess.run(["ssh-keygen", "-l", "-f", str(key.path)], capture_output=True, text=True, timeout=30)
    assert key.fingerprint in told.stdout
    public = subprocess.run(["ssh-keygen", "-y", "-f", str(key.path)], capture_output=True, text=True, timeout=30)
    assert public.stdout.split()[:2] == key.public.split()
    assert load_key() == load_key("release") == list_keys()[0] == key
    assert "PRIVATE" not in repr(load_key())


def test_openssh_checks_our_signatures_and_we_check_its_own(config: Path, tmp_path: Path) -> None:
    key, message = new_key("release"), 'a manifest\nwith two lines and "quotes"\n'
    signers, signature = tmp_path / "signers", tmp_path / "signature"
    signers.write_text(f"edgedeploy {key.public}\n")
    signature.write_text(key.sign(message, "edgedeploy"))
    argv = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "edgedeploy", "-n", "edgedeploy"]
    argv += ["-s", str(signature)]
    assert subprocess.run(argv, input=message.encode(), capture_output=True, timeout=30).returncode == 0
    assert subprocess.run(argv, input=message.encode() + b"!", capture_output=True, timeout=30).returncode != 0
    theirs = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key.path), "-n", "edgedeploy"]
    made = subprocess.run(theirs, input=message, capture_output=True, text=True, timeout=30).stdout
    assert signer_of(message, made, "edgedeploy") == key.fingerprint
    assert made == signature.read_text(), "ed25519 signs the same in the same way"
    assert signer_of(message, made, "file") is None
    assert signer_of(message + "!", made, "edgedeploy") is None


@pytest.mark.parametrize(
    "text", ["", "\x00", "x" * 10_000, "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----"]
)
def test_what_is_no_signature_was_signed_by_nobody(text: str) -> None:
    assert signer_of("message", text, "edgedeploy") is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../x", "a key cannot be called '../x'"),
        ("-x", "a key cannot be called '-x'"),
        ("release.pub", "a key cannot be called 'release.pub'"),
        ("release", "a key of this name is there already"),
    ],
)
def test_a_key_that_cannot_be_made(name: str, says: str) -> None:
    new_key("release")
    with pytest.raises(PlanError, match=says):
        new_key(name)


def test_keys_that_cannot_be_used(config: Path) -> None:
    with pytest.raises(PlanError, match=r"no key to sign releases with; make one with `edgedeploy keys new NAME`"):
        load_key()
    key = new_key("release")
    with pytest.raises(PlanError, match=r"no key `relaese` \(did you mean `release`\?\) in .*; there: release"):
        load_key("relaese")
    key.path.chmod(0o640)
    with pytest.raises(PlanError, match=r"others may read this private key \(mode 640\); run `chmod 600` on it"):
        load_key()
    key.path.chmod(0o600)
    other = new_key("other")
    with pytest.raises(PlanError, match=r"there is more than one key \(other, release\): name one by `--key`"):
        load_key()
    key.path.write_bytes(other.path.read_bytes())
    with pytest.raises(PlanError, match=r"release\.pub, is of another key"):
        load_key("release")
    key.path.write_text("nonsense")
    with pytest.raises(PlanError, match=r"no private key in OpenSSH's form"):
        load_key("release")
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(config / "ec")], check=True, timeout=30)
    assert [found.name for found in list_keys()] == ["other", "release"], "others are passed over"


def test_the_verbs_about_keys(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    assert main(["keys", "list"]) == 0
    assert "make one with `edgedeploy keys new NAME`" in capsys.readouterr().out
    assert main(["keys", "new", "release", "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert main(["keys", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [made]
    assert main(["keys", "show", "release"]) == 0
    shown = capsys.readouterr().out
    assert made["fingerprint"] in shown
    assert made["public"] in shown
    assert "PRIVATE" not in shown
    assert main(["keys", "show", "other"]) == 2
    assert "no key `other`" in capsys.readouterr().err
    assert main(["keys", "new", "release"]) == 2
