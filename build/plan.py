"""What a build will do: options, the model's shape, prompts, shards and an estimate. No torch here.

    plan = make_plan(BuildOptions(model="pocket-bert", dataset="starter", limit=50))
    plan.n_prompts, plan.n_discovery
    for shard in plan.shards(): ...          # tuples of facts; a resumed build repeats at most a shard
    plan.prompts_of(fact)                    # [(Prompt, held_out), …]

1. Options are checked (one sentence each) before anything slow is imported.
2. The model's kind decides which templates are usable: a causal model needs the object at the end.
3. Of a relation's usable templates, in order, every second one is held out for evaluation; in the modes
   `paper` and `replication`, none (`--discovery` says otherwise).
4. Facts are cut into shards in the data set's order, so that batches depend on the plan alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from atlas.datasets import Dataset, load_dataset
from atlas.errors import BuildError, ModelError, StoreError
from atlas.models import KNOWN_MODELS, LocatedModel, locate
from atlas.models.families import family_of, sizes_of
from atlas.neuron import Fact, Prompt, Template
from atlas.refinement import MODES
from atlas.store.atlas import bundled
from atlas.store.manifest import Manifest, read_manifest

QUADRATURE_RULES = ("certified", "left", "right", "endpoints")
DTYPES = ("auto", "float32", "tf32", "bfloat16")
ATTRIBUTE = ("discovery", "all")
DISCOVERY = ("half", "all")
METHOD = "integrated_gradients"
MAX_POINTS = 513
DEFAULT_DTYPES = {"cpu": "float32", "cuda": "tf32"}
# Facts a shard. A GPU wants more at once: rounds with few paths left cost it as much time as full ones.
DEFAULT_SHARD_SIZES = {"cpu": 25, "cuda": 200}

# Measured on starter facts with both models that come with the project; see `estimate_build`.
_SCORES_A_PROMPT = 150
_EFFECTS_A_PROMPT = 6  # 2 interventions × 3 groups
_BYTES_A_SCORE = 6
_BYTES_AN_EFFECT = 13
_BYTES_A_PROMPT = 60
_BYTES_A_NEURON = 300  # its tokens and its prompts
_SHARE_OF_NEURONS = 0.4  # that are a knowledge neuron of some fact


def _relation_ids(text: str) -> tuple[str, ...]:
    """The ids of `P36,P37`."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise BuildError("--relations names no relation. Write ids such as P36,P37.")
    return names


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """A model, and the facts it is asked for."""

    model: Annotated[str, Option(help="pocket-bert, smollm2-135m, a folder, or a hub id")]
    dataset: Annotated[str, Option(help="starter, pararel, counterfact or dai")]
    source: Annotated[Path | None, Option(help="folder or file of the data set")] = None
    relations: Annotated[
        tuple[str, ...] | None, Option(help="only these relations", metavar="P36,P37", parser=_relation_ids)
    ] = None
    limit: Annotated[int | None, Option(help="at most this many facts, spread over the relations")] = None

    def __post_init__(self) -> None:
        at_least_one("--limit", self.limit)
        if self.source is not None and not self.source.exists():
            raise BuildError(
                f"There is no folder or file {self.source}. Give --source the data set's folder or file."
            )


