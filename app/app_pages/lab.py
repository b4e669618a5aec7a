"""Lab: find the neurons of a fact in a live model, change them, and see what else changes.

1. *Model.* Loaded once for all visitors; fetched on first use.
2. *Question.* A fact of the atlas, or prompts of one's own.
3. *Neurons.* The atlas' own where the model is the atlas' model, or found live.
4. *Change.* Suppress, amplify, erase or edit.
5. *Outcome.* Before and after, beside random neurons and other facts; and proof that nothing stayed.

The URL holds the choices. What is computed is in `app.experiments`; the model is never written to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app import charts, experiments, layout, resources
from app.experiments import Asked, Experiment
from atlas import queries
from atlas.errors import ModelError
from atlas.models import KNOWN_MODELS, fetch_model, locate
from atlas.neuron import OBJECT_SLOT, Neuron
from atlas.store import Atlas

if TYPE_CHECKING:
    from atlas.interventions import Intervention
    from atlas.surgery.experiments import Found, Outcome
    from atlas.surgery.subject import Subject

OTHER_MODEL = "another model"
FACT, PROMPTS = "A fact of the atlas", "My own prompts"
STORED, LIVE = "As the atlas has them", "Find them live"
SUPPRESS, AMPLIFY, ERASE, EDIT = "Suppress", "Amplify", "Erase", "Edit"
ZERO, UNKNOWN = "zero", "unk"
FACTS_LISTED = 200
GAP = "____"
SEED = 0

EXPLAINED = {
    SUPPRESS: "The neurons' activations at the answer's place become 0.",
    AMPLIFY: "The neurons' activations at the answer's place are multiplied.",
    ERASE: "The neurons' value vectors become zero, or the unknown token's embedding.",
    EDIT: "The neurons' value vectors move from the old answer's embedding to the new one's.",
}


@dataclass(frozen=True)
class Question:
    """What the model is asked: the fact's id if it is one, its answer, its prompts in groups."""

    fact_id: str | None
    relation_id: str | None
    answer: str
    asked: tuple[Asked, ...]

    @property
    def discovery(self) -> tuple:
        return tuple(item.prompt for item in self.asked if item.group == "asked")


def main() -> None:
    st.title("Lab", anchor=False)
    st.markdown(
        "Change a handful of neurons in a live model, and see what it says then. Every result stands beside "
        "the same change to random neurons and beside other facts."
    )
    atlas = layout.current_atlas()
    subject = question = None
    left, right = st.columns([1, 2], gap="large")
    with left, layout.errors_as_sentences():
        subject = choose_model(atlas)
    with right, layout.errors_as_sentences():
        question = choose_question(atlas, subject)
    if subject is None or question is None:
        return
    st.divider()
    neurons = choose_neurons(atlas, subject, question)
    if not neurons:
        return
    st.divider()
    interventions = choose_change(atlas, question, neurons)
    if interventions is None:
        return
    experiment = Experiment(interventions, all_prompts(atlas, subject, question), SEED)
    outcome = run(subject, experiment)
    if outcome is not None:
        draw(outcome)


# Choose ----------------------------------------------------------------------------------------------


def choose_model(atlas: Atlas) -> Subject | None:
    """The subject that was chosen, loaded; None while it still has to be fetched."""
    st.subheader("1 · Model", anchor=False)
    names = [*KNOWN_MODELS, OTHER_MODEL]
    own = atlas.manifest.model.name
    name = st.selectbox(
        "Model",
        names,
        index=names.index(own) if own in KNOWN_MODELS else 0,
        key="model",
        bind="query-params",
        label_visibility="collapsed",
    )
    if name == OTHER_MODEL:
        name = st.text_input(
            "Folder or hub id",
            key="folder",
            max_chars=300,
            placeholder="~/models/my-bert or bert-base-uncased",
        ).strip()
        if not name:
            st.caption("A BERT, GPT-2, Llama, Mistral or Qwen model with safetensors weights.")
            return None
    known = KNOWN_MODELS.get(name)
    if known is not None:
        st.caption(layout.plain(known.description))
    try:
        locate(name, allow_download=False)
    except ModelError as missing:
        return fetch(name, missing)
    return loaded(name)


