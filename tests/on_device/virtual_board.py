"""A folder that plays the board: pushes objects into it and runs the real agent there, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgedeploy.board.bundle import agent_bundle
from edgedeploy.on_device.report_schema import check_report
from edgedeploy.on_device.schema import check_job
from tests.on_device import models


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class VirtualBoard:
    def __init__(self, root: Path, python: str = sys.executable) -> None:
        self.root = root
        self.python = python
        self.job_path = root / "job.json"
        self.report_path = root / "report.json"
        bundle, digest = agent_bundle()
        self.agent = root / "agents" / f"{digest}.pyz"
        self.agent.parent.mkdir(parents=True)
        (root / "tmp").mkdir()
        self.agent.write_bytes(bundle)

    def put(self, content: bytes) -> str:
        """Lay an object where admitting it would."""
        folder = self.root / "objects" / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha256(content)).write_bytes(content)
        return sha256(content)

    def variant(self, model: bytes, contract: dict[str, Any], probe: bytes, **more: Any) -> dict[str, Any]:
        return {
            "id": "variant-1",
            "format": contract["format"],
            "artifact": self.put(model),
            "contract": self.put(models.encode(contract)),
            "probe": self.put(probe),
            "tolerance": 1e-3,
        } | more

    def write_job(self, *operations: Any, check: bool = True) -> None:
        job = {"schema": 1, "root": str(self.root), "operations": list(operations)}
        if check:
            check_job(job)
        self.job_path.write_text(json.dumps(job), "utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.python, str(self.agent), *arguments, str(self.job_path), str(self.report_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        )

    def run(self, *operations: Any, check: bool = True) -> list[dict[str, Any]]:
        """Do a job; return the results of its checked report."""
        self.write_job(*operations, check=check)
        with self.start() as process:
            _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
        return self.results()

    def results(self) -> list[dict[str, Any]]:
        report = json.loads(self.report_path.read_text("utf-8"))
        check_report(report)
        assert report["agent_sha256"] == self.agent.stem
        results: list[dict[str, Any]] = report["results"]
        return results


def profile(*variants: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "op": "profile",
        "mode": "smoke",
        "threads": 1,
        "accelerator": "cpu",
        "seed": 1,
        "repetitions": 2,
        "min_runs": 64,
        "min_seconds": 0.02,
        "warm_up": {"min_runs": 5, "min_seconds": 0.0, "max_seconds": 0.2},
        "child_timeout_s": 60.0,
        "variants": list(variants),
    } | more


def oldest_python() -> str:
    """The oldest Python from 3.7 on that this machine has."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in range(7, sys.version_info.minor):
        for path in sorted(versions.glob(f"3.{minor}.*/bin/python")):
            if os.access(path, os.X_OK):
                return str(path)
        found = shutil.which(f"python3.{minor}")
        # pyenv's own shims answer for versions that are not chosen here.
        if found and ".pyenv" not in found:
            return found
    return sys.executable
