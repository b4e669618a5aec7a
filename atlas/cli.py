"""Run a command line: print errors as one sentence and return the exit status.

sys.exit(run(app, arguments, prog="python -m atlas"))
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from atlas.errors import AtlasError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def run(
    app: typer.Typer, arguments: Sequence[str] | None, *, prog: str, interrupted: str = "Interrupted."
) -> int:
    """Run one command and return the exit status: what the command returns, 2 for bad input, 130 for Ctrl-C.

    interrupted: the message for Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        # Not the command's own `main`, which ends the process on a broken pipe and hides Ctrl-C.
        command = typer.main.get_command(app)
        with command.make_context(prog, arguments) as context:
            status = command.invoke(context)
        sys.stdout.flush()
        return status or 0
    except AtlasError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except typer.Exit as leaving:
        return leaving.exit_code
    except typer.TyperException as error:  # an unknown option, or a value that does not fit it
        error.show()  # type: ignore[attr-defined]  # typer raises private subclasses
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # The reader, such as `head`, closed the pipe. Without this, Python reports it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        print(f"\n{interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except RuntimeError as error:
        # DuckDB reports a Ctrl-C during a query as its own error.
        if "interrupted" not in str(error).lower():
            raise
        print(f"\n{interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
