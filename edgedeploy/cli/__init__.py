"""The command line: parses, calls the library once, prints; the only place that prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgedeploy.errors import EdgeDeployError, ExitCode


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; every expected failure is one sentence on stderr."""
    from typer.main import get_command

    from edgedeploy.cli import deploying, signing  # noqa: F401 - their verbs
    from edgedeploy.cli.verbs import app

    try:
        get_command(app).main(args=argv, prog_name="edgedeploy")
    except EdgeDeployError as error:
        print(f"edgedeploy: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as end:
        # Typer turns Ctrl-C into this exit code and says nothing; usage errors it has told already.
        if end.code == ExitCode.INTERRUPTED:
            what_remains = "what was complete is kept, and the same command goes on from there."
            print(f"edgedeploy: interrupted; {what_remains}", file=sys.stderr)
        return end.code if isinstance(end.code, int) else ExitCode.DONE
    return ExitCode.DONE
