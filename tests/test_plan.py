from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgedeploy.errors import PlanError
from edgedeploy.plan import load_fleet, load_plan, load_profiles, suited_to
from edgedeploy.records import Accelerator, Format, Int8Form, Limits, Pass, Precision, Target

PLAN = """
[task]
file = "task.py"
weights = "weights.safetensors"

[train]
epochs = 3

[goal]
minimise = "latency"
max_drop = 0.01

[[recipe]]
name = "slim"
passes = [{ kind = "halve", ratio = 0.5 }, { kind = "fine-tune", epochs = 2 }]
formats = ["onnx", "tflite"]
precisions = ["fp32", "int8"]
"""

FLEET = """
[[device]]
name = "here"
profile = "x86-64"
address = "local:"
"""


@dataclass(frozen=True)
class Halve:
    kind: ClassVar[str] = "halve"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()
    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError("expected a ratio of at least 0 and below 1")

    def apply(self, model: Any, task: Any) -> Any:
        return model


@dataclass(frozen=True)
class Tune:
    kind: ClassVar[str] = "fine-tune"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()
    epochs: int

    def apply(self, model: Any, task: Any) -> Any:
        return model


@dataclass(frozen=True)
class Narrow:
    kind: ClassVar[str] = "narrow"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()
    round_to: int | None = None

    def apply(self, model: Any, task: Any) -> Any:
        return model


PASSES: Any = {"halve": Halve, "fine-tune": Tune}


def write(folder: Path, *, plan: str = PLAN, fleet: str = FLEET) -> Path:
    (folder / "edgedeploy.toml").write_text(plan)
    (folder / "fleet.toml").write_text(fleet)
    return folder


def test_a_plan_is_read_whole(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path), PASSES)
    assert plan.task_file == tmp_path / "task.py"
    assert plan.weights == tmp_path / "weights.safetensors"
    assert plan.train == Tune(3)
    assert plan.goal.limits == Limits(max_drop=0.01)
    (recipe,) = plan.recipes
    assert recipe.passes == (Halve(0.5), Tune(2))
    assert recipe.targets == tuple(Target(f, p) for f in Format for p in (Precision.FP32, Precision.INT8))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[[recipe]]", "[[recipie]]", r"recipie: unknown key \(did you mean `recipe`\?\)"),
        ("minimise", "minimize", r"goal\.minimize: unknown key \(did you mean `minimise`\?\)"),
        ('"latency"', '"latancy"', r"goal\.minimise: found 'latancy': .*'latency'"),
        ("max_drop = 0.01", "max_drop = -0.5", r"goal\.max_drop: found -0\.5: .*greater than or equal to 0"),
        ("max_drop = 0.01", "min_quality = inf", r"goal\.min_quality: found inf: .*finite number"),
        ('file = "task.py"', "", r"task\.file: missing; add it"),
        ('name = "slim"', "", r"recipe\[0\]\.name: missing"),
        ('name = "slim"', 'name = "../slim"', r"recipe\[0\]\.name: found '\.\./slim'"),
        ('["onnx", "tflite"]', '["onxx"]', r"recipe\[0\]\.formats\[0\]: found 'onxx'"),
        ('["onnx", "tflite"]', "[]", r"recipe\[0\]\.formats: found \[\]"),
        ('"halve"', '"halv"', r"recipe\[0\]\.passes\[0\]\.kind: found 'halv' \(did you mean `halve`\?\)"),
        ('kind = "halve", ', "", r"recipe\[0\]\.passes\[0\]\.kind: missing; expected one of fine-tune, halve"),
        ("ratio", "ratoi", r"recipe\[0\]\.passes\[0\]\.ratoi: unknown key \(did you mean `ratio`\?\)"),
        ("ratio = 0.5", "ratio = 1.5", r"recipe\[0\]\.passes\[0\].*expected a ratio of at least 0 and below 1"),
        ("epochs = 2", 'epochs = "two"', r"recipe\[0\]\.passes\[1\]\.epochs: found 'two'"),
        ("epochs = 3", "", r"train\.epochs: missing"),
        ('weights = "weights.safetensors"', "", r"task\.weights: missing; name the file that \[train\]"),
        ("[train]", '[store]\nurl = "sqlite://"\n[train]', r"store\.project: missing"),
        ("[task]", "[task", r"not valid TOML: .*line 2"),
    ],
)
def test_each_mistake_names_file_key_and_mend(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in PLAN
    with pytest.raises(PlanError, match=rf"edgedeploy\.toml: {says}"):
        load_plan(write(tmp_path, plan=PLAN.replace(old, new, 1)), PASSES)


def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    second = PLAN + '[[recipe]]\nname = "slim"\nformats = ["onnx"]\nprecisions = ["fp32"]\n'
    with pytest.raises(PlanError, match="`slim` is used twice"):
        load_plan(write(tmp_path, plan=second), PASSES)


def test_no_plan_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="not there; run `edgedeploy init`"):
        load_plan(tmp_path, PASSES)


