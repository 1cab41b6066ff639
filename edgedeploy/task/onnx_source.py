"""An ONNX file from anywhere is read in a process of its own, which checks it and gives back a clean copy."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.errors import PlanError
from edgedeploy.onnx_session import open_session, translated
from edgedeploy.records import ONNX_OPSET
from edgedeploy.task.definition import Arrays

_IR_VERSION = 8

_MAX_BYTES = 2**31 - 1  # what one protobuf message can hold
_MAX_MEMORY_BYTES = 16 * 2**30
_TIMEOUT_S = 300
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_TINY = ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1")
_SMALL = ("FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0", *_TINY)


@dataclass(frozen=True, slots=True, eq=False)
class OnnxSource:
    """A checked ONNX file: opset 18, float32, inputs and outputs called as ours are, all weights inside.

    `frozen_batch` is the one batch that it takes, None where it takes any; `files` is all that was read.
    """

    file: Path
    content: bytes
    frozen_batch: int | None
    files: tuple[Path, ...]


def read_onnx(file: Path, example: Arrays) -> OnnxSource:
    """Check the file and clean it. Raises PlanError, in one sentence, for whatever cannot be used as it is.

    Parser and runtime are native code that a hostile file may crash, hence the process of its own.
    """
    with tempfile.TemporaryDirectory(prefix="edgedeploy-source-") as name:
        folder = Path(name)
        np.savez(folder / "example.npz", *example)
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
        argv = [sys.executable, "-P", "-m", "edgedeploy.task.onnx_source", str(file.resolve()), name]
        try:
            done = subprocess.run(argv, capture_output=True, check=False, timeout=_TIMEOUT_S, env=environment)
        except subprocess.TimeoutExpired as error:
            raise PlanError(f"{file}: could not be read within {_TIMEOUT_S} s") from error
        if done.returncode < 0:
            name_of_signal = signal.Signals(-done.returncode).name
            raise PlanError(f"{file}: reading it crashes ({name_of_signal}); it is damaged or hostile")
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
            raise PlanError(f"{file}: cannot be read: {last}")
        answer = json.loads((folder / "answer.json").read_text("utf-8"))
        if "error" in answer:
            raise PlanError(f"{file}: {answer['error']}")
        files = tuple(Path(path) for path in answer["files"])
        return OnnxSource(file, (folder / "clean.onnx").read_bytes(), answer["frozen_batch"], files)


# -- in the process of its own -------------------------------------------------------------------------------


def _main(file: Path, folder: Path) -> None:
    for limit, most in (
        (resource.RLIMIT_AS, _MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, _TIMEOUT_S),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    with np.load(folder / "example.npz") as archive:
        example = tuple(archive[f"arr_{i}"] for i in range(len(archive.files)))
    try:
        proto, frozen_batch, files = clean(file, example)
        (folder / "clean.onnx").write_bytes(proto.SerializeToString(deterministic=True))
        answer: dict[str, Any] = {"frozen_batch": frozen_batch, "files": [str(path) for path in files]}
    except PlanError as error:
        answer = {"error": str(error)}
    (folder / "answer.json").write_text(json.dumps(answer), "utf-8")


def clean(file: Path, example: Arrays) -> tuple[Any, int | None, list[Path]]:
    """The file as OnnxSource says, its frozen batch, and all files that were read. Raises PlanError."""
    import onnxslim

    proto, files = _load(file)
    _check_contents(proto)
    _name_edges(proto, example)
    before = proto.SerializeToString()
    declared = _settle_shapes(proto, example)
    proto = onnxslim.slim(_to_our_opset(proto))
    del proto.graph.value_info[:]  # shapes of before the simplification
    inputs = _varied(example, declared or 1)
    if not _alike(_run(_batch(proto, declared), inputs, "its clean copy"), _run(before, inputs, "it")):
        raise PlanError(
            f"it computes something else when its opset is made {ONNX_OPSET}; "
            f"export it again with opset_version={ONNX_OPSET}"
        )
    return (*_free_batch(proto, example, declared), files)


def _load(file: Path) -> tuple[Any, list[Path]]:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import inliner

    if file.stat().st_size > _MAX_BYTES:
        raise PlanError("it is larger than 2 GB, which no board's runtime loads")
    try:
        proto = onnx.load_from_string(file.read_bytes())
    except DecodeError as error:
        raise PlanError(f"not an ONNX file, or a damaged one ({error})") from error
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        raise PlanError("not an ONNX file, or a damaged one (it holds no graph)")
    files, total = [file], file.stat().st_size
    for tensor in _tensors(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            path, size_bytes = _external(file.parent, tensor)
            total += size_bytes
            if total > _MAX_BYTES:
                raise PlanError("with its external data it is larger than 2 GB, which no board's runtime loads")
            files += [] if path in files else [path]
            try:
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(file.parent))
            except (onnx.checker.ValidationError, ValueError, OSError) as error:
                raise PlanError(f"its external data cannot be read ({error})") from error
    proto = inliner.inline_local_functions(proto)
    ours = [entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    del proto.opset_import[:]
    proto.opset_import.extend(ours)
    return proto, files


def _external(folder: Path, tensor: Any) -> tuple[Path, int]:
    """The file that holds the tensor and how many of its bytes; refused unless it lies plainly beside the model."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    parts = Path(location).parts
    if not parts or Path(location).is_absolute() or ".." in parts:
        raise PlanError(f"its external data lies at {location!r}; it must lie in a file beside the model, or under it")
    path = folder.joinpath(*parts)
    for step in (folder.joinpath(*parts[: i + 1]) for i in range(len(parts))):
        if step.is_symlink():
            raise PlanError(f"its external data {location!r} is a link; put the file itself there")
    try:
        status = path.stat()
    except OSError as error:
        raise PlanError(f"its external data {location!r} is not there; put it beside the model") from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise PlanError(f"its external data {location!r} is no plain file with one name; put a copy there")
    offset, length = entries.get("offset", "0"), entries.get("length", str(status.st_size))
    # Python takes digits and underscores of every script for a number.
    if not all(one.isascii() and one.isdigit() for one in (offset, length)):
        raise PlanError(f"its external data {location!r} has the offset {offset!r} and length {length!r}: no numbers")
    if int(offset) + int(length) > status.st_size:
        raise PlanError(f"its external data {location!r} ends after {status.st_size:,} bytes; the model asks for more")
    return path, int(length)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    for one in _graphs(graph):
        yield from one.initializer
        for sparse in one.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in one.node:
            for attribute in node.attribute:
                yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def _check_contents(proto: Any) -> None:
    """The source is float32 and uses the standard's own operators; precisions are the recipe's business."""
    import onnx

    nodes = [node for graph in _graphs(proto.graph) for node in graph.node]
    mend = "give the float32 net, and let the recipe set the precision"
    for node in nodes:
        if node.op_type in _QUANTISED or node.op_type.startswith("QLinear"):
            raise PlanError(f"it is quantised already ({node.op_type}); {mend}")
        if node.domain not in ("", "ai.onnx"):
            raise PlanError(
                f"it uses {node.op_type} of {node.domain}, which is not of the ONNX standard; "
                "export it without the optimisations of one runtime"
            )
    names = {value: name for name, value in onnx.TensorProto.DataType.items()}
    for tensor in _tensors(proto.graph):
        kind, size = names[tensor.data_type], int(np.prod(tensor.dims))
        if kind in _SMALL or (kind in ("INT8", "UINT8") and size > 1):
            raise PlanError(f"it holds weights in {kind} already ({tensor.name}); {mend}")
        if kind == "DOUBLE" and size > 1:
            raise PlanError(f"it holds weights in float64 ({tensor.name}); make the net float32")


