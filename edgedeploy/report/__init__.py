"""Turns records into one HTML page that shows what was measured, what was chosen and why."""

from edgedeploy.report.page import render, write_report

__all__ = ["render", "write_report"]
