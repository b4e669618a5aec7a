"""Charts can be read at every size and number of rows: labels apart, marks high enough, titles whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pandas as pd
import pytest

from app.lab import charts as lab_charts
from atlas.charts import look, neurons, sharing
from atlas.store.atlas import Atlas
from tests.app.shared.test_palette import CHARTS, dose_rows
from tests.chart_palette import views

vl_convert = pytest.importorskip("vl_convert")

# As wide as the charts' places beside a table on a tablet, and alone on a desktop.
WIDTHS = (270, 800)
ROWS = (1, 2, 5, 12)
# Of a letter, as a share of the font's size: Source Sans is narrow.
LETTER = 0.5


@pytest.fixture(scope="module")
def a(sample) -> Iterator[Atlas]:
    with Atlas(sample) as opened:
        yield opened


def named(n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"relation_id": [f"P{k}" for k in range(n)], "label": [f"relation {k}" for k in range(n)]}
    )


# Charts of any number of rows, beside those that draw what the sample has.
OF_ROWS = {
    neurons.token_bars: lambda n: neurons.token_bars(
        pd.DataFrame({"token": ["word"] * n, "logit": [0.1] * n}), title="Promotes"
    ),
    sharing.hits_by_relation: lambda n: sharing.hits_by_relation(named(n).assign(n=3)),
    neurons.neuron_relation_bars: lambda n: neurons.neuron_relation_bars(
        named(n).assign(n_facts=2, fact_share=0.1, expected_share=0.05, relation_share=0.2)
    ),
    sharing.overlap_matrix: lambda n: sharing.overlap_matrix(
        named(n)
        .merge(named(n), how="cross", suffixes=("_a", "_b"))
        .rename(columns={"relation_id_a": "relation_a", "relation_id_b": "relation_b"})
        .assign(mean_shared=0.5, n_pairs=3)
    ),
}


def drawn(chart: object, width: int) -> tuple[dict, list[dict], int]:
    """The specification, its texts with their places, and the plot's height."""
    spec = look.Ready(chart).to_dict() | {"width": width}
    scene = vl_convert.vegalite_to_scenegraph(spec)
    texts: list[dict] = []

    def walk(mark: dict, x: float, y: float) -> None:
        for item in mark.get("items", []):
            here = x + item.get("x", 0), y + item.get("y", 0)
            if mark["marktype"] == "group":
                for inner in item["items"]:
                    walk(inner, *here)
            elif mark["marktype"] == "text":
                texts.append(item | {"role": mark.get("role"), "x": here[0], "y": here[1]})

    walk(scene["scenegraph"], *scene["origin"])
    return spec, texts, scene["scenegraph"]["items"][0]["height"]


def check(chart: object, width: int) -> None:
    spec, texts, height = drawn(chart, width)
    y = next(part["encoding"]["y"] for part in views(spec) if "y" in part.get("encoding", {}))
    if y["type"] == "quantitative":
        assert height >= 180
    else:
        places = sorted({t["y"] for t in texts if t["role"] == "axis-label" and t.get("align") == "right"})
        gaps = [below - above for above, below in pairwise(places)]
        assert height >= 18 or not places
        assert min(gaps, default=99) >= 14
    for text in texts:
        if text["role"] == "axis-title" and not text.get("angle"):
            long = LETTER * text["fontSize"] * len(text["text"])
            start = text["x"] - {"left": 0, "center": long / 2, "right": long}[text.get("align", "left")]
            assert start >= 0, text["text"]
            assert start + long <= width, text["text"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("draw", CHARTS, ids=lambda draw: draw.__name__)
def test_a_chart_of_few_and_of_many_rows_can_be_read(draw, width, a):
    def cut(n: int):
        def with_rows(first, *more, **options):
            return draw(first.head(n) if isinstance(first, pd.DataFrame) else first, *more, **options)

        return with_rows

    for n in (*ROWS, 1_000):
        check(CHARTS[draw](cut(n), a), width)


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("draw", OF_ROWS, ids=lambda draw: draw.__name__)
def test_a_chart_grows_with_its_rows(draw, n):
    for width in WIDTHS:
        check(OF_ROWS[draw](n), width)
    assert drawn(OF_ROWS[draw](n), 330)[2] == n * drawn(OF_ROWS[draw](1), 330)[2]


def test_a_longer_legend_takes_no_room_from_the_plot():
    one = dose_rows().query("group == 'asked'")
    heights = [drawn(lab_charts.factor_lines(rows), 330)[2] for rows in (one, dose_rows())]
    assert heights == [look.TALL, look.TALL]