def _name_edges(proto: Any, example: Arrays) -> None:
    """Hold the inputs against example(), and call inputs and outputs as every exported file does, in place."""
    import onnx

    proto.ir_version = _IR_VERSION
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]  # IR 3 lists the weights among them
    del graph.input[:]
    graph.input.extend(inputs)
    if len(inputs) != len(example):
        names = ", ".join(value.name for value in inputs)
        raise PlanError(f"it has {len(inputs)} inputs ({names}), example() of the task file gives {len(example)}")
    for value, array in zip(inputs, example, strict=True):
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = [axis.dim_value or None for axis in kind.shape.dim]
        if dtype != array.dtype:
            raise PlanError(f"its input {value.name} is {dtype}, that of example() is {array.dtype}")
        if len(shape) != array.ndim or any(a and a != b for a, b in zip(shape[1:], array.shape[1:], strict=True)):
            raise PlanError(f"its input {value.name} has the shape {shape}, that of example() {list(array.shape)}")
    new = {v.name: n for v, n in zip(inputs, _names("input", len(inputs)), strict=True)}
    outputs = list(graph.output)
    twice = next((v.name for v in outputs if v.name in new or sum(o.name == v.name for o in outputs) > 1), None)
    if twice is not None:
        raise PlanError(f"its output {twice} is an input or stands twice; return a copy (torch.clone) instead")
    new |= {v.name: n for v, n in zip(outputs, _names("output", len(outputs)), strict=True)}
    taken = set(new.values())
    for one in _graphs(graph):
        for name in {name for node in one.node for name in (*node.input, *node.output)} | {
            tensor.name for tensor in one.initializer
        }:
            if name in taken and name not in new:
                new[name] = f"inner_{name}"
    for one in _graphs(graph):
        for value in (*one.input, *one.output, *one.initializer):
            value.name = new.get(value.name, value.name)
        for node in one.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]
        del one.value_info[:]


