"""The Home page as a visitor meets it: a text without its neurons, one search, the maps, the evidence."""

import json

import pytest

from app.shared import links
from app.shared.words import plural
from atlas import claims, models, queries
from atlas.charts.effects import GROUP_NAMES
from atlas.models import known_model
from atlas.queries import evidence
from atlas.store import atlas as store
from atlas.store.atlas import Atlas
from tests.app.pages import labels, only_atlas, page, press, replace_tables, words
from tests.app.pages import links as page_links
from tests.chart_clicks import chart, click_mark

DATA = store.DATA
POCKET, SMOLLM = "starter-pocket-bert", "starter-smollm2-135m"
LIVE = "Do it live"
EFFECTS = "Effects beside their controls"


def map_of(title: str) -> str:
    return f"{title}: relations by layers, with the share of each relation's neurons"


@pytest.fixture
def only_pocket(monkeypatch):
    """A real atlas of a masked model that is here: it has no texts."""
    only_atlas(monkeypatch, DATA / POCKET)


@pytest.fixture
def no_model_here(monkeypatch, tmp_path):
    """As on a new machine: no model but the one that comes along."""
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path / "empty"))


# The example -----------------------------------------------------------------------------------------


def test_a_stored_text_stands_beside_those_without_its_and_without_random_neurons(a):
    text = queries.telling_text(a)
    said = words(page())
    assert f"reads “{text['prompt'].partition('[Y]')[0].strip()}” and writes" in said
    for each in ("unchanged", "own", "random"):
        assert " ".join(text[each].split()) in said
    assert f"without its {plural(text['n_neurons'], 'neuron')}" in said
    assert f"without {plural(text['n_neurons'], 'random neuron')}" in said
    assert page_links(page(), "fact", "fact") == [{"atlas": "sample", "fact": text["fact_id"]}]


def test_only_a_text_that_changed_is_in_colour(a):
    text = queries.telling_text(a)
    (coloured,) = [
        each.value
        for each in page().markdown
        if ":orange[" in each.value and "does not hold" not in each.value
    ]
    assert text["own"].strip() in coloured


def test_a_text_from_an_atlas_is_no_markdown(another_atlas):
    folder = another_atlas()
    with Atlas(folder) as atlas:
        rows = atlas.query("FROM generations")
    rows.loc[rows["group"] == "own", "text"] = "![x](http://a) <script>alert(1)</script> :red[y]"
    replace_tables(folder, generations=rows)
    (shown,) = [each.value for each in page().markdown if "script" in each.value]
    assert "\\!\\[x\\]\\(http" in shown
    assert "\\<script\\>" in shown
    assert "\\:red\\[y\\]" in shown


def test_the_example_is_live_in_one_click(only_pocket, went_to):
    """Without texts, it is what suppressing does to the answer's probability."""
    app = page(atlas=POCKET)
    with Atlas(DATA / POCKET) as atlas:
        fact = queries.telling_fact(atlas)
    text = words(app)
    assert f"says **{fact['object']}**" in text
    assert f"from **{fact['before']:.2f}** to **{fact['after']:.2f}**" in text
    assert "picked for its large effect" in text
    press(app, LIVE)
    assert went_to == [(links.LAB, {"atlas": POCKET, "fact": fact["fact_id"], "run": "1"})]


def test_a_sentence_of_the_visitor_opens_the_lab(only_pocket, went_to):
    app = page(atlas=POCKET)
    press(app, "Ask")
    assert went_to == []
    box = next(each for each in app.text_input if each.label == "Try your own sentence on pocket-bert")
    assert "[MASK]" in box.placeholder
    box.input(" The capital of Peru is [MASK]. ")
    press(app, "Ask")
    assert went_to == [(links.LAB, {"atlas": POCKET, "prompts": "The capital of Peru is [MASK]."})]


def test_a_model_that_has_to_be_fetched_says_so_and_offers_another(no_model_here, monkeypatch):
    app = page(atlas=SMOLLM)
    assert "smollm2-135m is not on this machine yet: the Lab fetches it first (93 MB)" in words(app)
    assert LIVE in labels(app)
    (link,) = page_links(app, "lab", "fact")
    assert link["atlas"] == POCKET


def test_a_host_that_fetches_nothing_offers_only_what_is_here(no_model_here, demo):
    app = page(atlas=SMOLLM)
    assert "so the Lab cannot run it" in words(app)
    assert LIVE not in labels(app)
    assert len(page_links(app, "lab", "fact")) == 1


