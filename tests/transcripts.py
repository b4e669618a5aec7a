"""The examples of a Markdown page, run as a reader would run them.

    run_page(ROOT / "docs" / "models.md", tmp_path)     # → differences; [] where all is as shown

1. `blocks` takes the fenced blocks out of a page, with their lines.
2. `run_page` starts one fresh process for the page, in a folder that looks like a checkout (links to its
   folders), so that what an example writes is gone afterwards. No hub is asked.
3. There, in order and in one namespace: a `python` block is run, and what it prints must be the `text` block
   directly after it, line by line (no such block: it must print nothing). A `pycon` block is run as doctest
   runs it. Of a `console` block, each `$ command` is given to bash, and what it prints must be what follows.

In a console's output, seconds, speeds and threads may differ, lines of progress do not count, and a line `…`
stands for any number of lines. A page goes on after what it shows wrongly, and stops at code that raises.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

LINKED = ("atlas", "build", "app", "docs", "tests")
SECONDS = 600
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*) *\n(?P<text>.*?)^(?P=indent)``` *$", re.DOTALL | re.MULTILINE
)
PROGRESS = re.compile(r"^[\w ]+: [\d,]+ of [\d,]+ \w+, .* left$|^[A-Z].* \(\d+%\)$")
DURATION = re.compile(
    r"(?<![\w.])(?:(?:[\d,.]+ (?:ms|s|min|h)\b ?)+|[\d,.]+ (?=threads?\b|(?:\w+ )?a second))"
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the page's line where that text begins (from 1)."""

    language: str
    text: str
    line: int

    @property
    def end(self) -> int:
        """The line of the closing fence."""
        return self.line + self.text.count("\n")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page's text, in order."""
    return [
        Block(
            m["language"],
            re.sub(rf"^{m['indent']}", "", m["text"], flags=re.MULTILINE),
            page.count("\n", 0, m.start("text")) + 1,
        )
        for m in FENCE.finditer(page)
    ]


def prose(page: str) -> str:
    """A page's text without its fenced blocks."""
    return FENCE.sub("", page)


def commands(block: str) -> Iterator[tuple[str, str, int]]:
    """A console block's commands, each with the output shown and its line in the block (from 0)."""
    place = 0
    for entry in re.split(r"^\$ ", block, flags=re.MULTILINE):
        lines = entry.splitlines()
        if lines and (place or block.startswith("$ ")):
            command = next(whole_lines(entry))
            n = command.count("\n") + 1
            yield command, "\n".join(lines[n:]).strip("\n"), place
        place += entry.count("\n")


def whole_lines(text: str) -> Iterator[str]:
    """The lines as a shell reads them: one goes on over the next until its quotes are closed."""
    begun: list[str] = []
    for line in text.splitlines():
        begun.append(line)
        if _is_whole("\n".join(begun)):
            yield "\n".join(begun)
            begun = []
    if begun:
        yield "\n".join(begun)


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


# In this process -------------------------------------------------------------------------------------


