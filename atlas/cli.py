"""Run a command line: print errors as one sentence and return the exit status.

    sys.exit(run(app, arguments, prog="python -m atlas"))

What a command prints is for a terminal: control characters, which an atlas may bring, are written as \\u001b,
and so are characters that the output's encoding lacks. Data that goes to a file is unchanged (`data_output`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import TextIOWrapper
from typing import Any, TextIO, cast

import typer

from atlas.errors import AtlasError
from atlas.files import refusal
from atlas.validation import printable

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
        for each in arguments:
            if each.encode(errors="replace").decode() != each:
                raise AtlasError(
                    f"The argument '{each}' is not text. Write it in UTF-8; rename a folder of this name."
                )
        # Not the command's own `main`, which ends the process on a broken pipe and hides Ctrl-C.
        command = typer.main.get_command(app)
        with redirect_stdout(cast(TextIO, _Printable(sys.stdout))):
            with command.make_context(prog, arguments) as context:
                status = command.invoke(context)
            sys.stdout.flush()
        return status or 0
    except AtlasError as error:
        say(error)
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
    except OSError as error:
        # A path that somebody gave: its name is too long, or its folder may not be entered.
        if error.filename is None:
            raise
        say(refusal(error.filename, error))
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        say(f"\n{interrupted}")
        return EXIT_INTERRUPTED
    except RuntimeError as error:
        # DuckDB reports a Ctrl-C during a query as its own error.
        if "interrupted" not in str(error).lower():
            raise
        say(f"\n{interrupted}")
        return EXIT_INTERRUPTED


class _Printable:
    """A stream for people: control characters, and those that its encoding lacks, are escaped."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def as_printed(text: str) -> str:
    """The text as standard output writes it, in its encoding: to measure a table's columns by."""
    encoding = sys.stdout.encoding or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def say(text: object) -> None:
    """Print a line for people on standard error."""
    print(printable(str(text)), file=sys.stderr, flush=True)


def data_output() -> TextIO:
    """Where a command writes data: unchanged and in UTF-8, unless it goes to a terminal."""
    stream = sys.stdout
    if stream.isatty() or not isinstance(stream, _Printable):
        return stream
    if isinstance(stream.stream, TextIOWrapper):
        stream.stream.reconfigure(encoding="utf-8")
    return stream.stream


def read_input() -> str:
    """The text on standard input. Raises `AtlasError` when it is not text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise AtlasError(
            f"Standard input is not text in {error.encoding} ({error.reason}). Save it in this encoding."
        ) from None
