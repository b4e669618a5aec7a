"""The Lab's list of changes: add, remove, reorder; each has a kind, its options and its neurons.

    interventions = choose_changes(atlas, question, selected)     # None while one is incomplete

Changes of the same neuron are applied in the order of the list (`atlas.interventions`).
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.lab import state
from app.lab.state import ERASE_VALUES, Question, option, setting
from app.shared import layout, limits, resources
from app.shared.words import escape, plural
from atlas.errors import AtlasError
from atlas.interventions import (
    MAX_ACTIVATION,
    MAX_FACTOR,
    NEW_STRENGTHS,
    Amplify,
    Edit,
    Erase,
    Intervention,
    Patch,
    SetTo,
    Suppress,
    make_intervention,
)
from atlas.neuron import Neuron
from atlas.store.atlas import Atlas

KINDS_EXPLAINED = {
    "suppress": "Sets their activations at the answer position to 0.",
    "amplify": "Multiplies their activations at the answer position.",
    "set": "Sets their activations at the answer position to a number.",
    "patch": "Sets their activations at the answer position to what they are at another prompt's.",
    "erase": "Replaces their value vectors by zero or by the unknown token's embedding.",
    "edit": "Moves their value vectors from the old answer's embedding to the new one's.",
}
ANSWERS = {"old": "Old answer", "new": "New answer"}


def choose_changes(
    atlas: Atlas, question: Question, selected: Sequence[Neuron]
) -> tuple[tuple[Intervention, ...], list[str]]:
    """The complete interventions in their order, and what the others lack."""
    st.markdown("##### Changes")
    numbers = state.changes()
    complete, missing = [], []
    for place, number in enumerate(numbers):
        with st.container(border=True, gap="small"):
            st.selectbox(
                f"Change {place + 1}",
                list(KINDS_EXPLAINED),
                **option(f"kind_{number}", list(KINDS_EXPLAINED), "suppress"),
                format_func=str.capitalize,
                label_visibility="collapsed" if len(numbers) == 1 else "visible",
            )
            item = one_change(atlas, question, number, selected)
            ordering(place, number, len(numbers))
        if isinstance(item, str):
            missing.append(item if len(numbers) == 1 else f"{item} of change {place + 1}")
        else:
            complete.append(item)
    allowed = limits.current().changes
    st.button(
        "Add a change",
        icon=":material/add:",
        on_click=state.add_change,
        disabled=len(numbers) >= allowed,
        help=f"At most {allowed}, applied in the order of the list.",
    )
    return tuple(complete), missing


def ordering(place: int, number: int, n_changes: int) -> None:
    """Buttons that move and remove a change, where there is more than one."""
    if n_changes == 1:
        return
    with st.container(horizontal=True, gap="small"):
        for label, by in (("Earlier", -1), ("Later", 1)):
            st.button(
                label,
                key=f"lab_{label}_{number}",
                type="tertiary",
                disabled=not 0 <= place + by < n_changes,
                on_click=state.move_change,
                args=(number, by),
            )
        st.button(
            "Remove",
            key=f"lab_remove_change_{number}",
            type="tertiary",
            on_click=state.remove_change,
            args=(number,),
        )


def one_change(
    atlas: Atlas, question: Question, number: int, selected: Sequence[Neuron]
) -> Intervention | str:
    """The intervention, or what it lacks."""
    kind = state.get(f"kind_{number}")
    st.caption(KINDS_EXPLAINED[kind])
    options = {}
    most = limits.current().strength
    if kind == "amplify":
        options["factor"] = st.number_input(
            "Factor",
            -min(most, float(MAX_FACTOR)),
            min(most, float(MAX_FACTOR)),
            step=0.5,
            **setting(f"factor_{number}", 2.0),
            help="0 suppresses, 1 changes nothing, below 0 reverses the sign",
        )
    elif kind == "set":
        if state.get(f"value_{number}") in ERASE_VALUES:
            state.put(f"value_{number}", 0.0)
        most = min(most, float(MAX_ACTIVATION))
        options["value"] = st.number_input("To", -most, most, step=0.5, **setting(f"value_{number}", 0.0))
    elif kind == "patch":
        options["from_prompt"] = st.text_input(
            "From the prompt",
            **setting(f"from_prompt_{number}", ""),
            max_chars=limits.current().prompt_length,
            placeholder="With [Y] where the answer goes",
        )
    elif kind == "erase":
        options["value"] = st.segmented_control(
            "By",
            list(ERASE_VALUES),
            required=True,
            **option(f"value_{number}", list(ERASE_VALUES), "zero"),
            format_func=ERASE_VALUES.get,
            label_visibility="collapsed",
        )
    elif kind == "edit":
        options = edit_options(atlas, question, number, most)
    neurons = choose_its_neurons(number, selected)
    if not neurons:
        return "Neurons"
    if options.get("from_prompt") == "":
        return "A prompt"
    if empty := layout.empty_fields({ANSWERS[name]: options[name] for name in ANSWERS if name in options}):
        return empty[0]
    try:
        return make_intervention(kind, neurons, **options)
    except AtlasError as error:
        st.error(escape(error))
        return "a valid change"


def edit_options(atlas: Atlas, question: Question, number: int, most: float) -> dict:
    allowed = limits.current()
    old_box, new_box = st.columns(2)
    # The old answer is the question's until another is typed.
    typed = state.get(f"old_{number}")
    if typed is None or (typed == state.get(f"answer_of_{number}") and typed != question.answer):
        state.put(f"old_{number}", question.answer)
    state.put(f"answer_of_{number}", question.answer)
    old = old_box.text_input(ANSWERS["old"], **setting(f"old_{number}", ""), max_chars=allowed.answer_length)
    others = resources.ask(objects_of_relation, atlas, question.relation_id or "")
    chosen = state.get(f"new_{number}")
    new = new_box.selectbox(
        ANSWERS["new"],
        list(dict.fromkeys([name for name in others if name != question.answer] + [chosen] * bool(chosen))),
        index=None,
        **setting(f"new_{number}", None),
        accept_new_options=True,
        placeholder="Choose or type",
    )
    remove_box, add_box = st.columns(2)
    removed, added = NEW_STRENGTHS
    remove = remove_box.number_input(
        "Remove old ×", 0.0, most, step=0.5, **setting(f"remove_{number}", removed)
    )
    add = add_box.number_input("Add new ×", 0.0, most, step=0.5, **setting(f"add_{number}", added))
    return {"old": old, "new": (new or "")[: allowed.answer_length], "remove": remove, "add": add}


def objects_of_relation(atlas: Atlas, relation_id: str) -> list[str]:
    """The answers of a relation's facts, in alphabetical order."""
    rows = atlas.query(
        "SELECT object FROM facts WHERE relation_id = $relation GROUP BY object ORDER BY object",
        {"relation": relation_id},
    )
    return list(rows["object"])


