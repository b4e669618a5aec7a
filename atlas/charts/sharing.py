"""Pictures of what relations and their facts share: neurons, how widely each is shared, and with whom.

    layout.draw(sharing_histogram(queries.neurons_by_sharing(a, "P36"), 195), "…")

Each function takes a DataFrame of `atlas.queries` and gives an `alt.Chart`.
"""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd

from atlas.charts.look import (
    FAINT,
    ON_DARK,
    ON_LIGHT,
    SMALL,
    label_axis,
    room_scale,
    tooltip,
)
from atlas.charts.marks import bars
from atlas.charts.palette import colour

MOST_BARS = 20


def sharing_bars(means: Mapping[str, tuple[str, float | None]]) -> alt.LayerChart:
    """Mean number of neurons that two facts share. means: meaning → which two facts, the mean or None."""
    rows = pd.DataFrame([(meaning, *each) for meaning, each in means.items()])
    rows = rows.set_axis(["meaning", "what", "shared"], axis="columns").dropna()
    rows["shown"] = [f"{mean:.2f}" for mean in rows["shared"]]
    layers = bars(
        rows,
        "shared",
        names=dict(zip(rows["meaning"], rows["what"], strict=True)),
        x={"title": "Neurons (mean)", "scale": room_scale(rows["shared"])},
        y={"axis": label_axis(140)},
        tooltip=tooltip(("what:N", "Two facts"), ("shared:Q", "Neurons in common (mean)", ".3f")),
        size=26,
    )
    return alt.layer(*layers, data=rows, title="Neurons that two facts share", height=44 * len(rows))


def sharing_histogram(sharing: pd.DataFrame, n_facts: int) -> alt.LayerChart:
    """How many neurons are had by 1, 2, 3 to 4, 5 to 8 … of a relation's facts.

    `sharing`: as `queries.neurons_by_sharing`; `n_facts`: how many facts the relation has.
    """
    rows = _doubled(sharing, n_facts)
    base = alt.Chart().encode(
        x=alt.X(
            "facts:N",
            title="Facts of the relation that have the neuron",
            sort=None,
            axis=alt.Axis(labelAngle=-45, labelOverlap=False),
        ),
        y=alt.Y(
            "n_neurons:Q",
            title="Neurons",
            axis=alt.Axis(tickCount=4),
            scale=alt.Scale(domain=[0, 1.15 * max(1, rows["n_neurons"].max())], nice=False),
        ),
        tooltip=tooltip(
            ("facts:N", "Facts that have the neuron"),
            ("share:N", "Share of the relation"),
            ("n_neurons:Q", "Neurons", ","),
        ),
    )
    text = base.mark_text(dy=-8).encode(text=alt.Text("n_neurons:Q", format=","))
    drawn = base.mark_bar(color=colour("own"))
    return alt.layer(drawn, text, data=rows, title="How widely its neurons are shared", height=SMALL)


def _doubled(sharing: pd.DataFrame, n_facts: int) -> pd.DataFrame:
    """Neurons counted in bins that double: 1, 2, 3–4, 5–8 … Columns: facts, share, n_neurons."""
    bins, low, high = [], 1, 1
    most = max(1, n_facts)
    while low <= most:
        top = min(high, most)
        inside = sharing[(sharing["n_facts"] >= low) & (sharing["n_facts"] <= top)]
        bins.append(
            {
                "facts": str(low) if low == top else f"{low}–{top}",
                "share": f"{low / most:.1%}" if low == top else f"{low / most:.1%} to {top / most:.1%}",
                "n_neurons": int(inside["n_neurons"].sum()),
            }
        )
        low, high = high + 1, 2 * high
    return pd.DataFrame(bins)


