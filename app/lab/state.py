"""The settings of the Lab: kept in the visitor's session, restored from a link, written to the URL.

    run_at_once = take_over_url(atlas)      # what is new in the URL
    st.number_input("Draws", **setting("draws", 5))
    restore(experiment, atlas)              # every setting as in an experiment
    write_url(experiment)

Settings stay while the visitor is on another page. The URL holds `x` (a whole experiment) once it is
complete, and until then the model and the fact or prompts. An experiment that the atlas gives by itself has a
short address instead: its fact and `change`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.lab.tables import decode
from app.shared import address, limits
from app.shared.words import neurons_of
from atlas import queries
from atlas.errors import AtlasError, DocumentError
from atlas.experiments import documents
from atlas.experiments.experiment import Experiment
from atlas.interventions import Intervention, kind_of, make_intervention
from atlas.models import is_ready, may_be_on_hub, same_model
from atlas.neuron import ExperimentPrompt, Neuron, Prompt
from atlas.store.atlas import Atlas

ATLAS, FOUND, TRAY, GIVEN = "atlas", "found", "tray", "given"
OTHER_MODEL = "another model"
_PARAMETERS = ("x", "run", "model", "fact", "prompts", "answer", "source", "change")
# Longer prompts are written only as part of `x`, which is compressed.
LONGEST_PLAIN = 1500

CONTROL_DEFAULTS = {"draws": 5, "seed": 0, "neighbours": 6, "unrelated": 12}
NEAR_AND_FAR = ("neighbours", "unrelated")
ERASE_VALUES = {"zero": "zero", "unk": "unknown token"}


@dataclass(frozen=True)
class Question:
    """What the model is asked: the ids of a fact (None for typed prompts), its answer, its prompts."""

    fact_id: str | None
    relation_id: str | None
    name: str
    answer: str
    prompts: tuple[ExperimentPrompt, ...]

    @property
    def discovery(self) -> tuple[Prompt, ...]:
        return tuple(item.prompt for item in self.prompts if item.group == "asked")


# The session -----------------------------------------------------------------------------------------


def setting(name: str, first: Any) -> dict[str, str]:
    """Arguments of a widget whose value stays in the session, `first` until it changes."""
    st.session_state.setdefault(f"lab_{name}", first)
    return {"key": f"lab_{name}", "persist_state": "session"}


def get(name: str, first: Any = None) -> Any:
    return st.session_state.get(f"lab_{name}", first)


def put(name: str, value: Any) -> None:
    st.session_state[f"lab_{name}"] = value


def option(name: str, options: Sequence[Any], first: Any) -> dict[str, str]:
    """As `setting`, for a choice: a value that is no longer offered becomes `first`."""
    if get(name) not in options:
        put(name, first)
    return setting(name, first)


def control_range(name: str) -> tuple[int, int]:
    """The range of a control: at least one draw and one unrelated fact."""
    most = {"draws": limits.current().draws, "seed": 1_000_000, "neighbours": 30, "unrelated": 60}
    return int(name in ("draws", "unrelated")), most[name]


# The question ----------------------------------------------------------------------------------------


def texts() -> str:
    """The sentence and its further wordings, one a line."""
    return "\n".join(filter(None, (get("sentence", "").strip(), get("wordings", "").strip())))


def put_texts(text: str) -> None:
    """Ask a sentence and further wordings, one a line, that belong to no fact."""
    sentence, _, wordings = text.strip().partition("\n")
    put("fact", None)
    put("sentence", sentence)
    put("wordings", wordings)


# The list of changes ---------------------------------------------------------------------------------


def changes() -> list[int]:
    """The changes in their order, by number; a new Lab has one."""
    if not get("changes"):
        put("changes", [next_number()])
    return get("changes")


def next_number() -> int:
    put("numbered", get("numbered", 0) + 1)
    return get("numbered")


def add_change() -> None:
    put("changes", [*changes(), next_number()])


def remove_change(number: int) -> None:
    put("changes", [each for each in changes() if each != number])


def move_change(number: int, by: int) -> None:
    order = changes()
    place = order.index(number)
    other = min(max(place + by, 0), len(order) - 1)
    order[place], order[other] = order[other], order[place]
    put("changes", list(order))


def put_change(kind: str, *, only: Sequence[Neuron] = (), **options: Any) -> None:
    """One change, of all selected neurons or of some only."""
    number = next_number()
    put("changes", [number])
    put(f"kind_{number}", kind)
    put(f"its_own_{number}", [str(neuron) for neuron in only])
    put(f"whose_{number}", bool(only))
    for name, value in options.items():
        put(f"{name}_{number}", value)


def to_rewrite(atlas: Atlas, relation_id: str, neurons: Sequence[Neuron]) -> tuple[Neuron, ...]:
    """The neurons that a rewriting changes by default: those not common in the relation; () for all.

    Rewriting common neurons breaks the relation's other facts (`queries.uncommon_neurons`).
    """
    uncommon = queries.uncommon_neurons(atlas, neurons, relation_id=relation_id)
    return uncommon if len(uncommon) < len(neurons) else ()


def start_over() -> None:
    """A single change: suppress all neurons listed."""
    put("changes", [next_number()])
    put("off", set())


# Taking over the URL-------------------------------------------------------------------------------------


def take_over_url(atlas: Atlas) -> bool:
    """Take over what is new in the URL; returns whether to run its experiment at once.

    What this page itself wrote into the URL, or has taken over before, is not new. Raises `AtlasError` for an
    experiment that cannot be read, after taking over the rest of the URL.
    """
    url = {name: st.query_params.get(name) for name in _PARAMETERS}
    known = get("url", {})
    new = {name: value for name, value in url.items() if value and value != known.get(name)}
    put("url", {name: value for name, value in url.items() if name != "source"})
    if get("atlas_id") != atlas.atlas_id:
        _enter(atlas)
    from_tray = "source" in new and url["source"] == TRAY
    st.query_params.pop("source", None)
    problem: AtlasError | None = None
    if "x" in new:
        try:
            restore(decode(new["x"]), atlas)
            return url["run"] == "1"
        except AtlasError as error:
            st.query_params.pop("x", None)
            problem = error
    if "model" in new:
        put_model(new["model"])
    if "fact" in new:
        ask_about(atlas, new["fact"])
    elif "prompts" in new or "answer" in new:
        put_texts(url["prompts"] or "")
        put("answer", (url["answer"] or "")[: limits.current().answer_length])
    if "change" in new:
        put_short_change(new["change"], atlas)
    if from_tray:
        put("sources", [TRAY])
        open_setup(True)
    if problem is not None:
        raise problem
    return bool(new) and url["run"] == "1"


def _number(text: str) -> float:
    number = float(text)
    if not abs(number) <= min(limits.current().strength, 100.0):
        raise ValueError(text)
    return number


def _erased_by(text: str) -> str:
    if text not in ERASE_VALUES:
        raise ValueError(text)
    return text


# Of a change in a short link: the option that its text gives, how it is read, and what may be there.
_SHORT_OPTIONS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "amplify": ("factor", _number, "a number up to 100"),
    "erase": ("value", _erased_by, " or ".join(ERASE_VALUES)),
    "edit": ("new", str, "an answer"),
    "set": ("value", _number, "a number up to 100"),
    "patch": ("from_prompt", str, "a prompt"),
}


def put_short_change(text: str, atlas: Atlas) -> None:
    """The change that a short link names, such as ``suppress``, ``amplify:3`` or ``edit:Rome``.

    Without its option the list of changes opens, to be completed. Raises `DocumentError` for another text.
    """
    kind, _, option_text = text.partition(":")
    if kind != "suppress" and kind not in _SHORT_OPTIONS:
        kinds = ", ".join(("suppress", *_SHORT_OPTIONS))
        raise DocumentError(f"change must be one of {kinds}, got '{kind[:40]}'. Correct the link.")
    options = {}
    if option_text and kind in _SHORT_OPTIONS:
        name, read, what = _SHORT_OPTIONS[kind]
        try:
            options[name] = read(option_text[: limits.current().prompt_length])
        except ValueError:
            raise DocumentError(
                f"change={kind} takes {what}, got '{option_text[:40]}'. Correct the link."
            ) from None
    elif kind in _SHORT_OPTIONS:
        put("changes_box", (next_number(), True))
    put_change(kind, only=_only(kind, atlas, get("fact")), **options)


def _only(kind: str, atlas: Atlas, fact_id: str | None) -> tuple[Neuron, ...]:
    """Those of the fact's neurons that a short link changes; () for all."""
    if kind != "edit" or not has_fact(atlas, fact_id):
        return ()
    relation_id = queries.fact(atlas, fact_id)["relation_id"]
    return to_rewrite(atlas, relation_id, neurons_of(queries.neurons_of_fact(atlas, fact_id)))


