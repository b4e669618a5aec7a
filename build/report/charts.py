"""The report's pictures: those of `atlas.charts` from its findings, and the few that only the report has.

    Figure("suppress--sample", "…", draw_effects(found, "suppress")).svg

Each is as wide as a phone, so two stand side by side on a desk; below its title are its atlas and what it
shows. Text and axes are drawn in `INK`, which the page exchanges for the colour of its own text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

import altair as alt
import numpy as np
import pandas as pd

from atlas.charts import changes, checks, effects, neurons, sharing
from atlas.charts.look import (
    AUTOSIZE,
    INK,
    ON_DARK,
    ON_LIGHT,
    SMALL,
    TALL,
    WHITE,
    change_scale,
    label_axis,
    legend,
    percent_axis,
    tooltip,
)
from atlas.charts.marks import intervals, lines
from atlas.charts.palette import colour, encoded
from atlas.queries.evidence import NEURON_GROUPS, PAPER_DOSE
from atlas.refinement import MODES
from build.report.figures import Figure
from build.report.findings import ALL, Findings
from build.report.numbers import Measurement
from build.report.page import Pictures
from build.report.paper_values import CLAIMED_LOSS, PAPER_MODEL, PAPER_VALUES
from build.report.samples import METHOD_NAMES

_WIDTH = 400
# Characters of a line below a title.
_LINE = 64
_ROW_HEIGHT = 19
VERBS = {"suppress": "Suppressing (×0)", "amplify": "Amplifying (×2)"}
_INTERVALS = "Lines: 95 % intervals."
_CROSS = "Cross: the paper's value, for another model."


def side_by_side(
    measured: Sequence[Findings], name: str, words: str, draw: Callable[[Findings], alt.LayerChart]
) -> list[Pictures]:
    """One chart of each atlas in a row. words: what it shows, for those who cannot see it."""
    figures = [
        Figure(f"{name}--{found.atlas_id}", f"{words} in {found.atlas_id}.", draw(found))
        for found in measured
    ]
    return [Pictures(tuple(figures))] if figures else []


def finished(chart: alt.Chart | alt.LayerChart, found: Findings, *, title: str, text: str) -> alt.LayerChart:
    """The chart with its title, its atlas, what it shows in smaller lines, and the report's look."""
    below = [found.atlas_id, *textwrap.wrap(text, _LINE)]
    return (
        chart.properties(
            title=alt.TitleParams(
                title,
                subtitle=below,
                anchor="start",
                limit=_WIDTH,
                fontSize=15,
                subtitleFontSize=12,
                subtitleLineHeight=15,
                offset=10,
            ),
            width=_WIDTH,
            autosize=AUTOSIZE,
        )
        # The picture as a whole has a name for those who cannot see it; a name for each mark is mere weight.
        .configure(aria=False, background=WHITE, font="Arial, Helvetica, sans-serif", padding=6)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            domainColor=INK,
            tickColor=INK,
            gridColor=INK,
            gridOpacity=0.13,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
        )
        .configure_title(color=INK, subtitleColor=INK)
        .configure_legend(labelColor=INK, titleColor=INK, labelFontSize=12, titleFontSize=12)
        .configure_text(color=INK, fontSize=12)
        .configure_rule(color=INK)
    )


def _ends(number: Measurement) -> dict[str, object]:
    """An interval, of no width where there is none, and the n, as columns."""
    low, high = (number.value if end is None else end for end in (number.low, number.high))
    return {"low": low, "high": high, "n": number.n, "of": number.of}


def _counted(rows: pd.DataFrame) -> str:
    """`60 known facts`, or `20 to 60 known facts` where a slow method was given fewer."""
    if not len(rows):
        return "no facts"
    least, most = int(rows["n"].min()), int(rows["n"].max())
    return f"{f'{least:,} to ' if least < most else ''}{most:,} {rows['of'].iloc[0]}"


# 1. Suppress and amplify -----------------------------------------------------------------------------


def draw_effects(found: Findings, intervention: str) -> alt.LayerChart:
    """The mean change of every group, on held-out prompts and on those that found the neurons."""
    facts = found.effects.facts
    rows = found.effects.rows
    rows = rows[
        (rows["relation_id"] == ALL) & (rows["intervention"] == intervention) & (rows["facts"] == facts)
    ]
    published = pd.DataFrame(
        {
            "intervention": intervention,
            "group": ["own", "baseline"],
            "change": [PAPER_VALUES[intervention].value, PAPER_VALUES[intervention].control],
            "source": PAPER_MODEL,
        }
    )
    return finished(
        effects.effect_intervals(rows, published=published),
        found,
        title=VERBS[intervention],
        text=f"Held-out prompts, {_facts(facts)}; faint: discovery prompts. {_INTERVALS} {_CROSS}",
    )


