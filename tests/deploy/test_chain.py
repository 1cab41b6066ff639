"""From a signed manifest to an active release, on the board's side, with the real ssh-keygen."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.records import DeploySettings
from tests.deploy.releasing import Built, Kitchen

if TYPE_CHECKING:
    import pytest


def test_a_release_becomes_active_and_the_next_one_after_it(empty: Kitchen, first: Built, second: Built) -> None:
    assert empty.enrol()["known"] is False
    done = empty.do(empty.operation(1, first))
    assert (done["outcome"], done["number"], done["before"]) == ("active", 1, None)
    assert done["p50_ns"] > 0
    assert empty.active() == (1, None)
    model = empty.root / "current" / "model.onnx"
    assert model.read_bytes() == first.contents[first.variant.artifact.sha256]
    assert model.stat().st_nlink == 2, "a hard link, not a copy"
    done = empty.do(empty.operation(2, second, p50_ms=1e6, max_ratio=1e6))
    assert (done["outcome"], done["number"], done["before"]) == ("active", 2, 1)
    assert done["before_p50_ns"] > 0
    assert empty.active() == (2, 1)
    assert empty.heard() == ["1", "2"]


def test_a_packed_file_is_rebuilt_for_its_release(kitchen: Kitchen, third: Built) -> None:
    operation = kitchen.operation(3, third, packed=True)
    (kitchen.root / "objects" / "sha256" / third.variant.artifact.sha256).unlink()
    assert kitchen.do(operation)["outcome"] == "active"
    assert kitchen.active() == (3, 2), "older releases are cleared away"
    model = kitchen.root / "current" / "model.onnx"
    assert model.read_bytes() == third.contents[third.variant.artifact.sha256]


def test_a_job_where_nothing_is_to_be_set_right_does_not_load_what_would_do_it(kitchen: Kitchen) -> None:
    """A zip keeps no compiled modules: to compile them for nothing costs each job on a slow board much of a second."""
    kitchen.board.write_job({"op": "inventory", "objects": {}})
    argv = [kitchen.board.python, "-X", "importtime", str(kitchen.board.agent)]
    argv += [str(kitchen.board.job_path), str(kitchen.board.report_path)]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "on_device.links" in loaded
    assert loaded.isdisjoint({f"on_device.{name}" for name in ("activating", "releases", "manifests", "access")})


def test_rollback_activates_the_release_before_and_can_be_undone(kitchen: Kitchen) -> None:
    assert kitchen.do({"op": "rollback", "number": 1})["outcome"] == "active"
    assert kitchen.active() == (1, 2)
    assert kitchen.do({"op": "rollback", "number": None})["outcome"] == "active"
    assert kitchen.active() == (2, 1)
    assert kitchen.heard() == ["1", "2"]
    assert kitchen.state()["highest"] == 2


def test_a_hand_can_check_what_the_board_checks(kitchen: Kitchen) -> None:
    argv = ["ssh-keygen", "-Y", "verify", "-f", str(kitchen.root / "trust" / "allowed_signers")]
    argv += ["-I", "edgedeploy", "-n", "edgedeploy", "-s", str(kitchen.root / "current" / "manifest.json.sig")]
    manifest = (kitchen.root / "current" / "manifest.json").read_bytes()
    done = subprocess.run(argv, input=manifest, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert kitchen.key.fingerprint.encode() in done.stdout
    assert subprocess.run(argv, input=manifest + b" ", capture_output=True, timeout=30).returncode != 0


def test_without_ssh_keygen_a_library_checks(
    kitchen: Kitchen, third: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which("sh") or "")
    monkeypatch.setenv("PATH", str(tools))
    spoilt = kitchen.operation(3, third)
    spoilt["manifest"] = spoilt["manifest"].replace('"threads": 1', '"threads": 2')
    assert "its signature is wrong" in kitchen.do(spoilt)["error"]["message"]
    assert kitchen.do(kitchen.operation(3, third))["outcome"] == "active"


def test_where_nothing_can_check_nothing_is_taken(
    kitchen: Kitchen, third: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "bin" / "ssh-keygen"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'unknown option -- Y' >&2\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:/bin")
    kitchen.board.python = no_libraries(tmp_path)
    error = kitchen.do(kitchen.operation(3, third))["error"]
    assert error["kind"] == "refused"
    assert "install openssh-client 8.2 or later" in error["message"]
    assert kitchen.active() == (2, 1)


def no_libraries(folder: Path) -> str:
    """The system's Python without any installed package."""
    import sys

    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nexec "{os.path.realpath(sys.executable)}" -I -S "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def test_the_oldest_python_takes_a_release_and_takes_it_back_for_want_of_a_runtime(
    kitchen: Kitchen, third: Built
) -> None:
    from tests.on_device.virtual_board import oldest_python

    kitchen.board.python = oldest_python()
    done = kitchen.do(kitchen.operation(3, third))
    if done["outcome"] != "active":  # only this machine's own Python has a runtime
        assert "no runtime here can be imported" in done["detail"] or "numpy" in done["detail"]
        assert kitchen.active() == (2, 1)


def test_health_is_waited_for(kitchen: Kitchen, third: Built, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    health = ("sh", "-c", f'echo x >> "{tries}"; test "$(wc -l < "{tries}")" -ge 2')
    settings = DeploySettings(reload=("true",), health=health, health_timeout_s=20)
    assert kitchen.do(kitchen.operation(3, third, settings=settings))["outcome"] == "active"
    assert tries.read_text() == "x\n" * 3, "until it is well, and once more when the model has proved itself"


def test_enrolment_is_told_of_the_board_and_stays(empty: Kitchen, first: Built) -> None:
    assert "not enrolled" in empty.do(empty.operation(1, first))["error"]["message"]
    assert empty.enrol()["known"] is False
    assert empty.enrol()["known"] is True
    trust = empty.state()["trust"]
    assert (trust["fingerprint"], trust["profile"], trust["device"]) == (empty.key.fingerprint, "box", "kitchen")


def test_drift_is_told(kitchen: Kitchen) -> None:
    model = kitchen.root / "releases" / "2" / "model.onnx"
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(content[:-1] + b"?")
    (kitchen.root / "releases" / "1" / "probe.npz").unlink()
    found = kitchen.state()
    assert [line.split(":")[0] for line in found["current"]["drift"]] == ["model.onnx"]
    assert found["previous"]["drift"] == ["probe.npz: it is gone"]
