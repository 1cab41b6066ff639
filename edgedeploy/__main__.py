"""Lets `python -m edgedeploy` do what the `edgedeploy` command does."""

import sys

from edgedeploy.cli import main

sys.exit(main())
