"""A board with releases: tiny real models, real signatures, and an application that writes down what it is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.board import Board
from edgedeploy.deploy import Run, SigningKey, settled
from edgedeploy.deploy.manifest import write_manifest
from edgedeploy.on_device.sshsig import MANIFEST_NAMESPACE
from edgedeploy.packing import pack
from edgedeploy.records import Artifact, DeploySettings, Device, Format, Variant
from tests.on_device import models
from tests.on_device.virtual_board import VirtualBoard, sha256
from tests.support.records import make_variant

if TYPE_CHECKING:
    from tools.lab.storage import Disk

DEVICE = Device("kitchen", "box", "local:")
KILLING = Path(__file__).with_name("killing.py")

# The active release and the one before, as they are at first and after release 3.
OLD, NEW = (2, 1), (3, 2)
# Every step of activating release 3, as killing.py names it, and what an end there comes to.
ACTIVATING = [
    ("mkdir:.new-3:after:1", OLD),
    ("link:model.onnx:after:1", OLD),
    ("rename:releases/3:before:1", OLD),
    ("rename:releases/3:after:1", OLD),
    ("replace:releases/highest:before:1", OLD),
    ("replace:releases/highest:after:1", OLD),
    ("replace:journal.json:before:1", OLD),
    ("replace:journal.json:after:1", OLD),
    ("symlink:.current.next:after:1", OLD),
    ("replace:/current:before:1", OLD),
    ("replace:/current:after:1", OLD),
    ("replace:/1.json:after:1", OLD),  # on probation, about to load the model
    ("replace:journal.json:before:2", OLD),  # proven, and not yet written down
    ("replace:journal.json:after:2", NEW),
    ("replace:/previous:before:1", NEW),
    ("replace:/previous:after:1", NEW),
    ("rename:.new-gone-1:after:1", NEW),
    ("unlink:journal.json:before:1", NEW),
    ("unlink:journal.json:after:1", NEW),
]

# Steps of taking release 3 back, because its application is unwell: always to the old state.
TAKING_BACK = [
    "replace:journal.json:before:2",
    "replace:journal.json:after:2",
    "replace:/current:before:2",
    "replace:/current:after:2",
    "rename:.new-gone-3:before:1",
    "rename:.new-gone-3:after:1",
    "unlink:journal.json:before:1",
    "unlink:journal.json:after:1",
]
# A step of activating release 3, one of recovering from an end there, and what an end at both comes to.
RECOVERING = [
    ("replace:/1.json:after:1", "replace:/current:after:1", OLD),
    ("replace:/1.json:after:1", "unlink:journal.json:before:1", OLD),
    ("replace:/previous:before:1", "replace:/previous:after:1", NEW),
    ("replace:/previous:before:1", "unlink:journal.json:before:1", NEW),
]
# Steps of a rollback to release 1, and what an end there comes to.
ROLLING_BACK = [
    ("replace:/current:after:1", OLD),
    ("replace:/previous:before:1", (1, 2)),
    ("replace:/1.json:after:1", OLD),
]


@dataclass(frozen=True)
class Built:
    """A variant with its bytes, by SHA-256."""

    variant: Variant
    contents: dict[str, bytes]

    def files(self, folder: Path) -> dict[str, Path]:
        """The same as files in a folder."""
        folder.mkdir(exist_ok=True)
        for digest, content in self.contents.items():
            (folder / digest).write_bytes(content)
        return {digest: folder / digest for digest in self.contents}


def build(name: str, folder: Path, *, wrong: bool = False) -> Built:
    """A variant whose file differs from every other one's; with `wrong`, it does not compute what its probe says."""
    import onnx

    proto = onnx.load_from_string(models.onnx_matmul())
    proto.doc_string = name
    model = bytes(proto.SerializeToString())
    probe = models.probe_of(model, models.ONNX, folder)
    if wrong:
        probe = models.probe(models.EXAMPLES, models.EXAMPLES @ models.WEIGHTS + 1)
    contract = models.encode(models.ONNX)
    packed = pack(model, Format.ONNX).content
    contents = {sha256(content): content for content in (model, contract, probe, packed)}

    def artifact(content: bytes, form: str) -> Artifact:
        return Artifact(sha256(content), form, len(content))

    variant = replace(
        make_variant(name),
        artifact=artifact(model, "onnx"),
        contract=artifact(contract, "json"),
        probe=artifact(probe, "npz"),
        packed=artifact(packed, "edpk"),
    )
    return Built(variant, contents)


def run_of(p50_ms: float | None = None) -> Run:
    return Run(1, "cpu", None, 1e-3, 60.0, p50_ms)


def until_idle(board: Board, limit_s: float) -> None:
    """Wait until nobody is at work on the board any more."""
    deadline = time.monotonic() + limit_s
    while board.result(board.run_job([{"op": "releases"}], timeout_s=limit_s), 0)["busy"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)  # the board tells nobody when it is done: it must be asked again