def _enter(atlas: Atlas) -> None:
    """Start over for another atlas: its model, where it can be had, and no fact that it does not have."""
    put("atlas_id", atlas.atlas_id)
    own = atlas.manifest.model.name
    allowed = limits.current()
    to_be_had = allowed.offers(own) and (is_ready(own) or may_be_on_hub(own))
    put_model(own if to_be_had else allowed.models[0])
    if not has_fact(atlas, get("fact")):
        put("fact", None)
    put("sources", [ATLAS])
    put("given", {})
    put("pinned", None)
    start_over()
    open_setup(get("fact") is None)


def ask_about(atlas: Atlas, fact_id: str) -> None:
    """Ask about a fact of the atlas, and start by suppressing all its neurons."""
    if get("fact") != fact_id:
        put("fact", fact_id)
        put("pinned", None)
        put("sources", [ATLAS])
        start_over()
    known = atlas.query_one("SELECT n_neurons FROM facts WHERE fact_id = $fact", {"fact": fact_id})
    same = get("model") == atlas.manifest.model.name and is_ready(get("model"))
    open_setup(not (known and known["n_neurons"] and same))


def open_setup(is_open: bool) -> None:
    """Open or close the set-up, as a new expander: an existing one stays as the visitor left it."""
    put("setup", (get("setup", (0, True))[0] + 1, is_open))


