"""Decides which variant each device gets, from records alone: constraints, Pareto front, one winner."""

from edgedeploy.selection.choose import Candidate, choose

__all__ = ["Candidate", "choose"]
