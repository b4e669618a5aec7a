"""Leaderboard: which methods find the neurons that a made-up answer was planted in.

`?n=` is the number of planted neurons, `measure` what is drawn. Below the chart: how the planting went, how
to have a method scored, and what this cannot show.
"""

from functools import partial

import pandas as pd
import streamlit as st

from app.shared import address, exports, layout
from app.shared.evidence import note
from app.shared.resources import ask
from app.shared.words import plural
from atlas.charts import checks
from atlas.errors import StoreError
from atlas.queries import planted
from atlas.store.atlas import Atlas

# Measure → (its name, its title in the chart, what it is).
MEASURES = {
    "recall": (
        "Recall",
        "Recall: planted ÷ chosen neurons",
        "Of as many neurons as were planted, those that the method scores highest: the share that was.",
    ),
    "precision": (
        "Precision",
        "Precision: planted among the first 10",
        "Of the ten neurons that the method scores highest: the share that was planted.",
    ),
    "auc": (
        "AUC",
        "Area under the curve (0.5: chance)",
        "How likely the method scores a planted neuron higher than another one. Chance is one half.",
    ),
    "fall": (
        "Fall",
        "Fall of the planted answer (share)",
        "What the planted answer loses when as many neurons are suppressed, those that the method scores "
        "highest. Neurons that were not planted may carry the answer on, so this can be large where recall "
        "is small.",
    ),
}


def main() -> None:
    st.title("Leaderboard", anchor=False)
    st.markdown(
        "Nobody knows which neurons of a pretrained model hold a fact, so no method can be marked right or "
        "wrong. Here the truth is made: a copy of the model is taught a made-up answer by training the value "
        "vectors of a few random neurons only, and each method is asked for them."
    )
    with layout.errors_as_sentences():
        show_board(layout.current_atlas())
    show_how()


def show_board(atlas: Atlas) -> None:
    if not atlas.measured("planted_summaries"):
        layout.nothing(
            "Nothing is planted in this atlas. Measure it with "
            "`python -m build evaluate DIR --experiments planted`, DIR being the atlas's folder."
        )
        return
    board, done = ask(planted.leaderboard, atlas), ask(planted.plantings, atlas)
    scored = board[board["n_plantings"] > 0]
    if scored.empty:
        raise StoreError("No planted answer was learned. Plant more: `--sample` says how many.")
    sizes = {str(n): plural(n, "neuron") for n in sorted(set(scored["n_planted"]))}
    with st.container(horizontal=True, gap="medium"):
        chosen = int(address.segments("Planted neurons", "n", sizes, default=middle(list(sizes))))
        measure = address.segments("Measure", "measure", {name: words[0] for name, words in MEASURES.items()})
    rows = scored[scored["n_planted"] == chosen]
    _, title, about = MEASURES[measure]
    layout.draw_chart(
        partial(checks.planted_bars, rows, planted.PLANTED_METHODS, measure, title),
        "How well each method finds planted neurons",
    )
    note(f"{about} Lines: 95 % bootstrap intervals over {plural(rows['n_plantings'].iloc[0], 'planting')}.")
    st.markdown(describe(done[done["n_planted"] == chosen].iloc[0], rows))
    exports.offer("planted", leaderboard=board, plantings=done)


def middle(sizes: list[str]) -> str:
    return sizes[len(sizes) // 2]


def describe(done: pd.Series, rows: pd.DataFrame) -> str:
    """How the planting went, and chance. done: a row of `plantings`; rows: of the leaderboard, one size."""
    left_out = int(done["n"] - done["n_learned"])
    text = (
        f"On held-out wordings the planted answer has probability **{done['p_after']:.2f}** (before "
        f"{done['p_before']:.3f}); with the planted neurons suppressed **{done['p_suppressed']:.3f}** is "
        f"left. Recall by chance is {rows['chance'].iloc[0]:.3f}."
    )
    if left_out:
        text += (
            f" Left out of {plural(done['n'], 'planting')}: {left_out}, whose answer did not come first on "
            f"held-out wordings ({int(done['n_unsaid'])}) or stayed without its neurons "
            f"({int(done['n_elsewhere'])})."
        )
    return text


def show_how() -> None:
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Have a method scored", anchor=False)
        st.markdown(
            "Write a function of a loaded model and a prompt that returns a score for every neuron, and name "
            "it to the command. It plants the same answers again and prints this leaderboard with a line "
            "more; `--json FILE` writes the numbers."
        )
        st.code(
            "# my_method.py\n"
            "def scores(subject, prompt):\n"
            "    return subject.activations([prompt])[0].abs().numpy()  # (n_layers, n_neurons)",
            language="python",
            wrap_lines=True,
        )
        st.code("python -m build planted DIR --method my_method:scores", language="bash", wrap_lines=True)
    with right:
        st.subheader("What it cannot show", anchor=False)
        st.markdown(
            "- **Planted is not learned.** Pretraining changes all weights, for millions of sentences; here "
            "a few value vectors change for a few. A method may find one and miss the other.\n"
            "- The truth is which value vectors were *changed*. Neurons of later layers that pass the answer "
            "on are counted as wrong.\n"
            "- Planting writes the answer into value vectors, which favours methods that read them directly, "
            "as the log-probability increase does.\n"
            "- Methods are asked at the answer position, where the planted neurons must act; a fact that is "
            "read elsewhere in the sentence is not tested."
        )


main()
