"""What `provision` prints: a table for people, records as JSON, and an exit code for scripts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.board.inspecting import Found
from edgedeploy.board.provision import Provisioned
from edgedeploy.cli import main
from edgedeploy.cli.provision import print_provisioned
from edgedeploy.errors import BoardError, DownloadError, EdgeDeployError
from edgedeploy.lab import Visited
from tests.support.project import local_fleet, write_project

FOUND = Found(
    machine="aarch64",
    libc="glibc 2.36",
    python="3.11.2",
    python_bits=64,
    model="Raspberry Pi 4 Model B [Rev 1.4]",
    isa=("asimd", "crc32"),
    memory_bytes=1 << 30,
    free_bytes=20 << 30,
    root="/home/pi/.edgedeploy",
    executable=True,
    runtimes={"onnxruntime": "1.32.0", "numpy": "2.4.6"},
    sensors=(),
    closed={"pi5-pmic": "/dev/vcio is for the group video", "rapl": "/sys/x is for root alone"},
    verifier="ssh-keygen",
)
DONE = Provisioned(
    device="pi4",
    found=FOUND,
    way="wheels",
    bundle="ab" * 32,
    brought={"onnxruntime": "1.32.0", "numpy": "2.4.6"},
    bytes_sent=33_000_000,
    unpacked_bytes=100_000_000,
    cannot={"ai-edge-litert": "no wheel of ai-edge-litert is published for Python 3.11 on aarch64"},
    notes=("tflite-runtime 2.14.0 instead of ai-edge-litert: it needs glibc 2.40",),
    dry_run=False,
)


def printed(
    capsys: pytest.CaptureFixture[str],
    value: Provisioned | None,
    error: EdgeDeployError | None = None,
    *,
    as_json: bool = False,
) -> tuple[int, str, str]:
    code = print_provisioned([Visited("pi4", value, error)], as_json=as_json)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table_tells_what_came_and_what_did_not(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(capsys, DONE)
    assert (code, err) == (0, "")
    for told in (
        "pi4     aarch64  glibc 2.36  3.11.2  numpy 2.4.6, onnxruntime 1.32.0",
        "numpy 2.4.6, onnxruntime 1.32.0 (wheels)  33 MB",
        "pi4: Raspberry Pi 4 Model B [Rev 1.4]; 1.07 GB of memory; 21.5 GB free in /home/pi/.edgedeploy; every core",
        "pi4: took tflite-runtime 2.14.0 instead of ai-edge-litert: it needs glibc 2.40",
        "pi4: goes without ai-edge-litert: no wheel of ai-edge-litert is published for Python 3.11 on aarch64",
        "pi4: the sensor pi5-pmic is there and closed to this user: /dev/vcio is for the group video; let the",
        "pi4: the sensor rapl is there and closed to this user: /sys/x is for root alone\n",
    ):
        assert told in out


def test_a_dry_run_says_would(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = printed(capsys, replace(DONE, dry_run=True, found=replace(FOUND, executable=False)))
    assert "would bring" in out
    assert "to send" in out
    assert "nothing can be executed under /home/pi/.edgedeploy" in out


def test_nothing_to_bring(capsys: pytest.CaptureFixture[str]) -> None:
    bare = replace(
        FOUND, python="", libc="", runtimes={}, model="", memory_bytes=None, free_bytes=None, isa=(), closed={}
    )
    _, out, _ = printed(capsys, replace(DONE, found=bare, brought={}, bytes_sent=0, cannot={}, notes=()))
    assert out.splitlines()[1].split() == ["pi4", "aarch64", *"-----"]
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(("error", "code"), [(BoardError("pi4: no room"), 4), (DownloadError("no registry"), 3)])
def test_a_board_that_failed(capsys: pytest.CaptureFixture[str], error: EdgeDeployError, code: int) -> None:
    assert printed(capsys, None, error) == (code, "", f"edgedeploy: {error}\n")
    found, out, _ = printed(capsys, None, error, as_json=True)
    assert (found, json.loads(out)) == (code, [{"device": "pi4", "error": str(error)}])


def test_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = printed(capsys, DONE, as_json=True)
    (record,) = json.loads(out)
    assert code == 0
    assert (record["device"], record["error"], record["way"]) == ("pi4", None, "wheels")
    assert record["cannot"] == DONE.cannot
    assert record["found"]["closed"] == FOUND.closed


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    return write_project(folder, fleet=local_fleet(folder))


def test_a_runtime_that_is_not_known(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["provision", "--project", str(project), "--runtime", "torch"]) == 2
    told = "edgedeploy: no runtime `torch`; there: onnxruntime, ai-edge-litert, tflite-runtime.\n"
    assert capsys.readouterr().err.endswith(told)


def test_this_machine_lacks_nothing(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDEPLOY_CACHE", str(tmp_path / "cache"))
    assert main(["provision", "--project", str(project), "--runtime", "onnxruntime", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["brought"], record["bundle"], record["cannot"]) == ({}, None, {})
    assert "onnxruntime" in record["found"]["runtimes"]