def draw_effects_by_relation(found: Findings, intervention: str) -> alt.LayerChart:
    """Figures 3 and 4 of the paper: the change in every relation, its controls as points."""
    facts = found.effects.facts
    rows = found.effects.by_relation(intervention, "held-out", facts)
    counts = dict(rows.loc[rows["group"] == "own", ["relation_id", "n_facts"]].itertuples(index=False))
    rows = rows.assign(
        label=[f"{counts.get(each, 0):,} · {found.label(each)}" for each in rows["relation_id"]],
        meaning=rows["group"],
        name=rows["group"].map(effects.GROUP_NAMES),
    )
    own = rows[rows["group"] == "own"]
    # Unrelated facts may be known where the relation's own are not.
    rows = rows[rows["relation_id"].isin(set(own["relation_id"]))]
    order = own.sort_values(["paper_change", "label"], ascending=[intervention == "suppress", True])["label"]
    scale, axis = change_scale([*rows["paper_change"], *own["paper_low"], *own["paper_high"]], room=0.03)
    places = {
        "x": alt.X("paper_change:Q", title="Change of the answer's probability (%)", axis=axis, scale=scale),
        "y": alt.Y("label:N", title=None, sort=list(order), axis=label_axis(165, labelFontSize=11)),
        "tooltip": tooltip(
            ("label:N", "Relation"),
            ("name:N", "Changed"),
            ("paper_change:Q", "Change (paper's ratio)", "+.1%"),
            ("paper_low:Q", "95 % interval from", "+.1%"),
            ("paper_high:Q", "to", "+.1%"),
            ("replication_change:Q", "Change (replication's ratio)", "+.1%"),
            ("top_changed:Q", "Likeliest token changed", ".1%"),
            ("n_facts:Q", "Facts", ","),
            ("n_prompts:Q", "Prompts", ","),
        ),
    }
    controls = {
        group: effects.GROUP_NAMES[group] for group in NEURON_GROUPS if group in set(rows["group"]) - {"own"}
    }
    return finished(
        alt.layer(
            alt.Chart(own).mark_bar(height=11, color=colour("own")).encode(**places),
            *intervals(alt.Chart(own).encode(y=places["y"]), "paper_low", "paper_high"),
            _points(rows[rows["group"] != "own"], controls, places),
            height=_ROW_HEIGHT * len(order),
        ),
        found,
        title=f"{VERBS[intervention]}, by relation",
        text=(
            f"As figure {'3' if intervention == 'suppress' else '4'} of the paper. Held-out prompts, "
            f"{_facts(facts)}. Bar: own neurons, with 95 % interval. Points: controls. Before a name: facts."
        ),
    )


def _points(rows: pd.DataFrame, names: dict[str, str], places: dict) -> alt.Chart:
    """What stands beside bars, as points with a legend."""
    look = encoded(names, "color", "shape", legend=legend())
    return (
        alt.Chart(rows)
        .mark_point(filled=True, size=45, opacity=1, stroke=WHITE, strokeWidth=0.7)
        .encode(**places, **look)
    )


def _facts(facts: str) -> str:
    return "all facts" if facts == ALL else f"{facts} facts"


# 2. Update -------------------------------------------------------------------------------------------

# Measure of `atlas.charts.changes` → of `studies.EditScores`.
_SCORES = {
    "changed": "change",
    "success": "success",
    "efficacy": "efficacy",
    "top_5": "top_five",
    "paraphrase": "paraphrase",
    "symmetry": "symmetry",
    "same_object": "alike_kept",
    "same_relation": "same_kept",
    "other_relation": "other_kept",
}


def draw_edits(found: Findings) -> alt.LayerChart:
    """What edits of own and of random neurons do, at the paper's strengths."""
    edits = found.edits
    rows = pd.DataFrame(
        {"group": group, "measure": measure, "share": number.value, **_ends(number)}
        for group in ("own", "random")
        if (scores := edits.of_group(group)) is not None
        for measure, name in _SCORES.items()
        if (number := scores[name]) is not None
    )
    published = pd.DataFrame(
        {
            "measure": ["changed", "success"],
            "share": [PAPER_VALUES["edit_change"].value, PAPER_VALUES["edit_success"].value],
            "source": PAPER_MODEL,
        }
    )
    remove, add = edits.strengths[0]
    return finished(
        changes.edit_bars(rows, published=published),
        found,
        title="Updating facts",
        text=(
            f"{edits.n_edits:,} edits in {edits.n_relations} relations, λ = ({remove:g}, {add:g}). "
            f"{_INTERVALS} {_CROSS}"
        ),
    )


