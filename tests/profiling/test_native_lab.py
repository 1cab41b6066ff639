"""Native runners on the lab's phone: arm64, of limited memory, and held by a shell that is not root's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgedeploy.board.bare import BareBoard, open_any_board
from edgedeploy.board.runners import Runner
from edgedeploy.plan import load_fleet
from edgedeploy.profiling import MODES
from edgedeploy.profiling.native import profile_natively
from edgedeploy.records import Artifact, Format, Outcome, Precision, Target, Verdict
from tests.profiling.test_native import wanted
from tests.support.records import make_variant

if TYPE_CHECKING:
    from tools.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ROOT = "/data/local/tmp/native"
# One line without an end, of which all is kept until it ends.
GREEDY = "#!/bin/sh\nexec tail /dev/zero\n"


@pytest.mark.fault
def test_net_too_large_for_the_phone_is_out_of_memory(lab: Lab, tmp_path: Path) -> None:
    """A native runner that the kernel kills for want of memory is told from one that was killed otherwise."""
    with lab.borrow("phone") as phone:
        fleet = load_fleet(lab.folder)
        device = replace(fleet.device("phone"), root=ROOT)
        before = phone.group.oom_kills()
        try:
            with open_any_board(device, fleet.profile(device), lab.folder) as board:
                assert isinstance(board, BareBoard)
                runner = Runner("ab" * 32, "benchmark_model", "aarch64", {"tool": "cd" * 32})
                model = wanted(tmp_path, "objects/sha256/{}", "a model")
                board.push([model, wanted(tmp_path, f"runtimes/{runner.id}/tool", GREEDY, executable=True)])
                variant = replace(
                    make_variant("large", target=Target(Format.TFLITE, Precision.FP32)),
                    artifact=Artifact(model.sha256, "tflite", 7),
                )
                [report] = profile_natively(
                    board, device, fleet.profile(device), [variant], {Format.TFLITE: runner}, mode=MODES["smoke"]
                )
        finally:
            phone.run("/bin/rm", "-rf", ROOT)
        assert phone.group.oom_kills() == before + 1
    assert (report.outcome, report.verdict) == (Outcome.OUT_OF_MEMORY, Verdict.INVALID)
    assert report.detail == "killed by signal 9: Out of memory: the kernel killed it"