def put_model(name: str) -> None:
    offered = limits.current().models
    put("model", name if name in offered else OTHER_MODEL)
    if name not in offered and name != OTHER_MODEL:
        put("folder", name)


# Restoring -------------------------------------------------------------------------------------------


def restore(experiment: Experiment, atlas: Atlas) -> None:
    """Every setting as in the experiment."""
    put_model(experiment.model or atlas.manifest.model.name)
    own = [item.prompt for item in experiment.prompts if item.group == "asked"]
    first = (own or [experiment.prompts[0].prompt])[0]
    fact_id = experiment.fact_id if has_fact(atlas, experiment.fact_id) else None
    if fact_id is None:
        put_texts("\n".join(prompt.text for prompt in own))
        put("answer", first.answer)
    put("fact", fact_id)
    counts = {name: sum(item.group == name for item in experiment.prompts) for name in NEAR_AND_FAR}
    for name, value in ({"draws": experiment.draws, "seed": experiment.seed} | counts).items():
        low, high = control_range(name)
        put(name, min(max(value, low), high))
    _restore_neurons(experiment.interventions, atlas, fact_id)
    put("pinned", (experiment, None))
    open_setup(False)


def as_linked(built: Experiment | None) -> Experiment | None:
    """The experiment of the settings; while they are unchanged, exactly that of the link.

    Its control prompts may have been drawn from another build of the atlas.
    """
    pinned = get("pinned")
    if pinned is None or built is None:
        return built
    linked, first_built = pinned
    if first_built is None:
        put("pinned", (linked, built))
    elif first_built != built:
        put("pinned", None)
        return built
    return linked


