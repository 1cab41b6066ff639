"""Emulated boards that have nothing are brought all they need, and then measured in both runtimes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgedeploy.board import open_board, push
from edgedeploy.board.provision import Provisioned, provision
from edgedeploy.board.session import probe
from edgedeploy.errors import BoardError, EdgeDeployError
from edgedeploy.plan import load_fleet
from edgedeploy.profiling import MODES, profile
from edgedeploy.records import (
    Artifact,
    Device,
    DeviceProfile,
    Format,
    Outcome,
    Precision,
    Report,
    Target,
    Variant,
    Verdict,
)
from edgedeploy.transport import open_transport
from tests.on_device import models
from tests.support.records import make_variant
from tests.tools.test_lab_boards import eventually

if TYPE_CHECKING:
    from tools.lab import Lab, VirtualBoard

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

# What a phone lets a shell execute is there alone; elsewhere a folder that no other test uses.
ROOTS = {"phone": "/data/local/tmp/provisioned"}
ROOT = "/var/tmp/provisioned"


class Borrowed:
    """One board of the lab and how the fleet knows it."""

    def __init__(self, folder: Path, board: VirtualBoard) -> None:
        fleet = load_fleet(folder)
        self.board = board
        self.root = ROOTS.get(board.name, ROOT)
        self.device: Device = replace(fleet.device(board.name), root=self.root)
        self.kind: DeviceProfile = fleet.profile(self.device)
        self.base = folder

    def provision(self, **options: Any) -> Provisioned:
        return provision(self.device, self.kind, self.base, **options)


@pytest.fixture
def borrowed(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Borrowed]:
    """The board whose name is the test's parameter, without anything of ours before and after."""
    with lab.borrow(request.param) as board:
        borrowed = Borrowed(lab.folder, board)
        board.run("/bin/rm", "-rf", borrowed.root)
        board.disk.commit()
        try:
            yield borrowed
        finally:
            board.heal()
            board.run("/bin/rm", "-rf", borrowed.root)


def tiny_variants(folder: Path) -> tuple[list[Variant], dict[str, Path]]:
    """A product of matrices in each format, with files by digest."""
    files: dict[str, Path] = {}

    def keep(content: bytes, ending: str) -> Artifact:
        digest = hashlib.sha256(content).hexdigest()
        files[digest] = folder / digest
        files[digest].write_bytes(content)
        return Artifact(digest, ending, len(content))

    variants = []
    for form, model, contract in (
        (Format.ONNX, models.onnx_matmul(), models.ONNX),
        (Format.TFLITE, models.tflite_dense(), models.TFLITE),
    ):
        variant = make_variant(f"dense-{form.value}", target=Target(form, Precision.FP32))
        artifact = keep(model, form.value)
        variants.append(
            replace(
                variant,
                artifact=artifact,
                packed=artifact,
                contract=keep(models.encode(contract), "json"),
                probe=keep(models.probe_of(model, contract, folder), "npz"),
            )
        )
    return variants, files


@pytest.mark.parametrize(
    ("borrowed", "way"),
    [("pi4", "wheels"), ("old", "own python"), ("phone", "own python")],
    indirect=["borrowed"],
    ids=["pi4", "no python", "phone"],
)
def test_a_bare_board_is_provisioned_and_measured(borrowed: Borrowed, way: str, tmp_path: Path) -> None:
    result = borrowed.provision()
    assert (result.way, result.cannot) == (way, {})
    assert set(result.brought) == {"onnxruntime", "ai-edge-litert", "numpy"}
    assert {"onnxruntime", "ai_edge_litert"} <= set(result.found.runtimes)
    variants, files = tiny_variants(tmp_path)
    with open_board(borrowed.device, borrowed.kind, borrowed.base) as board:
        assert board.facts.bundle == result.bundle
        push(board, files)
        reports = profile(board, borrowed.device, borrowed.kind, variants, mode=MODES["smoke"])
    assert [report.outcome for report in reports] == [Outcome.OK, Outcome.OK], [report.detail for report in reports]
    assert [report.runtime for report in reports] == ["onnxruntime", "ai_edge_litert"]
    for report in reports:
        assert report.metrics.latency is not None
        assert report.metrics.latency.p50_ms > 0
        assert report.verdict is Verdict.SUSPECT
        assert any("emulated" in reason for reason in report.reasons)
    again = borrowed.provision()
    assert (again.brought, again.bytes_sent, again.bundle) == ({}, 0, result.bundle)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("borrowed", "sensor", "reason"),
    [
        ("pi4", "vcio/get_throttled", "the board throttled (get_throttled = 0x60006)"),
        (
            *("x86", "sys/class/thermal/cooling_device0/cur_state"),
            "the kernel slowed the board down for its heat (Processor = 3, intel_powerclamp = 3)",
        ),
    ],
    ids=["pi4", "x86"],
    indirect=["borrowed"],
)
def test_what_a_throttled_board_measures_is_invalid(
    borrowed: Borrowed, sensor: str, reason: str, tmp_path: Path
) -> None:
    """A profile of a board at its limit of heat is invalid and says why; once it has cooled down, that is over."""
    borrowed.provision(runtimes=["onnxruntime"])
    variants, files = tiny_variants(tmp_path)

    def measured() -> Report:
        with open_board(borrowed.device, borrowed.kind, borrowed.base) as board:
            push(board, files)
            (report,) = profile(board, borrowed.device, borrowed.kind, variants[:1], mode=MODES["smoke"])
        assert report.outcome is Outcome.OK, report.detail
        return report

    sensor_path = borrowed.board.live / sensor
    calm = sensor_path.read_text()
    borrowed.board.throttle()
    assert eventually(lambda: sensor_path.read_text() != calm, 10)
    hot = measured()
    assert hot.verdict is Verdict.INVALID
    assert hot.reasons[0].startswith("only 0 of ")
    assert reason in hot.reasons
    borrowed.board.release_throttle()
    borrowed.board.reboot()
    assert measured().verdict is not Verdict.INVALID