def fetch(name: str, missing: ModelError) -> Subject | None:
    known = KNOWN_MODELS.get(name)
    size = f" ({known.download_mb} MB, {known.disk_mb} MB on disk)" if known else " from the hub"
    if known is None:
        if name.startswith((".", "~", "/")) or Path(name).exists():
            raise missing  # a folder, which no hub can give
        st.info(layout.plain(missing))
    if not st.button(f"Fetch {layout.plain(name)}{size}", type="primary", icon=":material/download:"):
        return None
    bar = st.progress(0.0, text="Fetching …")
    try:
        fetch_model(
            name, lambda share, said: bar.progress(min(max(share, 0.0), 1.0), text=layout.plain(said))
        )
    finally:
        bar.empty()
    return loaded(name)


def loaded(name: str) -> Subject:
    with st.spinner("Loading the model …"):
        subject = resources.subject(name)
    st.caption(
        layout.plain(
            f"{subject.n_layers} layers of {subject.n_neurons:,} neurons · {subject.family.kind} · "
            f"weights {subject.weights_sha256[:12]}"
        )
    )
    return subject


def choose_question(atlas: Atlas, subject: Subject | None) -> Question | None:
    st.subheader("2 · Question", anchor=False)
    source = st.segmented_control(
        "Ask about",
        [FACT, PROMPTS],
        default=FACT,
        required=True,
        key="ask",
        bind="query-params",
        label_visibility="collapsed",
    )
    if source == PROMPTS:
        return typed_question(subject)
    return fact_question(atlas, subject)


def fact_question(atlas: Atlas, subject: Subject | None) -> Question | None:
    chosen = st.query_params.get("fact")
    fact = None
    if chosen:
        with layout.errors_as_sentences():
            fact = queries.fact(atlas, chosen)
    search, choose = st.columns([1, 2], vertical_alignment="bottom")
    text = search.text_input(
        "Search the facts", key="lab_search", max_chars=200, placeholder="France, capital …"
    )
    hits = queries.facts_matching(atlas, text, limit=FACTS_LISTED)
    names = {row.fact_id: fact_label(row._asdict()) for row in hits.rows.itertuples()}
    if fact is not None:
        names = {fact["fact_id"]: fact_label(fact)} | names
    st.session_state["lab_fact"] = fact["fact_id"] if fact is not None else None
    choose.selectbox(
        f"Fact ({hits.total:,} match, the first {FACTS_LISTED} listed)"
        if hits.total > FACTS_LISTED
        else f"Fact ({hits.total:,} match)",
        list(names),
        index=None,
        format_func=lambda fact_id: names.get(fact_id, fact_id),
        key="lab_fact",
        on_change=remember_fact,
        placeholder="Choose a fact",
    )
    if fact is None:
        return None
    asked = experiments.prompts_of_fact(atlas, fact["fact_id"])
    if subject is not None:
        asked, reasons = experiments.usable(subject, asked)
        if reasons:
            st.caption(layout.plain(f"{len(reasons)} of its prompts cannot be asked: {reasons[0]}"))
    question = Question(fact["fact_id"], fact["relation_id"], fact["object"], asked)
    if subject is not None and not question.discovery:
        layout.nothing(
            f"{layout.plain(subject.name)} can be asked none of this fact's prompts. Choose another."
        )
        return None
    n_held_out = len(asked) - len(question.discovery)
    st.caption(
        f"{len(question.discovery)} prompts to find its neurons on, {n_held_out} paraphrases kept out of "
        f"that, such as: {layout.plain(asked[-1].prompt.text.replace(OBJECT_SLOT, GAP)) if asked else ''}"
    )
    return question


def fact_label(fact: dict) -> str:
    label = f" · {fact['label']}" if fact.get("label") else ""
    return f"{fact['subject']} → {fact['object']}{label}"


