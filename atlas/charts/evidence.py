"""Pictures of what experiments measured, own neurons beside their controls.

    layout.draw(effect_intervals(evidence.effects(a, templates="held-out")), "…")

As in `atlas.charts.look`: each function takes rows of `atlas.queries.evidence` and gives an `alt.Chart`;
groups have the colours they have there, and line styles or places say what colours say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from atlas.charts.look import BLUE, GREEN, GREY, GROUP_COLOURS, GROUPS, INTERVENTIONS, ORANGE

WHOSE = {"own": "its own neurons", "random": "as many random ones"}
ORDERS = {"score": "largest score first", "random": "in a random order"}
CONTEXTS = {
    "fact": "the fact is asked for",
    "subject": "its subject is mentioned",
    "relation": "others of its relation are",
    "random": "unrelated facts are",
}
EDITORS = {"own": "its own, not common ones", "all": "all its own", "random": "random ones"}
EDITED = {
    "changed": "old answer gone",
    "success": "new answer first",
    "top_5": "among the first 5",
    "paraphrase": "paraphrases follow",
    "symmetry": "inverse follows",
    "same_object": "same answer kept",
    "same_relation": "same relation kept",
    "other_relation": "others kept",
}
_EDITORS = {"own": BLUE, "all": GREEN, "random": ORANGE}
FAINT = 0.45
# A chart's height holds its title, axis and legend, too.
TALL = 340


def _legend(symbol: str = "square") -> alt.Legend:
    """One below the other: side by side, a phone would cut them off."""
    return alt.Legend(title=None, orient="bottom", direction="vertical", labelLimit=220, symbolType=symbol)


def _powers(values: pd.Series) -> alt.Axis:
    """An axis for a log scale: powers of ten around the values; of a narrow range, what is between, too."""
    low, high = math.floor(math.log10(values.min())), math.ceil(math.log10(values.max()))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return alt.Axis(values=ticks, format="~g", labelOverlap=True)


def _two(column: str, names: Mapping[str, str], *, lines: bool = False) -> dict[str, Any]:
    """Colour, and for lines their style, of what was asked about and of the chance beside it."""
    domain = list(names.values())
    legend = _legend("stroke" if lines else "square")
    look = {
        "color": alt.Color(f"{column}:N", scale=alt.Scale(domain=domain, range=[BLUE, ORANGE]), legend=legend)
    }
    if lines:
        styles = alt.Scale(domain=domain, range=[[1, 0], [6, 3]])
        look["strokeDash"] = alt.StrokeDash(f"{column}:N", scale=styles, legend=legend)
    return look


def percent(change: float) -> str:
    """A relative change as it stands at a bar: what is rounded to nothing has no sign."""
    shown = f"{change:+.0%}" if abs(change) < 100 else f"× {change:,.0f}"
    return "±0%" if shown in ("+0%", "-0%") else shown.replace("-", "−")


# Suppress and amplify --------------------------------------------------------------------------------


def effect_intervals(
    effects: pd.DataFrame, *, ratio: str = "paper", title: str = "Own neurons beside four controls"
) -> alt.LayerChart:
    """Change of the answer's probability with its 95 % interval, by intervention and group.

    `effects`: as `evidence.effects`. Where both kinds of templates are there, those that found the neurons
    are faint, below those that were held out. A number stands beyond its interval.
    """
    change, low, high = (f"{ratio}_{end}" for end in ("change", "low", "high"))
    rows = effects[effects[change].notna()].copy()
    # A single fact has no interval: its bar ends where it ends.
    reach = {end: rows[end].fillna(rows[change]) for end in (low, high)}
    pairs = zip(rows["intervention"], rows["group"], strict=True)
    rows["what"] = [f"{INTERVENTIONS.get(i, i)}, {GROUPS.get(g, g)}" for i, g in pairs]
    rows["shown"] = rows[change].map(percent)
    rows["look"] = rows["templates"].map({"held-out": 1.0, "discovery": FAINT})
    rows["end"] = reach[high].clip(lower=0).where(rows[change] >= 0, reach[low].clip(upper=0))
    # A row without a name keeps the interventions apart.
    kinds = [list(dict.fromkeys(part["what"])) for _, part in rows.groupby("intervention", sort=False)]
    what = [name for place, kind in enumerate(kinds) for name in ([" " * place] if place else []) + kind]
    both = rows["templates"].nunique() > 1
    axis = alt.Axis(labelLimit=140, labelOverlap=False, ticks=False)
    places = {"y": alt.Y("what:N", title=None, scale=alt.Scale(domain=what), axis=axis)}
    if both:
        places["yOffset"] = alt.YOffset("templates:N", sort=["held-out", "discovery"])
    base = alt.Chart().encode(**places)
    x = {
        "title": "Change of the answer's probability (%)",
        "axis": alt.Axis(format="+.0%", tickCount=5),
        "scale": _room(float(reach[low].min()), float(reach[high].max())),
    }
    colours = alt.Scale(domain=list(GROUPS), range=[GROUP_COLOURS[group] for group in GROUPS])
    bars = base.mark_bar().encode(
        x=alt.X(f"{change}:Q", **x),
        color=alt.Color("group:N", scale=colours, legend=None),
        opacity=alt.Opacity("look:Q", scale=None),
        tooltip=[
            alt.Tooltip("what:N", title="Change"),
            alt.Tooltip("templates:N", title="Prompts"),
            alt.Tooltip(f"{change}:Q", title="Change of the probability", format="+.1%"),
            alt.Tooltip(f"{low}:Q", title="95 % interval from", format="+.1%"),
            alt.Tooltip(f"{high}:Q", title="to", format="+.1%"),
            alt.Tooltip("mean_before:Q", title="Mean probability before", format=".3f"),
            alt.Tooltip("mean_after:Q", title="and after", format=".3f"),
            alt.Tooltip("top_changed:Q", title="First answer became another", format=".1%"),
            alt.Tooltip("n_facts:Q", title="Facts", format=","),
            alt.Tooltip("n_prompts:Q", title="Prompts", format=","),
        ],
    )
    # Dark on white: to be seen on a bar and beside it, on light and on dark ground.
    spans = [
        base.mark_rule(color=shade, strokeWidth=width, strokeCap="round").encode(
            x=alt.X(f"{low}:Q"), x2=alt.X2(f"{high}:Q")
        )
        for shade, width in (("white", 4), ("#20252C", 1.6))
    ]
    numbers = [
        base.transform_filter(f"datum.{change} {side} 0")
        .mark_text(align=align, dx=dx, color=GREY, fontSize=10 if both else 11)
        .encode(x=alt.X("end:Q"), text=alt.Text("shown:N"))
        for side, align, dx in ((">=", "left", 6), ("<", "right", -6))
    ]
    height = 80 + len(what) * (32 if both else 28)
    return alt.layer(bars, *spans, *numbers, data=rows, title=title, height=height)


def _room(least: float, most: float) -> alt.Scale:
    """A domain with zero, and room for a number beyond either end."""
    least, most = min(least, 0.0), max(most, 0.0)
    room = 0.22 * ((most - least) or 1.0)
    return alt.Scale(domain=[least - room if least < 0 else 0.0, most + room], nice=False)


# Erase -----------------------------------------------------------------------------------------------


def dose_lines(doses: pd.DataFrame, *, measure: str = "accuracy") -> alt.LayerChart:
    """The relation's own prompts over the number of its neurons that were erased; before as a grey line.

    `doses`: as `evidence.erasure_doses`; `measure`: accuracy or perplexity.
    """
    rows = doses.assign(whose=doses["group"].map(WHOSE))
    if measure == "accuracy":
        y: dict[str, Any] = {
            "title": "Prompts answered right (%)",
            "scale": alt.Scale(domain=[0, 1]),
            "axis": alt.Axis(format=".0%", tickCount=5),
        }
    else:
        y = {
            "title": "Perplexity (log scale)",
            "scale": alt.Scale(type="log"),
            "axis": _powers(pd.concat([rows["perplexity_before"], rows["perplexity_after"]])),
        }
    steps = sorted({int(n) for n in rows["n_neurons"]})
    base = alt.Chart().encode(
        x=alt.X(
            "n_neurons:Q",
            title="Neurons erased (number, log scale)",
            scale=alt.Scale(type="log", domain=[steps[0], max(steps[-1], steps[0] + 1)], nice=False),
            axis=alt.Axis(values=steps, format="d", grid=False, labelOverlap="greedy"),
        ),
    )
    after, before = (alt.Y(f"{measure}_{when}:Q", **y) for when in ("after", "before"))
    level = base.mark_line(strokeWidth=1.5, color=GREY, strokeDash=[2, 3]).encode(y=before)
    lines = base.mark_line(strokeWidth=2.5).encode(y=after, **_two("whose", WHOSE, lines=True))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=alt.Y(f"{measure}_after:Q"),
        color=alt.Color("whose:N"),
        tooltip=_erased_tooltip(
            alt.Tooltip("whose:N", title="Erased"), alt.Tooltip("n_neurons:Q", title="Neurons")
        ),
    )
    return alt.layer(level, lines, points, data=rows, title="Its own prompts, by dose", height=TALL)


def elsewhere_strip(rows: pd.DataFrame, *, measure: str = "accuracy") -> alt.Chart:
    """What erasing one relation's neurons does to each relation: a mark each, the erased one a diamond.

    `rows`: as `evidence.erasure_elsewhere`; `measure`: accuracy or perplexity.
    """
    n = int(rows["n_neurons"].iloc[0])
    rows = rows.assign(
        whose=rows["group"].map(WHOSE),
        what=["itself" if each else "other relations" for each in rows["itself"]],
        points=100 * (rows["accuracy_after"] - rows["accuracy_before"]),
        times=rows["perplexity_after"] / rows["perplexity_before"],
    )
    if measure == "accuracy":
        x = alt.X(
            "points:Q",
            title="Right answers (percentage points)",
            axis=alt.Axis(format="+d", tickCount=5),
            scale=alt.Scale(
                domain=[min(-10.0, rows["points"].min()) - 4, max(5.0, rows["points"].max()) + 4]
            ),
        )
    else:
        x = alt.X(
            "times:Q",
            title="Perplexity ÷ before (log scale)",
            axis=_powers(rows["times"]),
            scale=alt.Scale(type="log"),
        )
    names = ["itself", "other relations"]
    legend = _legend()
    title = f"Every relation, {n} {'neuron' if n == 1 else 'neurons'} erased"
    return (
        alt.Chart(rows, title=title, height=260)
        .mark_point(filled=True)
        .encode(
            x=x,
            y=alt.Y("whose:N", title=None, sort=list(WHOSE.values()), axis=alt.Axis(labelLimit=140)),
            yOffset=alt.YOffset("what:N", sort=names),
            opacity=alt.condition(alt.datum.itself, alt.value(1), alt.value(0.6)),
            color=alt.Color("what:N", scale=alt.Scale(domain=names, range=[BLUE, GREY]), legend=legend),
            shape=alt.Shape(
                "what:N", scale=alt.Scale(domain=names, range=["diamond", "circle"]), legend=legend
            ),
            size=alt.Size("what:N", scale=alt.Scale(domain=names, range=[190, 70]), legend=legend),
            tooltip=_erased_tooltip(
                alt.Tooltip("label:N", title="Relation asked"), alt.Tooltip("whose:N", title="Erased")
            ),
        )
    )


def _erased_tooltip(*first: alt.Tooltip) -> list[alt.Tooltip]:
    return [
        *first,
        alt.Tooltip("accuracy_before:Q", title="Right before", format=".1%"),
        alt.Tooltip("accuracy_after:Q", title="and after", format=".1%"),
        alt.Tooltip("perplexity_before:Q", title="Perplexity before", format=",.1f"),
        alt.Tooltip("perplexity_after:Q", title="and after", format=",.1f"),
        alt.Tooltip("n_prompts:Q", title="Prompts"),
    ]


# Edits -----------------------------------------------------------------------------------------------


def edit_bars(rates: pd.DataFrame, *, title: str = "Prompts that say what they should") -> alt.LayerChart:
    """Shares of prompts by the neurons that were edited; the number of prompts stands on the axis.

    `rates`: as `evidence.edit_rates`, of one pair of strengths.
    """
    rows = rates[rates["group"].isin(list(EDITORS))]
    n = rows.groupby("measure")["n_prompts"].max()
    rows = rows.assign(
        whose=rows["group"].map(EDITORS),
        what=[f"{EDITED[measure]} ({n[measure]:,})" for measure in rows["measure"]],
        shown=[f"{share:.0%}" for share in rows["share"]],
    )
    present = [group for group in EDITORS if (rows["group"] == group).any()]
    names = [EDITORS[group] for group in present]
    what = list(dict.fromkeys(rows["what"]))
    colours = alt.Scale(domain=names, range=[_EDITORS[group] for group in present])
    base = alt.Chart().encode(
        y=alt.Y("what:N", title=None, sort=what, axis=alt.Axis(labelLimit=170, labelOverlap=False)),
        yOffset=alt.YOffset("whose:N", sort=names),
        x=alt.X(
            "share:Q",
            title="Share of prompts (%)",
            scale=alt.Scale(domain=[0, 1.12], nice=False),
            axis=alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1]),
        ),
    )
    bars = base.mark_bar().encode(
        color=alt.Color("whose:N", scale=colours, legend=_legend()),
        tooltip=[
            alt.Tooltip("what:N", title="Counted"),
            alt.Tooltip("whose:N", title="Neurons edited"),
            alt.Tooltip("share:Q", title="Share of prompts", format=".1%"),
            alt.Tooltip("n_prompts:Q", title="Prompts", format=","),
            alt.Tooltip("n_edits:Q", title="Edits", format=","),
        ],
    )
    numbers = base.mark_text(align="left", dx=4, color=GREY, fontSize=10).encode(text=alt.Text("shown:N"))
    height = 160 + 14 * len(names) * len(what)
    return alt.layer(bars, numbers, data=rows, title=title, height=height)


# One fact --------------------------------------------------------------------------------------------


def subset_lines(curve: pd.DataFrame) -> alt.LayerChart:
    """The answer's probability over the number of its neurons that are suppressed.

    `curve`: as `evidence.subset_curve`.
    """
    rows = curve.assign(
        which=curve["order"].map(ORDERS),
        change=curve["p_after"] / curve["p_before"].where(curve["p_before"] > 0) - 1,
    )
    n = int(rows["n_neurons"].max())
    base = alt.Chart().encode(
        x=alt.X(
            "k:Q",
            title="Neurons suppressed (number)",
            scale=alt.Scale(domain=[0, n], nice=False),
            axis=alt.Axis(format="d", tickMinStep=1, tickCount=8, grid=False),
        ),
        y=alt.Y("p_after:Q", title="P(answer), mean", scale=alt.Scale(domain=[0, 1])),
    )
    lines = base.mark_line(strokeWidth=2.5).encode(**_two("which", ORDERS, lines=True))
    points = base.mark_point(filled=True, size=45, opacity=1).encode(
        color=alt.Color("which:N"),
        tooltip=[
            alt.Tooltip("which:N", title="Suppressed"),
            alt.Tooltip("k:Q", title="Neurons"),
            alt.Tooltip("p_after:Q", title="P(answer), mean", format=".4f"),
            alt.Tooltip("change:Q", title="Change", format="+.1%"),
        ],
    )
    title = "With the first k of its neurons suppressed"
    return alt.layer(lines, points, data=rows, title=title, height=TALL)


def stability_bars(found: Mapping[str, Any]) -> alt.LayerChart:
    """The Jaccard index of the held-out half's neurons with three facts' own.

    `found`: as `evidence.stability_of_fact`.
    """
    pairs = {
        "the same fact": (found["jaccard"], BLUE),
        "another of its relation": (found["jaccard_relation"], ORANGE),
        "an unrelated fact": (found["jaccard_random"], GREY),
    }
    measured = {name: pair for name, pair in pairs.items() if pair[0] is not None}
    rows = pd.DataFrame({"what": list(measured), "jaccard": [float(value) for value, _ in measured.values()]})
    rows["shown"] = [f"{value:.2f}" for value in rows["jaccard"]]
    base = alt.Chart().encode(
        y=alt.Y("what:N", title=None, sort=None, axis=alt.Axis(labelLimit=160)),
        x=alt.X(
            "jaccard:Q",
            title="Neurons in both ÷ in either (Jaccard)",
            scale=alt.Scale(domain=[0, 1.12], nice=False),
            axis=alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g"),
        ),
    )
    colours = alt.Scale(domain=list(measured), range=[colour for _, colour in measured.values()])
    bars = base.mark_bar(size=26).encode(
        color=alt.Color("what:N", scale=colours, legend=None),
        tooltip=[
            alt.Tooltip("what:N", title="With the neurons of"),
            alt.Tooltip("jaccard:Q", title="Jaccard index", format=".3f"),
        ],
    )
    numbers = base.mark_text(align="left", dx=4, color=GREY).encode(text=alt.Text("shown:N"))
    title = "Neurons found on held-out wordings, beside those of"
    return alt.layer(bars, numbers, data=rows, title=title, height=90 + 46 * len(rows))


def context_bars(contexts: pd.DataFrame) -> alt.LayerChart:
    """How active the fact's neurons are, as a share of what they are on the prompts that found them.

    `contexts`: as `evidence.contexts_of_fact`.
    """
    rows = contexts[contexts["relative"].notna()]
    rows = rows.assign(
        whose=rows["group"].map(WHOSE),
        what=rows["context"].map(CONTEXTS),
        shown=[f"{value:.2f}".replace("-", "−") for value in rows["relative"]],
    )
    what = [CONTEXTS[context] for context in CONTEXTS if (rows["context"] == context).any()]
    base = alt.Chart().encode(
        y=alt.Y("what:N", title=None, sort=what, axis=alt.Axis(labelLimit=170, labelOverlap=False)),
        yOffset=alt.YOffset("whose:N", sort=list(WHOSE.values())),
        x=alt.X(
            "relative:Q",
            title="Activation (1: where found)",
            scale=_room(float(rows["relative"].min()), float(rows["relative"].max())),
            axis=alt.Axis(tickCount=5, format="~g"),
        ),
    )
    bars = base.mark_bar().encode(
        **_two("whose", WHOSE),
        tooltip=[
            alt.Tooltip("what:N", title="Where"),
            alt.Tooltip("whose:N", title="Neurons"),
            alt.Tooltip("relative:Q", title="Of the discovery prompts'", format=".2f"),
            alt.Tooltip("activation:Q", title="Mean activation", format=".4f"),
            alt.Tooltip("magnitude:Q", title="Mean |activation|", format=".4f"),
            alt.Tooltip("n_neurons:Q", title="Neurons"),
            alt.Tooltip("n_prompts:Q", title="Sentences"),
        ],
    )
    numbers = [
        base.transform_filter(f"datum.relative {side} 0")
        .mark_text(align=align, dx=dx, color=GREY, fontSize=10)
        .encode(text=alt.Text("shown:N"))
        for side, align, dx in ((">=", "left", 4), ("<", "right", -4))
    ]
    return alt.layer(
        bars, *numbers, data=rows, title="How active they are where", height=150 + 42 * len(what)
    )