def test_a_fleet_is_read_whole(tmp_path: Path) -> None:
    fleet = load_fleet(write(tmp_path))
    device = fleet.device("here")
    assert fleet.profile(device).name == "x86-64"
    assert device.shares == "local:", "two addresses on this machine are never measured at once"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"x86-64"', '"x86-46"', r"device\[0\]\.profile: no device profile `x86-46` \(did you mean `x86-64`\?\)"),
        ("address", "adress", r"device\[0\]\.adress: unknown key \(did you mean `address`\?\)"),
        ('"local:"', '"192.0.2.1"', r"device\[0\]\.address: found '192\.0\.2\.1'"),
        ("[[device]]", "[[devices]]", r"devices: unknown key \(did you mean `device`\?\)"),
    ],
)
def test_each_mistake_in_a_fleet_names_its_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(PlanError, match=rf"fleet\.toml: {says}"):
        load_fleet(write(tmp_path, fleet=FLEET.replace(old, new, 1)))


def test_two_devices_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="`here` is used twice"):
        load_fleet(write(tmp_path, fleet=FLEET + FLEET))


def test_an_unknown_device_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no device `her` \(did you mean `here`\?\); there: here"):
        load_fleet(write(tmp_path)).device("her")


def test_a_users_own_profile_adds_to_the_shipped_ones(tmp_path: Path) -> None:
    shipped = load_profiles()
    own = tmp_path / "device_profiles"
    own.mkdir()
    (own / "mine.toml").write_text(
        'title = "Mine"\narch = "aarch64"\nmemory_bytes = 5\ntransports = ["ssh"]\n'
        '[[cpu]]\ncore = "Cortex-A53"\ncount = 4\n'
        '[[runtime]]\nname = "onnxruntime"\nformat = "onnx"\nprecisions = ["fp32"]\n'
    )
    profiles = load_profiles(own)
    assert profiles.keys() == shipped.keys() | {"mine"}
    assert profiles["mine"].can_run(Target(Format.ONNX, Precision.FP32))
    assert not profiles["mine"].can_run(Target(Format.TFLITE, Precision.FP32))


PROFILE = """
title = "Mine"
arch = "aarch64"
memory_bytes = 5
transports = ["ssh"]
[[cpu]]
core = "Cortex-A53"
count = 4
[[runtime]]
name = "onnxruntime"
format = "onnx"
precisions = ["fp32", "fp16", "int8"]
[[runtime]]
name = "ai-edge-litert"
format = "tflite"
precisions = ["fp32", "int8"]
[[accelerator]]
name = "npu"
runtime = "onnxruntime"
precisions = ["fp32", "fp16"]
provider = "NpuExecutionProvider"
library = "npu/libnpu.so"
device = "npu"
then = ["CUDAExecutionProvider"]
session = { "session.intra_op.allow_spinning" = "0" }
[accelerator.options]
path = "{cache}"
[[accelerator]]
name = "npu"
runtime = "onnxruntime"
precisions = ["int8"]
int8 = ["s8s8-symmetric"]
provider = "NpuExecutionProvider"
[[accelerator]]
name = "xnnpack"
runtime = "ai-edge-litert"
precisions = ["fp32"]
"""


def test_accelerators_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(PROFILE)
    kind = load_profiles(tmp_path)["mine"]
    assert kind.accelerator_names == ("cpu", "npu", "xnnpack")
    float32, int8, xnnpack = kind.accelerators
    assert float32 == Accelerator(
        name="npu",
        runtime="onnxruntime",
        precisions=(Precision.FP32, Precision.FP16),
        provider="NpuExecutionProvider",
        library="npu/libnpu.so",
        device="npu",
        then=("CUDAExecutionProvider",),
        session={"session.intra_op.allow_spinning": "0"},
        options={"path": "{cache}"},
    )
    assert (float32.caches, int8.caches) == (True, False)
    symmetric = Target(Format.ONNX, Precision.INT8, Int8Form.S8S8_SYMMETRIC)
    assert kind.accelerator("npu", Target(Format.ONNX, Precision.FP16)) is float32
    assert kind.accelerator("npu", symmetric) is int8
    assert kind.int8_forms(Format.ONNX) == (Int8Form.S8S8_SYMMETRIC,)
    assert kind.accelerator("xnnpack", Target(Format.TFLITE, Precision.FP32)) is xnnpack
    assert kind.accelerator("cpu", symmetric) is None


