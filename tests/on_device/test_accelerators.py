"""What really ran a file is found out: real runtimes, a real delegate library, and providers that take nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgedeploy.on_device import runtime_onnx
from edgedeploy.on_device.accelerators import elsewhere, filled, placed
from edgedeploy.on_device.runtimes import UnsupportedModel, open_model
from tests.on_device import models
from tests.on_device.virtual_board import VirtualBoard, profile

AZURE = {"provider": "AzureExecutionProvider"}  # in every wheel; it takes no node of such a file


def accelerator(name: str, switch: dict[str, Any] | None = None, caches: Path | None = None) -> dict[str, Any]:
    return {"name": name, "switch": switch, "caches": str(caches) if caches else None}


@pytest.fixture(scope="session")
def delegate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A delegate library as a vendor ships one, made by the C compiler at hand."""
    library = tmp_path_factory.mktemp("delegate") / "libtestdelegate.so"
    source = Path(__file__).with_name("delegate.c")
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


@pytest.mark.parametrize(
    ("asked", "nodes", "used", "share", "rest"),
    [
        ("cpu", {"cpu": 3}, "cpu", 1.0, ""),
        ("cpu", {"xnnpack": 2, "cpu": 1}, "cpu", 1.0, ""),
        ("cpu", None, "cpu", None, ""),
        ("cuda", {"cuda": 40}, "cuda", 1.0, ""),
        ("cuda", {"cuda": 37, "cpu": 3}, "cuda", 0.925, "3 of 40 nodes on cpu"),
        (
            "tensorrt",
            {"tensorrt": 6, "cuda": 3, "cpu": 1},
            "tensorrt",
            0.6,
            "1 of 10 nodes on cpu, 3 of 10 nodes on cuda",
        ),
        ("cuda", {"cpu": 40}, "cpu", 0.0, "40 of 40 nodes on cpu"),
        ("tensorrt", {"cuda": 30, "cpu": 10}, "cuda", 0.0, "10 of 40 nodes on cpu, 30 of 40 nodes on cuda"),
        ("cuda", None, "cuda", None, ""),
        ("cuda", {}, "cuda", None, ""),
    ],
)
def test_what_ran_where_is_counted_and_named(
    asked: str, nodes: dict[str, int] | None, used: str, share: float | None, rest: str
) -> None:
    assert placed(asked, nodes) == (used, share)
    assert elsewhere(asked, nodes) == rest


def test_a_cache_belongs_to_one_file_release_and_set_of_options(tmp_path: Path) -> None:
    def cache(version: str, file: str, **options: str) -> str:
        done = filled({"options": {"path": "{cache}", "n": "{threads}", **options}}, 4, str(tmp_path / file), version)
        assert done["options"]["n"] == "4"
        assert Path(done["options"]["path"]).is_dir()
        return str(done["options"]["path"])

    first = cache("1.0", "a")
    assert first == cache("1.0", "a")
    assert len({first, cache("1.1", "a"), cache("1.0", "b"), cache("1.0", "a", fp16="True")}) == 4
    assert first.startswith(str(tmp_path / "a"))
    assert filled({"provider": "P", "options": {"n": "1"}}, 1, str(tmp_path / "c"), "1.0")["session"] == {}
    assert not (tmp_path / "c").exists(), "no folder where nothing is kept"


# -- ONNX Runtime ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", [None, {"delegate": "lib.so"}, {"provider": "CUDAExecutionProvider"}])
def test_a_provider_that_is_not_in_the_wheel_says_what_is(onnx_file: str, switch: dict[str, Any] | None) -> None:
    with pytest.raises(UnsupportedModel, match=r"onnxruntime [\d.]+ has no accelerator 'cuda' here, only cpu$"):
        open_model(onnx_file, models.ONNX, 1, accelerator("cuda", switch))


def test_a_provider_that_takes_nothing_is_found_out(onnx_file: str) -> None:
    model = open_model(onnx_file, models.ONNX, 1, accelerator("azure", AZURE))
    nodes = model.placement([models.EXAMPLES])
    assert placed("azure", nodes) == ("cpu", 0.0)