# 3. Erase --------------------------------------------------------------------------------------------


def draw_doses(found: Findings) -> alt.LayerChart:
    """Right answers lost by the number of neurons erased."""
    doses = found.erasures.doses
    names = {"own": "its most frequent neurons", "random": "random neurons"}
    most = doses["n"].max()
    # Relations with few neurons end at doses of their own, which are no means over relations.
    rows = doses[doses["n"] * 2 >= most]
    rows = rows.assign(meaning=rows["group"], name=rows["group"].map(names))
    x = changes.dose_axis("dose", rows["dose"])
    drawn = lines(
        x,
        alt.Y("lost:Q", title="Right answers lost (%)", axis=percent_axis()),
        names=names,
        legend=legend(),
        band=("lost_low", "lost_high"),
        tooltip=tooltip(
            ("name:N", "Erased"),
            ("dose:Q", "Neurons"),
            ("lost:Q", "Right answers lost", ".1%"),
            ("lost_low:Q", "95 % interval from", ".1%"),
            ("lost_high:Q", "to", ".1%"),
            ("worse:Q", "Perplexity grows by", "+.1%"),
            ("n:Q", "Relations"),
        ),
    )
    claim = pd.DataFrame({"dose": [PAPER_DOSE], "low": [CLAIMED_LOSS.low], "high": [CLAIMED_LOSS.high]})
    claimed = (
        alt.Chart(claim)
        .mark_rule(color=colour("published"), strokeWidth=4)
        .encode(
            x=x,
            y="low:Q",
            y2="high:Q",
            tooltip=tooltip(("low:Q", "Claimed, from", ".0%"), ("high:Q", "to", ".0%")),
        )
    )
    return finished(
        alt.layer(*drawn, claimed, data=rows, height=TALL),
        found,
        title="Erasing a relation, by dose",
        text=(
            f"Prompts of the relation itself; mean of up to {most} relations, with 95 % intervals. "
            f"Thick line: the claim in question, {PAPER_DOSE} neurons take {CLAIMED_LOSS.number}."
        ),
    )


def draw_erasures(found: Findings) -> alt.LayerChart:
    """How much worse each relation's answers, and all others', become: growth of perplexity."""
    relations = found.erasures.relations
    # (neurons, prompts) → what it means, and its words.
    kinds = {
        ("own", "own"): ("own", "its own prompts"),
        ("own", "others"): ("unrelated", "others' prompts"),
        ("random", "own"): ("random", "its own, random neurons"),
    }
    rows = pd.concat(
        [
            pd.DataFrame(
                {
                    "label": [found.label(each) for each in relations["relation_id"]],
                    "meaning": meaning,
                    "name": name,
                    "factor": np.exp(relations[f"growth_{group}_{prompts}"]),
                    "one": 1.0,
                    "before": relations[f"perplexity_before_{group}_{prompts}"],
                    "after": relations[f"perplexity_after_{group}_{prompts}"],
                    "n_neurons": relations["n_neurons"],
                    "n": relations["n_prompts"],
                }
            ).dropna(subset=["factor"])
            for (group, prompts), (meaning, name) in kinds.items()
            if f"growth_{group}_{prompts}" in relations
        ],
        ignore_index=True,
    )
    own = rows[rows["meaning"] == "own"]
    beside = rows[(rows["meaning"] != "own") & rows["label"].isin(set(own["label"]))]
    order = own.sort_values(["factor", "label"], ascending=[False, True])["label"].tolist()
    published = pd.DataFrame(
        {
            "label": [found.label(each) for each in ("P19", "P106")],
            "factor": [1 + PAPER_VALUES["erase_P19"].value, 1 + PAPER_VALUES["erase_P106"].value],
            "source": PAPER_MODEL,
        }
    )
    published = published[published["label"].isin(order)]
    scale = alt.Scale(type="log", nice=False, domain=_around([*rows["factor"], *published["factor"]]))
    axis = alt.Axis(format="~g", tickCount=4, grid=False)
    places = {
        "x": alt.X("factor:Q", title="Perplexity, × (logarithmic)", axis=axis, scale=scale),
        "y": alt.Y("label:N", title=None, sort=order, axis=label_axis(165, labelFontSize=11)),
        "tooltip": tooltip(
            ("label:N", "Erased"),
            ("name:N", "Prompts"),
            ("factor:Q", "Perplexity after ÷ before", ",.3f"),
            ("before:Q", "Perplexity before", ",.2f"),
            ("after:Q", "and after", ",.2f"),
            ("n_neurons:Q", "Neurons erased"),
            ("n:Q", "Prompts of the relation"),
        ),
    }
    same = alt.Chart(pd.DataFrame({"one": [1.0]})).mark_rule().encode(x=alt.X("one:Q", scale=scale))
    return finished(
        alt.layer(
            alt.Chart(own).mark_bar(height=11, color=colour("own")).encode(**places, x2="one:Q"),
            same,
            _points(beside, dict(list(kinds.values())[1:]), places),
            effects.published_points(published, places["x"], places["y"], ".2f"),
            height=_ROW_HEIGHT * len(order),
        ),
        found,
        title="Erasing each relation",
        text=f"Its {PAPER_DOSE} most frequent neurons. Bar: its own prompts. Points: beside it. {_CROSS}",
    )