@pytest.mark.parametrize(
    ("target", "name", "says"),
    [
        (Target(Format.ONNX, Precision.FP32), "npu", ""),
        (Target(Format.ONNX, Precision.INT8, Int8Form.S8S8), "cpu", ""),
        (Target(Format.TFLITE, Precision.FP32), "npu", "mine has no npu for tflite files"),
        (Target(Format.ONNX, Precision.W8), "npu", "npu takes fp32, fp16, int8 there, not w8"),
        (Target(Format.ONNX, Precision.INT8, Int8Form.S8S8), "npu", "npu takes int8 as s8s8-symmetric there, not s8s8"),
        (Target(Format.TFLITE, Precision.INT8), "xnnpack", "xnnpack takes fp32 there, not int8"),
    ],
)
def test_what_an_accelerator_does_not_take_is_said(tmp_path: Path, target: Target, name: str, says: str) -> None:
    (tmp_path / "mine.toml").write_text(PROFILE)
    assert load_profiles(tmp_path)["mine"].unfit(target, name) == says


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "xnnpack"', 'name = "cpu"', r"accelerator\[2\]: found .*: cpu is what every board has"),
        (
            'runtime = "ai-edge-litert"\n',
            'runtime = "tflite"\n',
            r"accelerator\[2\]\.runtime: no runtime `tflite`; there",
        ),
        ('precisions = ["int8"]', 'precisions = ["fp16"]', "accelerator: npu of onnxruntime for fp16 is there twice"),
        ('provider = "NpuExecutionProvider"\nlib', "lib", r"accelerator\[0\]: found .*name the provider too"),
        ('library = "npu/libnpu.so"', 'delegate = "l.so"', r"accelerator\[0\]: found .*a provider and a delegate"),
        ('library = "npu/libnpu.so"\n', "", r"accelerator\[0\]: found .*name the library too"),
        ('path = "{cache}"', "path = 1", r"accelerator\[0\]\.options\.path: found 1: input should be a valid string"),
        ("provider", "providor", r"accelerator\[0\]\.providor: unknown key \(did you mean `provider`\?\)"),
        ('device = "npu"', 'device = "tpu"', r"accelerator\[0\]\.device: found 'tpu'"),
    ],
)
def test_each_mistake_in_an_accelerator_names_its_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in PROFILE
    (tmp_path / "mine.toml").write_text(PROFILE.replace(old, new, 1))
    with pytest.raises(PlanError, match=rf"(?s)mine\.toml: {says}"):
        load_profiles(tmp_path)


def test_a_plan_and_a_fleet_name_what_to_measure_on(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        plan=PLAN + '[profile]\naccelerator = "xnnpack"\n',
        fleet=FLEET + FLEET.replace("here", "there") + 'accelerator = "openvino"\n',
    )
    assert load_plan(folder, PASSES).accelerator == "xnnpack"
    fleet = load_fleet(folder)
    assert [fleet.device(name).accelerator for name in ("here", "there")] == [None, "openvino"]
    with pytest.raises(PlanError, match=r"device\[0\]\.accelerator: x86-64 has no accelerator `cuda`; there: cpu, "):
        load_fleet(write(tmp_path, fleet=FLEET + 'accelerator = "cuda"\n'))


def test_a_mistake_in_a_profile_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('title = "Mine"\n')
    with pytest.raises(PlanError, match=r"mine\.toml: arch: missing"):
        load_profiles(tmp_path)


def test_a_static_batch_is_part_of_the_target_and_of_its_name(tmp_path: Path) -> None:
    plan = PLAN.replace('precisions = ["fp32", "int8"]', 'precisions = ["fp32"]\nbatch = 1')
    [recipe] = load_plan(write(tmp_path, plan=plan), PASSES).recipes
    # A TFLite file takes one example at a time anyhow.
    assert recipe.targets == (Target(Format.ONNX, Precision.FP32, batch=1), Target(Format.TFLITE, Precision.FP32))
    assert [str(target) for target in recipe.targets] == ["onnx-fp32-batch1", "tflite-fp32"]
    assert [target.static_batch for target in recipe.targets] == [1, 1]
    with pytest.raises(PlanError, match=r"recipe\[0\].batch: found 0"):
        load_plan(write(tmp_path, plan=plan.replace("batch = 1", "batch = 0")), PASSES)


