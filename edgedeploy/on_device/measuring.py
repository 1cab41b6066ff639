"""Profile variants: check each, time them interleaved in random order, then weigh their memory and energy."""

from __future__ import annotations

import contextlib
import math
import os
import random
from typing import TYPE_CHECKING, Any

from .conditions import snapshot
from .documents import read_json
from .energy import Sampler, Steady, energy_per_inference
from .failures import Refused
from .objects import object_path, verify
from .power import open_source
from .runtimes import RUNTIMES
from .schema import MAX_CONTRACT_BYTES, MAX_RUNS, MalformedDocument, check_contract

if TYPE_CHECKING:
    from .children import Children
    from .energy import Window


_FOUND_OUT = (
    *("runtime", "runtime_version", "max_output_error"),
    *("accelerator_used", "accelerator_share", "placement", "build_ns"),
)


class Candidate:
    """One variant and what is known about it so far; `result` is its entry in the report."""

    def __init__(self, variant: dict[str, Any], root: str, operation: dict[str, Any]) -> None:
        self.variant = variant
        self.specification: dict[str, Any] = {
            "artifact": object_path(root, _lying(variant)),
            "contract": object_path(root, variant["contract"]),
            "probe": object_path(root, variant["probe"]),
            "tolerance": variant["tolerance"],
            "threads": operation["threads"],
            "accelerator": {
                "name": operation["accelerator"],
                "switch": variant.get("switch"),
                "caches": os.path.join(os.path.abspath(root), "caches", variant["artifact"]),
            },
        }
        self.result: dict[str, Any] = {
            "id": variant["id"],
            "runtime": "",
            "runtime_version": "",
            "outcome": "ok",
            "detail": "",
            "accelerator_used": "",
            "accelerator_share": None,
            "placement": {},
            "build_ns": None,
            "max_output_error": None,
            "repetitions": [],
            "memory": None,
            "energy": None,
            "absent": {},
        }
        self.phases: list[Steady] = []

    @property
    def ok(self) -> bool:
        """Whether nothing has gone wrong yet."""
        return bool(self.result["outcome"] == "ok")

    def fail(self, outcome: str, detail: str) -> None:
        """Note what ended the measurement; it is a result, not an error."""
        self.result.update(outcome=outcome, detail=detail[:1000])


