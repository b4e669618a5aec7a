"""Help texts of the command lines: what a command does, and examples as they are typed."""

from __future__ import annotations

import argparse
import textwrap

WIDTH = 79


def explain(parser: argparse.ArgumentParser, text: str, *examples: str, more: str = "") -> None:
    """Give a parser's help a description, examples, and more words below them, line by line."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = textwrap.fill(text, WIDTH)
    lines = ["examples:", *(f"  {example}" for example in examples)] if examples else []
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent=_indent(line)) for line in more.splitlines()]
    parser.epilog = "\n".join([*lines, *([""] if lines and more else []), *wrapped])


def _indent(line: str) -> str:
    """Where a line goes on: below its own second column, if it has two."""
    first = len(line) - len(line.lstrip())
    gap = line.find("  ", first)
    return " " * (gap + len(line[gap:]) - len(line[gap:].lstrip())) if first and gap > 0 else ""
