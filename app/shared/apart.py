"""Long work with a model, in a process of its own where the limits say so (`model_process`).

    found = apart(find_neurons, subject, prompts, progress=progress)
    found = apart(find_neurons, subject, prompts, progress=progress, on_part=show)

A model's thread lets go of Python's interpreter lock at every operation and waits to get it back while pages
are drawn: beside 16 visitors an experiment took ten times as long. So a host has it done by a copy of the
server, forked for this work alone, which shares the weights and ends with it, and so does its memory.

1. *Turn.* The visitor waits for the model in line, as in the server itself.
2. *Fork.* The copy closes the server's files and connections, and computes with one thread.
3. *Parts.* It sends its progress and, to `on_part`, what it has so far.
4. *End.* It sends what it found. A visitor who cancels or leaves ends it at once.

There is one copy at a time, since each takes 100 to 200 MB of its own: nobody's work is interrupted for
another's, and the limits on an experiment's size say how long one can take.

Only on Linux and for a model on the processor: a GPU cannot be used after a fork. Threads do not survive one,
so no thread of the server may compute with torch then: all long work goes this way.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar

from app.shared import limits, visitors
from atlas.errors import AtlasError
from atlas.line import TELL_EVERY_SECONDS

if TYPE_CHECKING:
    from atlas.models.known import OnProgress
    from atlas.surgery.subject import Subject

_T = TypeVar("_T")

SILENT_SECONDS = 60.0
# Pages are drawn first.
NICENESS = 5


def apart(
    function: Callable[..., _T], subject: Subject, *given: Any, progress: OnProgress, **options: Any
) -> _T:
    """`function(subject, *given, progress=progress, **options)`, in a process of its own where that is on.

    What it is given and returns is pickled, and so is what it calls the option `on_part` with: like
    `progress`, that is called here. Raises what the function, `progress` or `on_part` raises, and
    `AtlasError` when the process ends without an answer or takes longer than `model_seconds`; in the server
    itself these count from here, with the wait in line.
    """
    with visitors.away():
        if limits.current().model_process and sys.platform == "linux" and subject.device.type == "cpu":
            return _in_a_copy(function, subject, *given, progress=progress, **options)
        return function(subject, *given, progress=_in_time(progress), **options)


def _in_time(progress: OnProgress) -> OnProgress:
    """`progress`, which raises `AtlasError` once `model_seconds` have passed since now."""
    most, start = limits.current().model_seconds, time.monotonic()

    def tell(share: float, message: str) -> None:
        if time.monotonic() > start + most:
            raise AtlasError(
                f"The model's work was stopped after {most:g} s (model_seconds). "
                "Ask for fewer prompts, neurons or draws."
            )
        progress(share, message)

    return tell


def _in_a_copy(
    function: Callable[..., _T], subject: Subject, *given: Any, progress: OnProgress, **options: Any
) -> _T:
    from atlas.experiments.run import in_line

    with subject.lock.turn(on_wait=lambda ahead: progress(0.0, in_line(ahead))), _alone(progress):
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            if options.get("on_part"):
                options["on_part"] = lambda value: _send(theirs, "part", value)
            _compute(theirs, lambda tell: function(_copy(subject), *given, progress=tell, **options))
        theirs.close()
        try:
            return _answer(ours, _in_time(progress), options.get("on_part"))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            ours.close()


@contextmanager
def _alone(progress: OnProgress) -> Iterator[None]:
    """Without a copy for another model, and without the collector. `progress` may raise meanwhile."""
    while not visitors.sharing_memory.acquire(timeout=TELL_EVERY_SECONDS):
        progress(0.0, "Waiting for another model's work to end")
    try:
        yield
    finally:
        visitors.sharing_memory.release()


# In the server ---------------------------------------------------------------------------------------


def _answer(ours: Connection, progress: OnProgress, on_part: Callable[[Any], None] | None) -> Any:
    """What the process sends at last; until then its progress and its parts are passed on."""
    told: tuple[float, str] = (0.0, "Starting")
    heard_at = time.monotonic()
    try:
        while time.monotonic() < heard_at + SILENT_SECONDS:
            if not ours.poll(TELL_EVERY_SECONDS):
                progress(*told)  # a visitor who has left is noticed here
                continue
            kind, value = ours.recv()
            match kind:
                case "progress":
                    told = value
                    progress(*told)
                case "part" if on_part:
                    on_part(value)
                case "error":
                    raise value
                case "answer":
                    return value
            heard_at = time.monotonic()
    except (EOFError, OSError):
        pass
    raise AtlasError("The model's process has ended without an answer. Try again, with fewer prompts.")


# In the copy -----------------------------------------------------------------------------------------


def _compute(theirs: Connection, work: Callable[[OnProgress], Any]) -> None:
    """Do the work and send what it returns or raises; never returns."""
    try:
        gc.freeze()  # to visit the objects of the server would copy the memory that is shared
        os.nice(NICENESS)
        signal.set_wakeup_fd(-1)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        os.closerange(3, theirs.fileno())
        os.closerange(theirs.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        try:
            _send(theirs, "answer", work(lambda share, text: _send(theirs, "progress", (share, text))))
        except Exception as error:
            _send(theirs, "error", error)
    finally:
        os._exit(0)


def _send(theirs: Connection, kind: str, value: Any = None) -> None:
    theirs.send((kind, value))


def _copy(subject: Subject) -> Subject:
    """The subject with a lock of the copy's own: the server holds its own meanwhile."""
    import torch

    from atlas.surgery.lock import FairLock

    torch.set_num_threads(1)
    return replace(subject, lock=FairLock())
