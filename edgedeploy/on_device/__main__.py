"""Run the agent from an installed package: `python -m edgedeploy.on_device`."""

from __future__ import annotations

import sys

from .agent import main

if __name__ == "__main__":
    sys.exit(main())
