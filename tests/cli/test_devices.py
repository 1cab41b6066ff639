"""The verbs about boards, as they are typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.cli import main
from tests.servers import SERVER_KINDS, client_config
from tools.loopback_ssh import LoopbackServer, loopback_ssh


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackServer]:
    with loopback_ssh(tmp_path_factory.mktemp("devices"), kind=SERVER_KINDS[0]) as server:
        yield server


@pytest.fixture
def place(server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without a fleet; no phone is seen, whatever is plugged in here, and no adb server is started."""
    adb = tmp_path / "bin" / "adb"
    adb.parent.mkdir()
    adb.write_text("#!/bin/sh\necho List of devices attached\n")
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{adb.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:elsewhere:5037")  # no server is there to be knocked at
    (tmp_path / "config").write_text(client_config(server, UserKnownHostsFile=str(tmp_path / "known")))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str, expect: int = 0) -> Any:
    code = main([*argv, "--json"])
    captured = capsys.readouterr()
    assert code == expect, captured.err
    return json.loads(captured.out)


def test_from_discovery_to_probe(server: LoopbackServer, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project, config = ("--project", str(place)), ("--ssh-config", str(place / "config"))
    (found,) = run(capsys, "devices", "discover", *project, *config)
    assert found["address"] == f"ssh://{server.alias}"
    assert not (place / "fleet.toml").exists()
    assert main(["devices", "discover", *project, *config]) == 0
    assert f'address = "ssh://{server.alias}"' in capsys.readouterr().out

    add = ["devices", "add", "desk", found["address"], *project, *config, "--root", str(place / "root")]
    assert main(add) == 3, "nobody is there to ask"
    assert "is not known yet" in capsys.readouterr().err
    assert main([*add, "--fingerprint", "SHA256:wrong"]) == 3
    assert "not SHA256:wrong" in capsys.readouterr().err
    shown = subprocess.run(["ssh-keygen", "-lf", server.folder / "host_key.pub"], capture_output=True, text=True)
    added = run(capsys, *add, "--fingerprint", shown.stdout.split()[1], "--python", sys.executable, "--tag", "x")
    assert added["host_keys"][0]["fingerprint"] == shown.stdout.split()[1]
    assert main([*add[:2], "second", *add[3:], "--yes"]) == 0
    assert "Next: edgedeploy doctor --device second" in capsys.readouterr().out
    assert main(["devices", "discover", *project, *config]) == 0
    assert "No board was found" in capsys.readouterr().out

    assert [one["name"] for one in run(capsys, "devices", "list", *project)] == ["desk", "second"]
    (probed,) = run(capsys, "devices", "probe", *project, "--device", "desk", "--jobs", "1")
    assert probed["facts"]["machine"] == "x86_64"
    assert main(["devices", *project, "--probe"]) == 0
    assert "x86_64" in capsys.readouterr().out

    findings = run(capsys, "doctor", *project, "--device", "desk")
    assert {"board", "clock", "runtimes"} <= {one["what"] for one in findings if one["where"] == "desk"}


def test_the_doctor_s_exit_code_tells_of_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = '[[device]]\nname = "gone"\nprofile = "pi4"\naddress = "ssh://nobody@127.0.0.1:1"\n'
    (tmp_path / "fleet.toml").write_text(fleet)
    assert main(["doctor", "--project", str(tmp_path)]) == 1
    words = capsys.readouterr()
    assert "gone" in words.out
    assert "-> is the board switched on" in words.out
    assert words.err == ""
    assert main(["doctor", "--project", str(tmp_path), "--device", "nobody"]) == 2
    assert "no device `nobody`" in capsys.readouterr().err


def test_options_before_the_verb_are_not_lost_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--project", str(tmp_path), "list"]) == 2
    assert "options go after the verb: edgedeploy devices list" in " ".join(capsys.readouterr().err.split())
