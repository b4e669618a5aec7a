"""A colour means one thing, in every chart of the app and of the report, and everybody can see it."""

from __future__ import annotations

import inspect
import itertools
import re
import tomllib

import numpy as np
import pandas as pd
import pytest

from app.compare import charts as compare_charts
from app.lab import charts as lab_charts
from app.sql import charts as sql_charts
from atlas import queries
from atlas.charts import changes, checks, claims, effects, look, neurons, sharing
from atlas.charts.palette import PALETTE, colour
from atlas.claims import CLAIMS, Row, judge, measure
from atlas.neuron import PROMPT_GROUPS, Neuron
from atlas.queries import comparison, evidence, planted, selectivity
from atlas.queries.sharing import neurons_by_sharing
from atlas.store.atlas import Atlas
from tests import ROOT
from tests.chart_palette import check_palette

FACT, OTHER, RELATION, HUB = "P36-00001", "P36-00002", "P36", Neuron(0, 7)
# White, and the app's dark ground.
GROUNDS = ("#FFFFFF", "#11161C")


@pytest.fixture(scope="module")
def a(sample) -> Atlas:
    return Atlas(sample)


def effect_rows(a: Atlas, **options) -> pd.DataFrame:
    return evidence.effects(a, **options)


def judged(a: Atlas) -> Row:
    """The first claim, of one model."""
    return judge([measure(a)]).rows[0]


def summary_rows() -> pd.DataFrame:
    numbers = {"n_prompts": 4, "before": 0.8, "after": 0.1, "random": 0.7}
    return pd.DataFrame({"group": group, "label": label, **numbers} for group, label in PROMPT_GROUPS.items())


def dose_rows() -> pd.DataFrame:
    """As `app.lab.tables.dose_rows`."""
    numbers = {"n_prompts": 4, "probability": 0.4, "rank_1": 2, "random": 0.5}
    numbers |= {"random_low": 0.4, "random_high": 0.6}
    return pd.DataFrame(
        {"factor": factor, "group": group, "label": label, **numbers}
        for factor in (0.0, 1.0, 2.0)
        for group, label in PROMPT_GROUPS.items()
    )


def cross_rows() -> pd.DataFrame:
    """As `app.compare.crossing.effect_rows`."""
    numbers = {"n_neurons": 5, "n_prompts": 4, "before": 0.6, "change": -0.5, "random": 0.01}
    return pd.DataFrame({"neurons": each, **numbers} for each in ("A", "B", "both"))


def pair(a: Atlas) -> pd.DataFrame:
    return comparison.neurons_of_facts(a, FACT, OTHER)


def score_rows(a: Atlas) -> pd.DataFrame:
    """The scores of a fact, with neurons of every kind."""
    rows = queries.attributions_of_fact(a, FACT)
    kinds = (neurons.OWN, neurons.ADDED, neurons.REMOVED, neurons.OTHER)
    return rows.assign(kind=[kinds[place % len(kinds)] for place in range(len(rows))])


def summed(a: Atlas) -> pd.DataFrame:
    return queries.effect_summary(a, held_out=True)


# Every function that draws, with the rows that its page gives it; what the Lab measures is made up.
CHARTS = {
    effects.effect_intervals: lambda draw, a: draw(effect_rows(a)),
    effects.whose: lambda draw, a: draw(evidence.specificity(a).assign(what="P36")),
    effects.effect_bars: lambda draw, a: draw(summed(a)),
    effects.effect_moves: lambda draw, a: draw(queries.effects_of_fact(a, FACT), title="t"),
    changes.edit_bars: lambda draw, a: draw(evidence.edit_rates(a, relation=RELATION)),
    changes.dose_lines: lambda draw, a: draw(evidence.erasure_doses(a, RELATION), measure="perplexity"),
    changes.elsewhere_strip: lambda draw, a: draw(evidence.erasure_elsewhere(a, RELATION)),
    checks.subset_lines: lambda draw, a: draw(evidence.subset_curve(a, FACT)),
    checks.stability_bars: lambda draw, a: draw(checks.jaccard_rows(evidence.stability_of_fact(a, FACT))),
    checks.planted_bars: lambda draw, a: draw(
        planted.leaderboard(a).query("n_planted == 60"), planted.PLANTED_METHODS, "auc", "t"
    ),
    claims.claim_intervals: lambda draw, a: draw(
        claims.claim_rows(judged(a)), **claims.claim_scale(CLAIMS[0])
    ),
    checks.context_bars: lambda draw, a: draw(evidence.contexts_of_fact(a, FACT)),
    neurons.relation_layers: lambda draw, a: draw(queries.layers_by_relation(a), n_layers=4),
    neurons.layer_bars: lambda draw, a: draw(queries.layer_histogram(a), chosen=1),
    neurons.lens_lines: lambda draw, a: draw(queries.lens_of_fact(a, FACT).head(4).assign(says="Paris")),
    neurons.activation_bars: lambda draw, a: draw(
        queries.activations_of_neuron(a, 0, 7).assign(
            mean_activation=lambda rows: rows["mean_activation"] + 0.9
        )
    ),
    neurons.score_map: lambda draw, a: draw(score_rows(a), n_layers=4, n_neurons=256, chosen="L0.N7"),
    neurons.score_grid: lambda draw, a: draw(
        queries.scores_by_prompt(a, FACT), threshold=0.2, chosen="L0.N7"
    ),
    neurons.token_bars: lambda draw, a: draw(
        pd.DataFrame({"token": ["a", "b"], "logit": [0.2, 0.1]}), title="Promotes"
    ),
    neurons.neuron_relation_bars: lambda draw, a: draw(
        selectivity.relations_of_neuron(a, HUB.layer, HUB.neuron)
    ),
    sharing.sharing_bars: lambda draw, a: draw(
        {"first": ("A", 1.2), "shared": ("both", 0.5), "second": ("B", 1.0), "unrelated": ("any", 0.1)}
    ),
    sharing.sharing_histogram: lambda draw, a: draw(neurons_by_sharing(a, RELATION), 20),
    sharing.overlap_matrix: lambda draw, a: draw(
        queries.relation_overlap(a), chosen=("P36", "P30"), numbers=True
    ),
    sharing.hits_by_relation: lambda draw, a: draw(
        pd.DataFrame({"relation_id": ["P36"], "label": ["capital"], "n": [3]})
    ),
    lab_charts.before_and_after: lambda draw, a: draw(summary_rows()),
    lab_charts.factor_lines: lambda draw, a: draw(dose_rows()),
    lab_charts.path_line: lambda draw, a: draw(
        pd.DataFrame({"alpha": [0.0, 1.0], "probability": [0.1, 0.6], "token": "paris"}), 1
    ),
    compare_charts.overlap_bars: lambda draw, a: draw(comparison.overlap(pair(a), size=1024), "neurons"),
    compare_charts.shared_by_layer: lambda draw, a: draw(pair(a), n_layers=4),
    compare_charts.neuron_points: lambda draw, a: draw(pair(a), measure="score", title="Mean score"),
    compare_charts.cross_bars: lambda draw, a: draw(cross_rows(), "A"),
    compare_charts.relation_bars: lambda draw, a: draw(comparison.facts_of_neurons(a, HUB, Neuron(3, 11))),
    compare_charts.depth_bars: lambda draw, a: draw(
        comparison.layers_of_fact(a, FACT), "m", second=True, highest=1.0
    ),
    sql_charts.answer_chart: lambda draw, a: draw(summed(a), ("intervention", "group"), "ratio_of_means"),
}