def test_an_atlas_of_a_missing_model_offers_nothing_live(only_sample):
    app = page()
    assert "sample-model is not on this machine, so the Lab cannot run it" in words(app)
    assert LIVE not in labels(app)
    assert not page_links(app, "lab", "fact")


def test_an_atlas_without_texts_effects_and_prompts_still_has_an_example(another_atlas):
    another_atlas(leave_out=("generations", "prompts", "effects", *evidence.LOADED))
    app = page()
    assert not app.error
    assert "sample-model says **" in words(app)
    assert "What the evidence says" not in words(app)


# Search ----------------------------------------------------------------------------------------------


def test_the_box_searches_everything(only_sample, went_to):
    app = page()
    next(each for each in app.text_input if each.label == "Search facts and neurons of all atlases").input(
        "oslo"
    )
    press(app, "Search")
    assert went_to == [(links.SEARCH, {"atlas": "sample", "q": "oslo"})]


# Maps ------------------------------------------------------------------------------------------------


def test_every_bundled_atlas_says_what_its_model_is_real_ones_first():
    text = words(page())
    places = []
    for folder in store.bundled().values():
        with Atlas(folder) as atlas:
            model = known_model(atlas.manifest.model.name)
            title = f"{model.title} × {atlas.manifest.dataset.id}"
            n_facts = queries.overview(atlas).n_facts
        assert f"{'A toy' if model.is_toy else 'Real'}: {model.in_short}." in text
        assert f"{n_facts:,} facts of" in text
        places.append((model.is_toy, -n_facts, text.index(f"**{title}**")))
        assert chart(page(), map_of(title)).spec
    assert [place for *_, place in sorted(places)] == sorted(place for *_, place in places)


def test_a_click_on_a_map_opens_the_relation_in_its_atlas(only_sample, went_to):
    app = click_mark(page(), map_of("sample-model × sample"), relation_id="P36", layer=2)
    assert not app.exception
    assert went_to == [(links.RELATION, {"atlas": "sample", "relation": "P36", "layer": "2"})]


def test_an_atlas_that_is_broken_says_so_and_leaves_the_others(tmp_path, monkeypatch, only_sample):
    folder = tmp_path / "cache" / "atlases" / "broken"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path / "cache"))
    app = page()
    assert "broken" in app.error[0].value
    assert chart(app, map_of("sample-model × sample")).spec


# Evidence --------------------------------------------------------------------------------------------


def own_of(rows, intervention: str, group: str = "own"):
    return rows[(rows["intervention"] == intervention) & (rows["group"] == group)].iloc[0]


def test_the_evidence_begins_with_what_speaks_against_the_thesis(a):
    report = claims.judge([claims.measure(a)])
    assert report.against
    app = page()
    text = words(app)
    said = text.split("What the evidence says")[1]
    places = [said.index(f"**{row.claim.says}** This :orange[does not hold]") for row in report.against[:3]]
    assert places == sorted(places)
    for row in report.against[:3]:
        assert row.having(claims.Verdict.FAILS)[0].reading.estimate.text() in said
    assert f"All {len(report.rows)} claims" in said


@pytest.mark.parametrize("ratio", ["paper", "replication"])
def test_the_effects_of_the_atlas_in_view_are_drawn_in_either_ratio(a, ratio):
    rows = evidence.effects(a, templates="held-out")
    app = page(**({} if ratio == "paper" else {"ratio": ratio}))
    own = own_of(rows, "suppress")
    assert f"{own['n_relations']} relations" in words(app)
    assert f"{own['n_facts']} known facts, {own['n_prompts']} prompts" in words(app)
    spec = json.loads(chart(app, EFFECTS).spec)
    names = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    groups = ("own", *evidence.CONTROLS, "unrelated")
    assert names == [
        *("Suppressed (×0)", *(f"suppressed, {GROUP_NAMES[group]}" for group in groups)),
        *("Amplified (×2)", *(f"amplified, {GROUP_NAMES[group]}" for group in groups)),
    ]
    assert spec["layer"][0]["encoding"]["x"]["field"] == f"{ratio}_change"


def test_where_no_fact_is_known_the_effects_are_of_all_and_say_so(another_atlas):
    folder = another_atlas()
    with Atlas(folder) as whole:
        rows = whole.query("FROM effect_summaries WHERE facts <> 'known' OR \"group\" = 'unrelated'")
    replace_tables(folder, effect_summaries=rows)
    assert "facts (the model knows none of them)" in words(page())
