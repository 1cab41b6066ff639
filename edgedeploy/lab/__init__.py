"""Many boards at once: one visit each, none held up by another."""

from edgedeploy.lab.parallel import Visited, run_over, worst_exit_code
from edgedeploy.lab.visit import Measurement, Visit, measurement, visit

__all__ = ["Measurement", "Visit", "Visited", "measurement", "run_over", "visit", "worst_exit_code"]
