"""What the site shows and nobody commits: a page a module, the tables' columns, the root's documents.

mkdocs calls `on_config`, `on_files` and `on_page_markdown`; griffe, which reads docstrings, `Docstrings`.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import griffe
import pyarrow as pa
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from atlas.store.definitions import DEFINITIONS, DERIVED_VIEWS

ROOT = Path(__file__).resolve().parent.parent
# These stand at the repository's root, where people look for them.
DOCUMENTS = ("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "NOTICE.md")
# Not for people who write programs with the library.
INTERNAL = {
    "atlas.__main__",
    "atlas.moved",
    "atlas.cli",
    "atlas.datasets.fetching",
    "atlas.models.smollm2",
    "atlas.store.sql_worker",
}


def modules() -> dict[str, str]:
    """Each public module of the library → the first sentence of its docstring."""
    found = {}
    for path in sorted((ROOT / "atlas").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name not in INTERNAL and not path.stem.removeprefix("__init__").startswith("_"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[name] = docstring.partition("\n\n")[0].replace("\n", " ")
    return found


# mkdocs ----------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The last section of the menu lists the modules."""
    *_, reference = config.nav
    for pages in reference.values():
        pages += [{name: f"api/{name}.md"} for name in modules()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for name in modules():
        files.append(File.generated(config, f"api/{name}.md", content=f"# `{name}`\n\n::: {name}\n"))
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the tables, and let links to the root's documents lead to their pages."""
    if page.file.src_uri == "api/README.md":
        markdown += "\n".join(["", "| module | |", "|---|---|", *map(_module_row, modules().items())])
    if page.file.src_uri == "api/tables.md":
        markdown += tables()
    return re.sub(
        rf"\]\((?:\.\./)?({'|'.join(map(re.escape, DOCUMENTS))})", lambda m: f"]({m[1].lower()}", markdown
    )


def _module_row(module: tuple[str, str]) -> str:
    name, sentence = module
    return f"| [`{name}`]({name}.md) | {sentence} |"


def tables() -> str:
    """Every table and view of an atlas: a heading, a sentence, and its columns."""
    lines: list[str] = []
    for name, (sentence, keys, columns) in DEFINITIONS.items():
        order = ", ".join(f"`{key}`" for key in keys)
        lines += [
            "",
            f"## `{name}`",
            "",
            f"{sentence} Sorted by {order}.",
            "",
            "| column | type | |",
            "|---|---|---|",
        ]
        lines += [f"| `{column}` | {type_name(kind)} | {_cell(text)} |" for column, kind, text in columns]
    for name, (sentence, described) in DERIVED_VIEWS.items():
        lines += ["", f"## `{name}` (view)", "", sentence, "", "| column | |", "|---|---|"]
        lines += [f"| `{column}` | {_cell(text)} |" for column, text in described]
    return "\n".join(lines) + "\n"


def type_name(kind: pa.DataType) -> str:
    """A column's type in words: `list<struct<token: string>>` is "list of (token: text)"."""
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "(" + ", ".join(f"{field.name}: {type_name(field.type)}" for field in kind) + ")"
    return {"float": "float32", "double": "float64", "string": "text"}.get(str(kind), str(kind))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# griffe ----------------------------------------------------------------------------------------------


class Docstrings(griffe.Extension):
    """Docstrings as Markdown: examples become code, the library's names links, and errors are listed."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            paragraphs = re.split(r"\n{2,}", textwrap.dedent(obj.docstring.value).strip())
            obj.docstring.value = "\n\n".join(map(_markdown, paragraphs))
            raised = (
                [name for name in raises(obj) if name not in obj.docstring.value] if obj.is_function else []
            )
            if raised:
                obj.docstring.value += f"\n\nRaises {' or '.join(f'`{name}`' for name in raised)}."


def _markdown(paragraph: str) -> str:
    if is_code(paragraph):
        return f"```python\n{textwrap.dedent(paragraph)}\n```"
    link = r'<autoref identifier="\1" optional>`\1`</autoref>'
    return re.sub(r"`(atlas(?:\.\w+)+)`", link, paragraph.replace("``", "`"))


def is_code(paragraph: str) -> bool:
    """Whether a paragraph is Python that calls or assigns something; sentences are not."""
    try:
        tree = ast.parse(textwrap.dedent(paragraph).replace("…", "..."))
    except SyntaxError:
        return False
    return any(
        isinstance(node, ast.Call | ast.Assign | ast.Import | ast.ImportFrom) for node in ast.walk(tree)
    )


def raises(function: griffe.Object) -> list[str]:
    """The errors that a function's own code raises, in their order."""
    nodes = ast.walk(ast.parse(textwrap.dedent(function.source)))
    raised = [node for node in nodes if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    names = [ast.unparse(node.exc.func) for node in sorted(raised, key=lambda node: node.lineno)]
    return [name for name in dict.fromkeys(names) if name.endswith("Error")]
