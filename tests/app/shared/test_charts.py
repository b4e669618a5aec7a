"""Every chart that a page draws is a valid Vega-Lite chart, with a title, titled axes and tooltips."""

from __future__ import annotations

import altair as alt
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.shared import resources
from atlas.charts import look as charts
from tests.app.pages import page
from tests.chart_palette import views

PAGES = [
    ("home", {}),
    ("search", {"q": "oslo"}),
    ("fact", {"fact": "P36-00001"}),
    ("fact", {"fact": "P36-00001", "t": "0.5", "neuron": "L0.N7"}),
    ("fact", {"fact": "P36-00001", "view": "prompts", "neuron": "L0.N7"}),
    ("fact", {"fact": "P36-00001", "asked": "discovery", "evidence": "stability"}),
    ("fact", {"fact": "P36-00001", "evidence": "contexts"}),
    ("home", {"ratio": "replication"}),
    ("evidence", {}),
    ("evidence", {"claim": "suppress"}),
    ("relation", {}),
    ("relation", {"relation": "P36"}),
    ("relation", {"relation": "P36", "ratio": "replication", "erased": "perplexity", "strength": "2"}),
    ("planted", {"n": "60", "measure": "auc"}),
    ("neuron", {"neuron": "L0.N7"}),
    ("neuron", {"neuron": "L0.N7", "relation": "P36"}),
    ("compare", {"kind": "facts", "a": "P36-00001", "b": "P36-00002"}),
    ("compare", {"kind": "relations", "a": "P36", "b": "P30"}),
    ("compare", {"kind": "neurons", "a": "L0.N7", "b": "L3.N11"}),
]


@pytest.fixture
def drawn(only_sample, monkeypatch) -> list[dict]:
    """What the pages draw, checked against Vega-Lite's schema on the way."""
    monkeypatch.setattr(charts.Ready, "checked", True)
    resources._specification.clear()
    made, unchecked = [], charts.Ready.to_dict

    def kept(self):
        made.append(unchecked(self))
        return made[-1]

    monkeypatch.setattr(charts.Ready, "to_dict", kept)
    return made


@pytest.mark.parametrize(("name", "parameters"), PAGES)
def test_a_page_s_charts_are_valid_and_say_what_they_show(name, parameters, drawn):
    app: AppTest = page(name, **parameters)
    assert not app.error
    assert drawn
    for spec in drawn:
        parts = views(spec)
        assert spec.get("title") or any(part.get("title") for part in parts)
        assert any(part.get("encoding", {}).get("tooltip") for part in parts)
        for axis in ("x", "y"):
            told = [part["encoding"][axis] for part in parts if axis in part.get("encoding", {})]
            numbers = [each for each in told if each.get("type") == "quantitative" and "field" in each]
            assert not numbers or any(each.get("title") for each in numbers)


def test_a_click_is_told_by_the_first_layer_only():
    base = alt.Chart().mark_bar().encode(x=alt.X("n:Q"))
    chart = alt.layer(base, base, data=pd.DataFrame({"n": [1], "name": ["a"]}))
    for one in (chart, alt.layer(chart, base)):
        spec = charts.clickable(one, "name").to_dict()
        with_params = [view for view in views(spec) if view.get("params")]
        assert with_params == views(spec)[:1]
        assert with_params[0]["params"][0]["name"] == charts.CLICK
    alone = charts.clickable(alt.Chart(pd.DataFrame({"n": [1]})).mark_bar(), "n").to_dict()
    assert alone["params"][0]["select"]["fields"] == ["n"]
    assert "params" not in charts.Ready(chart).to_dict()
