"""Many boards at once: one visit each, none held up by another."""

from edgedeploy.lab.parallel import Visited, run_over, worst_exit_code

# What a visit does is in `visit`: whoever only goes over many boards does not load what builds variants.
__all__ = ["Visited", "run_over", "worst_exit_code"]
