"""Compress, export, push, measure and select neural-network variants for edge devices.

    import edgedeploy

    project = edgedeploy.Project("my-project")
    edgedeploy.pipeline.run(project)
    for choice in edgedeploy.pipeline.select(project):
        print(choice.device, choice.winner, [(lost.variant, lost.reason) for lost in choice.rejected])

What is named here is loaded when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedeploy import pipeline as pipeline
    from edgedeploy import records as records
    from edgedeploy.errors import EdgeDeployError
    from edgedeploy.project import Project

__all__ = ["EdgeDeployError", "Project", "pipeline", "records"]


def __getattr__(name: str) -> Any:
    if name == "Project":
        return import_module("edgedeploy.project").Project
    if name == "EdgeDeployError":
        return import_module("edgedeploy.errors").EdgeDeployError
    if name in __all__:
        return import_module(f"edgedeploy.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
