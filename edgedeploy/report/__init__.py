"""Turns records into one HTML page that shows what was measured, what was chosen and why."""

from edgedeploy.report.page import render, write_report
from edgedeploy.report.view import Failed

__all__ = ["Failed", "render", "write_report"]