class Kitchen:
    """A virtual board, a key that it trusts, and an application beside it."""

    def __init__(self, root: Path, key: SigningKey, python: str = sys.executable) -> None:
        self.board = VirtualBoard(root, python)
        self.root, self.key = root, key
        self.told = root / "told"
        self.settings = settled(
            DeploySettings(
                reload=("sh", "-c", 'echo "$EDGEDEPLOY_RELEASE" >> "${EDGEDEPLOY_CURRENT%/*}/told"'),
                attempts=1,
                pause_s=0.0,
                steady_s=0.01,
                health_timeout_s=0.5,
            )
        )

    @classmethod
    def copy(cls, deployed: Path, root: Path, key: SigningKey) -> Kitchen:
        """One whose root is a copy of `deployed`, and whose application heard of nothing so far."""
        kitchen = cls(root, key)
        shutil.rmtree(root)
        shutil.copytree(deployed, root, symlinks=True)
        kitchen.told.unlink()
        return kitchen

    @property
    def unwell(self) -> DeploySettings:
        """Settings under which the application is never well."""
        return DeploySettings(reload=self.settings.reload, health=("false",), health_timeout_s=0.1)

    def enrol(self, **changes: Any) -> dict[str, Any]:
        operation = {"op": "enrol", "key": self.key.public, "profile": "box", "device": "kitchen", "replaces": None}
        (result,) = self.board.run({**operation, **changes})
        return result

    def operation(
        self,
        number: int,
        built: Built,
        *,
        key: SigningKey | None = None,
        change: Callable[[dict[str, Any]], None] | None = None,
        packed: bool = False,
        settings: DeploySettings | None = None,
        p50_ms: float | None = None,
        max_ratio: float | None = None,
    ) -> dict[str, Any]:
        """Push a variant and sign a release of it, whose manifest `change` spoils before it is signed."""
        for content in built.contents.values():
            self.board.put(content)
        lying = built.variant.packed if packed else built.variant.artifact
        settings = settings.over(self.settings) if settings else self.settings
        manifest = write_manifest(number, DEVICE, built.variant, lying, run_of(p50_ms), settings, max_ratio)
        if change is not None:
            document = json.loads(manifest)
            change(document)
            manifest = json.dumps(document)
        signature = (key or self.key).sign(manifest, MANIFEST_NAMESPACE)
        return {"op": "deploy", "manifest": manifest, "signature": signature}

    def do(self, operation: dict[str, Any]) -> dict[str, Any]:
        (result,) = self.board.run(operation)
        return result

    def kill_at(self, point: str, operation: dict[str, Any]) -> None:
        """Do it, and have it killed at a point, or stopped by another signal there: see killing.py."""
        self.board.write_job(operation)
        done = subprocess.run(self._killing(point), capture_output=True, timeout=120, env=plain_environment())
        ends = 143 if point.endswith(":SIGTERM") else -9
        assert done.returncode == ends, f"{point} was never reached: {done.stderr.decode()}"

    def _killing(self, point: str) -> list[str]:
        board = self.board
        return [board.python, str(KILLING), point, str(board.agent), str(board.job_path), str(board.report_path)]

    def cut_power_at(self, point: str, operation: dict[str, Any], disk: Disk) -> None:
        """Do it, and cut the power of the board and of `disk`, on which it lies, at a point of killing.py."""
        self.board.write_job(operation)
        disk.commit()  # what the board was before is no matter of this loss
        argv = self._killing(f"{point}:SIGSTOP")
        with subprocess.Popen(
            argv, env=plain_environment(), start_new_session=True, stdout=subprocess.DEVNULL
        ) as agent:
            state = os.waitid(os.P_PID, agent.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert state is not None
            assert state.si_code == os.CLD_STOPPED, f"{point} was never reached"
            disk.lose_power()
            os.killpg(agent.pid, signal.SIGKILL)
        disk.mount()

    def state(self) -> dict[str, Any]:
        """What the board says; looking at it recovers it first."""
        return self.do({"op": "releases"})

    def active(self) -> tuple[int | None, int | None]:
        """The active release and the one before, by what lies there, checked to be whole and nothing else."""
        found = self.state()
        numbers = []
        for link in ("current", "previous"):
            release = found[link]
            assert (release is None) == (not os.path.lexists(self.root / link))
            if release is not None:
                assert release["drift"] == []
                assert str((self.root / link).readlink()) == f"releases/{release['number']}"
            numbers.append(release["number"] if release else None)
        lying = {path.name for path in (self.root / "releases").iterdir()} - {"highest", "recovered.json"}
        assert lying == {str(number) for number in numbers if number}
        assert not [path for path in self.root.iterdir() if path.name.endswith(".next")]
        assert not list((self.root / "tmp").iterdir())
        return numbers[0], numbers[1]

    def heard(self) -> list[str]:
        """The releases that the application was told of, one after another."""
        return self.told.read_text().split("\n")[:-1] if self.told.exists() else []


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
