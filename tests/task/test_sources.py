"""Nets from files that others made: what is taken, as what, and each refusal in one sentence."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgedeploy.errors import PlanError
from edgedeploy.task import load_task, onnx_source, predict, task_digest
from edgedeploy.task.onnx_source import read_onnx
from tests.support.sources import linear_onnx, net, save_onnx, save_program, write_task

pytestmark = pytest.mark.builds

EXAMPLE = (np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32),)
ROWS = (np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32),)


def refusal(folder: Path, model: Any, example: tuple[np.ndarray, ...] = EXAMPLE) -> str:
    path = folder / "net.onnx"
    if isinstance(model, bytes):
        path.write_bytes(model)
    else:
        onnx.save(model, path)
    with pytest.raises(PlanError) as raised:  # what happens in the process of its own, which takes a second to start
        onnx_source.clean(path, example)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def expected(model: Any, rows: np.ndarray) -> np.ndarray:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    result: np.ndarray = np.maximum(rows @ weights["w"] + weights["b"], 0)
    return result


# -- programs ------------------------------------------------------------------------------------------------


def test_a_program_is_the_source_net(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path), None, save_program(tmp_path / "net.pt2"))
    model = task.load_model()
    np.testing.assert_allclose(predict(model, ROWS)[0], predict(net(), ROWS)[0], atol=1e-6)
    assert not model.train().eval().training
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(p.numel() for p in net().parameters())


def test_a_program_of_a_frozen_batch_takes_any_number_in_pieces(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path), None, save_program(tmp_path / "net.pt2", batch=3))
    np.testing.assert_allclose(predict(task.load_model(), ROWS)[0], predict(net(), ROWS)[0], atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 and then nothing"])
def test_a_damaged_program(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(PlanError, match=r"net.pt2: not a program that torch.export.save wrote"):
        load_task(write_task(tmp_path), None, tmp_path / "net.pt2")


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "net.pt2")
    with pytest.raises(PlanError, match=r"net.pt2: not a program that torch.export.save wrote"):
        load_task(write_task(tmp_path), None, tmp_path / "net.pt2")


def test_a_net_is_given_once(tmp_path: Path) -> None:
    file = write_task(tmp_path)
    file.write_text(file.read_text() + "\ndef model():\n    pass\n")
    with pytest.raises(PlanError, match=r"model\(\) and \[task\] source = 'net.pt2' both give the net"):
        load_task(file, None, save_program(tmp_path / "net.pt2"))
    with pytest.raises(PlanError, match=r"other.pt2: no such source file"):
        load_task(file, None, tmp_path / "other.pt2")


def test_the_digest_covers_the_source(tmp_path: Path) -> None:
    file, source = write_task(tmp_path), save_program(tmp_path / "net.pt2")
    cache: dict[str, str] = {}
    first = task_digest(file, None, cache, source)
    assert task_digest(file, None, cache, source) == first == load_task(file, None, source).digest
    other = net()
    nn.init.zeros_(other.get_parameter("0.weight"))
    save_program(source, other)
    assert task_digest(file, None, cache, source) != first


# -- ONNX files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 3), (13, 7), (18, 8), (20, 9)])
def test_a_file_is_made_ours(tmp_path: Path, opset: int, ir_version: int) -> None:
    model = linear_onnx(opset=opset, ir_version=ir_version)
    if ir_version == 3:  # lists the weights among its inputs
        for tensor in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    source = read_onnx(save_onnx(tmp_path / "net.onnx", model), EXAMPLE)
    clean = onnx.load_from_string(source.content)
    assert [(entry.domain, entry.version) for entry in clean.opset_import] == [("", 18)]
    assert ([v.name for v in clean.graph.input], [v.name for v in clean.graph.output]) == (["input"], ["output"])
    assert (source.frozen_batch, source.files) == (None, (tmp_path / "net.onnx",))
    model_of = load_task(write_task(tmp_path), None, tmp_path / "net.onnx").load_model()
    np.testing.assert_allclose(predict(model_of, ROWS)[0], expected(model, ROWS[0]), atol=1e-6)
    assert sum(parameter.numel() for parameter in model_of.parameters()) == 15


def test_a_fixed_batch_is_freed_where_the_net_does_not_need_it(tmp_path: Path) -> None:
    assert read_onnx(save_onnx(tmp_path / "net.onnx", linear_onnx(batch=1)), EXAMPLE).frozen_batch is None
    sizes = [numpy_helper.from_array(np.array(size), name) for name, size in (("flat", [6]), ("rows", [2, 3]))]
    over_all = [  # of both examples, so that no other number would do
        helper.make_node("Reshape", ["sum", "flat"], ["all"]),
        helper.make_node("Softmax", ["all"], ["shares"], axis=0),
        helper.make_node("Reshape", ["shares", "rows"], ["scores"]),
    ]
    stiff = linear_onnx(batch=2, weights=sizes, nodes=over_all)
    assert read_onnx(save_onnx(tmp_path / "net.onnx", stiff), EXAMPLE).frozen_batch == 2
    outputs = predict(load_task(write_task(tmp_path), None, tmp_path / "net.onnx").load_model(), ROWS)[0]
    assert outputs.shape == (7, 3)
    np.testing.assert_allclose(outputs[:6].reshape(3, 6).sum(1), 1, atol=1e-6)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    body = helper.make_node("Relu", ["a"], ["b"])
    function = helper.make_function("mine", "Clip0", ["a"], ["b"], [body], [helper.make_opsetid("", 18)])
    model = linear_onnx(nodes=[helper.make_node("Clip0", ["sum"], ["scores"], domain="mine")])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    clean, _, _ = onnx_source.clean(save_onnx(tmp_path / "net.onnx", model), EXAMPLE)
    assert {node.op_type for node in clean.graph.node} <= {"MatMul", "Add", "Gemm", "Relu"}
    assert not clean.functions


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    whole = linear_onnx().SerializeToString()
    assert "not an ONNX file, or a damaged one" in refusal(tmp_path, b"something else entirely")
    assert "not an ONNX file, or a damaged one" in refusal(tmp_path, whole[: len(whole) // 2])
    assert "not an ONNX file, or a damaged one" in refusal(tmp_path, b"")


def test_a_file_whose_graph_does_not_hold_together(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"nothing")
    with pytest.raises(PlanError, match=f"^{tmp_path / 'net.onnx'}: not an ONNX file"):
        load_task(write_task(tmp_path), None, tmp_path / "net.onnx")
    loose = linear_onnx(nodes=[helper.make_node("Relu", ["nowhere"], ["scores"])])
    assert "onnxruntime does not run it" in refusal(tmp_path, loose)


def test_a_file_that_is_not_float32(tmp_path: Path) -> None:
    half = (EXAMPLE[0].astype(np.float16),)
    assert "holds weights in FLOAT16 already (w)" in refusal(tmp_path, linear_onnx(kind=TensorProto.FLOAT16), half)
    double = (EXAMPLE[0].astype(np.float64),)
    assert "holds weights in float64 (w)" in refusal(tmp_path, linear_onnx(kind=TensorProto.DOUBLE), double)
    scale = [numpy_helper.from_array(np.array(0.1, np.float32), "s"), numpy_helper.from_array(np.int8(0), "z")]
    nodes = [
        helper.make_node("QuantizeLinear", ["sum", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["scores"]),
    ]
    assert "quantised already (QuantizeLinear)" in refusal(tmp_path, linear_onnx(nodes=nodes, weights=scale))


def test_operators_of_one_runtime_alone(tmp_path: Path) -> None:
    model = linear_onnx(nodes=[helper.make_node("Gelu", ["sum"], ["scores"], domain="com.microsoft")])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "uses Gelu of com.microsoft" in refusal(tmp_path, model)


def test_an_opset_that_cannot_be_ours(tmp_path: Path) -> None:
    assert "its opset 99 cannot be made 18" in refusal(tmp_path, linear_onnx(opset=99))
    gelu = linear_onnx(opset=20, nodes=[helper.make_node("Gelu", ["sum"], ["scores"])], ir_version=9)
    message = refusal(tmp_path, gelu)  # 18 has no Gelu
    assert "18" in message
    assert "Gelu" in message


def test_inputs_that_are_not_those_of_the_example(tmp_path: Path) -> None:
    assert "it has 1 inputs (pixels), example() of the task file gives 2" in refusal(
        tmp_path, linear_onnx(), (*EXAMPLE, *EXAMPLE)
    )
    assert "its input pixels is float32, that of example() is int64" in refusal(
        tmp_path, linear_onnx(), (np.ones((1, 4), np.int64),)
    )
    assert "its input pixels has the shape [None, 4], that of example() [1, 5]" in refusal(
        tmp_path, linear_onnx(), (np.ones((1, 5), np.float32),)
    )


# -- external data -------------------------------------------------------------------------------------------


def with_external_data(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(linear_onnx(), folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    return onnx.load(folder / "net.onnx", load_external_data=False)


def test_external_data_beside_the_model_is_read_and_counts(tmp_path: Path) -> None:
    with_external_data(tmp_path)
    source = read_onnx(tmp_path / "net.onnx", EXAMPLE)
    assert source.files == (tmp_path / "net.onnx", tmp_path / "net.data")
    file, cache = write_task(tmp_path), dict[str, str]()
    first = task_digest(file, None, cache, tmp_path / "net.onnx")
    data = bytearray((tmp_path / "net.data").read_bytes())
    data[3] ^= 1
    (tmp_path / "net.data").write_bytes(data)
    assert task_digest(file, None, cache, tmp_path / "net.onnx") != first


def elsewhere(folder: Path, model: Any) -> None:
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = str(folder.parent / "secret")


def upward(folder: Path, model: Any) -> None:
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../secret"


def symlink(folder: Path, model: Any) -> None:
    (folder / "net.data").unlink()
    (folder / "net.data").symlink_to(folder.parent / "secret")


def linked_folder(folder: Path, model: Any) -> None:
    (folder / "way").symlink_to(folder.parent)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "way/secret"


def hard_link(folder: Path, model: Any) -> None:
    (folder / "net.data").unlink()
    os.link(folder.parent / "secret", folder / "net.data")


def gone(folder: Path, model: Any) -> None:
    (folder / "net.data").unlink()


def pipe(folder: Path, model: Any) -> None:
    (folder / "net.data").unlink()
    os.mkfifo(folder / "net.data")


def too_long(folder: Path, model: Any) -> None:
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "length":
            entry.value = str(10**12)


def negative(folder: Path, model: Any) -> None:
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "offset":
            entry.value = "-8"


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (elsewhere, "it must lie in a file beside the model"),
        (upward, "it must lie in a file beside the model"),
        (symlink, "is a link"),
        (linked_folder, "is a link"),
        (hard_link, "is no plain file with one name"),
        (gone, "is not there"),
        (pipe, "is no plain file with one name"),
        (too_long, "the model asks for more"),
        (negative, "no numbers"),
    ],
)
def test_external_data_that_is_not_plainly_beside_the_model(
    tmp_path: Path, attack: Callable[[Path, Any], None], told: str
) -> None:
    folder = tmp_path / "from-a-stranger"
    model = with_external_data(folder)
    shutil.copy(folder / "net.data", tmp_path / "secret")
    attack(folder, model)
    assert told in refusal(folder, model)


# -- the process of its own ----------------------------------------------------------------------------------


def test_a_file_that_crashes_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    source = save_onnx(tmp_path / "net.onnx")
    with pytest.raises(PlanError, match=r"net.onnx: reading it crashes \(SIGSEGV\)"):
        read_onnx(source, EXAMPLE)
    crash.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(onnx_source, "_TIMEOUT_S", 0.2)
    with pytest.raises(PlanError, match=r"net.onnx: could not be read within"):
        read_onnx(source, EXAMPLE)
