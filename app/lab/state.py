"""What the Lab is set to: kept in the visitor's session, restored from a link, said in a sentence.

    arrived = arrive(atlas)                 # take over what the URL newly asks for; True: run at once
    key = kept("draws", 5)                  # the session's key of a setting, with its first value
    restore(experiment, atlas)              # every setting as an experiment has it
    remember(experiment)                    # the URL says what is on the screen

Widgets keep their values under these keys, also while the visitor is on another page. The URL holds `x` (a
whole experiment) once there is one, and until then the model and the fact or prompts it will be about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.lab import tables
from app.shared import limits
from app.shared.words import escape
from atlas import queries
from atlas.errors import AtlasError
from atlas.experiments.experiment import Experiment
from atlas.interventions import Amplify, Edit, Erase, Intervention, Suppress
from atlas.models import is_ready
from atlas.neuron import OBJECT_SLOT, Asked, Neuron, Prompt
from atlas.store.atlas import Atlas

FACT, PROMPTS = "A fact of the atlas", "My own prompts"
ATLAS, FOUND, TRAY, GIVEN = "atlas", "found", "tray", "given"
OTHER_MODEL = "another model"
SESSION = "session"  # how long widgets keep their values: see `persist_state` of Streamlit
PARAMETERS = ("x", "run", "model", "fact", "prompts", "answer", "source")
# Longer prompts wait for the experiment, whose `x` is packed.
LONGEST_PLAIN = 1500
GAP = "____"

CONTROLS = {"draws": 5, "seed": 0, "neighbours": 6, "unrelated": 12}
NEAR_AND_FAR = ("neighbours", "unrelated")


@dataclass(frozen=True)
class Question:
    """What the model is asked: the fact's id if it is one, its answer, its prompts in groups."""

    fact_id: str | None
    relation_id: str | None
    name: str
    answer: str
    asked: tuple[Asked, ...]

    @property
    def discovery(self) -> tuple[Prompt, ...]:
        return tuple(item.prompt for item in self.asked if item.group == "asked")


# The session -----------------------------------------------------------------------------------------


def kept(name: str, first: Any) -> str:
    """The session's key of a setting, which has the value `first` until somebody changes it."""
    key = f"lab_{name}"
    if key not in st.session_state:
        st.session_state[key] = first
    return key


def get(name: str, first: Any = None) -> Any:
    return st.session_state.get(f"lab_{name}", first)


def put(name: str, value: Any) -> None:
    st.session_state[f"lab_{name}"] = value


def among(name: str, options: Sequence[Any], first: Any) -> str:
    """As `kept`, for a choice: what is no longer offered gives way to `first`."""
    if get(name) not in options:
        put(name, first)
    return f"lab_{name}"


def control_range(name: str) -> tuple[int, int]:
    """The least and the most of a control: there is always one draw and one unrelated fact."""
    most = {"draws": limits.current().draws, "seed": 1_000_000, "neighbours": 30, "unrelated": 60}
    return int(name in ("draws", "unrelated")), most[name]


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


def start_over() -> None:
    """One change, Suppress, of all neurons listed."""
    put("changes", [next_number()])
    put("off", set())


# Arriving --------------------------------------------------------------------------------------------


def arrive(atlas: Atlas) -> bool:
    """Take over what the URL newly asks for; whether its experiment should be run at once.

    What this page wrote into the URL itself is no news, nor is what it has taken over before. Raises
    `AtlasError` for an experiment that cannot be read; the rest of the URL is taken over all the same.
    """
    url = {name: st.query_params.get(name) for name in PARAMETERS}
    known = get("url", {})
    news = {name: value for name, value in url.items() if value and value != known.get(name)}
    put("url", {name: value for name, value in url.items() if name != "source"})
    if get("atlas_id") != atlas.atlas_id:
        _enter(atlas)
    from_tray = "source" in news and url["source"] == TRAY
    st.query_params.pop("source", None)
    problem: AtlasError | None = None
    if "x" in news:
        try:
            restore(tables.decode(news["x"]), atlas)
            return url["run"] == "1"
        except AtlasError as error:
            st.query_params.pop("x", None)
            problem = error
    if "model" in news:
        put_model(news["model"])
    if "fact" in news:
        ask_about(atlas, news["fact"])
    elif "prompts" in news or "answer" in news:
        put("ask", PROMPTS)
        put("prompts", url["prompts"] or "")
        put("answer", url["answer"] or "")
    if from_tray:
        put("sources", [TRAY])
        open_setup(True)
    if problem is not None:
        raise problem
    return bool(news) and url["run"] == "1"


def _enter(atlas: Atlas) -> None:
    """Another atlas is in view than before: its model, and nothing of facts it may not have."""
    put("atlas_id", atlas.atlas_id)
    own = atlas.manifest.model.name
    offered = limits.current().models
    put_model(own if own in offered else offered[0])
    if not has_fact(atlas, get("fact")):
        put("fact", None)
    put("sources", [ATLAS])
    put("given", {})
    put("pinned", None)
    start_over()
    open_setup(get("fact") is None)