def choose_its_neurons(number: int, selected: Sequence[Neuron]) -> tuple[Neuron, ...]:
    """The neurons of a change: those selected in the table, or a choice of its own."""
    names = [str(neuron) for neuron in selected]
    own = state.get(f"its_own_{number}", [])
    has_own = bool(state.get(f"whose_{number}"))
    label = f"{plural(len(own), 'neuron')} of its own" if has_own else f"all {plural(len(names), 'neuron')}"
    with st.popover(label, type="tertiary"):
        st.toggle(
            "Choose neurons for this change",
            **setting(f"whose_{number}", False),
            on_change=_choose_own,
            args=(number, names),
        )
        if not has_own:
            st.caption("Switch this on to change only some of the selected neurons.")
            return tuple(selected)
        state.put(f"its_own_{number}", own)
        st.multiselect(
            "Neurons",
            list(dict.fromkeys([*names, *own])),
            **setting(f"its_own_{number}", own),
            placeholder="Choose some",
        )
    return tuple(Neuron.parse(name) for name in own)


def _choose_own(number: int, names: list[str]) -> None:
    """A choice of its own starts from the selected neurons."""
    if not state.get(f"its_own_{number}"):
        state.put(f"its_own_{number}", names)


# In words --------------------------------------------------------------------------------------------


def describe_changes(interventions: Sequence[Intervention]) -> str:
    """The changes in their order, in plain text."""
    return ", then ".join(_describe(item) for item in interventions)


def _describe(item: Intervention) -> str:
    neurons = plural(len(item.neurons), "neuron")
    match item:
        case Suppress():
            return f"suppress {neurons}"
        case Amplify():
            return f"multiply {neurons} by {item.factor:g}"
        case SetTo():
            return f"set {neurons} to {item.value:g}"
        case Patch():
            return f"take {neurons} from “{item.from_prompt}”"
        case Erase():
            return f"erase {neurons} ({ERASE_VALUES[item.value]})"
        case Edit():
            return f"edit {neurons} from {item.old} (×{item.remove:g}) to {item.new} (×{item.add:g})"
    raise AtlasError(f"The Lab has no change of the kind {type(item).__name__}.")