def test_a_runtime_that_records_no_assignment_is_asked_by_its_profile(
    onnx_file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from onnxruntime.capi.onnxruntime_inference_collection import Session

    monkeypatch.delattr(Session, "get_provider_graph_assignment_info")
    monkeypatch.chdir(tmp_path)
    model = open_model(onnx_file, models.ONNX, 1, accelerator("azure", AZURE))
    assert model.placement([models.EXAMPLES]) == {"cpu": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"], "the profile is cleared away"
    assert open_model(onnx_file, models.ONNX).placement([models.EXAMPLES]) is None, "there is nowhere to fall back from"


def test_a_plugin_that_cannot_be_loaded_is_a_refusal(onnx_file: str) -> None:
    switch = {"provider": "GhostExecutionProvider", "library": "/nowhere/libghost.so"}
    with pytest.raises(UnsupportedModel, match=r"Failed to load library /nowhere/libghost\.so"):
        open_model(onnx_file, models.ONNX, 1, accelerator("ghost", switch))


class PlayedSession:
    """Takes the first `taken` of ten nodes on CUDA; no GPU is needed to see what the adapter makes of that."""

    run = get_inputs = get_outputs = lambda *_: ()
    registered = ("CUDAExecutionProvider", "CPUExecutionProvider")
    taken = 10
    asked: dict[str, Any]

    def __init__(self, _path: str, options: Any, **asked: Any) -> None:
        type(self).asked = dict(asked, entries=options.entries)

    def get_providers(self) -> list[str]:
        return list(self.registered)

    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        parts = (("CUDAExecutionProvider", self.taken), ("CPUExecutionProvider", 10 - self.taken))
        return [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in parts if n]


def played(session: type[PlayedSession]) -> Any:
    def options() -> SimpleNamespace:
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__)

    return SimpleNamespace(
        __version__="0",
        capi=SimpleNamespace(onnxruntime_pybind11_state=SimpleNamespace()),
        get_available_providers=lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
        SessionOptions=options,
        InferenceSession=session,
    )


class Named:
    """What the runtime's enumerations have: a name."""

    def __init__(self, name: str) -> None:
        self.name = name


EMPTY: dict[str, Any] = {"inputs": [], "outputs": []}


@pytest.mark.parametrize(("taken", "nodes"), [(10, {"cuda": 10}), (7, {"cuda": 7, "cpu": 3}), (0, {"cpu": 10})])
def test_the_share_of_a_provider_is_read_back(taken: int, nodes: dict[str, int]) -> None:
    session = type("Session", (PlayedSession,), {"taken": taken})
    switch = {"provider": "CUDAExecutionProvider"}
    loaded = runtime_onnx.load(played(session), "m.onnx", EMPTY, 1, accelerator("cuda", switch))
    assert loaded.placement(None) == nodes


def test_a_provider_that_does_not_start_is_no_measurement_of_the_cpu() -> None:
    session = type("Session", (PlayedSession,), {"registered": ("CPUExecutionProvider",)})
    with pytest.raises(UnsupportedModel, match=r"could not start CUDAExecutionProvider .*missing; there: cpu$"):
        runtime_onnx.load(
            played(session), "m.onnx", EMPTY, 1, accelerator("cuda", {"provider": "CUDAExecutionProvider"})
        )


def test_tensorrt_keeps_its_engine_and_leaves_the_rest_to_cuda(tmp_path: Path) -> None:
    registered = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    session: Any = type("Session", (PlayedSession,), {"registered": registered})
    switch = {
        "provider": "TensorrtExecutionProvider",
        "then": ["CUDAExecutionProvider"],
        "options": {"trt_engine_cache_enable": "True", "trt_engine_cache_path": "{cache}"},
        "session": {"session.intra_op.allow_spinning": "0"},
    }
    runtime_onnx.load(played(session), "m.onnx", EMPTY, 1, accelerator("tensorrt", switch, tmp_path / "file"))
    (cache,) = (tmp_path / "file").iterdir()
    assert session.asked["providers"] == [
        ("TensorrtExecutionProvider", {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(cache)}),
        ("CUDAExecutionProvider", {}),
        ("CPUExecutionProvider", {}),
    ]
    assert session.asked["enable_fallback"] == 0
    assert session.asked["entries"]["session.intra_op.allow_spinning"] == "0"


def test_a_plugin_is_given_the_devices_of_its_kind_alone(tmp_path: Path) -> None:
    """Once its library is loaded it is listed as a provider too, and a second session must still be given devices."""
    (tmp_path / "libnpu.so").touch()
    switch = {"provider": "CUDAExecutionProvider", "library": str(tmp_path / "libnpu.so"), "options": {"a": "b"}}
    module = played(PlayedSession)
    kinds = ("CPU", "NPU", "NPU")
    devices = [SimpleNamespace(ep_name=switch["provider"], device=SimpleNamespace(type=Named(kind))) for kind in kinds]
    registered: list[Any] = []
    module.register_execution_provider_library = lambda *library: registered.append(library)
    module.get_ep_devices = lambda: devices if registered else []
    given: list[Any] = []
    fresh = module.SessionOptions
    module.SessionOptions = lambda: SimpleNamespace(
        **vars(fresh()), add_provider_for_devices=lambda *what: given.append(what)
    )
    for wanted in (devices[1:], devices[1:]):
        runtime_onnx.load(module, "m.onnx", EMPTY, 1, accelerator("npu", dict(switch, device="npu")))
        assert given.pop() == (wanted, {"a": "b"})
    assert registered == [(switch["provider"], switch["library"])]
    with pytest.raises(UnsupportedModel, match="CUDAExecutionProvider finds no gpu here, only cpu, npu, npu"):
        runtime_onnx.load(module, "m.onnx", EMPTY, 1, accelerator("npu", dict(switch, device="gpu")))


# -- LiteRT ----------------------------------------------------------------------------------------------------


def test_xnnpack_takes_floats_and_eight_bits_and_leaves_sixteen(tmp_path: Path) -> None:
    for place, (model, contract, nodes) in enumerate(
        (
            (models.tflite_dense(), models.TFLITE, {"xnnpack": 1}),
            (models.tflite_dense(int8=True), models.TFLITE_INT8, {"xnnpack": 1}),
            (models.tflite_dense(int16=True), models.TFLITE_INT16, {"cpu": 1}),
        )
    ):
        path = tmp_path / f"{place}.tflite"
        path.write_bytes(model)
        for name in ("cpu", "xnnpack"):
            opened = open_model(str(path), contract, 1, accelerator(name))
            assert opened.placement([models.EXAMPLES[:1]]) == nodes
            np.testing.assert_allclose(opened.run([models.EXAMPLES])[0], models.EXAMPLES @ models.WEIGHTS, atol=0.2)


def test_a_delegate_computes_what_it_takes(tflite_file: str, delegate: str) -> None:
    switch = {"delegate": delegate, "options": {"take": "1"}}
    model = open_model(tflite_file, models.TFLITE, 1, accelerator("npu", switch))
    assert model.placement([models.EXAMPLES[:1]]) == {"npu": 1}
    np.testing.assert_allclose(model.run([models.EXAMPLES])[0], models.EXAMPLES @ models.WEIGHTS, rtol=1e-5)


def test_a_delegate_that_takes_nothing_is_found_out(tflite_file: str, delegate: str) -> None:
    model = open_model(tflite_file, models.TFLITE, 1, accelerator("npu", {"delegate": delegate}))
    nodes = model.placement([models.EXAMPLES[:1]])
    assert (nodes, placed("npu", nodes)) == ({"xnnpack": 1}, ("xnnpack", 0.0))


@pytest.mark.parametrize(
    ("switch", "says"),
    [
        (None, "ai_edge_litert.interpreter has no accelerator 'npu' here, only cpu and xnnpack"),
        ({"provider": "QNNExecutionProvider"}, "has no accelerator 'npu' here, only cpu and xnnpack"),
        ({"delegate": "/nowhere/libnpu.so"}, "the delegate of 'npu' cannot be loaded here, .*No such file"),
        ({"delegate": "libm.so.6"}, "undefined symbol: tflite_plugin_create_delegate"),
    ],
)
def test_a_delegate_that_is_not_there_says_what_is(tflite_file: str, switch: dict[str, Any] | None, says: str) -> None:
    with pytest.raises(UnsupportedModel, match=says):
        open_model(tflite_file, models.TFLITE, 1, accelerator("npu", switch))


def test_a_delegate_says_why_it_will_not_start(tflite_file: str, delegate: str) -> None:
    switch = {"delegate": delegate, "options": {"fail": "there is no such chip"}}
    with pytest.raises(UnsupportedModel, match="there is no such chip"):
        open_model(tflite_file, models.TFLITE, 1, accelerator("npu", switch))


def test_an_interpreter_that_does_not_tell_is_believed_to_know_nothing(
    tflite_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    monkeypatch.delattr(Interpreter, "_get_ops_details")
    assert open_model(tflite_file, models.TFLITE).placement([models.EXAMPLES[:1]]) is None


# -- on the board ----------------------------------------------------------------------------------------------


def test_the_agent_reports_where_files_ran_and_times_none_that_fell_back(
    tmp_path: Path, board: VirtualBoard, delegate: str
) -> None:
    def variant(name: str, model: bytes, contract: dict[str, Any], **more: Any) -> dict[str, Any]:
        return board.variant(model, contract, models.probe_of(model, contract, tmp_path), id=name, **more)

    dense, takes = models.tflite_dense(), {"delegate": delegate, "options": {"take": "{threads}", "keep": "{cache}"}}
    variants = [
        variant("taken", dense, models.TFLITE, switch=takes),
        variant("idle", dense, models.TFLITE, switch={"delegate": delegate}),
        variant("int16", models.tflite_dense(int16=True), models.TFLITE_INT16, switch=takes),
        variant("azure", models.onnx_matmul(), models.ONNX, switch=AZURE),
    ]
    (answer,) = board.run(profile(*variants, accelerator="npu", repetitions=1))
    taken, idle, int16, azure = answer["variants"]
    assert (taken["outcome"], taken["accelerator_used"], taken["accelerator_share"]) == ("ok", "npu", 1.0)
    assert taken["placement"] == {"npu": 1}
    assert len(taken["repetitions"]) == 1
    for other, used in ((idle, "xnnpack"), (int16, "cpu"), (azure, "cpu")):
        assert (other["outcome"], other["accelerator_used"], other["accelerator_share"]) == ("unsupported", used, 0.0)
        assert other["detail"] == f"nothing ran on npu: 1 of 1 nodes on {used}"
        assert other["repetitions"] == []
    kept = board.root / "caches" / variants[0]["artifact"]
    assert [path.name for path in kept.glob("*/*")] == ["compiled"]
    assert taken["build_ns"] > taken["repetitions"][0]["init_ns"] / 100
    assert idle["build_ns"] is azure["build_ns"] is None
    (again,) = board.run(profile(variants[0], accelerator="npu", repetitions=1))
    assert again["variants"][0]["build_ns"] is None, "what was kept is found"
