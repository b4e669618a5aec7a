"""Progress of long work: a bar on a terminal, else a plain line every ten seconds.

    with ProgressBar("attribute", total=3400, done=200) as progress:
        progress.advance(8)

Prompts a second and the time left count this run, not what an interrupted one did before.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

from atlas import cli
from atlas.validation import printable
from build.plan import duration

SECONDS_BETWEEN_LINES = 10.0


class ProgressBar:
    """A bar or lines on stderr; `done` units were there before this run began."""

    def __init__(self, label: str, *, total: int, done: int = 0, unit: str = "prompts") -> None:
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self.started = self.last_line = time.monotonic()
        self.before, self.last_done = done, -1
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=total, initial=done, desc=label, unit=f" {unit}", smoothing=0.05, dynamic_ncols=True
            )

    def advance(self, count: int) -> None:
        """`count` more units are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._line()

    def note(self, text: str) -> None:
        """A line beside the bar."""
        if self.bar is not None:
            self.bar.write(printable(text), file=sys.stderr)
        else:
            cli.say(text)

    def _line(self) -> None:
        self.last_line, self.last_done = time.monotonic(), self.done
        made = self.done - self.before
        speed = made / max(self.last_line - self.started, 1e-9)
        text = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}"
        if made:
            left = duration((self.total - self.done) / speed)
            text += f", {speed:,.1f} a second, {left} left"
        cli.say(text)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None and self.total and self.done != self.last_done:
            self._line()
