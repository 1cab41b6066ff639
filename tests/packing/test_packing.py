"""Whatever is packed comes back bit by bit, in fewer bytes than the field's coders take."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from edgedeploy import export
from edgedeploy.on_device.unpacking import unpack
from edgedeploy.packing import Packed, onnx_constants, pack, tflite_constants
from edgedeploy.records import Format, Precision, Target
from tests.export import nets
from tests.on_device import models
from tests.packing.files import onnx_file, weights

KINDS = ("dense", "sparse", "clustered", "both", "grid", "int8")
BOTH = st.sampled_from(list(Format))
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def packed(content: bytes, file_format: Format = Format.ONNX) -> Packed:
    """Packed, and found to be the same again."""
    made = pack(content, file_format)
    assert unpack(made.content, len(content)) == content
    return made


def entropy_bytes(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum() * values.size / 8)


@FEW
@given(st.binary(max_size=400), BOTH)
def test_any_bytes_come_back(content: bytes, file_format: Format) -> None:
    packed(content, file_format)


@FEW
@given(
    st.sampled_from(["<f4", "<f2", "<f8", "<i1", "<u1", "<i4", "<i8"]).flatmap(
        lambda kind: numpy_strategies.arrays(
            kind, numpy_strategies.array_shapes(max_dims=5, max_side=6), fill=st.just(0)
        )
    ),
    st.integers(0, 3000),
)
def test_any_tensor_comes_back(array: np.ndarray, max_decisions: int) -> None:
    content = onnx_file({"w": array, "again": array, "b": array.ravel()[:9]})
    made = pack(content, Format.ONNX, max_decisions=max_decisions)
    assert unpack(made.content, len(content)) == content


@FEW
@given(st.binary(max_size=40), st.integers(0, 1500), st.sampled_from(KINDS))
def test_a_damaged_model_still_comes_back(patch: bytes, place: int, kind: str) -> None:
    content = bytearray(onnx_file({"w": weights(kind, (8, 30))}))
    content[place : place + len(patch)] = patch
    for file_format in Format:
        made = pack(bytes(content), file_format, max_decisions=2000)
        assert unpack(made.content, len(content)) == content


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7, 50), (8, 3, 3, 3), (200,), (150, 100)])
def test_every_kind_of_weights_comes_back_smaller_than_zlib(kind: str, shape: tuple[int, ...]) -> None:
    content = onnx_file({"w": weights(kind, shape)})
    made = packed(content)
    assert len(made.content) < len(zlib.compress(content, 9)) * 1.01 + made.header_bytes


def test_nothing_at_all_can_be_packed() -> None:
    assert len(packed(b"").content) < 60


def test_values_that_are_no_numbers_keep_their_bits() -> None:
    patterns = np.array([0x7FC00000, 0xFFC00001, 0x80000000, 0, 0x7F800000, 0xFF800000] * 40, "<u4")
    packed(onnx_file({"w": patterns.view("<f4")}))


def test_far_apart_whole_numbers_come_back() -> None:
    ends = np.iinfo(np.int64)
    packed(onnx_file({"w": np.array([ends.min, 0, ends.max, 4294967298] * 10)}))


def test_both_zeros_on_a_grid_come_back() -> None:
    packed(onnx_file({"w": np.array([-0.5, -0.0, 0.0, 0.5, 1.0] * 20, np.float32)}))


def test_the_same_tensor_is_stored_once() -> None:
    one, two = weights("dense", (50, 40), 1), weights("dense", (50, 40), 2)
    alone = packed(onnx_file({"a": one}))
    twice = packed(onnx_file({"a": one, "b": one}))
    assert len(twice.content) < len(alone.content) + 30
    assert [tensor.copies for tensor in twice.tensors] == [2]
    assert [tensor.name for tensor in packed(onnx_file({"a": one, "b": two})).tensors] == ["a", "b"]


def test_the_account_adds_up() -> None:
    content = onnx_file({"a": weights("both", (60, 30)), "b": weights("dense", (90,)), "c": weights("int8", (30, 9))})
    made = packed(content)
    total = made.header_bytes + made.skeleton_bytes + sum(tensor.size_bytes for tensor in made.tensors)
    assert total == pytest.approx(len(made.content), rel=0.02, abs=12)
    assert [tensor.symbols for tensor in made.tensors] == [1800, 90, 270]
    assert "contexts" in made.tensors[0].coder


def test_the_same_file_gives_the_same_container() -> None:
    content = onnx_file({"w": weights("both", (30, 20))})
    assert pack(content, Format.ONNX).content == pack(content, Format.ONNX).content


def test_contexts_find_what_order_0_does_not() -> None:
    chance = np.random.default_rng(0)
    rates = chance.choice([0.01, 0.5], 80)  # columns that are nearly empty, and others
    levels = np.where(chance.random((200, 80)) < rates, chance.integers(1, 5, (200, 80)), 0)
    array = np.array([0, -0.3, -0.1, 0.1, 0.3], np.float32)[levels]
    [tensor] = packed(onnx_file({"w": array})).tensors
    assert tensor.size_bytes < 0.85 * entropy_bytes(array)


@pytest.mark.parametrize("kind", ["clustered", "both", "int8"])
def test_large_files_are_within_a_hundredth_of_their_entropy(kind: str) -> None:
    shape = (1024, 1024) if kind == "int8" else (512, 512)
    array = weights(kind, shape)
    [tensor] = packed(onnx_file({"w": array})).tensors
    assert "rans" in tensor.coder
    assert tensor.size_bytes < 1.01 * entropy_bytes(array)


def test_nine_tenths_zeros_pack_at_least_eightfold() -> None:
    content = onnx_file({"w": weights("sparse", (512, 512))})
    assert len(packed(content).content) * 8 < len(content)


def test_the_slow_coder_is_bounded() -> None:
    content = onnx_file({"w": weights("both", (50, 100))})
    quick = pack(content, Format.ONNX, max_decisions=0)
    assert unpack(quick.content, len(content)) == content
    assert not any("adaptive" in tensor.coder or "contexts" in tensor.coder for tensor in quick.tensors)
    assert len(pack(content, Format.ONNX).content) < len(quick.content)


def test_the_weights_of_a_tflite_file_are_found() -> None:
    content = models.tflite_dense()
    found = tflite_constants.constants(content)
    assert found
    assert all(0 < each.start < each.end <= len(content) for each in found)
    packed(content, Format.TFLITE)


def test_the_weights_of_an_onnx_file_are_those_that_onnx_reads() -> None:
    import onnx

    content = models.onnx_matmul()
    wanted = {
        each.name: onnx.numpy_helper.to_array(each).tobytes()
        for each in onnx.load(io.BytesIO(content)).graph.initializer
    }
    assert {each.name: content[each.start : each.end] for each in onnx_constants.constants(content)} == wanted
    packed(content, Format.ONNX)


@pytest.mark.builds
def test_exported_nets_come_back(tmp_path: Path) -> None:
    task = nets.digits_task(nets.Cnn)
    net = nets.train(task)
    for file_format in Format:
        for precision in (Precision.FP32, Precision.INT8):
            place = tmp_path / f"{file_format}-{precision}"
            place.mkdir()
            content = export.export(net, Target(file_format, precision), task, place).path.read_bytes()
            made = packed(content, file_format)
            assert made.tensors
            assert len(made.content) < len(zlib.compress(content, 9))
