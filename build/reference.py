"""The API reference, made from signatures and docstrings: one Markdown page a public module.

    python -m build reference                # writes docs/api/

1. griffe reads the library's sources, without importing it: no torch, and the same on every machine.
2. Public is what has no underscore in front and is defined in the module, or stands in its `__all__`; what
   the module only takes from another one is described there, with a link.
3. A page holds the module's docstring, its constants, and of each class and function the signature, the
   docstring and the errors that its own code raises. Docstrings are Markdown; a module's name becomes a link.

One more page has the tables of an atlas. GitHub renders them as they are. Line numbers stay out, so that
a page changes when the interface does.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import griffe
import pyarrow as pa

from atlas.store.definitions import DEFINITIONS, DERIVED_VIEWS

ROOT = Path(__file__).resolve().parent.parent
# Not for people who write programs with the library.
INTERNAL = (
    "atlas.__main__",
    "atlas.datasets.fetching",
    "atlas.help",
    "atlas.models.smollm2",
    "atlas.experiments.reading",
    "atlas.store.sql_worker",
)
# Title → modules, or packages with all that is in them. The first that fits holds a module.
GROUPS = {
    "Find and change neurons": ("atlas.surgery", "atlas.models.families"),
    "Scripts written for `knowledge-neurons`": ("atlas.compat",),
    "Neurons, facts and data sets": (
        "atlas.neuron",
        "atlas.datasets",
        "atlas.refinement",
        "atlas.interventions",
        "atlas.experiments.experiment",
        "atlas.models",
        "atlas.errors",
    ),
    "Atlases": ("atlas",),
}
WIDTH = 100
LONGEST_VALUE = 88


def pages(root: Path = ROOT) -> dict[str, str]:
    """File name → text of every page of the reference, its index included."""
    library = griffe.load("atlas", search_paths=[root], allow_inspection=False)
    modules = {module.path: module for module in _modules(library) if module.path not in INTERNAL}
    made = {f"{path}.md": Page(module, modules).text() for path, module in modules.items()}
    return {"README.md": _index(modules), "tables.md": _tables(), **dict(sorted(made.items()))}


def write(folder: Path) -> list[Path]:
    """Write the pages and remove those of modules that are gone; the pages' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages()
    for old in folder.glob("*.md"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for name in sorted(module.modules):
        if not module.members[name].is_alias:
            yield from _modules(module.modules[name])


def _index(modules: dict[str, griffe.Module]) -> str:
    lines = [
        "# API reference",
        "",
        "Made from the docstrings by `python -m build reference`. Shapes are tuples of names; probabilities",
        "go from 0 to 1, and scores are parts of them; layers and neurons count from 0. What a person gets",
        "wrong raises `AtlasError` or one of its [children](atlas.errors.md): the fact, then the remedy.",
        "",
        "What the tables of an atlas hold stands in [Tables](tables.md).",
    ]
    left = dict(modules)
    for title, packages in GROUPS.items():
        lines += ["", f"## {title}", "", "| module | |", "|---|---|"]
        for package in packages:
            for path in [p for p in left if f"{p}.".startswith(f"{package}.")]:
                sentence = _linked(_first_sentence(left.pop(path)), modules)
                lines.append(f"| [`{path}`]({path}.md) | {_cell(sentence)} |")
    return "\n".join(lines) + "\n"


def _tables() -> str:
    """The page of an atlas's tables and views: every column with its type and its sentence."""
    lines = [
        "# Tables of an atlas",
        "",
        "One Parquet file a table. A null says “not measured”, never zero. Views follow from the tables. In",
        "a collection of atlases, all of them have a first column `atlas_id`.",
    ]
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
        lines += [f"| `{column}` | {_kind(kind)} | {_cell(text)} |" for column, kind, text in columns]
    for name, (sentence, columns) in DERIVED_VIEWS.items():
        lines += ["", f"## `{name}` (view)", "", sentence, "", "| column | |", "|---|---|"]
        lines += [f"| `{column}` | {_cell(text)} |" for column, text in columns]
    return "\n".join(lines) + "\n"


def _kind(kind: pa.DataType) -> str:
    """A type as people write it: `list<struct<token: string, logit: float>>` without its field names."""
    if pa.types.is_list(kind):
        return f"list of {_kind(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "(" + ", ".join(f"{field.name}: {_kind(field.type)}" for field in kind) + ")"
    return {"float": "float32", "double": "float64", "string": "text"}.get(str(kind), str(kind))


def _first_sentence(thing: griffe.Object) -> str:
    text = _docstring(thing).split("\n\n")[0].replace("\n", " ")
    return text.strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _docstring(thing: griffe.Object) -> str:
    return textwrap.dedent(thing.docstring.value).strip() if thing.docstring else ""


def _words(thing: griffe.Object, modules: dict[str, griffe.Module]) -> str:
    """A docstring as Markdown: its examples as code, the rest with links."""
    paragraphs = re.split(r"\n{2,}", _docstring(thing))
    return "\n\n".join(
        _code(textwrap.dedent(each)) if is_code(each) else _linked(each, modules) for each in paragraphs
    )


def is_code(paragraph: str) -> bool:
    """Whether a paragraph is Python that calls or assigns something; sentences are not."""
    try:
        tree = ast.parse(textwrap.dedent(paragraph).replace("…", "..."))
    except SyntaxError:
        return False
    return any(
        isinstance(node, ast.Call | ast.Assign | ast.Import | ast.ImportFrom) for node in ast.walk(tree)
    )


def _linked(text: str, modules: dict[str, griffe.Module]) -> str:
    """Names of modules and of what is in them, and of pages of docs/, as links."""

    def link(match: re.Match[str]) -> str:
        package, _, name = match[1].rpartition(".")
        if match[1] in modules:
            return f"[`{match[1]}`]({match[1]}.md)"
        if package in modules and name in modules[package].members:
            thing = modules[package].members[name]
            thing = thing.final_target if thing.is_alias else thing
            return match[0] if thing.is_module else f"[`{match[1]}`]({thing.module.path}.md#{name.lower()})"
        return match[0]

    text = re.sub(r"(?<![\w/])docs/([\w-]+\.md)", r"[docs/\1](../\1)", text.replace("``", "`"))
    return re.sub(r"(?<!\[)`(atlas(?:\.\w+)*)`", link, text)


class Page:
    """One module's page."""

    def __init__(self, module: griffe.Module, modules: dict[str, griffe.Module]):
        self.module = module
        self.modules = modules

    def text(self) -> str:
        source = self.module.filepath.relative_to(ROOT)
        blocks = [f"# `{self.module.path}`", _words(self.module, self.modules)]
        blocks += [f"[Source](../../{source}) · [all modules](README.md)"]
        own, elsewhere = self._public()
        blocks += self._elsewhere(elsewhere)
        blocks += self._constants([each for each in own if each.is_attribute])
        for each in own:
            if each.is_class:
                blocks += self._class(each)
            elif each.is_function:
                blocks += self._function(each, f"## `{each.name}`")
        return "\n\n".join(block for block in blocks if block) + "\n"

    def _public(self) -> tuple[list[griffe.Object], list[griffe.Object]]:
        """What the module defines, in its order, and what its `__all__` takes from elsewhere."""
        named = self.module.exports
        members = [m for m in self.module.members.values() if not m.name.startswith("_")]
        if named is None:
            own = [m for m in members if not m.is_alias and not m.is_module]
            return sorted(own, key=lambda m: m.lineno or 0), []
        members = [m for m in members if m.name in named]
        own = [m for m in members if not m.is_alias and not m.is_module]
        elsewhere = [m.final_target for m in members if m.is_alias]
        # A function may be called as the module it is in: griffe then knows the module only.
        elsewhere += [m.members[m.name] for m in members if not m.is_alias and m.is_module]
        return sorted(own, key=lambda m: m.lineno or 0), sorted(elsewhere, key=lambda m: named.index(m.name))

    def _elsewhere(self, things: list[griffe.Object]) -> list[str]:
        lines = []
        for each in things:
            constant = each.is_attribute
            sentence = "constant" if constant else _linked(_first_sentence(each), self.modules)
            place = f"{each.module.path}.md#{'constants' if constant else each.name.lower()}"
            lines.append(f"| [`{each.name}`]({place}) | {_cell(sentence)} |")
        return ["\n".join(["| name | |", "|---|---|", *lines])] if lines else []

    def _constants(self, attributes: list[griffe.Attribute]) -> list[str]:
        lines = []
        for each in attributes:
            value = str(each.value)
            short = len(value) <= LONGEST_VALUE and "\n" not in value and not re.search(r"\b_", value)
            lines.append(f"{each.name} = {value if short else '…'}")
        return ["## Constants", _code("\n".join(lines))] if lines else []

    def _class(self, thing: griffe.Class) -> Iterator[str]:
        yield f"## `{thing.name}`"
        bases = ", ".join(str(base) for base in thing.bases)
        kind = "@dataclass\n" if "dataclass" in thing.labels else ""
        takes = [p for p in thing.parameters if p.name != "self"]
        name = f"class {thing.name}"
        if takes:
            yield _code(kind + _call(name, takes, ""))
        else:
            yield _code(f"{kind}{name}({bases})" if bases else kind + name)
        if takes and bases:
            yield f"A kind of {', '.join(self._base(base) for base in thing.bases)}."
        yield _words(thing, self.modules)
        for each in sorted(thing.members.values(), key=lambda m: m.lineno or 0):
            if each.name.startswith("_") or each.is_alias:
                continue
            if each.is_function:
                yield from self._function(each, f"### `{thing.name}.{each.name}`")
            elif "property" in each.labels:
                yield f"### `{thing.name}.{each.name}`"
                yield _code(f"{each.name}: {each.annotation}")
                yield _words(each, self.modules)

    def _base(self, base: griffe.Expr | str) -> str:
        """A base class, with a link where it has a page."""
        package, _, name = str(getattr(base, "canonical_path", base)).rpartition(".")
        return f"[`{name}`]({package}.md#{name.lower()})" if package in self.modules else f"`{base}`"

    def _function(self, thing: griffe.Function, heading: str) -> Iterator[str]:
        yield heading
        takes = [p for p in thing.parameters if p.name not in ("self", "cls")]
        marks = "".join(
            f"@{d.value}\n" for d in thing.decorators if str(d.value) in ("classmethod", "staticmethod")
        )
        if any(str(d.value) == "contextmanager" for d in thing.decorators):
            marks = "@contextmanager\n"
        returns = f" -> {thing.returns}" if thing.returns is not None else ""
        yield _code(marks + _call(f"def {thing.name}", takes, returns))
        said = _docstring(thing)
        yield _words(thing, self.modules)
        raised = [name for name in raises(thing) if f"`{name}`" not in said]
        if raised:
            yield f"Raises {' or '.join(f'`{name}`' for name in raised)}."


def raises(thing: griffe.Function) -> list[str]:
    """The errors that a function's own code raises, in their order."""
    nodes = ast.walk(ast.parse(textwrap.dedent(thing.source)))
    raised = [node for node in nodes if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    names = [ast.unparse(node.exc.func) for node in sorted(raised, key=lambda node: node.lineno)]
    return [name for name in dict.fromkeys(names) if name.endswith("Error")]


def _call(name: str, takes: list[griffe.Parameter], returns: str) -> str:
    """A signature on one line, or on one line a parameter."""
    parts: list[str] = []
    stars = False
    for parameter in takes:
        kind = parameter.kind
        if kind is griffe.ParameterKind.keyword_only and not stars:
            parts.append("*")
        stars = stars or kind in (griffe.ParameterKind.var_positional, griffe.ParameterKind.keyword_only)
        prefix = {
            griffe.ParameterKind.var_positional: "*",
            griffe.ParameterKind.var_keyword: "**",
        }.get(kind, "")
        text = prefix + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and not prefix:
            text += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        parts.append(text)
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
