"""Jobs and reports that are not what they should be are refused with the place and what was expected."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from edgedeploy.on_device.report_schema import check_report
from edgedeploy.on_device.schema import MalformedDocument, check_contract, check_job
from tests.on_device import models
from tests.on_device.virtual_board import profile

SHA = "a" * 64
JOB: dict[str, Any] = {
    "schema": 1,
    "root": "/opt/edge",
    "operations": [
        {"op": "facts"},
        {"op": "inventory", "objects": {SHA: 12}},
        {"op": "admit", "objects": [{"temporary": "tmp/x", "sha256": SHA, "size_bytes": 12}]},
        profile(
            {
                "id": "v",
                "format": "onnx",
                "artifact": SHA,
                "contract": SHA,
                "probe": SHA,
                "tolerance": 0.1,
                "switch": {
                    "provider": "TensorrtExecutionProvider",
                    "then": ["CUDAExecutionProvider"],
                    "options": {"trt_engine_cache_path": "{cache}"},
                },
            },
            accelerator="tensorrt",
        ),
    ],
}
SNAPSHOT: dict[str, Any] = {
    "governors": ["ondemand"],
    "frequencies_mhz": [1500.0],
    "temperatures_c": {"cpu": 44.5},
    "throttled": None,
    "cooling": {"cpufreq-cpu0": 0},
    "load_1m": 0.1,
    "free_memory_bytes": 1 << 30,
    "battery_percent": None,
    "charging": None,
}
REPORT: dict[str, Any] = {
    "schema": 1,
    "agent_sha256": SHA,
    "board": {
        "machine": "aarch64",
        "kernel": "6.6",
        "python": "3.11.2",
        "cpus": 4,
        "isa": ["asimd"],
        "emulated": False,
    },
    "started_unix_ns": 1,
    "finished_unix_ns": 2,
    "results": [
        {"op": "inventory", "present": [SHA], "partial": {}, "free_bytes": 1, "total_bytes": 2},
        {"op": "admit", "error": {"kind": "locked", "message": "process 1 holds it"}},
        {
            "op": "profile",
            "variants": [
                {
                    "id": "v",
                    "runtime": "onnxruntime",
                    "runtime_version": "1",
                    "outcome": "ok",
                    "detail": "",
                    "accelerator_used": "cpu",
                    "accelerator_share": 1.0,
                    "placement": {"cpu": 4},
                    "build_ns": None,
                    "max_output_error": 0.0,
                    "repetitions": [
                        {
                            "init_ns": 1,
                            "first_inference_ns": 1,
                            "warm_up_runs": 1,
                            "warm_up_converged": True,
                            "samples_ns": [3, 4],
                            "before": SNAPSHOT,
                            "after": SNAPSHOT,
                        }
                    ],
                    "memory": None,
                    "energy": None,
                    "absent": {"energy": "no sensor"},
                }
            ],
        },
    ],
}


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(document)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    place: Any = document
    for key in parents:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return document


def test_good_documents_pass() -> None:
    check_job(JOB)
    check_report(REPORT)
    check_contract(models.ONNX)
    check_contract(models.TFLITE_INT8)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 2, "job.schema must be 1, the only schema known here, not 2"),
        ("schema", KeyError, "job lacks schema"),
        ("rooot", "/x", "job has an unknown key 'rooot'; known are operations, root, schema"),
        ("root", "relative", "job.root must be an absolute path without '..'"),
        ("root", "/opt/../etc", "job.root must be an absolute path"),
        ("operations", [], "job.operations must be a list of 1 to"),
        ("operations/0", 7, r"operations\[0\] must be an object"),
        ("operations/0/op", "reboot", r"operations\[0\].op must be one of facts, health, inventory, admit, profile, "),
        ("operations/0/op", ["facts"], r"operations\[0\].op must be one of"),
        ("operations/1/objects", {"A" * 64: 1}, r"a key of operations\[1\].objects must be a SHA-256"),
        ("operations/1/objects", {"../../etc/passwd": 1}, "must be a SHA-256"),
        ("operations/1/objects", {SHA: -1}, "must be a whole number from 0"),
        ("operations/1/objects", {SHA: 1 << 50}, "must be a whole number from 0"),
        ("operations/2/objects/0/temporary", "/etc/passwd", "must be a path like 'tmp/NAME' inside the root"),
        ("operations/2/objects/0/temporary", "tmp/../lock", "must be a path like 'tmp/NAME' inside the root"),
        ("operations/2/objects/0/temporary", "tmp/..", "must be a path like 'tmp/NAME' inside the root"),
        ("operations/2/objects/0/temporary", "objects/x", "must be a path like 'tmp/NAME' inside the root"),
        ("operations/2/objects/0/sha256", "zz", "SHA-256 of 64 lowercase hexadecimal digits, not 'zz'"),
        ("operations/3/threads", 0, r"operations\[3\].threads must be a whole number from 1 to 1024, not 0"),
        ("operations/3/threads", True, "must be a whole number"),
        ("operations/3/min_seconds", float("nan"), r"min_seconds must be a number from 0 to 86400, not nan"),
        ("operations/3/min_seconds", 10**400, "min_seconds must be a number from 0 to 86400"),
        ("operations/3/warm_up/min_runs", "many", "warm_up.min_runs must be a whole number"),
        ("operations/3/warm_up", KeyError, r"operations\[3\] lacks warm_up"),
        ("operations/3/variants/0/probe", None, r"variants\[0\].probe must be a SHA-256"),
        ("operations/3/variants/0/tolerance", -1, "tolerance must be a number from 0"),
        ("operations/3/sudo", True, "unknown key 'sudo'"),
        ("operations/3/accelerator", {"name": "cpu"}, r"operations\[3\].accelerator must be a text"),
        ("operations/3/variants/0/switch/plugin", "x", r"variants\[0\].switch has an unknown key 'plugin'"),
        ("operations/3/variants/0/switch/library", "../../etc/x.so", "switch.library must be the name of a library"),
        ("operations/3/variants/0/switch/options", {"a": 1}, "switch.options.a must be a text"),
        ("operations/3/variants/0/switch/device", "tpu", "switch.device must be one of cpu, gpu, npu"),
    ],
)
def test_a_bad_job_names_the_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(MalformedDocument, match=message):
        check_job(changed(JOB, path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("agent_sha256", "", "report.agent_sha256 must be a SHA-256"),
        ("board/emulated", KeyError, "report.board lacks emulated"),
        ("results/0/present", ["x"], r"report.results\[0\].present\[0\] must be a SHA-256"),
        ("results/0/op", {}, r"report.results\[0\].op must be one of"),
        ("results/1/error/kind", "mood", "error.kind must be one of locked, bad_job, io, no_runtime"),
        ("results/1/error/message", "x" * 5000, "at most 4096 characters"),
        ("results/2/variants/0/outcome", "fine", "outcome must be one of ok, unsupported"),
        ("results/2/variants/0/repetitions/0/samples_ns", [], "samples_ns must be a list of 1 to"),
        ("results/2/variants/0/repetitions/0/samples_ns", [1, -2], "whole numbers that are not negative"),
        ("results/2/variants/0/repetitions/0/samples_ns", [1, 2.5], "whole numbers that are not negative"),
        ("results/2/variants/0/repetitions/0/before/charging", "yes", "before.charging must be true or false"),
        ("results/2/variants/0/max_output_error", float("inf"), "max_output_error must be a number"),
        ("results/2/variants/0/energy", {}, "energy lacks above_idle_mj"),
        ("results/2/variants/0/accelerator_share", 1.5, "accelerator_share must be a number from 0 to 1"),
        ("results/2/variants/0/placement", {"cpu": -1}, "placement.cpu must be a whole number from 0"),
        ("board/isa", KeyError, "report.board lacks isa"),
    ],
)
def test_a_bad_report_names_the_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(MalformedDocument, match=message):
        check_report(changed(REPORT, path, value))


@pytest.mark.parametrize("document", [None, [], "job", 3])
@pytest.mark.parametrize("check", [check_job, check_report, check_contract])
def test_what_is_no_object_is_refused(check: Callable[[Any], None], document: Any) -> None:
    with pytest.raises(MalformedDocument, match="must be an object"):
        check(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "pickle", "contract.format must be one of onnx, tflite"),
        ("inputs", [], "contract.inputs must be a list of 1 to"),
        ("inputs/0/type", "object", r"inputs\[0\].type must be one of float16"),
        ("outputs/0/scale", 0, r"outputs\[0\].scale must be a number from 1e-300"),
        ("outputs/0/shape", "3", r"outputs\[0\].shape must be a list"),
    ],
)
def test_a_bad_contract_names_the_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(MalformedDocument, match=message):
        check_contract(changed(models.ONNX, path, value))