def drawing(module) -> set:
    """The public functions of a module that give a chart."""
    return {
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
        and function.__module__ == module.__name__
        and str(function.__annotations__.get("return")) in ("alt.Chart", "alt.LayerChart")
    }


@pytest.fixture(scope="module")
def specs(a: Atlas) -> dict[str, dict]:
    """Every chart of the app, as it goes to the browser."""
    return {draw.__name__: look.Ready(rows(draw, a)).to_dict() for draw, rows in CHARTS.items()}


# One colour, one meaning -----------------------------------------------------------------------------


def test_no_chart_of_the_app_is_left_out():
    modules = (effects, changes, checks, claims, neurons, sharing, lab_charts, compare_charts, sql_charts)
    assert set().union(*map(drawing, modules)) == CHARTS.keys()


def test_no_colour_has_two_meanings():
    colours = [meaning.colour for meaning in PALETTE.values()]
    assert len(set(colours)) == len(colours)
    assert len({meaning.means for meaning in PALETTE.values()}) == len(colours)


def test_the_app_draws_each_thing_as_the_palette_says(specs):
    app = {name: check_palette(spec) for name, spec in specs.items()}
    groups = {effects.MEANINGS.get(group, group) for group in effects.GROUP_NAMES}
    # The sample has no best few; they look like the fact's own.
    assert app["effect_intervals"] == app["effect_moves"] == groups
    # The report draws claims alone.
    of_claims = {each.meaning for claim in CLAIMS for each in claim.beside} | {"own", "published"}
    assert set().union(*app.values(), of_claims) == set(PALETTE)
    assert all(app[name] for name in app.keys() - {"relation_layers"})


def test_the_palette_is_where_the_colours_are():
    modules = [*ROOT.glob("atlas/charts/*.py"), *ROOT.glob("app/**/*.py"), *ROOT.glob("build/report/*.py")]
    written = {
        path.relative_to(ROOT).as_posix()
        for path in modules
        if re.search(r"[\"']#[0-9A-Fa-f]{6}[\"']", path.read_text(encoding="utf-8"))
    }
    assert written == {"atlas/charts/palette.py", "atlas/charts/look.py"}


def test_streamlits_own_charts_take_their_colours_from_the_palette():
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    meanings = ("own", "random", "unrelated", "baseline", "matched", "published")
    assert config["theme"]["chartCategoricalColors"] == [colour(meaning) for meaning in meanings]


# To be seen by everybody -----------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as a colour-blind reader sees it.
SIGHTS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]


def linear(code: str) -> np.ndarray:
    values = np.array([int(code[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lightness(code: str) -> float:
    """The relative luminance of WCAG."""
    return float(linear(code) @ [0.2126, 0.7152, 0.0722])


def distance(one: str, other: str, sight: str) -> float:
    """ΔE of CIE 1976 between two colours, as they are seen."""

    def lab(code: str) -> np.ndarray:
        seen = np.clip(np.array(SIGHTS[sight]) @ linear(code), 0, 1)
        xyz = np.array(TO_XYZ) @ seen / [0.95047, 1, 1.08883]
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    return float(np.linalg.norm(lab(one) - lab(other)))


@pytest.mark.parametrize("ground", GROUNDS)
def test_every_colour_stands_out_on_light_and_on_dark_ground(ground: str):
    for shade in (*(meaning.colour for meaning in PALETTE.values()), look.TEXT):
        low, high = sorted((lightness(shade), lightness(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3, shade


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_that_are_drawn_together_can_be_told_apart(sight: str, specs):
    of_claims = [
        {"own", *(each.meaning for each in claim.beside)}
        | ({"published"} if claim.paper_value is not None else set())
        for claim in CLAIMS
    ]
    together = (*map(check_palette, specs.values()), *of_claims)
    pairs = {both for each in together for both in itertools.combinations(sorted(each), 2)}
    assert len(pairs) > 30
    for one, other in pairs:
        assert distance(colour(one), colour(other), sight) >= 10, (one, other)