def overlap_matrix(
    overlap: pd.DataFrame, *, chosen: tuple[str, str] | None = None, numbers: bool = False
) -> alt.LayerChart:
    """Mean number of shared neurons for every two relations; `chosen` is framed, `numbers` are written in.

    `overlap`: as `queries.relation_overlap`, or some of its relations in the order wanted.
    """
    # The id comes first: it is what the other axis has room for, and no two relations have the same.
    rows = overlap.assign(a=overlap["relation_a"] + " " + overlap["label_a"].fillna(""))
    rows["b"] = overlap["relation_b"] + " " + overlap["label_b"].fillna("")
    rows["chosen"] = [chosen == pair for pair in zip(rows["relation_a"], rows["relation_b"], strict=True)]
    rows["frame"] = [3 if is_chosen else 0 for is_chosen in rows["chosen"]]
    largest = float(rows["mean_shared"].max() or 0)
    rows["ink"] = ["dark" if value > 0.4 * largest else "light" for value in rows["mean_shared"].fillna(0)]
    n = rows["relation_a"].nunique()
    base = alt.Chart().encode(
        x=alt.X(
            "relation_b:N",
            title="Relation of one fact (id)",
            sort=None,
            axis=alt.Axis(labelAngle=-90, labelFontSize=10, labelOverlap=not numbers, labelFlush=False),
        ),
        y=alt.Y(
            "a:N",
            title="Relation of the other fact",
            sort=None,
            axis=label_axis(140, labelFlush=False),
        ),
        tooltip=tooltip(
            ("a:N", "Relation"),
            ("b:N", "Relation"),
            ("mean_shared:Q", "Neurons in common (mean)", ".3f"),
            ("n_pairs:Q", "Pairs of facts", ","),
        ),
    )
    cells = base.mark_rect(stroke=colour("chosen")).encode(
        color=alt.Color(
            "mean_shared:Q",
            title="Neurons in common (mean)",
            scale=alt.Scale(scheme="viridis", type="sqrt"),
            legend=alt.Legend(orient="bottom", gradientLength=150),
        ),
        strokeWidth=alt.StrokeWidth("frame:Q", scale=None),
    )
    look = {
        "data": rows,
        "title": "Neurons that two facts share, by relation",
        "height": (34 if numbers else 20) * n,
    }
    if not numbers:
        return alt.layer(cells, **look)
    written = base.mark_text(fontSize=11).encode(
        text=alt.Text("mean_shared:Q", format=".1f"),
        color=alt.Color(
            "ink:N", scale=alt.Scale(domain=["dark", "light"], range=[ON_LIGHT, ON_DARK]), legend=None
        ),
    )
    return alt.layer(cells, written, resolve=alt.Resolve(scale={"color": "independent"}), **look)


def neighbours_together(overlap: pd.DataFrame) -> list[str]:
    """An order of the relations in which those that share stand together: each by its closest.

    Starts at the pair of relations that share most, and goes on from the last one to its closest still left.
    """
    wide = overlap.pivot(index="relation_a", columns="relation_b", values="mean_shared").fillna(0.0)
    left = wide.mask(wide.index.to_numpy()[:, None] == wide.columns.to_numpy()[None, :], 0.0)
    order = [left.max(axis="columns").idxmax()] if len(left) else []
    while len(order) < len(left):
        order.append(left.loc[order[-1]].drop(order).idxmax())
    return order


def some_relations(overlap: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """The rows of `overlap` among some relations, in the order given."""
    kept = overlap[overlap["relation_a"].isin(order) & overlap["relation_b"].isin(order)]
    place = {relation: i for i, relation in enumerate(order)}
    return kept.sort_values(["relation_a", "relation_b"], key=lambda column: column.map(place))


def hits_by_relation(hits: pd.DataFrame, chosen: str | None = None) -> alt.LayerChart:
    """How many hits of a search each relation has; all but the `chosen` one are faint, if one is.

    `hits`: as `facts_matching(…).by_relation`.
    """
    rows = hits.head(MOST_BARS)
    rows = rows.assign(
        what=rows["label"].fillna(rows["relation_id"]),
        meaning="own",
        look=[1.0 if chosen in (None, relation) else FAINT for relation in rows["relation_id"]],
        shown=[f"{n:,}" for n in rows["n"]],
    )
    layers = bars(
        rows,
        "n",
        names={"own": "hits"},
        x={
            "title": "Facts",
            "axis": alt.Axis(tickCount=3, format="d"),
            "scale": alt.Scale(domain=[0, 1.25 * max(1, rows["n"].max())], nice=False),
        },
        y={"axis": label_axis(140, labelFlush=False)},
        tooltip=tooltip(("what:N", "Relation"), ("relation_id:N", "Id"), ("n:Q", "Facts", ",")),
    )
    return alt.layer(*layers, data=rows, title="Hits by relation", height=22 * len(rows))
