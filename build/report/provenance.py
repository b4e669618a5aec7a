"""What each atlas was made from and how each experiment was run, to do it again; all cells are plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from atlas.datasets.dataset import NOT_PUBLISHED
from atlas.store.manifest import Manifest
from build.evidence import STUDIES
from build.evidence.evaluate import RECORD
from build.plan import default_discovery, duration

UNKNOWN = "not recorded"
# Parameters of a build that are given on the command line, and their defaults.
_OPTIONS = {
    "relations": None,
    "limit": None,
    "attribute": "discovery",
    "mode": "default",
    "rule": "certified",
    "tolerance": 0.01,
    "dtype": "float32",
    "seed": 0,
}


def provenance(manifests: Sequence[Manifest]) -> list[tuple[str, list[str]]]:
    """What each atlas was made from: words, and the value in every atlas."""
    return [(words, [of(each) for each in manifests]) for words, of in MANIFEST_ROWS.items()]


def _or_unknown(value: object) -> str:
    return UNKNOWN if value is None or value == "" else str(value)


def _weights(manifest: Manifest) -> str:
    digest = manifest.model.weights_sha256
    return "no weights: the neurons were imported" if digest is None else f"{digest[:16]}…"


def _refinement(manifest: Manifest) -> str:
    rule = manifest.method.refinement
    if not rule:
        return UNKNOWN
    shown = {"mode": "mode", "threshold": "t", "share": "p", "at_least": "at least"}
    parts = [f"{words} {rule[name]:g}" if isinstance(rule[name], int | float) else f"{words} {rule[name]}"
             for name, words in shown.items() if rule.get(name) is not None]  # fmt: skip
    return ", ".join(parts)


def _rule(manifest: Manifest) -> str:
    method = manifest.method
    if method.rule is None:
        return method.name.replace("_", " ")
    tolerance = "" if method.tolerance is None else f", tolerance {method.tolerance:g}"
    return f"{method.name.replace('_', ' ')}, rule {method.rule}{tolerance}"


def _command(manifest: Manifest) -> str:
    """What makes the atlas again."""
    parameters = manifest.method.options.get("parameters", {})
    if not {"model", "dataset"} <= parameters.keys():
        return UNKNOWN
    published = manifest.method.options.get("published")
    if published is not None:
        own = " --source FILES" if published.get("neurons") == NOT_PUBLISHED else ""
        templates = " --own-templates" if published.get("templates") else ""
        return f"python -m build import-published{own}{templates} --out DIR"
    words = [f"--model {parameters['model']}", f"--dataset {parameters['dataset']}"]
    for name, default in _OPTIONS.items():
        value = parameters.get(name, default)
        if value != default:
            value = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            words.append(f"--{name} {value}")
    discovery = parameters.get("discovery") or "half"
    if discovery != default_discovery(parameters.get("mode", "default")):
        words.append(f"--discovery {discovery}")
    if parameters.get("steps") is not None and parameters.get("rule") != "certified":
        words.append(f"--steps {parameters['steps']}")
    return f"python -m build run {' '.join(words)} --out DIR"


def _experiment(name: str) -> Callable[[Manifest], str]:
    """How one experiment was run, as the command that runs it again."""

    def command(manifest: Manifest) -> str:
        record = manifest.method.options.get(RECORD, {}).get(name)
        if record is None:
            return "not run"
        sample, seed = record.get("sample"), record.get("seed")
        options = "" if sample == STUDIES[name].sample else f" --sample {sample or 0}"
        options += " --all-facts" if record.get("all_facts") else ""
        options += f" --seed {seed}" if seed else ""
        return f"python -m build evaluate DIR --experiments {name}{options}"

    return command


MANIFEST_ROWS = {
    "model": lambda manifest: (
        f"{manifest.model.name} ({_or_unknown(manifest.model.family)}, "
        f"{_or_unknown(manifest.model.n_layers)} layers of {_or_unknown(manifest.model.n_neurons)} neurons)"
    ),
    "weights, sha256": _weights,
    "data set": lambda manifest: f"{manifest.dataset.id}, revision {_or_unknown(manifest.dataset.revision)}",
    "data set's hash": lambda manifest: f"{_or_unknown(manifest.dataset.hash)[:16]}…",
    "scores": _rule,
    "refinement": _refinement,
    "held out": lambda manifest: _or_unknown(manifest.method.held_out),
    "seed": lambda manifest: _or_unknown(manifest.method.seed),
    "device": lambda manifest: _or_unknown(manifest.device),
    "time": lambda manifest: UNKNOWN if manifest.seconds is None else duration(manifest.seconds),
    "made": lambda manifest: _or_unknown(manifest.created),
    "code": lambda manifest: _or_unknown(manifest.code_version),
    "command": _command,
    **{f"experiment {name}": _experiment(name) for name in STUDIES},
}
