"""One measuring session on one board: plan it, run the agent, judge what came back."""

from edgedeploy.profiling.modes import MODES, Mode
from edgedeploy.profiling.session import profile

__all__ = ["MODES", "Mode", "profile"]