def ask_about(atlas: Atlas, fact_id: str) -> None:
    """The question is a fact of the atlas, its change to begin with: suppress all its neurons."""
    put("ask", FACT)
    if get("fact") != fact_id:
        put("fact", fact_id)
        put("pinned", None)
        put("sources", [ATLAS])
        start_over()
    known = atlas.query_one("SELECT n_neurons FROM facts WHERE fact_id = $fact", {"fact": fact_id})
    same = get("model") == atlas.manifest.model.name and is_ready(get("model"))
    open_setup(not (known and known["n_neurons"] and same))


def open_setup(is_open: bool) -> None:
    """The set-up opens or closes: a new expander, because one that is there stays as the visitor has it."""
    put("setup", (get("setup", (0, True))[0] + 1, is_open))


def put_model(name: str) -> None:
    offered = limits.current().models
    put("model", name if name in offered else OTHER_MODEL)
    if name not in offered and name != OTHER_MODEL:
        put("folder", name)


# Restoring -------------------------------------------------------------------------------------------


def restore(experiment: Experiment, atlas: Atlas) -> None:
    """Every setting as the experiment has it."""
    put_model(experiment.model or atlas.manifest.model.name)
    own = [item.prompt for item in experiment.asked if item.group == "asked"]
    first = (own or [experiment.asked[0].prompt])[0]
    fact_id = experiment.fact_id if has_fact(atlas, experiment.fact_id) else None
    put("ask", FACT if fact_id else PROMPTS)
    put("fact", fact_id)
    if fact_id is None:
        put("prompts", "\n".join(prompt.text for prompt in own))
        put("answer", first.answer)
    counts = {name: sum(item.group == name for item in experiment.asked) for name in NEAR_AND_FAR}
    for name, value in ({"draws": experiment.draws, "seed": experiment.seed} | counts).items():
        low, high = control_range(name)
        put(name, min(max(value, low), high))
    _restore_neurons(experiment.interventions, atlas, fact_id)
    put("pinned", (experiment, None))
    open_setup(False)


def as_linked(built: Experiment | None) -> Experiment | None:
    """The experiment of the settings; while nobody changes them, exactly that of the link they came from.

    The prompts of its controls were drawn from the atlas of that day.
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
    fact = atlas.query_one("SELECT fact_id FROM facts WHERE fact_id = $fact", {"fact": fact_id or ""})
    return fact is not None


def _restore_neurons(interventions: Iterable[Intervention], atlas: Atlas, fact_id: str | None) -> None:
    """The neurons listed and ticked, and the changes; one that takes only some of them says which."""
    interventions = tuple(interventions)
    together = dict.fromkeys(neuron for item in interventions for neuron in item.neurons)
    of_fact = set()
    if fact_id is not None:
        rows = queries.neurons_of_fact(atlas, fact_id)
        of_fact = {Neuron(int(row.layer), int(row.neuron)) for row in rows.itertuples()}
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
    match item:
        case Suppress():
            put(f"kind_{number}", "suppress")
        case Amplify():
            put(f"kind_{number}", "amplify")
            put(f"factor_{number}", float(item.factor))
        case Erase():
            put(f"kind_{number}", "erase")
            put(f"value_{number}", item.value)
        case Edit():
            put(f"kind_{number}", "edit")
            for name in ("old", "new", "remove", "add"):
                put(f"{name}_{number}", getattr(item, name))


# The URL ---------------------------------------------------------------------------------------------


def remember(experiment: Experiment | None, *, was_run: bool = False) -> None:
    """The URL says what is on the screen: the experiment where it is whole, else what it will be about."""
    wanted: dict[str, str | None] = dict.fromkeys(PARAMETERS)
    if experiment is not None:
        wanted["x"] = tables.encode(experiment)
        wanted["run"] = "1" if was_run else None
    else:
        wanted["model"] = model_name() or None
        if get("ask") == PROMPTS and len(get("prompts", "")) <= LONGEST_PLAIN:
            wanted["prompts"] = get("prompts") or None
            wanted["answer"] = get("answer") or None
    if get("ask", FACT) == FACT:
        wanted["fact"] = get("fact")
    for name, value in wanted.items():
        if value is None:
            st.query_params.pop(name, None)
        elif st.query_params.get(name) != value:
            st.query_params[name] = value
    put("url", wanted)


def model_name() -> str:
    """The model that is chosen or typed; may be empty."""
    chosen = get("model", "")
    return (get("folder") or "").strip() if chosen == OTHER_MODEL else chosen


def shown(prompt: Prompt) -> str:
    """A prompt as people read it, as markdown."""
    return escape(prompt.text.replace(OBJECT_SLOT, GAP))
