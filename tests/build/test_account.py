"""Each pass answers for what it did: counts against independent ones, sizes against real files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgedeploy import compress, export
from edgedeploy.build import account as accounting
from edgedeploy.build.account import Sizes, Watch, packed
from edgedeploy.build.job import Bench, Ground, Job, Made
from edgedeploy.compress import FineTune, PruneChannels, PruneWeights, QuantiseAware, QuantiseWeights
from edgedeploy.compress.held import masks_of
from edgedeploy.evaluate import evaluate_model
from edgedeploy.export import FloatFile
from edgedeploy.records import Format, Pass, Precision, Recipe, StepAccount, Target
from edgedeploy.task import Task, load_task
from tests.support.nets import write_task

# 4 x 16 + 16 and 16 x 3 + 3.
PARAMETERS, MACS = 131, 112


@pytest.fixture
def tiny(tmp_path: Path) -> Task:
    return load_task(write_task(tmp_path / "tiny"), None)


def watched(task: Task, *passes: Pass) -> accounting.Compressed:
    model = task.load_model()
    watch = Watch(model, task, evaluate_model(model, task, "selection"), len(passes))
    return watch.end(compress.apply_passes(model, passes, task, on_net=watch.see))


def steps(task: Task, folder: Path, file_format: Format, *passes: Pass) -> list[StepAccount]:
    found = watched(task, *passes)
    own = export.convert(found.net, file_format, task, folder)
    return list(Sizes(task).steps(found.stages, own, folder))


def fp32_bytes(net: nn.Module, task: Task, file_format: Format, folder: Path) -> bytes:
    """The file that a recipe's fp32 variant would be, without trying it out."""
    folder.mkdir()
    exporter, path = export.EXPORTERS[file_format], folder / f"model.{file_format}"
    source = export.convert(net, file_format, task, folder).path
    exporter.quantise(source, Target(file_format, Precision.FP32), task, path, ())
    return path.read_bytes()


def test_each_pass_is_counted_with_its_zeros_held(tiny: Task) -> None:
    source, pruned, tuned = (stage.account for stage in watched(tiny, PruneWeights(0.5), FineTune(2)).stages)
    assert [one.step for one in (source, pruned, tuned)] == ["source", "prune-weights", "fine-tune"]
    for one in (source, pruned, tuned):
        assert (one.parameters, one.macs, one.parameter_bytes) == (PARAMETERS, MACS, 4 * PARAMETERS)
    assert source.nonzero_parameters == PARAMETERS
    assert pruned.nonzero_parameters == tuned.nonzero_parameters == PARAMETERS - 56  # biases are not pruned
    assert source.drop is None
    for one in (pruned, tuned):
        assert source.quality
        assert one.quality
        assert one.drop
        assert one.drop.value == pytest.approx(source.quality.value - one.quality.value)
        assert one.drop.low <= one.drop.value <= one.drop.high
        assert (one.quality.split, one.quality.examples) == ("selection", 20)


def test_fewer_channels_are_fewer_parameters_and_products(tiny: Task) -> None:
    _, pruned = (stage.account for stage in watched(tiny, PruneChannels(0.5)).stages)
    assert (pruned.parameters, pruned.nonzero_parameters, pruned.macs) == (8 * 4 + 8 + 8 * 3 + 3, 67, 8 * 4 + 8 * 3)


@pytest.mark.builds
def test_sizes_are_those_of_files_that_are_really_made(tiny: Task, tmp_path: Path) -> None:
    passes = (PruneChannels(0.5), PruneWeights(0.5), FineTune(1))
    nets = [tiny.load_model()]
    compress.apply_passes(tiny.load_model(), passes, tiny, on_net=lambda _, net: nets.append(copy.deepcopy(net)))
    assert masks_of(nets[2])
    found = steps(tiny, tmp_path, Format.ONNX, *passes)
    assert len(found) == len(nets) == 4
    for number, (net, one) in enumerate(zip(nets, found, strict=True)):
        content = fp32_bytes(net, tiny, Format.ONNX, tmp_path / str(number))
        assert (one.file_bytes, one.packed_bytes) == (len(content), len(packed(content, Format.ONNX)))
    assert found[0].file_bytes > found[1].file_bytes == found[2].file_bytes  # type: ignore[operator]


@pytest.mark.builds
def test_a_tflite_step_is_as_large_as_its_file(tiny: Task, tmp_path: Path) -> None:
    (one,) = steps(tiny, tmp_path, Format.TFLITE)
    content = fp32_bytes(tiny.load_model(), tiny, Format.TFLITE, tmp_path / "file")
    assert (one.file_bytes, one.packed_bytes) == (len(content), len(packed(content, Format.TFLITE)))
    path = tmp_path / "file" / "model.tflite"
    assert 4 * PARAMETERS <= export.constant_bytes(path, Format.TFLITE) < 4 * PARAMETERS + 64


class _Idle:
    kind: ClassVar[str] = "idle"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        return model


class _Unwritable(_Idle):
    """Puts in what no format has an operator for; the pass after it takes it out."""

    kind: ClassVar[str] = "unwritable"

    def apply(self, model: Any, task: Task) -> nn.Module:
        model[1] = _Bessel() if isinstance(model[1], nn.ReLU) else nn.ReLU()
        return model  # type: ignore[no-any-return]


