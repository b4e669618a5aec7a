"""The Neuron page as Streamlit runs it: its facts, how selective it is, neighbours, related neurons."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from atlas import queries
from atlas.charts import neurons as neuron_charts
from atlas.charts.look import FAINT, clickable
from atlas.queries import selectivity
from tests.app.pages import links, page, press_tray, words
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
    """Ids of the facts that use it, as listed: those of the prompts come after them."""
    ids = [each["fact"] for each in links(app, "fact", "fact")]
    return ids[: len(ids) - 6] if "Highest activation" in words(app) else ids


# Its facts -------------------------------------------------------------------------------------------


def test_every_fact_is_on_one_of_the_pages(a):
    n_pages = -(-len(FACTS_OF[HUB]) // 20)
    assert n_pages > 2
    found = [fact_id for n in range(n_pages) for fact_id in listed(neuron_page(page=str(n + 1)))]
    assert len(found) == len(set(found))
    assert set(found) == FACTS_OF[HUB]


def test_facts_are_sorted_as_asked(a):
    def shown(sort):
        return [FACTS[fact_id] for fact_id in listed(neuron_page(sort=sort))]

    subjects = [store_key(fact["subject"]) for fact in shown("subject")]
    assert subjects == sorted(subjects)
    scores = {
        (r["fact_id"]): r["mean_score"]
        for r in TABLES["knowledge_neurons"]
        if (r["layer"], r["neuron"]) == HUB
    }
    by_score = [scores[fact["fact_id"]] for fact in shown("score")]
    assert by_score == sorted(by_score, reverse=True)


def store_key(text: str) -> str:
    """As the query folds a name: no case, no accents."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    # ł has no accent that could be taken off; DuckDB folds it to l.
    return bare.replace("Ł", "L").replace("ł", "l").lower()


def test_a_relation_filters_and_a_fresh_session_restores_it(a):
    app = neuron_page()
    app.selectbox(key="choice-relation").select("P30").run()
    app.get("button_group")[0].set_value("object").run()
    assert app.query_params == {"neuron": "L0.N7", "relation": "P30", "sort": "object"}
    again = neuron_page(relation="P30", sort="object")
    assert listed(again) == listed(app)
    wanted = {fact_id for fact_id in FACTS_OF[HUB] if FACTS[fact_id]["relation_id"] == "P30"}
    assert len(listed(again)) == min(20, len(wanted))
    assert set(listed(again)) <= wanted
    answers = [FACTS[fact_id]["object"] for fact_id in listed(again)]
    assert answers == sorted(answers)


def test_choosing_a_relation_goes_back_to_the_first_page(a):
    app = neuron_page(page="3")
    app.selectbox(key="choice-relation").select("P30").run()
    assert "page" not in app.query_params


@pytest.mark.parametrize(
    "parameters", [{"relation": "P999"}, {"sort": "x"}, {"related": "' --"}, {"page": "99"}, {"page": "x"}]
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
    assert "No fact has it as a knowledge neuron" in text
    assert "No other neuron has any of its facts" in text
    assert "belong to one relation" not in text
    assert "Not measured: only neurons that a fact has are read out." in text


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
    found = [each["neuron"] for each in links(app, "neuron", "neuron")]
    assert found[-len(names) :] == names
    assert [each["b"] for each in links(app, "compare", "b")] == names


def test_its_prompts_lead_to_their_facts(a):
    prompts = a.query(
        "SELECT fact_id FROM activating_prompts WHERE layer = 0 AND neuron = 7 ORDER BY side DESC, rank"
    )
    found = [each["fact"] for each in links(neuron_page(), "fact", "fact")]
    assert found[-6:] == prompts["fact_id"].to_list()


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
    assert app.title[0].value == "L0\\.N7"
    assert f"#### {n_facts}" in words(app)
