"""What imports what: every import counts, also inside functions and for type checkers."""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from atlas.moved import MOVED
from tests import ROOT

# The rooms of atlas/ from the ground up: a room imports its own and those of the floors below it.
FLOORS = (
    ("errors", "files", "interventions", "intervals", "line", "neuron", "numbers", "rows", "validation"),
    ("models",),
    ("datasets",),
    ("store",),
    ("refinement", "surgery"),
    ("attribution", "queries"),
    ("claims", "experiments"),
    ("compat",),
)
# Not part of the floors: charts, command lines, and the old names.
BESIDE = {"charts", "cli", "__main__", "moved"}
MODEL_PACKAGES = {"torch", "transformers", "accelerate", "safetensors", "tokenizers"}
# What a page that browses imports; the rooms that touch a model are the others.
BROWSING = (
    *(
        "atlas.store",
        "atlas.queries",
        "atlas.claims",
        "atlas.datasets",
        "atlas.refinement",
        "atlas.interventions",
    ),
    *("atlas.neuron", "atlas.errors", "atlas.experiments.controls", "atlas.experiments.experiment"),
    *("atlas.models", "atlas.__main__"),
)
# These touch a model in some functions only.
LATER = ("atlas.models", "atlas.__main__")
LIVE = ("atlas.surgery", "atlas.attribution", "atlas.experiments.run", "atlas.compat")


# The graph -------------------------------------------------------------------------------------------


def named(path: Path) -> str:
    """A file's module, such as `atlas.store.sql`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {named(path): path for top in ("atlas", "app", "build") for path in (ROOT / top).rglob("*.py")}


@cache
def imports(path: Path, *, into_functions: bool = True) -> frozenset[str]:
    """Dotted names that a file imports: modules, and what it takes out of them.

    into_functions: false leaves out what is imported only when a function is called, or by type checkers.
    """
    found: set[str] = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), into_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write the whole name instead of a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _nodes(tree: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        )
        if into_functions or not later:
            yield node
            yield from _nodes(node, into_functions)


@cache
def graph(*, into_functions: bool = True) -> dict[str, frozenset[str]]:
    """Module → modules of this project that it imports."""
    edges = {}
    for module, path in MODULES.items():
        names = imports(path, into_functions=into_functions)
        known = {name if name in MODULES else name.rpartition(".")[0] for name in names}
        edges[module] = frozenset(known & MODULES.keys() - {module})
    return edges


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of these, or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def importers(
    *packages: str, among: tuple[str, ...] = (), into_functions: bool = True
) -> dict[str, set[str]]:
    """Modules (of `among`, or all) that import any of these packages, and what they import of them."""
    found = {}
    for module, path in MODULES.items():
        if not among or within(module, *among):
            names = imports(path, into_functions=into_functions)
            if taken := {name for name in names if within(name, *packages)}:
                found[module] = taken
    return found


# Directions ------------------------------------------------------------------------------------------


def test_no_two_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_rooms_of_the_library_import_downwards_only():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {module: module.split(".")[1] for module in MODULES if module.startswith("atlas.")}
    assert set(rooms.values()) <= floor.keys() | BESIDE, "say in FLOORS where the new room is"
    upwards = [
        f"{module} → {target}"
        for module, targets in graph().items()
        for target in targets
        if {rooms.get(module), rooms.get(target)} <= floor.keys()
        and rooms[module] != rooms[target]
        and floor[rooms[target]] > 0
        and floor[rooms[target]] >= floor[rooms[module]]
    ]
    assert upwards == []


def test_the_builder_and_the_app_import_the_library_and_not_each_other():
    assert importers("app", "build", among=("atlas",)) == {}
    assert importers("app", among=("build",)) == {}
    assert importers("build", among=("app",)) == {}


def test_streamlit_stays_in_the_app():
    # The benchmarks' visitors ask a server as a browser does.
    assert importers("streamlit", among=("atlas", "build")).keys() <= {"build.bench.sockets"}


def test_charts_are_drawn_in_their_rooms_only():
    drawing = importers("altair", "vl_convert", "atlas.charts", among=("atlas", "build"))
    assert [module for module in drawing if not within(module, "atlas.charts", "build.report")] == []
    assert importers("vl_convert", among=("app",)) == {}


# Browsing --------------------------------------------------------------------------------------------


def test_browsing_imports_no_model_package():
    # models: SmolLM2's weights are converted when they are fetched, which is no browsing; nor is `measure`.
    live = importers(*MODEL_PACKAGES, *LIVE, among=BROWSING)
    assert [module for module in live if not within(module, *LATER)] == []


def test_the_app_imports_model_packages_only_inside_functions():
    assert importers(*MODEL_PACKAGES, *LIVE, among=("app", *LATER), into_functions=False) == {}


def test_models_and_tables_do_not_import_each_other():
    assert (
        importers("atlas.store", "atlas.queries", "duckdb", among=("atlas.surgery", "atlas.attribution"))
        == {}
    )


def test_the_nouns_need_the_standard_library_only():
    for noun in ("atlas.neuron", "atlas.errors"):
        packages = {name.partition(".")[0] for name in imports(MODULES[noun])}
        assert packages <= {*sys.stdlib_module_names, "atlas"}, noun


# Names that have moved -------------------------------------------------------------------------------

# Every import of the README and of docs/ as they were when the modules moved into rooms.
DOCUMENTED = """
import atlas
from atlas.comparison import neurons_of_lists, overlap
from atlas.compat import KnowledgeNeurons, initialize_model_and_tokenizer, model_type
from atlas.controls import asked_of_fact
from atlas.datasets import Dataset, load_dataset
from atlas.datasets.counterfact import read_counterfact
from atlas.errors import ModelError
from atlas.experiment import Experiment
from atlas.families import FAMILIES, LLAMA, family_of
from atlas.models import locate
from atlas.neuron import Fact, Neuron, Relation, Template
from atlas.queries import facts_matching, neurons_of_fact, rethreshold
from atlas.refinement import mode, refine_scores
from atlas.surgery import Edit, Suppress, attribute, by_sign, load_subject
from atlas.surgery.attribution import METHODS
from atlas.surgery.crossing import cross_effects
from atlas.surgery.experiments import dose_response, find_neurons, from_link, run, to_json, to_link
"""


@pytest.mark.parametrize("line", DOCUMENTED.strip().splitlines())
def test_imports_that_were_documented_work(line: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(line, {})


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_is_the_very_module(old: str, new: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert importlib.import_module(old) is importlib.import_module(new)
