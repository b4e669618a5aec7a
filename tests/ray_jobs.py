"""Jobs that do to a Ray worker what a build's jobs may do to it; in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.errors import PromptError


@dataclass(frozen=True)
class Number:
    """Gives its number, the process that did it and the batches in use there."""

    number: int
    size: int = 1

    def prepare(self, subject: Any) -> int:
        return self.number

    def run(self, worker: Any, prepared: int, report: Any) -> pa.Table:
        time.sleep(0.05)
        return pa.table({"number": [prepared], "process": [os.getpid()], "rows": [worker.batches.rows]})


@dataclass(frozen=True)
class Refused(Number):
    """What a person got wrong, found while it is prepared."""

    def prepare(self, subject: Any) -> int:
        raise PromptError("The prompt has no place for its answer. Give it one.")


@dataclass(frozen=True)
class Broken(Number):
    """A bug."""

    def run(self, worker: Any, prepared: int, report: Any) -> pa.Table:
        raise ZeroDivisionError("a bug in a job")


@dataclass(frozen=True)
class Hungry(Number):
    """Memory suffices for two rows at once."""

    def run(self, worker: Any, prepared: int, report: Any) -> pa.Table:
        def work() -> pa.Table:
            if worker.batches.rows > 2:
                raise MemoryError
            return Number.run(self, worker, prepared, report)

        return worker.batches.run(work)


@dataclass(frozen=True)
class Deadly(Number):
    """Kills its worker until so many lines stand in a file."""

    file: str = ""
    times: int = 0

    def run(self, worker: Any, prepared: int, report: Any) -> pa.Table:
        with Path(self.file).open("a+") as file:
            file.seek(0)
            if len(file.readlines()) < self.times:
                file.write("killed\n")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        return Number.run(self, worker, prepared, report)