def _names(kind: str, count: int) -> list[str]:
    return [kind] if count == 1 else [f"{kind}_{index}" for index in range(count)]


def _settle_shapes(proto: Any, example: Arrays) -> int | None:
    """Write down every size but the batch, in place, and return the batch that the file declares, None for any."""
    declared = [value.type.tensor_type.shape.dim[0].dim_value or None for value in proto.graph.input]
    if len(set(declared)) > 1:
        raise PlanError(f"its inputs have the batches {declared}; the first axis of every input must be the same batch")
    for value, array in zip(proto.graph.input, example, strict=True):
        for axis, size in zip(list(value.type.tensor_type.shape.dim)[1:], array.shape[1:], strict=True):
            axis.dim_value = size
    return declared[0]


def _to_our_opset(proto: Any) -> Any:
    from onnx import version_converter

    found = next((entry.version for entry in proto.opset_import), 1)
    if found == ONNX_OPSET:
        return proto
    try:
        return version_converter.convert_version(proto, ONNX_OPSET)
    except (version_converter.ConvertError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise PlanError(
            f"its opset {found} cannot be made {ONNX_OPSET} ({said}); export it again with opset_version={ONNX_OPSET}"
        ) from error


def _batch(proto: Any, size: int | None) -> bytes:
    """The file with this batch, None for any."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value in (*copy.graph.input, *copy.graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes and size is None:
            axes[0].dim_param = "batch"
        elif axes:
            axes[0].dim_value = size
    return bytes(copy.SerializeToString())


def _free_batch(proto: Any, example: Arrays, declared: int | None) -> tuple[Any, int | None]:
    """Free the batch axis where the net computes the same for several batches, else freeze it at the one it takes."""
    import onnx

    one = declared or 1
    inputs = _varied(example, 2 * one)
    try:
        both = _run(_batch(proto, None), inputs, "")
        halves = [_run(_batch(proto, None), tuple(array[rows] for array in inputs), "") for rows in _halves(one)]
        free = _alike(both, [np.concatenate(parts) for parts in zip(*halves, strict=True)])
    except (PlanError, ValueError):
        free = False
    return onnx.load_from_string(_batch(proto, None if free else one)), None if free else one


def _halves(length: int) -> tuple[slice, slice]:
    return slice(0, length), slice(length, 2 * length)


def _varied(example: Arrays, batch: int) -> Arrays:
    """So many examples, no two alike where they are floats, so that a net that mixes them shows."""
    repeated = tuple(np.resize(array, (batch, *array.shape[1:])) for array in example)
    scale = 1 + 0.1 * np.arange(batch)
    return tuple(
        (a * scale.reshape(-1, *[1] * (a.ndim - 1))).astype(a.dtype) if a.dtype.kind == "f" else a for a in repeated
    )


def _run(content: bytes, inputs: Arrays, what: str) -> list[np.ndarray]:
    feed = dict(zip(_names("input", len(inputs)), inputs, strict=True))

    def does_not(error: Exception) -> PlanError:
        return PlanError(f"onnxruntime does not run {what}: {' '.join(str(error).split())[:300]}")

    with translated(does_not):
        outputs: list[np.ndarray] = open_session(content).run(None, feed)
    return outputs


def _alike(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-4 * float(np.abs(b).max(initial=0)), equal_nan=True)
        for a, b in zip(some, others, strict=True)
    )


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