def _around(factors: Sequence[float]) -> list[float]:
    """The smallest and the largest of factors, and one, with room on a logarithmic axis."""
    known = [*(each for each in factors if np.isfinite(each) and each > 0), 1.0]
    room = (max(known) / min(known)) ** 0.04 * 1.01
    return [min(known) / room, max(known) * room]


# 4. What activates them ------------------------------------------------------------------------------


def draw_contexts(found: Findings) -> alt.LayerChart:
    """How active neurons are, by what the sentence says."""
    rows = pd.DataFrame(
        {"context": context, "group": group, "relative": number.value, **_ends(number)}
        for (context, group), number in found.contexts.relative.items()
        if number is not None
    )
    return finished(
        checks.context_bars(rows),
        found,
        title="What activates them",
        text=f"{int(rows['n'].max()):,} {rows['of'].iloc[0]}, held-out wordings. {_INTERVALS}",
    )


# 5. Statistics ---------------------------------------------------------------------------------------


def draw_layers(found: Findings) -> alt.LayerChart:
    """Share of the (fact, neuron) pairs in each layer; the upper ones, as many as in the paper, strong."""
    statistics = found.statistics
    n_layers = len(statistics.layers)
    n_pairs = int(statistics.layers["n_pairs"].sum())
    upper = "" if statistics.upper is None else f": {statistics.upper.number()} of {n_pairs:,} pairs"
    return finished(
        neurons.layer_bars(statistics.layers, upper_from=n_layers - statistics.n_upper),
        found,
        title="Where the neurons lie",
        text=f"Layer 0 is next to the input. Strong: the upper {statistics.n_upper} of {n_layers}{upper}.",
    )