def remember_fact() -> None:
    chosen = st.session_state["lab_fact"]
    if chosen:
        st.query_params["fact"] = chosen
    else:
        st.query_params.pop("fact", None)


def typed_question(subject: Subject | None) -> Question | None:
    text = st.text_area(
        "Prompts, one a line; [Y] or [MASK] where the answer goes",
        key="prompts",
        bind="query-params",
        max_chars=4000,
        height=110,
        placeholder="The capital of France is [Y].\nFrance's seat of government is in [Y].",
    )
    answer = st.text_input("Answer", key="answer", bind="query-params", max_chars=100, placeholder="Paris")
    if subject is None or not (text.strip() or answer.strip()):
        return None
    prompts = experiments.typed_prompts(subject, text, answer)
    return Question(None, None, answer.strip(), tuple(Asked("asked", prompt) for prompt in prompts))


# Neurons ---------------------------------------------------------------------------------------------


def choose_neurons(atlas: Atlas, subject: Subject, question: Question) -> tuple[Neuron, ...]:
    st.subheader("3 · Neurons", anchor=False)
    source = LIVE
    if question.fact_id and subject.weights_sha256 == atlas.manifest.model.weights_sha256:
        source = st.segmented_control(
            "Neurons",
            [STORED, LIVE],
            default=STORED,
            required=True,
            key="source",
            bind="query-params",
            label_visibility="collapsed",
        )
    if source == STORED:
        rows = queries.neurons_of_fact(atlas, question.fact_id)
        table = pd.DataFrame(
            {
                "neuron": [str(Neuron(int(r.layer), int(r.neuron))) for r in rows.itertuples()],
                "share": rows["share"],
                "mean_score": rows["mean_score"],
                "promoted": [layout.tokens(tokens, 5) for tokens in rows["promoted"]],
            }
        )
        if table.empty:
            layout.nothing("The atlas has no neurons for this fact. Find them live, or choose another fact.")
            return ()
    else:
        found = find(subject, question)
        if found is None:
            return ()
        table = pd.DataFrame(
            {
                "neuron": [str(item.neuron) for item in found.neurons],
                "share": [item.share for item in found.neurons],
                "mean_score": [item.mean_score for item in found.neurons],
            }
        )
        if table.empty:
            layout.nothing("No neuron stands out in enough of these prompts. Try other wordings.")
    left, right = st.columns([3, 2], gap="large")
    with left:
        if not table.empty:
            show_neurons(table)
    with right:
        if source == LIVE:
            show_path(found, table)
        if table.empty:
            return ()
        without = st.multiselect(
            "Leave out", list(table["neuron"]), key="without", placeholder="None: change them all"
        )
    kept = tuple(Neuron.parse(name) for name in table["neuron"] if name not in without)
    if not kept:
        layout.nothing("All neurons are left out. Keep at least one.")
    return kept


def find(subject: Subject, question: Question) -> Found | None:
    """The neurons found on these prompts, in this session's last search or now."""
    key = (subject.weights_sha256, question.discovery)
    if st.button("Find neurons", type="primary", icon=":material/search:"):
        bar = st.progress(0.0, text="Waiting for the model …")
        try:
            with layout.errors_as_sentences():
                found = experiments.find_neurons(
                    subject, question.discovery, progress=lambda share, said: bar.progress(share, text=said)
                )
                st.session_state["lab_found"] = (key, found)
        finally:
            bar.empty()
    known, found = st.session_state.get("lab_found", (None, None))
    if known != key:
        st.caption("Integrated gradients over every neuron, prompt by prompt, each with its certificate.")
        return None
    certified = 1 - found.n_unconverged / max(found.n_paths, 1)
    st.caption(
        f"{layout.count(len(found.neurons), 'neuron')}, found on "
        f"{layout.count(len(found.prompts), 'prompt')}; {certified:.0%} of {found.n_paths} integrals "
        "within tolerance."
        + (" With a single prompt, all its strong neurons are kept." if len(found.prompts) == 1 else "")
    )
    return found


