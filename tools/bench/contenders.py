"""The files that stand beside each other for one net: ours in every precision, and those of the peers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy import export
from edgedeploy.compress import PASSES, apply_passes
from edgedeploy.errors import CompressionError, ExportError
from edgedeploy.records import Calibration, Format, Int8Form, Precision, Target
from tools.bench import environments
from tools.bench.environments import PeerFailed
from tools.bench.rows import OURS
from tools.bench.subjects import Subject

# pass -> its settings and what is exported then; one that this version lacks is left out.
TRAINED: Mapping[str, tuple[Mapping[str, Any], Precision]] = {
    "quantise-aware": ({"epochs": 10, "learning_rate": 5e-4}, Precision.INT8),
    "quantise-weights": ({"epochs": 10, "learning_rate": 5e-4, "bits": 4}, Precision.W4),
}
PEER_TIMEOUT_S = 900

# peer -> the methods that its script knows; ONNX Runtime is in our own environment.
PEERS: Mapping[str, tuple[str, ...]] = {
    "ONNX Runtime": ("static", "dynamic"),
    "NNCF": ("static", "static-transformer"),
    "Olive": ("static", "dynamic", "float16"),
}
_SCRIPTS = {"ONNX Runtime": "onnxruntime", "NNCF": "nncf", "Olive": "olive"}


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One file with its contract, or `why` there is none."""

    by: str
    what: str
    path: Path | None = None
    contract: Mapping[str, Any] | None = None
    why: str = ""


def targets(file_format: Format) -> list[Target]:
    """All that may be asked for in a format, each form of static int8 by itself; fp32 comes first."""
    found = []
    for precision in Precision:
        forms = list(Int8Form) if precision is Precision.INT8 and file_format is Format.ONNX else [None]
        found += [Target(file_format, precision, form) for form in forms]
    return found


def ours(subject: Subject, file_format: Format, folder: Path) -> list[Contender]:
    """What we make of the net in one format, refusals included."""
    folder.mkdir(parents=True)
    asked = targets(file_format)
    try:
        source = export.convert(subject.net, file_format, subject.task, folder)
    except ExportError as error:
        return [Contender(OURS, _what(target), why=f"refused: {error}") for target in asked]
    return [_quantised(subject, source, target, folder / str(target)) for target in asked]


def trained(subject: Subject, file_format: Format, folder: Path) -> list[Contender]:
    """The net trained for a precision by each pass that does so, exported in it."""
    return [
        _trained(subject, kind, settings, Target(file_format, precision), folder / kind)
        for kind, (settings, precision) in TRAINED.items()
        if kind in PASSES
    ]


def _trained(subject: Subject, kind: str, settings: Mapping[str, Any], target: Target, folder: Path) -> Contender:
    what = f"{target.precision}, {kind}"
    folder.mkdir(parents=True)
    step: Any = PASSES[kind]
    try:
        net = apply_passes(copy.deepcopy(subject.net), [step(**settings)], subject.task)
        exported = export.export(net, target, subject.task, folder)
        export.check_parity(exported, target, subject.task)
    except (CompressionError, ExportError) as error:
        return Contender(OURS, what, why=f"refused: {error}")
    return Contender(OURS, what, exported.path, exported.contract)


def _what(target: Target) -> str:
    return f"{target.precision}-{target.form}" if target.form else str(target.precision)


def _quantised(subject: Subject, source: export.FloatFile, target: Target, folder: Path) -> Contender:
    folder.mkdir()
    try:
        exported = export.quantise(source, target, subject.task, folder)
        if subject.trained:  # the limits are those of trained nets
            export.check_parity(exported, target, subject.task)
    except ExportError as error:
        return Contender(OURS, _what(target), why=f"refused: {error}")
    return Contender(OURS, _what(target), exported.path, exported.contract)


def of_peers(subject: Subject, base: Contender, folder: Path) -> list[Contender]:
    """What the peers make of our fp32 ONNX file, calibrated on the same examples as ours."""
    assert base.path is not None
    folder.mkdir(parents=True)
    data = folder / "data.npz"
    np.savez(data, calibration=subject.task.calibration.spread(Calibration().examples)[0])
    source = _named(base.path, folder / "float.onnx")
    return list(
        chain.from_iterable(
            (_of_peer(peer, method, source, data, base, folder) for method in methods)
            for peer, methods in PEERS.items()
        )
    )


def _of_peer(peer: str, method: str, source: Path, data: Path, base: Contender, folder: Path) -> Contender:
    name = _SCRIPTS[peer]
    result = folder / f"{name}-{method}.onnx"
    script = environments.PEERS / f"{name}_quantise.py"
    try:
        python = environments.own_interpreter() if name == "onnxruntime" else environments.interpreter(name)
        argv = [str(python), "-W", "ignore", str(script), method, str(source), str(data), str(result)]
        environments.run(argv, PEER_TIMEOUT_S)
    except PeerFailed as error:
        return Contender(peer, method, why=str(error))
    return Contender(peer, method, result, base.contract)


def _named(source: Path, path: Path) -> Path:
    """A copy whose nodes have names, which quantisers go by and our files do without."""
    import onnx

    proto = onnx.load(source)
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    onnx.save(proto, path)
    return path
