"""Processes that share a build give what one would, and die without taking the build along or outliving it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgedeploy import pipeline
from edgedeploy.build import job as building
from edgedeploy.build import worker, workers
from edgedeploy.build.account import Compressed, Stage
from edgedeploy.build.job import Bench, Ground, Job
from edgedeploy.errors import PlanError
from edgedeploy.progress import Silent
from edgedeploy.project import Project
from edgedeploy.records import LayerAccount, Recipe, StepAccount
from edgedeploy.task import load_task
from tests.support.project import PLAN, TASK, write_project

BOTH = f"""{PLAN}
[[recipe]]
name = "tuned"
passes = [{{ kind = "fine-tune", epochs = 1 }}]
formats = ["onnx", "tflite"]
precisions = ["fp32"]
"""

# Killed where the metric is asked for the fourth time, of the second file after the source, and wherever it is trained.
DEADLY = (
    TASK.replace("import numpy as np\n", "import os\nimport numpy as np\nasked = []\n").replace(
        "    return outputs[0]",
        "    asked.append(1)\n    if len(asked) == 4:\n        os.kill(os.getpid(), 9)\n    return outputs[0]",
    )
    + "\n\ndef loss(output, target):\n    os.abort()\n"
)


class Seen(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, tuple[str, ...]]] = []

    def building(self, done: int, total: int, at: tuple[str, ...]) -> None:
        self.told.append((done, total, at))


@pytest.mark.builds
def test_two_processes_build_what_one_does(tmp_path: Path) -> None:
    alone = pipeline.build(Project(write_project(tmp_path / "alone", plan=BOTH)), jobs=1)
    seen = Seen()
    shared = pipeline.build(Project(write_project(tmp_path / "shared", plan=BOTH)), jobs=2, progress=seen)
    assert shared == alone
    assert len(shared.made) == 4
    assert max(len(at) for _, _, at in seen.told) == 2
    assert [done for done, _, _ in seen.told] == sorted(done for done, _, _ in seen.told)
    assert seen.told[-1][:2] == (4, 4)
    said = [text for _, _, at in seen.told for text in at]
    assert {"compress tuned", "tuned: fine-tune (1/1)", "convert tuned to onnx", "convert tuned to tflite"} <= set(said)
    # Its passes ran once, for both formats.
    compressing = ["compress tuned" in at for _, _, at in seen.told]
    assert sum(now and not before for before, now in zip([False, *compressing], compressing, strict=False)) == 1
    assert not (tmp_path / "shared" / ".edgedeploy" / "tmp").exists()


@pytest.mark.builds
def test_a_killed_process_fails_its_variants_and_no_more(tmp_path: Path) -> None:
    plan = BOTH.replace('precisions = ["fp32", "int8"]', 'precisions = ["fp32", "int8", "fp16"]')
    project = Project(write_project(tmp_path / "project", task=DEADLY, plan=plan))
    built = pipeline.build(project, jobs=2)
    assert built.made == ("dense-onnx-fp32", "dense-onnx-fp16")
    reasons = {failure.variant: failure.reason for failure in built.failures}
    assert list(reasons) == ["dense-onnx-int8-u8s8", "tuned-onnx-fp32", "tuned-tflite-fp32"]
    assert "ended by SIGKILL (export dense-onnx-int8-u8s8); look whether memory ran out" in reasons.pop(
        next(iter(reasons))
    )
    assert all("ended by SIGABRT (tuned: fine-tune (1/1))" in reason for reason in reasons.values())


@pytest.mark.builds
def test_what_is_wrong_with_the_task_is_raised(tmp_path: Path) -> None:
    task = TASK.replace("    return outputs[0]", "    raise KeyError('no')\n    return outputs[0]")
    project = Project(write_project(tmp_path / "project", task=task, plan=BOTH))
    with pytest.raises(PlanError, match=r"task\.py:\d+: metric\(\) raised KeyError"):
        pipeline.build(project, jobs=2)
    assert not (tmp_path / "project" / ".edgedeploy" / "tmp").exists()


@pytest.mark.builds
def test_a_task_that_chance_makes_is_refused(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    ground = Ground(folder / "task.py", None, load_task(folder / "task.py", None).digest)
    assert Bench(ground).task.digest == ground.digest
    with pytest.raises(PlanError, match="seed whatever chance data"):
        _ = Bench(replace(ground, digest="0" * 64)).task
    assert Bench(replace(ground, digest=None)).task.digest == ground.digest


def test_a_net_is_handed_over_where_it_can_be(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    stage = Stage(StepAccount("source", 8, 8, 6, 32), net)
    building._write(Compressed(net, (stage,), (LayerAccount("0.weight", (2, 3), 0.0, 6, None),)), tmp_path / "net")
    taken = building._read(tmp_path / "net")
    assert taken is not None
    given = net.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(given, taken.net.state_dict().values(), strict=True))
    assert taken.stages[0].account == stage.account
    assert taken.stages[0].net is taken.net
    assert taken.layers[0].shape == (2, 3)

    class Local(nn.Module):
        """Nobody else can import it."""

    building._write(Compressed(Local(), (), ()), tmp_path / "local")
    assert not (tmp_path / "local").exists()
    assert building._read(tmp_path / "local") is None
    (tmp_path / "half").write_bytes((tmp_path / "net").read_bytes()[:100])
    assert building._read(tmp_path / "half") is None


@pytest.mark.builds
def test_a_net_that_cannot_be_handed_over_is_made_again(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    bench, said = Bench(Ground(folder / "task.py", None, None)), list[str]()
    made = Job(Recipe("plain", (), ()), (), tmp_path / "not there")
    net = bench._model(made, lambda text, _=None: said.append(text))
    assert bench._model(made, lambda text, _=None: said.append(text)) is net
    assert said == ["load plain"]


def test_cores_and_memory_bound_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for free_bytes, count in ((10**12, 8), (5 * 10**9, 3), (10**6, 1), (None, 8)):
        monkeypatch.setattr(workers, "snapshot", lambda free=free_bytes: {"free_memory_bytes": free})
        assert workers.affordable() == count


def test_an_error_travels_with_its_traceback() -> None:
    class Odd(Exception):
        """Cannot be pickled."""

    for error, kind in ((ZeroDivisionError("by zero"), ZeroDivisionError), (Odd("odd"), RuntimeError)):
        try:
            raise error
        except Exception as raised:  # noqa: BLE001 - whatever was raised is what is to travel
            copy = worker._portable(raised)
        assert isinstance(copy, kind)
        assert "test_an_error_travels_with_its_traceback" in copy.__notes__[0]


def test_a_process_ends_with_the_one_that_gives_it_jobs(tmp_path: Path) -> None:
    with workers._Worker(Ground(tmp_path / "task.py", None, None)) as one:
        one.link.close()
        assert one._process.wait(timeout=60) == -signal.SIGKILL