def show_neurons(table: pd.DataFrame) -> None:
    top = max(float(table["mean_score"].max()), 1e-9)
    st.dataframe(
        table,
        hide_index=True,
        height=min(36 * (len(table) + 1) + 2, 320),
        column_config={
            "neuron": st.column_config.TextColumn("Neuron", width="small"),
            "share": st.column_config.NumberColumn(
                "Share", format="percent", width=60, help="Share of the prompts in which it is strong"
            ),
            "mean_score": st.column_config.ProgressColumn(
                "Mean score", format="%.4f", min_value=0.0, max_value=top
            ),
            "promoted": st.column_config.TextColumn("Promotes", width="medium"),
        },
    )


def show_path(found: Found, table: pd.DataFrame) -> None:
    """P(α) of one prompt along the path of one layer."""
    strongest = Neuron.parse(table["neuron"].iloc[0]).layer if not table.empty else 0
    n_layers = found.attributions[0].scores.shape[0]
    layer = st.selectbox("Layer to draw", range(n_layers), index=strongest, key=f"layer {strongest}")
    rows = experiments.path_rows(found.attributions[0], layer)
    layout.draw(charts.path_line(rows, layer), f"P(answer) along the path of layer {layer}")
    st.caption(layout.plain(found.prompts[0].text.replace(OBJECT_SLOT, GAP)))


# Change ----------------------------------------------------------------------------------------------


def choose_change(
    atlas: Atlas, question: Question, neurons: tuple[Neuron, ...]
) -> tuple[Intervention, ...] | None:
    st.subheader("4 · Change", anchor=False)
    kind = st.segmented_control(
        "Change",
        list(EXPLAINED),
        default=SUPPRESS,
        required=True,
        key="kind",
        bind="query-params",
        label_visibility="collapsed",
    )
    st.caption(EXPLAINED[kind])
    options = {}
    if kind == AMPLIFY:
        options["factor"] = st.slider("Factor", -5.0, 10.0, 2.0, 0.5, key="factor", bind="query-params")
    elif kind == ERASE:
        options["value"] = st.segmented_control(
            "By", [ZERO, UNKNOWN], default=ZERO, required=True, key="value", bind="query-params"
        )
    elif kind == EDIT:
        options = edit_options(atlas, question)
        if not options["new"].strip():
            st.caption("Choose or type the new answer.")
            return None
    with layout.errors_as_sentences():
        return (experiments.make_intervention(kind.lower(), neurons, **options),)
    return None


def edit_options(atlas: Atlas, question: Question) -> dict:
    old_box, new_box, remove_box, add_box = st.columns([2, 2, 1, 1])
    old = old_box.text_input("Old answer", question.answer, key=f"old {question.answer}", max_chars=100)
    others = resources.ask(objects_of_relation, atlas, question.relation_id or "")
    new = new_box.selectbox(
        "New answer",
        [name for name in others if name != question.answer],
        index=None,
        key="new",
        bind="query-params",
        accept_new_options=True,
        placeholder="Choose or type",
    )
    remove = remove_box.number_input("Remove old ×", 0.0, 1000.0, 1.0, 0.5, key="remove", bind="query-params")
    add = add_box.number_input("Add new ×", 0.0, 1000.0, 8.0, 0.5, key="add", bind="query-params")
    return {"old": old, "new": (new or "")[:100], "remove": remove, "add": add}


def objects_of_relation(atlas: Atlas, relation_id: str) -> list[str]:
    rows = atlas.query(
        "SELECT object FROM facts WHERE relation_id = $relation GROUP BY object ORDER BY object",
        {"relation": relation_id},
    )
    return list(rows["object"])


def all_prompts(atlas: Atlas, subject: Subject, question: Question) -> tuple[Asked, ...]:
    """The question's prompts and those of other facts, as far as this model can be asked them."""
    controls = experiments.control_prompts(
        atlas,
        fact_id=question.fact_id,
        answers=(question.answer,),
        causal=subject.family.kind == "causal",
        seed=SEED,
    )
    return (*question.asked, *experiments.usable(subject, controls)[0])


