"""A report as blocks, and the blocks as Markdown and as one HTML page that needs no other file.

    blocks = [Heading(2, "Layers"), Paragraph("Most lie **above**."), Table(("what", "n"), (("facts", "3"),))]
    markdown(blocks); html(blocks, title="…")

Text may hold **bold**, *emphasis*, `code` and [links](https://…); a newline in a cell is a new line there.
"""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from build.report.figures import Figure

_STYLE = Path(__file__).parent / "report.css"
FIGURES = "figures"


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the report's title."""

    level: int
    text: str

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `tone` 'note' sets it apart, 'finding' does so more."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table. `columns[0]` heads the rows' names.

    `wide` ones scroll where there is no room, of the others each row becomes a card on a phone; `folded` ones
    show their caption until they are opened. widths: of the first columns, in per cent.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    wide: bool = False
    folded: bool = False
    widths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pictures:
    """Charts side by side."""

    figures: tuple[Figure, ...]
    caption: str = ""


Block = Heading | Paragraph | Bullets | Table | Pictures


def escape_marks(text: str) -> str:
    """Text from an atlas, such as a relation's label, with its marks escaped."""
    return re.sub(r"([\\`*\[\]|<>])", r"\\\1", text)


# Markdown --------------------------------------------------------------------------------------------


def markdown(blocks: Iterable[Block]) -> str:
    """The report as Markdown; charts are links to their files."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text, tone):
            return "\n".join(f"> {line}" for line in text.split("\n")) if tone else text
        case Bullets(items):
            return "\n".join(f"* {item}" for item in items)
        case Table(columns, rows, caption):
            lines = [
                _row(columns),
                "|" + "---|" * len(columns),
                *(_row(row) for row in rows),
            ]
            return "\n".join([*([f"*{caption}*", ""] if caption else []), *lines])
        case Pictures(figures, caption):
            lines = [
                f"[![{escape_marks(each.alt)}]({FIGURES}/{each.file}.svg)]({FIGURES}/{each.file}.html)"
                for each in figures
            ]
            return "\n\n".join([*lines, *([f"*{caption}*"] if caption else [])])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\n", "<br>") for cell in cells) + " |"


# HTML ------------------------------------------------------------------------------------------------


def html(blocks: Sequence[Block], *, title: str) -> str:
    """The report as one page: style and charts inside."""
    body = "\n".join(_html(block) for block in _with_contents(blocks))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaping.escape(title)}</title>\n"
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


@dataclass(frozen=True)
class _Contents:
    headings: tuple[Heading, ...]


def _with_contents(blocks: Sequence[Block]) -> list[Block | _Contents]:
    """The blocks with a list of the sections before the first of them."""
    sections = tuple(block for block in blocks if isinstance(block, Heading) and block.level == 2)
    if not sections:
        return list(blocks)
    place = blocks.index(sections[0])
    return [*blocks[:place], _Contents(sections), *blocks[place:]]


def _html(block: Block | _Contents) -> str:
    match block:
        case Heading(level, text):
            return f'<h{level} id="{block.anchor}">{inline(text)}</h{level}>'
        case Paragraph(text, tone):
            return f'<p class="{tone}">{inline(text)}</p>' if tone else f"<p>{inline(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{inline(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            return _table(block)
        case Pictures(figures, caption):
            drawn = "\n".join(
                f'<div class="chart">{each.inlined()}\n<p class="files"><a href="{FIGURES}/{each.file}.html">'
                f'interactive</a> <a href="{FIGURES}/{each.file}.svg">SVG</a> '
                f'<a href="{FIGURES}/{each.file}.png">PNG</a></p></div>'
                for each in figures
            )
            below = f"\n<figcaption>{inline(caption)}</figcaption>" if caption else ""
            return f'<figure>\n<div class="charts">\n{drawn}\n</div>{below}\n</figure>'
        case _Contents(headings):
            links = "".join(f'<li><a href="#{each.anchor}">{inline(each.text)}</a></li>' for each in headings)
            return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def _table(block: Table) -> str:
    head = "".join(f'<th scope="col">{inline(cell)}</th>' for cell in block.columns)
    body = "\n".join(_table_row(row, block.columns) for row in block.rows)
    widths = "".join(f'<col style="width: {width}%">' for width in block.widths)
    inside = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    kind = "wide" if block.wide else "cards fixed" if widths else "cards"
    caption = f"<caption>{inline(block.caption)}</caption>" if block.caption and not block.folded else ""
    table = f'<div class="table"><table class="{kind}">{caption}<colgroup>{widths}</colgroup>{inside}'
    if not block.folded:
        return table
    return f"<details><summary>{inline(block.caption)}</summary>\n{table}\n</details>"


def _table_row(row: Sequence[str], columns: Sequence[str]) -> str:
    # On a phone each row is a card, and each cell says its column's name itself.
    cells = [
        f'<td data-column="{escaping.escape(_plain(column), quote=True)}"><div>{inline(cell)}</div></td>'
        for cell, column in zip(row[1:], columns[1:], strict=True)
    ]
    return f'<tr><th scope="row">{inline(row[0])}</th>{"".join(cells)}</tr>'


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)[*`]", "", text)).replace("\n", " ")


_MARKS = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"\*([^*]+)\*"), r"<em>\1</em>"),
    (re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)"), r'<a href="\2">\1</a>'),
)


def inline(text: str) -> str:
    """Text with its marks as HTML. What `escape` made harmless stays words."""
    kept: list[str] = []

    def keep(match: re.Match) -> str:
        kept.append(match[1])
        return f"\x00{len(kept) - 1}\x00"

    text = re.sub(r"\\([\\`*\[\]|<>])", keep, text)
    text = escaping.escape(text, quote=False)
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\x00(\d+)\x00", lambda match: escaping.escape(kept[int(match[1])]), text)
    return text.replace("\n", "<br>")
