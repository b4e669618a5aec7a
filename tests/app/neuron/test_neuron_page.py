"""The Neuron page as Streamlit runs it: its facts, how selective it is, neighbours, related neurons."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from html import unescape
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from streamlit.testing.v1 import AppTest

from app.shared import address, texts
from atlas import queries
from atlas.charts import neurons as neuron_charts
from atlas.charts.look import FAINT, clickable
from atlas.charts.palette import colour
from atlas.queries import selectivity
from tests.app.pages import html, linked, links, page, press, press_tray, words
from tests.sample_atlas import sample_tables, write_sample_atlas

N_FACTS = 150
TABLES = sample_tables(N_FACTS)
FACTS = {fact["fact_id"]: fact for fact in TABLES["facts"]}
FACTS_OF = defaultdict(set)
for row in TABLES["knowledge_neurons"]:
    FACTS_OF[row["layer"], row["neuron"]].add(row["fact_id"])
HUB = (0, 7)
ALONE = next(neuron for neuron, facts in sorted(FACTS_OF.items()) if len(facts) == 1)
FREE = next((0, n) for n in range(256) if (0, n) not in FACTS_OF)


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample", n_facts=N_FACTS)


def neuron_page(neuron: tuple[int, int] = HUB, **parameters: str) -> AppTest:
    app = page("neuron", neuron=f"L{neuron[0]}.N{neuron[1]}", **parameters)
    assert not app.error
    return app


def listed(app: AppTest) -> list[str]:
    """Ids of the facts that use it, as listed."""
    return [
        each
        for frame in app.dataframe
        if "fact" in frame.value
        for each in linked(frame.value["fact"], "fact")
    ]


# Its facts -------------------------------------------------------------------------------------------


def test_every_fact_is_on_one_of_the_pages(a, monkeypatch):
    monkeypatch.setattr(address, "TABLE_ROWS", 20)
    n_pages = -(-len(FACTS_OF[HUB]) // 20)
    assert n_pages > 2
    found = [fact_id for n in range(n_pages) for fact_id in listed(neuron_page(page=str(n + 1)))]
    assert len(found) == len(set(found))
    assert set(found) == FACTS_OF[HUB]


def test_facts_are_one_table_by_score_with_their_activation(a):
    ids = listed(neuron_page())
    assert set(ids) == FACTS_OF[HUB]
    scores = {
        (r["fact_id"]): r["mean_score"]
        for r in TABLES["knowledge_neurons"]
        if (r["layer"], r["neuron"]) == HUB
    }
    by_score = [scores[fact_id] for fact_id in ids]
    assert by_score == sorted(by_score, reverse=True)
    (shown,) = [frame.value for frame in neuron_page().dataframe if "fact" in frame.value]
    fires = {
        (r["fact_id"]): r["mean_activation"]
        for r in TABLES["knowledge_neurons"]
        if (r["layer"], r["neuron"]) == HUB
    }
    assert shown["mean_activation"].to_list() == pytest.approx([fires[fact_id] for fact_id in ids])


def test_a_relation_filters_and_a_fresh_session_restores_it(a):
    app = neuron_page()
    app.selectbox(key="choice-relation").select("P30").run()
    assert app.query_params == {"neuron": "L0.N7", "relation": "P30"}
    again = neuron_page(relation="P30")
    assert listed(again) == listed(app)
    wanted = {fact_id for fact_id in FACTS_OF[HUB] if FACTS[fact_id]["relation_id"] == "P30"}
    assert set(listed(again)) == wanted


def test_choosing_a_relation_goes_back_to_the_first_page(a):
    app = neuron_page(page="3")
    app.selectbox(key="choice-relation").select("P30").run()
    assert "page" not in app.query_params


@pytest.mark.parametrize(
    "parameters",
    [{"relation": "P999"}, {"sort": "object"}, {"related": "' --"}, {"page": "99"}, {"page": "x"}],
)
def test_a_bad_parameter_is_ignored(parameters, a):
    app = neuron_page(**parameters)
    if parameters.get("page") == "99":
        assert "The list has fewer pages" in words(app)
    else:
        assert listed(app) == listed(neuron_page())


# How selective ---------------------------------------------------------------------------------------


def test_it_says_how_selective_the_neuron_is_beside_chance(a):
    text = words(neuron_page())
    counts = Counter(FACTS[fact_id]["relation_id"] for fact_id in FACTS_OF[HUB])
    n = max(counts.values())
    total = len(FACTS_OF[HUB])
    assert re.search(
        rf"\*\*{n} of its {total} facts \({n / total:.0%}\)\*\* belong to one relation, .+\. "
        rf"Of as many facts drawn at random, one relation would hold \d+%",
        text,
    )
    assert re.search(r"have one answer, .+\. Of as many facts drawn from the same relations", text)


def test_one_fact_is_too_few_for_selectivity(a):
    text = words(neuron_page(ALONE))
    assert "Only one fact uses it: too few to say" in text
    assert "drawn at random" not in text


def test_few_facts_come_with_a_warning(a):
    few = next(neuron for neuron, facts in sorted(FACTS_OF.items()) if 1 < len(facts) < 5)
    assert "So few facts say little" in words(neuron_page(few))
    assert "So few facts say little" not in words(neuron_page())


# Ways on ---------------------------------------------------------------------------------------------


def test_a_neuron_of_no_fact_has_a_page_that_says_so(a):
    text = words(neuron_page(FREE))
    assert "No fact has it as a knowledge neuron, so the atlas holds nothing about it." in text
    assert [each.icon for each in neuron_page(FREE).info].count(":material/info:") == 1
    assert "belong to one relation" not in text


def test_it_leads_to_the_neurons_beside_it_and_to_the_nearest_with_facts(a):
    for neuron in (HUB, FREE, (0, 0), (3, 255)):
        taken = sorted(n for layer, n in FACTS_OF if layer == neuron[0])
        before = [n for n in taken if n < neuron[1]][-1:]
        after = [n for n in taken if n > neuron[1]][:1]
        beside = [n for n in (neuron[1] - 1, neuron[1] + 1) if 0 <= n < 256]
        near = [n for n in (*before, *after) if n not in beside]
        found = [each["neuron"] for each in links(neuron_page(neuron), "neuron", "neuron")]
        expected = [f"L{neuron[0]}.N{n}" for n in (*beside, *near)]
        assert found[: len(expected)] == expected


@pytest.mark.parametrize("order", ["jaccard", "shared"])
def test_related_neurons_come_in_the_order_asked(order, a):
    app = neuron_page(related=order)
    expected = selectivity.related_neurons(a, *HUB, order=order, limit=12)
    names = [f"L{row.layer}.N{row.neuron}" for row in expected.itertuples()]
    (shown,) = [frame.value for frame in app.dataframe if "cell" in frame.value]
    assert linked(shown["cell"], "neuron") == linked(shown["compare"], "b") == names
    assert shown["n_shared"].to_list() == expected["n_shared"].to_list()


def test_its_prompts_lead_to_their_facts(a):
    prompts = a.query(
        "SELECT fact_id FROM activating_prompts WHERE layer = 0 AND neuron = 7 ORDER BY side DESC, rank"
    )
    found = re.findall(r'<a href="fact\?([^"]*)"', "".join(html(neuron_page())))
    assert [dict(parse_qsl(unescape(each)))["fact"] for each in found] == prompts["fact_id"].to_list()


def test_it_can_be_put_into_the_tray_compared_and_exported(a):
    app = neuron_page()
    assert {"kind": "neurons", "a": "L0.N7"}.items() <= links(app, "compare", "kind")[0].items()
    for title in ("Facts", "Relations", "Prompts", "Related neurons"):
        assert re.search(rf"{title} \(\d+ rows?\)", words(app))
    assert press_tray(app, "neuron") == {"L0.N7"}


def test_the_chart_of_relations_tells_which_bar_was_clicked(a):
    counts = selectivity.relations_of_neuron(a, *HUB)
    spec = clickable(neuron_charts.neuron_relation_bars(counts, chosen="P30"), "relation_id").to_dict()
    assert spec["layer"][0]["params"][0]["select"]["fields"] == ["relation_id"]
    (rows,) = spec["datasets"].values()
    assert {row["relation_id"]: row["look"] for row in rows} == {
        relation: 1.0 if relation == "P30" else FAINT for relation in counts["relation_id"]
    }


def test_a_neuron_counts_its_facts(a):
    app = page("neuron", neuron="L0.N7")
    n_facts = queries.neuron(a, 0, 7)["n_facts"]
    assert f"{n_facts} facts · 2 relations" in words(app)


def test_its_name_comes_first_and_its_code_second(a):
    label = queries.neuron(a, *HUB)["label"]
    text = words(neuron_page()).split("\n")
    assert text[0] == label
    assert any(line.startswith("L0.N7 · ") for line in text)
    assert words(neuron_page(FREE)).startswith(f"L0.N{FREE[1]}\n")


# What activates it -----------------------------------------------------------------------------------


def test_stored_prompts_are_coloured_by_sign_and_size(a):
    rows = queries.activating_prompts_of_neuron(a, *HUB)
    blocks = re.findall(
        r'<p class="words" role="img" aria-label="([^"]*)">(.*?)</p>', "".join(html(neuron_page()))
    )
    assert len(blocks) == len(rows) == 6
    for (said, block), row in zip(blocks, rows.itertuples(), strict=True):
        shown = re.findall(
            r'data-value="([^"]*)" style="background:(#\w{6})(\w\w)"><bdi>([^<]*)</bdi>', block
        )
        assert [token for *_, token in shown] == list(row.tokens)
        assert [float(value.replace("−", "-")) for value, *_ in shown] == pytest.approx(list(row.activations))
        for (_, shade, depth, _), value in zip(shown, row.activations, strict=True):
            assert int(depth, 16) == round(255 * 0.6 * abs(value) / rows["activation"].abs().max())
            assert value == 0 or shade == colour("above" if value > 0 else "below")
        assert said.startswith("[CLS] Wording")
        assert f"{texts.signed(row.activation)} where the answer is read" in said


def test_its_activation_is_spread_over_its_facts(a):
    values = queries.activations_of_neuron(a, *HUB)["mean_activation"]
    (rows,) = (
        neuron_charts.activation_bars(queries.activations_of_neuron(a, *HUB)).to_dict()["datasets"].values()
    )
    assert sum(row["n"] for row in rows) == len(values) == len(FACTS_OF[HUB])
    for row in rows:
        inside = values[(values >= row["low"]) & (values < row["high"])]
        assert row["n"] == pytest.approx(len(inside), abs=1)  # the last bar has its upper end
        assert row["meaning"] == ("below" if row["high"] <= 1e-9 else "above")


# No neuron yet ---------------------------------------------------------------------------------------


def test_without_a_neuron_it_has_a_box_three_examples_and_a_table(a):
    app = page("neuron")
    examples = queries.example_neurons(a)
    names = [f"L{row.layer}.N{row.neuron}" for row in examples.itertuples()]
    assert [each["neuron"] for each in links(app, "neuron", "neuron")] == names
    assert len(names) == 3
    hubs = queries.hub_neurons(a, limit=20)
    assert linked(app.dataframe[0].value["cell"], "neuron") == [
        f"L{r.layer}.N{r.neuron}" for r in hubs.itertuples()
    ]
    for typed, asked in (("L0.N7", {"neuron": "L0.N7"}), ("Paris", {"q": "Paris"})):
        app = page("neuron")
        app.text_input[0].set_value(typed)
        assert press(app, "Search").query_params == {"atlas": "sample", **asked}