# Run -------------------------------------------------------------------------------------------------


def run(subject: Subject, experiment: Experiment) -> Outcome | None:
    """The outcome of this experiment: run now, or as this session has it."""
    key = (subject.weights_sha256, experiment)
    known, outcome = st.session_state.get("lab_outcome", (None, None))
    pressed = st.button("Run the experiment", type="primary", icon=":material/science:")
    # A permalink restores its result; later changes of the settings wait for the button.
    if pressed or (known is None and st.query_params.get("run") == "1"):
        bar = st.progress(0.0, text="Waiting for the model …")
        try:
            with layout.errors_as_sentences():
                outcome = experiments.run(
                    subject, experiment, progress=lambda share, said: bar.progress(share, text=said)
                )
                known = key
                st.session_state["lab_outcome"] = (key, outcome)
                st.query_params["run"] = "1"
        finally:
            bar.empty()
    if known != key:
        if known is not None:
            st.caption("The settings have changed since the last run.")
        return None
    return outcome


# Draw ------------------------------------------------------------------------------------------------


def draw(outcome: Outcome) -> None:
    st.divider()
    st.subheader("Outcome", anchor=False)
    summary = experiments.summary(outcome)
    say(outcome, summary)
    picture, numbers = st.columns([2, 3], gap="medium")
    with picture:
        layout.draw(charts.lab_moves(summary), "The answer's probability before and after the change")
    with numbers:
        show_summary(summary)
        if outcome.undo_is_exact:
            st.success(
                "Undo is exact: asked again without the change, the model gives the same probabilities, "
                "bit for bit.",
                icon=":material/check:",
            )
        else:
            st.error("Asked again, the model answers otherwise than before. Please report this.")
    show_answers(outcome)
    show_prompts(outcome)


def say(outcome: Outcome, summary: pd.DataFrame) -> None:
    """The result in a sentence, on the held-out paraphrases where there are any."""
    rows = summary.set_index("group")
    own = rows.loc["paraphrases" if "paraphrases" in rows.index else "asked"]
    answer = next(t.prompt.answer for t in outcome.trials if t.group in ("asked", "paraphrases"))
    n = len({neuron for item in outcome.experiment.interventions for neuron in item.neurons})
    parts = [
        f"Changing {n} {'neuron' if n == 1 else 'neurons'} takes the probability of "
        f"**{layout.plain(answer)}** from **{own['before']:.3f}** to **{own['after']:.3f}** "
        f"({signed(own['change'])}) on "
        f"{own['n_prompts']} {'held-out paraphrases' if own.name == 'paraphrases' else 'prompts'}",
        f"as many random neurons of the same layers: {signed(own['random_change'])}",
    ]
    if "unrelated" in rows.index:
        parts.append(f"unrelated facts under the same change: {signed(rows.loc['unrelated', 'change'])}")
    st.markdown("; ".join(parts) + ".")
    new = [t for t in outcome.of_group(own.name) if t.new_after is not None]
    if new:
        before = sum(t.new_before.probability for t in new) / len(new)
        after = sum(t.new_after.probability for t in new) / len(new)
        first = sum(t.new_after.rank == 1 for t in new)
        name = outcome.experiment.interventions[-1].new
        st.markdown(
            f"The new answer **{layout.plain(name)}** goes from **{before:.3f}** to **{after:.3f}**; the "
            f"model says it first on {first} of {len(new)}."
        )


def signed(change: float) -> str:
    """A relative change as a percentage with its sign; never -0%."""
    rounded = round(100 * change)
    return f"{rounded:+d}%" if rounded else "±0%"


def show_summary(summary: pd.DataFrame) -> None:
    st.dataframe(
        summary[["label", "n_prompts", "before", "after", "change", "random_change"]],
        hide_index=True,
        column_config={
            "label": "Asked",
            "n_prompts": st.column_config.NumberColumn("Prompts", width=60),
            "before": st.column_config.NumberColumn("Before", format="%.3f", width=60),
            "after": st.column_config.NumberColumn("After", format="%.3f", width=60),
            "change": st.column_config.NumberColumn("Change", format="percent", width=70),
            "random_change": st.column_config.NumberColumn(
                "Random",
                format="percent",
                width=70,
                help="Change with as many random neurons of the same layers, mean over five draws",
            ),
        },
    )


