"""One measuring session on one board: plan it, run the agent, judge what came back."""

from edgedeploy.profiling.modes import MODES, Mode
from edgedeploy.profiling.session import child_timeout_s, output_tolerance, profile, switched_on

__all__ = ["MODES", "Mode", "child_timeout_s", "output_tolerance", "profile", "switched_on"]