class _Bessel(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.special.bessel_j0(values)
        return result


@pytest.mark.builds
def test_only_what_changed_is_exported_and_the_source_once(
    tiny: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = []
    real = export.convert

    def counting(model: nn.Module, *rest: Any) -> FloatFile:
        converted.append(model)
        return real(model, *rest)

    monkeypatch.setattr(export, "convert", counting)
    sizes = Sizes(tiny)
    found = watched(tiny, _Idle(), PruneWeights(0.5), FineTune(1))
    own = real(found.net, Format.ONNX, tiny, tmp_path)
    first = list(sizes.steps(found.stages, own, tmp_path))
    assert len(converted) == 2
    assert first[0].file_bytes == first[1].file_bytes
    assert first[0].packed_bytes == first[1].packed_bytes != first[2].packed_bytes
    assert list(sizes.steps(found.stages, own, tmp_path)) == first
    assert len(converted) == 3
    list(sizes.steps(watched(tiny).stages, own, tmp_path))
    assert len(converted) == 3


@pytest.mark.builds
def test_a_net_in_between_that_makes_no_file_has_no_size(tiny: Task, tmp_path: Path) -> None:
    found = steps(tiny, tmp_path, Format.ONNX, _Unwritable(), _Unwritable())
    sizes = [(one.file_bytes, one.packed_bytes) for one in found]
    assert sizes[0] == sizes[2] != (None, None)
    assert sizes[1] == (None, None)
    assert found[1].quality is not None


@pytest.mark.builds
def test_a_net_that_was_trained_for_int8_has_no_float_file(tiny: Task, tmp_path: Path) -> None:
    source, trained = steps(tiny, tmp_path, Format.ONNX, QuantiseAware(1))
    assert source.file_bytes is not None
    assert (trained.file_bytes, trained.packed_bytes) == (None, None)
    assert (trained.parameters, trained.macs) == (PARAMETERS, MACS)


def test_a_net_in_between_without_finite_outputs_has_no_accuracy(tiny: Task) -> None:
    class Logarithm(nn.Module):
        """Finite on the example, which holds ones, and not on the selection split."""

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.log()

    class Break(_Idle):
        kind: ClassVar[str] = "break"

        def apply(self, model: nn.Module, task: Task) -> nn.Module:
            return nn.Sequential(Logarithm(), *model.children())

    broken = watched(tiny, Break()).stages[1].account
    assert (broken.quality, broken.drop) == (None, None)
    assert broken.macs == MACS


def test_a_net_that_cannot_be_copied_is_counted_all_the_same(tiny: Task) -> None:
    class Locked(_Idle):
        kind: ClassVar[str] = "lock"

        def apply(self, model: nn.Module, task: Task) -> nn.Module:
            import threading

            model.lock = threading.Lock()  # type: ignore[assignment]
            return model

    _, locked, idle = watched(tiny, Locked(), _Idle()).stages
    assert locked.net is None
    assert not idle.as_before
    assert locked.account.parameters == PARAMETERS


@pytest.mark.builds
def test_the_file_itself_is_the_last_step(tmp_path: Path) -> None:
    bench = Bench(Ground(write_task(tmp_path / "tiny"), None, None))
    passes = (PruneWeights(0.5), QuantiseWeights(1, scheme="ternary"))
    targets = (Target(Format.ONNX, Precision.FP32), Target(Format.ONNX, Precision.W8))
    from edgedeploy.build.identity import requests

    asked = tuple(requests([Recipe("few", passes, targets)], "0" * 64, tmp_path))
    made = list(bench.do(Job(asked[0].recipe, asked), tmp_path, lambda *_: None))
    for one in made:
        assert isinstance(one, Made)
        content = one.path.read_bytes()
        *before, last = one.steps
        assert [step.step for step in before] == ["source", "prune-weights", "quantise-weights"]
        assert (last.step, last.nonzero_parameters) == ("export", None)
        assert (last.parameters, last.macs) == (one.parameters, before[-1].macs) == (PARAMETERS, MACS)
        assert (last.file_bytes, last.packed_bytes) == (len(content), len(packed(content, Format.ONNX)))
        assert last.drop == one.drop
        held = onnx.load_from_string(content).graph.initializer
        assert last.parameter_bytes == sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in held)
        assert [layer.layer for layer in one.layers] == ["0.weight", "2.weight"]
        assert all(layer.bits == 2 and layer.sparsity >= 0.3 for layer in one.layers)
        zeros = sum(round(layer.sparsity * np.prod(layer.shape)) for layer in one.layers)
        assert zeros == PARAMETERS - before[-1].nonzero_parameters  # type: ignore[operator]
    float_file, w8 = made
    assert isinstance(float_file, Made)
    assert isinstance(w8, Made)
    assert float_file.steps[:-1] == w8.steps[:-1]
    assert float_file.steps[-1].file_bytes == float_file.steps[-2].file_bytes
    assert w8.steps[-1].parameter_bytes < float_file.steps[-1].parameter_bytes
