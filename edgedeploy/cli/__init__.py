"""The command line: parses, calls the library once, prints; the only place that prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgedeploy.errors import EdgeDeployError, ExitCode


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; every expected failure is one sentence on stderr."""
    import click
    from typer.main import get_command

    from edgedeploy.cli.verbs import app

    try:
        code = get_command(app).main(args=argv, prog_name="edgedeploy", standalone_mode=False)
    except EdgeDeployError as error:
        return _say(str(error), error.exit_code)
    except click.exceptions.Abort:
        return _say("interrupted; what was complete is kept, and the same command goes on from there.", 130)
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _say("interrupted; what was complete is kept, and the same command goes on from there.", 130)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        sys.stderr.close()
        return ExitCode.DONE
    return int(code or ExitCode.DONE)


def _say(message: str, code: int) -> int:
    print(f"edgedeploy: {message}", file=sys.stderr)
    return code