def draw_sizes(found: Findings) -> alt.LayerChart:
    """How many facts have how many neurons."""
    sizes = found.statistics.sizes
    median = pd.DataFrame({"median": [found.statistics.median]})
    width = max(1, int(np.ceil((int(sizes["n_neurons"].max()) + 1) / 30)))
    binned = (
        sizes.assign(start=sizes["n_neurons"] // width * width)
        .groupby("start", as_index=False)["n"]
        .sum()
        .assign(end=lambda rows: rows["start"] + width)
    )
    binned["neurons"] = [
        f"{start}" if width == 1 else f"{start} to {start + width - 1}" for start in binned["start"]
    ]
    bars = (
        alt.Chart(binned)
        .mark_bar(color=colour("own"), binSpacing=1)
        .encode(
            x=alt.X("start:Q", bin="binned", title="Neurons of a fact (count)", axis=alt.Axis(tickCount=6)),
            x2="end:Q",
            y=alt.Y("n:Q", title="Facts (count)", axis=alt.Axis(tickCount=5)),
            tooltip=tooltip(("neurons:N", "Neurons"), ("n:Q", "Facts", ",")),
        )
    )
    rule = alt.Chart(median).mark_rule(strokeDash=[4, 3])
    return finished(
        alt.layer(bars, rule.encode(x="median:Q", tooltip=tooltip(("median:Q", "Median"))), height=SMALL),
        found,
        title="Neurons a fact",
        text=f"{found.n_facts:,} facts. Dashed: the median, {found.statistics.median:g}.",
    )


def draw_sharing(found: Findings) -> alt.LayerChart:
    """Mean number of neurons that two facts share, for every pair of relations."""
    overlaps = found.statistics.overlaps
    overlaps = overlaps.assign(
        label_a=overlaps["relation_a"].map(found.labels), label_b=overlaps["relation_b"].map(found.labels)
    )
    order = sharing.neighbours_together(overlaps)
    return finished(
        sharing.overlap_matrix(sharing.some_relations(overlaps, order)),
        found,
        title="Neurons that two facts share",
        text="Every pair of relations; the diagonal is within a relation.",
    )


def draw_thresholds(found: Findings, column: str, words: str, form: str) -> alt.LayerChart:
    """One statistic under every pair of thresholds on the grid; the default is outlined."""
    grid = found.statistics.grid
    rows = pd.DataFrame(
        {
            "t": [f"{each:g}" for each in grid["threshold"].round(4)],
            "p": [f"{each:g}" for each in grid["share"].round(4)],
            "value": grid[column].astype(float),
            "n_empty": grid["n_empty"],
            "n_facts": grid["n_facts"],
        }
    )
    middle = (rows["value"].max() ** 0.5 + rows["value"].min() ** 0.5) ** 2 / 4
    default = MODES["default"]
    chosen = rows[(rows["t"] == f"{default.threshold:g}") & (rows["p"] == f"{default.share:g}")]
    places = {
        "x": alt.X(
            "p:O",
            title="p: share of a fact's prompts",
            axis=alt.Axis(labelAngle=0),
            sort=_ascending(rows["p"]),
        ),
        "y": alt.Y("t:O", title="t: share of the largest score", sort=_ascending(rows["t"])),
        "tooltip": tooltip(
            ("t:O", "t"),
            ("p:O", "p"),
            ("value:Q", words, form),
            ("n_empty:Q", "Facts without a neuron", ","),
            ("n_facts:Q", "Facts", ","),
        ),
    }
    viridis = alt.Color("value:Q", scale=alt.Scale(scheme="viridis", type="sqrt"), legend=None)
    texts = [
        alt.Chart(rows[light == (rows["value"] > middle)])
        .mark_text(color=ON_LIGHT if light else ON_DARK)
        .encode(**places, text=alt.Text("value:Q", format=form))
        for light in (True, False)
    ]
    outline = alt.Chart(chosen).mark_rect(fillOpacity=0, stroke=colour("chosen"), strokeWidth=3)
    return finished(
        alt.layer(
            alt.Chart(rows).mark_rect().encode(**places, color=viridis),
            *texts,
            outline.encode(**places),
            height=SMALL,
        ),
        found,
        title=words,
        text=f"Stored scores refined with other thresholds; {int(rows['n_facts'].max()):,} facts.",
    )


def _ascending(values: Iterable[str]) -> list[str]:
    return sorted(set(values), key=float)


# 6. Thesis checks ------------------------------------------------------------------------------------


def draw_stability(found: Findings) -> alt.LayerChart:
    """Overlap of the neurons from the held-out half with the fact's own and with other facts'."""
    rows = pd.DataFrame(
        [
            {"pair": pair, "jaccard": number.value, **_ends(number)}
            for pair in ("same", "relation", "random")
            if (number := getattr(found.stability, pair)) is not None
        ],
        columns=["pair", "jaccard", "low", "high", "n", "of"],
    )
    of = rows["of"].iloc[0] if len(rows) else "facts"
    return finished(
        checks.stability_bars(rows),
        found,
        title="Found again by other wordings?",
        text=f"{len(found.stability.rows):,} {of}. {_INTERVALS}",
    )


def draw_subsets(found: Findings) -> alt.LayerChart:
    """What is left of the answer's probability as a fact's neurons are suppressed one after the other."""
    curve = found.subsets.curve
    return finished(
        checks.subset_means(curve),
        found,
        title="How few are enough?",
        text=f"Mean over {int(curve['n'].max()):,} facts, held-out prompts.",
    )


def draw_methods(found: Findings) -> alt.LayerChart:
    """What suppressing as many neurons of each method does."""
    numbers = {
        method: found.methods.rows[method, "count"].suppressed
        for method in METHOD_NAMES
        if (method, "count") in found.methods.rows
    }
    rows = pd.DataFrame(
        [
            {"method": method, "change": number.value, **_ends(number)}
            for method, number in numbers.items()
            if number is not None
        ],
        columns=["method", "change", "low", "high", "n", "of"],
    )
    return finished(
        checks.method_bars(rows, METHOD_NAMES),
        found,
        title="Other methods' neurons",
        text=f"As many neurons each; {_counted(rows)}, held-out prompts. {_INTERVALS}",
    )
