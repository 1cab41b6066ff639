"""Turns recipes into variants, each built once and found again."""

from edgedeploy.build.identity import Request, requests
from edgedeploy.build.job import Failure
from edgedeploy.build.run import Built, build

__all__ = ["Built", "Failure", "Request", "build", "requests"]