@dataclass(frozen=True, kw_only=True)
class BuildOptions(QuestionOptions):
    """Everything that changes an atlas's rows; how it is run (device, threads, batch) is a `Machine`.

    dtype ``auto`` and shard_size None are decided by the device (`on`).
    """

    attribute: Annotated[str, Option(help="attribute the discovery prompts only, or all prompts")] = (
        "discovery"
    )
    mode: Annotated[str, Option(help="refinement: default, paper or replication")] = "default"
    discovery: Annotated[
        str | None,
        Option(
            help="find neurons on half of a relation's templates and hold out the others, or on all; by "
            "default half in the mode default, and all in paper and replication, as the originals do"
        ),
    ] = None
    negatives: Annotated[
        int, Option(help="leave out neurons that are coarse as often in prompts of this many other facts")
    ] = 0
    rule: Annotated[str, Option(help="quadrature: certified, or the fixed sums left, right, endpoints")] = (
        "certified"
    )
    tolerance: Annotated[
        float, Option(help="largest error of the certified rule, as a share of the largest score")
    ] = 0.01
    steps: Annotated[int, Option(help="points of a fixed rule")] = 20
    dtype: Annotated[
        str,
        Option(
            help="precision of the attribution's matrix products: float32, tf32 or bfloat16; auto is tf32 "
            "on a GPU, else float32; its error is measured on a sample"
        ),
    ] = "auto"
    seed: Annotated[int, Option(help="for the random controls")] = 0
    shard_size: Annotated[
        int | None,
        Option(help="facts per shard, the unit that a resumed build repeats; by default 25, on a GPU 200"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("--attribute", self.attribute, ATTRIBUTE)
        check_choice("--mode", self.mode, MODES)
        check_choice("--discovery", self.discovery or DISCOVERY[0], DISCOVERY)
        check_choice("--rule", self.rule, QUADRATURE_RULES)
        check_choice("--dtype", self.dtype, DTYPES)
        if not 0 < self.tolerance < 1:
            raise BuildError(f"--tolerance must be between 0 and 1, got {self.tolerance:g}.")
        at_least_one("--steps", self.steps)
        at_least_one("--shard-size", self.shard_size)
        not_negative("--seed", self.seed)
        not_negative("--negatives", self.negatives)

    @property
    def holds_out(self) -> bool:
        """Whether half of a relation's templates are kept for evaluation."""
        return (self.discovery or default_discovery(self.mode)) == "half"

    def on(self, device: str) -> BuildOptions:
        """These options with whatever was left to the device, 'cpu' or 'cuda', decided."""
        return replace(
            self,
            dtype=DEFAULT_DTYPES[device] if self.dtype == "auto" else self.dtype,
            shard_size=self.shard_size or DEFAULT_SHARD_SIZES[device],
        )


def default_discovery(mode: str) -> str:
    """The templates that find neurons in a refinement mode: 'half', or 'all' as in the originals."""
    return "half" if mode == "default" else "all"


def check_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raises `BuildError` when the value is none of the choices."""
    if value not in choices:
        raise BuildError(f"{option} cannot be '{value}'. Choose one of: {', '.join(choices)}.")


def at_least_one(option: str, value: int | None) -> None:
    """Raises `BuildError` when a count is given that is zero or negative."""
    if value is not None and value < 1:
        raise BuildError(f"{option} must be 1 or more, got {value}.")


def not_negative(option: str, value: int) -> None:
    """Raises `BuildError` when a number is negative."""
    if value < 0:
        raise BuildError(f"{option} must be 0 or more, got {value}.")


@dataclass(frozen=True)
class ModelShape:
    """What a plan needs of a model without loading it; sizes are None where config.json has none.

    located: the model's files; None for a model that is known by its tables and not on this machine.
    """

    kind: str
    n_layers: int | None = None
    n_neurons: int | None = None
    located: LocatedModel | None = None

    @property
    def causal(self) -> bool:
        return self.kind == "causal"


_HUB_SHAPES = {
    "bert-base-uncased": ModelShape("masked", 12, 3072),
    "bert-base-cased": ModelShape("masked", 12, 3072),
    "bert-base-multilingual-uncased": ModelShape("masked", 12, 3072),
    "bert-base-multilingual-cased": ModelShape("masked", 12, 3072),
    "bert-large-uncased": ModelShape("masked", 24, 4096),
    "bert-large-cased": ModelShape("masked", 24, 4096),
    "gpt2": ModelShape("causal", 12, 3072),
    "gpt2-medium": ModelShape("causal", 24, 4096),
    "gpt2-large": ModelShape("causal", 36, 5120),
    "gpt2-xl": ModelShape("causal", 48, 6400),
}


def model_shape(name: str, *, allow_download: bool = False) -> ModelShape:
    """Kind and sizes of a model, and its files: fetched if need be with `allow_download`.

    Without it, the tables of known models serve where the files are not on this machine. Raises `ModelError`
    when the model cannot be found, or is of no supported family.
    """
    known = KNOWN_MODELS.get(name)
    if known is not None:
        located = locate(name) if allow_download else None
        return ModelShape(known.kind, known.n_layers, known.n_neurons, located)
    try:
        located = locate(name, allow_download=allow_download)
    except ModelError:
        if name in _HUB_SHAPES and not allow_download:
            return _HUB_SHAPES[name]
        raise
    config = located.config()
    return ModelShape(family_of(config).kind, *sizes_of(config), located)


@dataclass(frozen=True)
class Plan:
    """Facts, prompts and shards of a build, in the order in which it goes through them."""

    options: BuildOptions
    shape: ModelShape
    dataset: Dataset
    n_facts_left_out: int = 0

    @property
    def facts(self) -> tuple[Fact, ...]:
        return self.dataset.facts

    @property
    def located(self) -> LocatedModel | None:
        """The model's files; None where the plan was made without them."""
        return self.shape.located

    @cached_property
    def templates(self) -> dict[str, tuple[tuple[Template, bool], ...]]:
        """Relation id → ((template, held out), …): usable templates, every second one held out or none."""
        return {
            relation.relation_id: tuple(
                (template, self.options.holds_out and index % 2 == 1)
                for index, template in enumerate(
                    self.dataset.templates_of(relation.relation_id, causal=self.shape.causal)
                )
            )
            for relation in self.dataset.relations
        }

    def prompts_of(self, fact: Fact) -> list[tuple[Prompt, bool]]:
        """The fact's prompts and whether each is held out."""
        return [(template.prompt(fact), held_out) for template, held_out in self.templates[fact.relation_id]]

    def is_attributed(self, held_out: bool) -> bool:
        return self.options.attribute == "all" or not held_out

    @cached_property
    def _prompt_counts(self) -> dict[str, tuple[int, int]]:
        """Relation id → discovery prompts and held-out prompts of each of its facts."""
        counts = {name: (len(each), sum(held for _, held in each)) for name, each in self.templates.items()}
        return {name: (n - n_held_out, n_held_out) for name, (n, n_held_out) in counts.items()}

    @cached_property
    def n_discovery(self) -> int:
        return sum(self._prompt_counts[fact.relation_id][0] for fact in self.facts)

    @cached_property
    def n_held_out(self) -> int:
        return sum(self._prompt_counts[fact.relation_id][1] for fact in self.facts)

    @property
    def n_prompts(self) -> int:
        return self.n_discovery + self.n_held_out

    @property
    def n_attributed(self) -> int:
        return self.n_prompts if self.options.attribute == "all" else self.n_discovery

    @cached_property
    def too_few(self) -> tuple[int, int]:
        """Facts, and their relations, with fewer discovery prompts than a neuron must be found in."""
        least = MODES[self.options.mode].at_least
        relations = {name for name, (discovery, _) in self._prompt_counts.items() if discovery < least}
        return sum(fact.relation_id in relations for fact in self.facts), len(relations)

    def n_prompts_of(self, facts: tuple[Fact, ...]) -> int:
        return sum(sum(self._prompt_counts[fact.relation_id]) for fact in facts)

    @property
    def shard_size(self) -> int:
        return self.options.shard_size or DEFAULT_SHARD_SIZES["cpu"]

    def shards(self) -> Iterator[tuple[Fact, ...]]:
        """Facts in the data set's order, `shard_size` at a time."""
        size = self.shard_size
        for start in range(0, len(self.facts), size):
            yield self.facts[start : start + size]

    @cached_property
    def n_shards(self) -> int:
        return -(-len(self.facts) // self.shard_size)


def make_plan(options: BuildOptions, *, allow_download: bool = False) -> Plan:
    """The plan for these options. Raises an `AtlasError` for a model, data set or relation that there is not.

    allow_download: fetch a model that is not on this machine.
    """
    dataset = load_dataset(options.dataset, source=options.source).restricted(options.relations)
    shape = model_shape(options.model, allow_download=allow_download)
    usable = [
        relation.relation_id
        for relation in dataset.relations
        if dataset.templates_of(relation.relation_id, causal=shape.causal)
    ]
    if not usable:
        raise BuildError(
            f"{options.model} is causal, and no template of {options.dataset} ends with the object. "
            "Choose other relations or a masked model."
        )
    n_all = len(dataset.facts)
    dataset = dataset.restricted(usable)
    n_usable = len(dataset.facts)
    return Plan(options, shape, dataset.restricted(limit=options.limit), n_all - n_usable)


def build_parameters(plan: Plan) -> dict[str, Any]:
    """Everything that changes rows, as plain JSON: a build is resumed only with the same."""
    options, located = plan.options, plan.located
    certified = options.rule == "certified"
    return {
        "model": located.name,
        "weights_sha256": located.weights_sha256,
        "config_sha256": located.config_sha256 or None,
        "dataset": plan.dataset.dataset_id,
        "relations": None if options.relations is None else list(options.relations),
        "limit": options.limit,
        "attribute": options.attribute,
        "mode": options.mode,
        # None as in folders that were begun before these options existed.
        "discovery": None if options.holds_out else "all",
        "negatives": options.negatives or None,
        "method": METHOD,
        "rule": options.rule,
        "tolerance": options.tolerance,
        "steps": None if certified else options.steps,
        "max_points": MAX_POINTS if certified else None,
        "dtype": options.dtype,
        "seed": options.seed,
        "shard_size": options.shard_size,
        "dataset_hash": plan.dataset.dataset_hash,
    }


@dataclass(frozen=True)
class BuildEstimate:
    """Size and time of a build; `seconds` is None where nothing was measured, `basis` names the source."""

    attributions: int
    effects: int
    bytes: int
    seconds: float | None
    basis: str


def estimate_build(plan: Plan) -> BuildEstimate:
    """Rows, disk and time, from an atlas of the same model that comes with the project; without one rows
    follow from other models', and the time is unknown."""
    measured = _measured(plan.options.model)
    scores, seconds = float(_SCORES_A_PROMPT), None
    basis = "until measured: no bundled atlas has this model"
    if measured is not None:
        speed = measured.prompts_per_second
        seconds = plan.n_prompts / speed
        basis = f"at {speed:.1f} prompts a second, as {measured.atlas_id} was built on {measured.device}"
        # Half of its prompts were attributed.
        scores = 2 * measured.files["attributions.parquet"].rows / measured.files["prompts.parquet"].rows
    attributions = round(plan.n_attributed * scores)
    effects = (plan.n_held_out if plan.options.holds_out else plan.n_prompts) * _EFFECTS_A_PROMPT
    n_neurons = (plan.shape.n_layers or 0) * (plan.shape.n_neurons or 0)
    size = (
        attributions * _BYTES_A_SCORE
        + plan.n_prompts * _BYTES_A_PROMPT
        + effects * _BYTES_AN_EFFECT
        + min(n_neurons * _SHARE_OF_NEURONS, attributions) * _BYTES_A_NEURON
    )
    return BuildEstimate(attributions, effects, round(size), seconds, basis)


def _measured(model: str) -> Manifest | None:
    """The manifest of an atlas of this model that comes with the project, half of its prompts attributed."""
    for folder in bundled().values():
        try:
            manifest = read_manifest(folder)
        except StoreError:
            continue
        of_discovery = manifest.method.options.get("parameters", {}).get("attribute") == "discovery"
        if manifest.model.name == model and manifest.prompts_per_second and of_discovery:
            return manifest
    return None


def describe_plan(plan: Plan) -> str:
    """The plan as lines of text."""
    options, guess = plan.options, estimate_build(plan)
    kind = "causal: templates that end with the object" if plan.shape.causal else "masked: all templates"
    lines = [
        ("model", f"{options.model} ({kind})"),
        ("data set", f"{plan.dataset.dataset_id} ({plan.dataset.licence})"),
        ("relations", f"{len(plan.dataset.relations):,}"),
        ("facts", f"{len(plan.facts):,}"),
        ("prompts", f"{plan.n_prompts:,}"),
        ("discovery", f"{plan.n_discovery:,} (find the neurons)"),
        ("held out", _describe_held_out(plan)),
        ("attributed", f"{plan.n_attributed:,} prompts, {options.rule} quadrature"),
        ("shards", f"{plan.n_shards:,} of {plan.shard_size} facts"),
        ("rows", f"about {guess.attributions:,} attributions and {guess.effects:,} effects (estimate)"),
        ("disk", f"about {guess.bytes / 1e6:,.1f} MB (estimate)"),
        ("time", _describe_time(guess)),
    ]
    if plan.too_few[0]:
        lines.insert(7, ("too few", _describe_too_few(plan)))
    if plan.n_facts_left_out:
        lines.insert(
            4, ("left out", f"{plan.n_facts_left_out:,} facts: no template of theirs ends with the object")
        )
    return "\n".join(f"{name:<11} {text}" for name, text in lines)


def _describe_held_out(plan: Plan) -> str:
    if plan.options.holds_out:
        return f"{plan.n_held_out:,} (measure their effect)"
    return "none: effects are measured on the prompts that find the neurons, as in the originals"


def _describe_too_few(plan: Plan) -> str:
    n_facts, n_relations = plan.too_few
    least = MODES[plan.options.mode].at_least
    return (
        f"{n_facts:,} facts of {n_relations} relation{'' if n_relations == 1 else 's'} have under {least} "
        f"discovery prompts: no neurons in the mode {plan.options.mode} (replication takes 1)"
    )


def _describe_time(guess: BuildEstimate) -> str:
    if guess.seconds is None:
        return f"unknown {guess.basis}"
    return f"about {duration(guess.seconds)} (estimate, {guess.basis})"


def duration(seconds: float) -> str:
    """A time span in words: '48 s', '12 min', '3 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def first_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first parameter in which two builds differ, in words; None when they agree."""
    for name in [*now, *(key for key in before if key not in now)]:
        if name == "config_sha256" and before.get(name) is None:  # begun before it was recorded
            continue
        if before.get(name) != now.get(name):
            return f"{name} {_shown(before.get(name))} where this one has {_shown(now.get(name))}"
    return None


def _shown(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