SOURCE = """
[task]
file = "task.py"
source = "net.onnx"

[[recipe]]
name = "given"
formats = ["onnx"]
precisions = ["fp32"]
"""


def test_a_source_file_is_part_of_the_plan(tmp_path: Path) -> None:
    assert load_plan(write(tmp_path, plan=SOURCE), PASSES).source == tmp_path / "net.onnx"
    both = SOURCE.replace("net.onnx", "net.pt2").replace('["onnx"]', '["onnx", "tflite"]')
    plan = load_plan(write(tmp_path, plan=both + 'passes = [{ kind = "fine-tune", epochs = 1 }]\n'), PASSES)
    assert (plan.source, len(plan.recipes[0].targets)) == (tmp_path / "net.pt2", 2)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("net.onnx", "net.h5", r"task.source: found 'net.h5'"),
        ('"net.onnx"', '"net.onnx"\nweights = "w.pt"', r"task.weights: net.onnx brings its own weights"),
        ("[[recipe]]", "[train]\nepochs = 1\n\n[[recipe]]", r"train: net.onnx brings its own weights"),
        ('["onnx"]', '["onnx", "tflite"]', r"recipe\[0\].formats: TFLite files are converted from PyTorch"),
        (
            "formats",
            'passes = [{ kind = "fine-tune", epochs = 1 }]\nformats',
            r"recipe\[0\].passes: passes change a Py",
        ),
    ],
)
def test_what_a_source_file_cannot_have(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        load_plan(write(tmp_path, plan=SOURCE.replace(old, new)), PASSES)


def test_int8_comes_in_the_forms_that_the_fleet_wants(tmp_path: Path) -> None:
    fleet = FLEET + '[[device]]\nname = "arm"\nprofile = "pi4"\naddress = "ssh://pi4"\n'
    folder = write(tmp_path, fleet=fleet)
    passes: dict[str, type[Pass]] = {"halve": Halve, "fine-tune": Tune}
    [recipe] = suited_to(load_fleet(folder), load_plan(folder, passes).recipes)
    names = [str(target) for target in recipe.targets]
    assert names == [
        *("onnx-fp32", "onnx-int8-u8s8", "onnx-int8-u8s7", "onnx-int8-s8s8"),
        *("tflite-fp32", "tflite-int8"),
    ]
    trained = type("Trained", (Tune,), {"int8_forms": (Int8Form.S8S8,)})
    [recipe] = suited_to(load_fleet(folder), load_plan(folder, {**passes, "fine-tune": trained}).recipes)
    assert [target.form for target in recipe.targets if target.form] == [Int8Form.S8S8]
    write(tmp_path, plan=PLAN + 'int8_forms = ["u8u8"]\n', fleet=fleet)
    [recipe] = suited_to(load_fleet(folder), load_plan(folder, passes).recipes)
    assert [target.form for target in recipe.targets if target.form] == [Int8Form.U8U8]


def test_widths_left_open_suit_the_kernels_of_every_board(tmp_path: Path) -> None:
    arm = '[[device]]\nname = "arm"\nprofile = "pi4"\naddress = "ssh://pi4"\n'
    plan = PLAN.replace("ratio = 0.5 }", 'ratio = 0.5 }, { kind = "narrow" }, { kind = "narrow", round_to = 4 }')
    passes = {**PASSES, "narrow": Narrow}
    for fleet, multiple in ((arm, 8), (arm + FLEET, 16), ("", 1)):
        folder = write(tmp_path, plan=plan, fleet=fleet)
        [recipe] = suited_to(load_fleet(folder), load_plan(folder, passes).recipes)
        assert recipe.passes == (Halve(0.5), Narrow(multiple), Narrow(4), Tune(2))


def test_a_profile_that_says_nothing_of_its_kernels_asks_for_no_multiple(tmp_path: Path) -> None:
    here = (Path(__file__).parents[1] / "device_profiles" / "pi4.toml").read_text()
    (tmp_path / "mine.toml").write_text(here.replace("channel_multiple = 8\n", ""))
    assert load_profiles(tmp_path)["mine"].channel_multiple == 1
    (tmp_path / "mine.toml").write_text(here.replace("channel_multiple = 8\n", "channel_multiple = 0\n"))
    with pytest.raises(PlanError, match=r"mine.toml: channel_multiple: found 0"):
        load_profiles(tmp_path)