class Measurement:
    """One profile operation. The caller holds the board's lock."""

    def __init__(self, operation: dict[str, Any], root: str, children: Children, sensors: str = "/") -> None:
        self._operation = operation
        self._children = children
        self._sensors = sensors
        self._timeout_s: float = operation["child_timeout_s"]
        self._candidates = [Candidate(variant, root, operation) for variant in operation["variants"]]
        self._baselines: dict[str, dict[str, Any]] = {}

    def run(self) -> list[dict[str, Any]]:
        """Return one result per variant, in the job's order. Raises MalformedDocument, OSError."""
        _check_variants(self._candidates)
        for candidate in self._candidates:
            self._try(candidate)
        self._time_all()
        for candidate in self._candidates:
            if candidate.ok:
                self._weigh(candidate)
            else:
                why = f"not measured: {candidate.result['outcome']}"
                candidate.result["absent"] = {"memory": why, "energy": why}
        return [candidate.result for candidate in self._candidates]

    def _try(self, candidate: Candidate) -> None:
        if candidate.variant["format"] not in RUNTIMES:
            candidate.fail("unsupported", f"no runtime is known for the format {candidate.variant['format']!r}")
            return
        if not self._rebuild(candidate):
            return
        answer = self._children.run("check", candidate.specification, self._timeout_s)
        candidate.fail(answer["outcome"], answer["detail"])
        candidate.result.update({field: answer[field] for field in _FOUND_OUT if field in answer})
        candidate.specification["runtime"] = candidate.result["runtime"]

    def _rebuild(self, candidate: Candidate) -> bool:
        """Make the plain file of a packed one for as long as the job lasts; say whether it is there."""
        if "packed" not in candidate.variant:
            return True
        sha256 = candidate.variant["artifact"]
        packed, path = candidate.specification["artifact"], self._children.path(sha256)
        candidate.specification["artifact"] = path
        if not os.path.exists(path):
            known = {"file": path, "sha256": sha256, "file_bytes": candidate.variant["packed"]["file_bytes"]}
            answer = self._children.run("unpack", dict(known, packed=packed), self._timeout_s)
            candidate.fail(answer["outcome"], answer["detail"])
        return candidate.ok

    def _time_all(self) -> None:
        operation = self._operation
        repetitions = operation["repetitions"]
        share = {
            "warm_up": operation["warm_up"],
            "min_runs": math.ceil(operation["min_runs"] / repetitions),
            "min_seconds": operation["min_seconds"] / repetitions,
            "max_runs": max(1, operation.get("max_runs", MAX_RUNS) // repetitions),
        }
        source, no_source = open_source(self._sensors)
        sampler = Sampler(source) if source else None
        order = random.Random(operation["seed"])  # noqa: S311 - an order, not a secret
        with sampler.running() if sampler else contextlib.ExitStack():
            idle = sampler.idle() if sampler else (0, 0)
            for _ in range(repetitions):
                # Every variant once a round, each round in another order: what drifts, drifts for all alike.
                round_ = list(self._candidates)
                order.shuffle(round_)
                for candidate in round_:
                    if candidate.ok:
                        idle = self._repeat(candidate, share, sampler, idle)
        for candidate in self._candidates:
            if sampler and candidate.ok:
                energy, why = energy_per_inference(
                    sampler.source, sampler.readings, candidate.phases, sampler.last_error
                )
                candidate.result["energy"] = energy
            else:
                why = no_source
            if why:
                candidate.result["absent"]["energy"] = why

    def _repeat(self, candidate: Candidate, share: dict[str, Any], sampler: Sampler | None, idle: Window) -> Window:
        before = snapshot(self._sensors)
        answer = self._children.run("latency", dict(candidate.specification, **share), self._timeout_s)
        after = snapshot(self._sensors)
        idle_after = sampler.idle() if sampler else idle
        if answer["outcome"] != "ok":
            place = len(candidate.result["repetitions"]) + 1
            candidate.fail(answer["outcome"], f"in repetition {place}: {answer['detail']}")
            return idle_after
        start_ns, end_ns = answer.pop("steady_ns")
        candidate.phases.append(Steady((start_ns, end_ns), len(answer["samples_ns"]), (idle, idle_after)))
        del answer["outcome"], answer["detail"]
        candidate.result["repetitions"].append(dict(answer, before=before, after=after))
        return idle_after

    def _weigh(self, candidate: Candidate) -> None:
        runtime = candidate.result["runtime"]
        if runtime not in self._baselines:
            self._baselines[runtime] = self._children.run("baseline", {"runtime": runtime}, self._timeout_s)
        baseline = self._baselines[runtime]
        loaded = self._children.run("memory", candidate.specification, self._timeout_s)
        for answer, what in ((baseline, "the runtime alone"), (loaded, "the memory run")):
            if answer["outcome"] != "ok":
                candidate.result["absent"]["memory"] = f"{what}: {answer['outcome']}: {answer['detail']}"[:1000]
                return
        candidate.result["memory"] = {
            "peak_rss_bytes": loaded["peak_rss_bytes"],
            "baseline_peak_rss_bytes": baseline["peak_rss_bytes"],
            "pss_bytes": loaded["pss_bytes"],
            "baseline_pss_bytes": baseline["pss_bytes"],
        }


def _lying(variant: dict[str, Any]) -> str:
    """Return the digest of the object that lies on the board for a variant's file."""
    digest: str = variant["packed"]["sha256"] if "packed" in variant else variant["artifact"]
    return digest


def _check_variants(candidates: list[Candidate]) -> None:
    """Check that every file is here and whole and every contract readable. Raises MalformedDocument, OSError."""
    identities = [candidate.variant["id"] for candidate in candidates]
    if len(set(identities)) < len(identities):
        raise MalformedDocument("two variants of the operation have the same id")
    for candidate in candidates:
        variant = candidate.variant
        for role in ("artifact", "contract", "probe"):
            lying = _lying(variant) if role == "artifact" else variant[role]
            _check_file(role, candidate.specification[role], lying)
        if variant["format"] not in RUNTIMES:
            continue
        try:
            contract = read_json(candidate.specification["contract"], MAX_CONTRACT_BYTES)
        except ValueError as error:
            raise MalformedDocument(f"the contract {variant['contract']} cannot be read: {error}") from error
        check_contract(contract)
        if contract["format"] != variant["format"]:
            raise MalformedDocument(
                f"variant {variant['id']} is called {variant['format']} and its contract says {contract['format']}"
            )


def _check_file(role: str, path: str, sha256: str) -> None:
    try:
        verify(path, sha256)
    except FileNotFoundError as error:
        raise MalformedDocument(f"the {role} {sha256} is not on this board; push it first") from error
    except Refused as error:
        raise MalformedDocument(f"the {role} {sha256} is corrupt: {error}; push it again") from error
