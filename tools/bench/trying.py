"""Tries every technique on one net of one seed, in a process of its own: `trying NET SEED FOLDER FILES`.

FILES is `files` where what comes out is exported too. Writes FOLDER/tried.pickle, a list of `Tried`.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy import export
from edgedeploy.compress import PASSES, apply_passes
from edgedeploy.compress.macs import count_macs
from edgedeploy.errors import CompressionError, ExportError
from edgedeploy.evaluate import evaluate, evaluate_model
from edgedeploy.packing import pack
from edgedeploy.plan.passes import parse_pass
from edgedeploy.records import Format, Pass, Precision, StepAccount, Target, gain
from tools.bench import digits_nets
from tools.bench.compress_peers import PEERS
from tools.bench.rows import OURS
from tools.bench.subjects import Subject, digits_subject, digits_task
from tools.bench.techniques import CNN, GRU, MLP, TECHNIQUES, TRANSFORMER, Technique

if TYPE_CHECKING:
    from torch import nn

NETS: Mapping[str, Any] = {
    MLP: digits_nets.Mlp,
    CNN: digits_nets.Cnn,
    GRU: digits_nets.Gru,
    TRANSFORMER: digits_nets.Transformer,
}
SOURCE = "source"


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """One exported file, or `why` there is none."""

    path: Path | None = None
    contract: Mapping[str, Any] | None = None
    probe: Path | None = None
    size_bytes: int | None = None
    packed_bytes: int | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """What a technique made of a net: its accuracy on the test split, or `why` it made nothing.

    `parameters` and `nonzero` count the net's own, `macs` are those of one inference.
    """

    technique: str
    by: str = OURS
    accuracy: float | None = None
    parameters: int | None = None
    nonzero: int | None = None
    macs: int | None = None
    files: Mapping[Format, File] | None = None
    why: str = ""


def passes_of(technique: Technique, net: str) -> list[Pass]:
    """The technique's passes as a plan would read them. Raises PlanError."""
    return [
        parse_pass(Path(technique.name), f"passes[{number}]", table, PASSES)
        for number, table in enumerate(technique.of(net))
    ]


def tried(technique: Technique, subject: Subject, folder: Path | None) -> Tried:
    """Compress a copy of the net, and export it under `folder` where there is one."""
    passes = passes_of(technique, subject.name)
    return _measured(
        Tried(technique.name), lambda net: apply_passes(net, passes, subject.task), technique.precision, subject, folder
    )


def tried_by_peer(name: str, subject: Subject, folder: Path | None) -> Tried:
    """The same of a peer, whose own exceptions are its answer."""
    by, compress = PEERS[name]

    def checked(net: nn.Module) -> nn.Module:
        try:
            return compress(net, subject)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError) as error:
            raise CompressionError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error

    return _measured(Tried(name, by), checked, Precision.FP32, subject, folder)


def _measured(
    blank: Tried,
    compress: Callable[[nn.Module], nn.Module],
    precision: Precision,
    subject: Subject,
    folder: Path | None,
) -> Tried:
    try:
        net = compress(copy.deepcopy(subject.net))
    except CompressionError as error:
        return dataclasses.replace(blank, why=str(error))
    files = None if folder is None else {f: _exported(net, Target(f, precision), subject, folder / f) for f in Format}
    accuracy = evaluate_model(net, subject.task, "test").quality.value
    if precision is not Precision.FP32:  # the net in torch does not round as the file does
        accuracy = _accuracy_of_file(files, net, Target(Format.ONNX, precision), subject)
    return Tried(blank.technique, blank.by, accuracy, *_counted(net, subject), files)


def _counted(net: nn.Module, subject: Subject) -> tuple[int, int, int]:
    values = [parameter.detach() for parameter in net.parameters()]
    total, nonzero = sum(v.numel() for v in values), sum(int((v != 0).sum()) for v in values)
    return total, nonzero, count_macs(net, subject.task.example)


def _accuracy_of_file(files: Mapping[Format, File] | None, net: nn.Module, target: Target, subject: Subject) -> float:
    """That of the file that is there, or else of one made for the purpose."""
    there = files[target.format] if files else File()
    if there.path is not None and there.contract is not None:
        return evaluate(there.path, there.contract, subject.task, "test").quality.value
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as name:
        exported = export.export(net, target, subject.task, Path(name))
        return evaluate(exported.path, exported.contract, subject.task, "test").quality.value


def _exported(net: nn.Module, target: Target, subject: Subject, folder: Path) -> File:
    folder.mkdir(parents=True)
    try:
        exported = export.export(net, target, subject.task, folder)
        export.check_parity(exported, target, subject.task)
    except ExportError as error:
        return File(why=str(error))
    content = exported.path.read_bytes()
    packed = pack(content, target.format)
    return File(exported.path, exported.contract, exported.probe_path, len(content), len(packed.content))


def try_all(name: str, seed: int, folder: Path, *, files: bool, techniques: Sequence[Technique]) -> list[Tried]:
    """Train the net, then try each technique on a copy of it; the source itself comes first."""
    subject = digits_subject(name, NETS[name], seed=seed)
    (folder / "net.pickle").write_bytes(pickle.dumps(subject.net))
    asked = {t.name: partial(tried, t) for t in (Technique(SOURCE, ()), *techniques)}
    asked |= {peer: partial(tried_by_peer, peer) for peer in PEERS}
    found = []
    for number, (what, make) in enumerate(asked.items()):
        start = time.monotonic()
        try:
            one = make(subject, folder / str(number) if files else None)
        except Exception as error:  # noqa: BLE001 - one technique's bug must not cost the figures of all others
            traceback.print_exc()
            one = Tried(what, why=f"failed: {error!r}"[:200])
        said = f"accuracy {one.accuracy:.4f}" if one.accuracy is not None else one.why
        print(f"{name}, seed {seed}: {what}: {said} ({time.monotonic() - start:.0f} s)", file=sys.stderr)
        found.append(one)
    return found


def subject_of(name: str, seed: int, folder: Path) -> Subject:
    """The net that was tried there, with its task."""
    net = pickle.loads((folder / "net.pickle").read_bytes())
    return Subject(name, net, digits_task(name, NETS[name], seed), trained=True)


def buys(source: Tried, compressed: Tried) -> str:
    """What a technique leaves smaller in the ONNX file, empty where there is none to compare; see `records.gain`."""
    before, after = _step(source), _step(compressed)
    found = gain(before, after) if before and after else None
    return str(found or "")


def _step(tried: Tried) -> StepAccount | None:
    file = tried.files[Format.ONNX] if tried.files else File()
    if tried.parameters is None:
        return None
    return StepAccount(
        step=tried.technique,
        parameters=tried.parameters,
        nonzero_parameters=tried.nonzero,
        macs=tried.macs,
        parameter_bytes=4 * tried.parameters,
        file_bytes=file.size_bytes,
        packed_bytes=file.packed_bytes,
    )


def main(name: str, seed: str, folder: str, files: str) -> None:
    """Try all on one thread, so that the figures do not depend on how many run at once."""
    import torch

    torch.set_num_threads(1)
    np.seterr(all="warn")
    there = Path(folder)
    there.mkdir(parents=True)
    found = try_all(name, int(seed), there, files=files == "files", techniques=TECHNIQUES)
    (there / "tried.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    # By its own name, so that the process that reads the records back knows their classes.
    importlib.import_module("tools.bench.trying").main(*sys.argv[1:])