def has_fact(atlas: Atlas, fact_id: str | None) -> bool:
    return atlas.query_one("FROM facts WHERE fact_id = $fact", {"fact": fact_id or ""}) is not None


def _restore_neurons(interventions: Iterable[Intervention], atlas: Atlas, fact_id: str | None) -> None:
    """The neurons listed and selected, and the changes; one with only some of the neurons lists them."""
    interventions = tuple(interventions)
    together = dict.fromkeys(neuron for item in interventions for neuron in item.neurons)
    of_fact = set()
    if fact_id is not None:
        of_fact = set(neurons_of(queries.neurons_of_fact(atlas, fact_id)))
    start_over()
    if of_fact.issuperset(together):
        put("sources", [ATLAS])
        put("off", {str(neuron) for neuron in of_fact - set(together)})
    else:
        put("sources", [GIVEN])
        put("given", dict.fromkeys(together, "the link"))
    put("changes", [next_number() for _ in interventions])
    for number, item in zip(changes(), interventions, strict=True):
        restore_change(number, item, its_own=set(item.neurons) != set(together))


def restore_change(number: int, item: Intervention, *, its_own: bool) -> None:
    put(f"its_own_{number}", [str(neuron) for neuron in item.neurons] if its_own else [])
    put(f"whose_{number}", its_own)
    put(f"kind_{number}", kind_of(item))
    for name, value in vars(item).items():
        if name != "neurons":
            put(f"{name}_{number}", float(value) if isinstance(value, int) else value)


# The URL ---------------------------------------------------------------------------------------------


def address_of(experiment: Experiment, atlas: Atlas) -> dict[str, str]:
    """The URL's parameters that restore an experiment: its fact and change where the atlas gives the rest."""
    change = _short_change(experiment, atlas)
    if change is None:
        return {"x": documents.to_link(experiment)}
    return {"fact": experiment.fact_id, "change": change}


def _short_change(experiment: Experiment, atlas: Atlas) -> str | None:
    """The change of a short link; None where neurons, prompts or controls are not what the atlas gives."""
    of_link = get("pinned") is not None  # its prompts may be of another build of the atlas
    controls = all(get(name, value) == value for name, value in CONTROL_DEFAULTS.items())
    if of_link or not controls or len(experiment.interventions) != 1 or not experiment.fact_id:
        return None
    (item,), model = experiment.interventions, atlas.manifest.model
    kind = kind_of(item)
    own = _only(kind, atlas, experiment.fact_id) or tuple(
        neurons_of(queries.neurons_of_fact(atlas, experiment.fact_id))
    )
    if not same_model(experiment, model) or set(experiment.neurons) != set(own):
        return None
    name, *_ = _SHORT_OPTIONS.get(kind, ("", str, ""))
    given = {key: getattr(item, key) for key in (name, "old") if hasattr(item, key)}
    if make_intervention(kind, own, **given) != item:  # other strengths
        return None
    value = given.get(name)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{kind}:{text}" if name else kind


def write_url(experiment: Experiment | None, atlas: Atlas, *, was_run: bool = False) -> None:
    """Write the experiment into the URL; while it is incomplete, its model and its fact or prompts."""
    wanted: dict[str, str | None] = dict.fromkeys(_PARAMETERS)
    if experiment is not None:
        wanted |= address_of(experiment, atlas)
        wanted["run"] = "1" if was_run else None
    else:
        wanted["model"] = model_name() or None
        kinds = [get(f"kind_{number}") for number in changes()]
        wanted["change"] = (
            kinds[0] if get("fact") and len(kinds) == 1 and kinds[0] in _SHORT_OPTIONS else None
        )
        if get("fact") is None and len(texts()) <= LONGEST_PLAIN:
            wanted["prompts"] = texts() or None
            wanted["answer"] = get("answer") or None
    wanted["fact"] = get("fact")
    address.write(wanted)
    put("url", wanted)


def model_name() -> str:
    """The model that is chosen or typed; "" if none."""
    chosen = get("model", "")
    return (get("folder") or "").strip() if chosen == OTHER_MODEL else chosen