def run_page(
    page: Path, folder: Path, *, replace: dict[str, str] | None = None, without: tuple[str, ...] = ()
) -> list[str]:
    """Run a page's examples in `folder`; the differences from what the page shows, with their lines.

    Each name of `replace` found in a command stands for its value: a path that differs between machines.
    Commands that hold one of `without` are not run: what this machine lacks, or what would not end.
    """
    for name in LINKED:
        if (ROOT / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    }
    job = {"page": str(page), "replace": replace or {}, "without": without}
    done = subprocess.run(
        [sys.executable, "-m", "tests.transcripts", json.dumps(job)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return [f"{page.name}: the process ended with status {done.returncode}.\n{done.stdout}{done.stderr}"]


# In the page's own process ---------------------------------------------------------------------------


class Page:
    """A page while it runs: its namespace, and the differences so far."""

    def __init__(self, path: Path, replace: dict[str, str], without: list[str]):
        self.path = path
        self.replace = replace
        self.without = without
        self.problems: list[str] = []
        self.raised = False
        self.namespace: dict = {"__name__": "__main__"}
        self.runner = doctest.DocTestRunner(verbose=False)

    def run(self) -> list[str]:
        found = blocks(self.path.read_text(encoding="utf-8"))
        for place, block in enumerate(found):
            after = found[place + 1] if place + 1 < len(found) else None
            shown = after.text if after and after.language == "text" and self._touch(block, after) else None
            if block.language == "python":
                self._python(block, shown)
            elif block.language == "pycon":
                self._pycon(block)
            elif block.language == "console":
                self._console(block)
            if self.raised:
                break
        return self.problems

    def _touch(self, block: Block, after: Block) -> bool:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return not any(line.strip() for line in lines[block.end : after.line - 2])

    def _differs(self, line: int, what: str) -> None:
        self.problems.append(f"{self.path.name}:{line}: {what}")

    def _python(self, block: Block, shown: str | None) -> None:
        printed = io.StringIO()
        # Empty lines before it: tracebacks then name the page's lines.
        source = "\n" * (block.line - 1) + block.text
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(source, str(self.path), "exec"), self.namespace)
        except BaseException:
            self._differs(block.line, f"the block fails.\n{traceback.format_exc()}")
            self.raised = True
            return
        got = printed.getvalue()
        if shown is None and got.strip():
            self._differs(block.line, f"the block prints, and no text block after it shows what:\n{got}")
        elif shown is not None and got.rstrip() != shown.rstrip():
            self._differs(block.line, f"shown:\n{shown}\nprinted:\n{got}")

    def _pycon(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(
            block.text, {}, self.path.name, str(self.path), block.line - 1
        )
        test.globs = self.namespace
        printed = io.StringIO()
        if self.runner.run(test, out=printed.write, clear_globs=False).failed:
            self._differs(block.line, printed.getvalue())

    def _console(self, block: Block) -> None:
        here = Path.cwd()
        for command, shown, place in commands(block.text):
            if any(word in command for word in self.without):
                continue
            real = command
            for name, value in self.replace.items():
                real = real.replace(name, value)
            if real.startswith("cd "):
                here = here / shlex.split(real)[1]
                continue
            done = subprocess.run(
                ["bash", "-c", real], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if not is_as_shown(shown, done.stdout):
                self._differs(block.line + place, f"$ {command}\nshown:\n{shown}\nprinted:\n{done.stdout}")


def is_as_shown(shown: str, printed: str) -> bool:
    """Whether a command printed what its transcript shows, seconds and lines of progress apart."""
    lines = _settled(printed)
    first, *rest = _parts(shown)
    if not rest:
        return lines == first
    *middle, last = rest
    begin, end = len(first), len(lines) - len(last)
    if begin > end or lines[:begin] != first or lines[end:] != last:
        return False
    for part in middle:
        starts = (k for k in range(begin, end - len(part) + 1) if lines[k : k + len(part)] == part)
        start = next(starts, None)
        if start is None:
            return False
        begin = start + len(part)
    return True


def _settled(text: str) -> list[str]:
    """Lines without what differs from one run to the next."""
    lines = [line.rstrip() for line in re.split(r"[\r\n]", text.strip("\n"))]
    return [DURATION.sub("# ", line) for line in lines if not PROGRESS.match(line)]


def _parts(text: str) -> list[list[str]]:
    """The settled lines between the lines that are `…`."""
    parts: list[list[str]] = [[]]
    for line in _settled(text):
        if line.strip() == "…":
            parts.append([])
        else:
            parts[-1].append(line)
    return parts


def main() -> None:
    job = json.loads(sys.argv[1])
    problems = Page(Path(job["page"]), job["replace"], job["without"]).run()
    print("\n" + json.dumps(problems))


if __name__ == "__main__":
    main()
