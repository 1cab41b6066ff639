"""The nouns of edgedeploy, in the standard library alone: whoever merely reads records needs nothing else."""

from edgedeploy.records.asked import Format, Pass, PassSettings, Precision, Recipe, Target
from edgedeploy.records.boards import CpuCluster, Device, DeviceProfile, Limits, RuntimeSupport
from edgedeploy.records.built import Artifact, Drop, Parity, Quality, Variant
from edgedeploy.records.chosen import Choice, Rejection
from edgedeploy.records.measured import (
    Conditions,
    Energy,
    Latency,
    Memory,
    Metrics,
    Outcome,
    Repetition,
    Report,
    Snapshot,
    Verdict,
)

__all__ = [
    "Artifact",
    "Choice",
    "Conditions",
    "CpuCluster",
    "Device",
    "DeviceProfile",
    "Drop",
    "Energy",
    "Format",
    "Latency",
    "Limits",
    "Memory",
    "Metrics",
    "Outcome",
    "Parity",
    "Pass",
    "PassSettings",
    "Precision",
    "Quality",
    "Recipe",
    "Rejection",
    "Repetition",
    "Report",
    "RuntimeSupport",
    "Snapshot",
    "Target",
    "Variant",
    "Verdict",
]