def left_over(board: VirtualBoard) -> str:
    return board.run(
        "/bin/sh", "-c", f"cat {ROOT}/runtimes/current 2>/dev/null; ls {ROOT}/runtimes 2>/dev/null || true"
    )


@pytest.mark.fault
@pytest.mark.parametrize("borrowed", ["old"], indirect=True)
@pytest.mark.parametrize("fault", ["full disk", "read-only"])
def test_a_board_that_cannot_take_it(borrowed: Borrowed, fault: str) -> None:
    """A board whose disk is full or read-only is told so, and holds no part of a runtime afterwards."""
    if fault == "full disk":
        borrowed.board.disk.fill(60 << 20)
    else:
        borrowed.board.set_read_only(True)
    complaint = "not enough space: the runtime takes" if fault == "full disk" else "cannot write to"
    with pytest.raises(BoardError, match=complaint):
        borrowed.provision()
    assert left_over(borrowed.board).strip() == ""


@pytest.mark.fault
@pytest.mark.parametrize("borrowed", ["old"], indirect=True)
def test_a_board_that_loses_its_power_while_it_is_provisioned(borrowed: Borrowed) -> None:
    """A board switched off in the midst of it has no runtime in use afterwards, and the next run succeeds."""
    import threading
    import time

    def pull() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            there = borrowed.board.run("/bin/sh", "-c", f"ls -d {ROOT}/tmp/runtime-*/unpacked 2>/dev/null || true")
            if there.strip():
                break
            time.sleep(0.05)  # a board tells nobody how far it is: it must be asked again
        borrowed.board.reboot()

    puller = threading.Thread(target=pull)
    puller.start()
    with pytest.raises(EdgeDeployError, match=r"^old: "):
        borrowed.provision()
    puller.join()
    assert left_over(borrowed.board).strip() == ""
    assert borrowed.provision().found.runtimes["onnxruntime"]


@pytest.mark.fault
@pytest.mark.parametrize("borrowed", ["x86"], indirect=True)
def test_power_cut_right_after_provisioning(borrowed: Borrowed) -> None:
    """A runtime that was called ready works though the board's power is cut in the same moment."""
    ready = borrowed.provision(runtimes=["onnxruntime"])
    borrowed.board.reboot()
    again = borrowed.provision(runtimes=["onnxruntime"])
    assert (again.brought, again.bytes_sent, again.bundle) == ({}, 0, ready.bundle)
    assert again.found.runtimes["onnxruntime"] == ready.found.runtimes["onnxruntime"]


@pytest.mark.fault
@pytest.mark.parametrize("borrowed", ["phone"], indirect=True)
@pytest.mark.parametrize("fault", ["link cut", "reboot"])
def test_a_phone_that_is_lost_while_its_runtime_is_on_the_way(borrowed: Borrowed, fault: str) -> None:
    """A phone whose link is cut, or that restarts, in the midst of a push is told, and has no runtime in use after."""
    lose = borrowed.board.cut if fault == "link cut" else borrowed.board.reboot
    done: list[int] = []

    def progress(sent: int, total: int) -> None:
        if sent > total / 4 and not done:
            done.append(sent)
            lose()

    borrowed.board.shape(rate_mbit=100)
    with pytest.raises(EdgeDeployError, match=r"^phone: ") as told:
        borrowed.provision(progress=progress)
    assert done, str(told.value)
    borrowed.board.heal()
    assert not borrowed.board.run("/bin/sh", "-c", f"cat {borrowed.root}/runtimes/current 2>/dev/null || true").strip()
    with open_transport(borrowed.device, borrowed.base) as transport:
        assert probe(transport, borrowed.device).bundle is None