def show_answers(outcome: Outcome) -> None:
    """The ten likeliest answers of one prompt, before and after."""
    st.markdown("##### The ten likeliest answers")
    order = {"paraphrases": 0, "asked": 1, "neighbours": 2, "unrelated": 3}
    trials = sorted(outcome.trials, key=lambda trial: order[trial.group])
    names = [
        f"{trial.prompt.text.replace(OBJECT_SLOT, GAP)} ({experiments.GROUPS[trial.group].lower()})"
        for trial in trials
    ]
    place = st.selectbox("Prompt", range(len(trials)), format_func=lambda i: names[i], key="lab_trial")
    trial = trials[place]
    rows = experiments.answer_rows(trial)
    for column in ("before", "after"):
        rows[column] = [layout.shown_token(token) for token in rows[column]]
    top = max(float(rows["p_before"].max()), float(rows["p_after"].max()))
    bar = {"format": "%.3f", "min_value": 0.0, "max_value": top}
    before, after = st.columns(2, gap="large")
    before.dataframe(
        rows[["rank", "before", "p_before"]],
        hide_index=True,
        column_config={
            "rank": st.column_config.NumberColumn("#", width=40),
            "before": "Before",
            "p_before": st.column_config.ProgressColumn("Probability", **bar),
        },
    )
    after.dataframe(
        rows[["rank", "after", "p_after", "moved"]],
        hide_index=True,
        column_config={
            "rank": st.column_config.NumberColumn("#", width=40),
            "after": "After",
            "p_after": st.column_config.ProgressColumn("Probability", **bar),
            "moved": st.column_config.TextColumn("Moved", width=70, help="Ranks gained ▲ or lost ▼"),
        },
    )
    st.caption(
        f"The answer {layout.plain(trial.prompt.answer)}: rank {trial.before.rank} → {trial.after.rank}, "
        f"probability {trial.before.probability:.4f} → {trial.after.probability:.4f}; "
        f"with random neurons {trial.random_probability:.4f}."
    )


def show_prompts(outcome: Outcome) -> None:
    with st.expander(f"All {len(outcome.trials)} prompts"):
        rows = experiments.trial_rows(outcome)
        rows["group"] = [experiments.GROUPS[group] for group in rows["group"]]
        rows["text"] = [text.replace(OBJECT_SLOT, GAP) for text in rows["text"]]
        labels = {
            "group": "Asked",
            "text": "Prompt",
            "answer": "Answer",
            "rank_before": "Rank before",
            "rank_after": "Rank after",
            "rank_random": "Rank, random",
            "says_before": "Says before",
            "says_after": "Says after",
            "new_rank_before": "New answer's rank before",
            "new_rank_after": "New answer's rank after",
        }
        numbers = {
            "before": "Before",
            "after": "After",
            "random": "Random",
            "new_before": "New answer before",
            "new_after": "New answer after",
        }
        st.dataframe(
            rows,
            hide_index=True,
            column_config=labels
            | {key: st.column_config.NumberColumn(label, format="%.4f") for key, label in numbers.items()},
        )
        st.download_button(
            "Download as JSON",
            as_json(outcome, rows),
            file_name="experiment.json",
            mime="application/json",
            icon=":material/download:",
        )


def as_json(outcome: Outcome, rows: pd.DataFrame) -> str:
    from atlas.interventions import to_json

    return json.dumps(
        {
            "interventions": json.loads(to_json(list(outcome.experiment.interventions))),
            "seed": outcome.experiment.seed,
            "draws": outcome.experiment.draws,
            "undo_is_exact": outcome.undo_is_exact,
            "prompts": json.loads(rows.to_json(orient="records")),
        },
        ensure_ascii=False,
        indent=1,
    )


main()
