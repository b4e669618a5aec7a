"""The import of the published neurons: a subprocess that a visitor starts, watches and may cancel.

    running = Import.start(source="", pararel="")        # python -m build import-published …
    running.state, running.share, running.text            # "running", 0.42, "read: 2 of 8 files of neurons"
    running.cancel()

The app imports nothing of `build`; where only the library is installed, `builder` is None. The atlas is
written into the cache, where `resources.atlases` finds it: no visitor names that folder.
"""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

from app.shared import limits
from atlas.errors import StoreError
from atlas.store import atlas as store

PUBLISHED_ID = "pararel-bert-base-uncased-published"
# A line of `--progress`; any other line is a sentence.
_PROGRESS = re.compile(r"(?P<text>.*) \((?P<percent>\d{1,3})%\)")


def builder() -> Path | None:
    """The folder that `python -m build` runs in; None where it is not installed."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "build" / "__main__.py").is_file() else None


class Import:
    """One import. `state`: 'running', 'done', 'failed' (see `error`) or 'cancelled'.

    running = Import.start(source="", pararel="~/pararel/data")
    """

    def __init__(self, process: subprocess.Popen[str], *, source: str = "", pararel: str = "") -> None:
        self.process = process
        self.source, self.pararel = source, pararel
        self.begun = time.monotonic()
        self.seconds = 0.0
        self.share = 0.0
        self.text = "start"
        self.state = "running"
        self.error = ""
        self._cancelled = False
        # No import outlives the app.
        atexit.register(self.cancel)
        self._reader = Thread(target=self._follow, daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, *, source: str = "", pararel: str = "") -> Import:
        """Start; folders with local copies of the files are optional.

        Raises `LimitsError` on a demo and `StoreError` for an impossible folder.
        """
        limits.current().check_import()
        command = [sys.executable, "-m", "build", "import-published", "--progress", "--fresh"]
        command.append(f"--out={store.imported_folder() / PUBLISHED_ID}")
        for option, folder in (("--source", source), ("--pararel", pararel)):
            if folder.strip():
                command.append(f"{option}={folder.strip()}")
        try:
            process = subprocess.Popen(
                command,
                cwd=builder(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            )
        except (OSError, ValueError) as error:
            raise StoreError(f"The import cannot start: {error}. Give other folders, or none.") from None
        return cls(process, source=source, pararel=pararel)

    def cancel(self) -> None:
        """Stop it. It leaves no atlas, and the next import starts over."""
        if self.process.poll() is None:
            self._cancelled = True
            self.process.terminate()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        self._reader.join(seconds)
        return self.state != "running"

    def _follow(self) -> None:
        last = ""
        with self.process.stderr as lines:
            for line in map(str.strip, lines):
                step = _PROGRESS.fullmatch(line)
                if step:
                    self.share, self.text = min(int(step["percent"]), 100) / 100, step["text"]
                elif line:
                    last = line
        status = self.process.wait()
        atexit.unregister(self.cancel)
        self.seconds = time.monotonic() - self.begun
        if status == 0:
            self.state = "done"
        elif self._cancelled:
            self.state = "cancelled"
        else:
            # Status 2: the last line is the error.
            self.error = last if status == 2 else f"The import ended with status {status}. {last}"
            self.state = "failed"
