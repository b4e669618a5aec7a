"""Two sets of prompts as visitors compare them: found live, the library's numbers, by link, within limits."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest

from atlas.neuron import Neuron
from atlas.queries import comparison
from atlas.refinement import KnowledgeNeuron, mode, refine_scores

torch = pytest.importorskip("torch")

from app.compare import crossing  # noqa: E402
from app.compare import prompts as compare_prompts  # noqa: E402
from app.shared import resources  # noqa: E402
from atlas.experiments.crossing import cross_effects  # noqa: E402
from atlas.experiments.run import find_neurons, with_random_neurons  # noqa: E402
from atlas.surgery import Suppress, attribute, load_subject  # noqa: E402
from tests.app.pages import labels, links, measures, page, press, words  # noqa: E402
from tests.by_hand import probability_scaled  # noqa: E402

A = ("The capital city of France is called [Y].", "The capital of France is [Y].")
B = ("The capital city of Egypt is called [Y].", "The capital of Egypt is [Y].")
LINK = {
    "kind": "prompts",
    "model": "pocket-bert",
    "pa": "\n".join(A),
    "ya": "Paris",
    "pb": "\n".join(B),
    "yb": "Cairo",
}


@pytest.fixture(scope="module")
def subject():
    return resources.subject("pocket-bert")


@pytest.fixture(scope="module")
def found(subject):
    """Both sides, each found by plain calls: attribute, then refine."""
    sides = []
    for texts, answer in ((A, "Paris"), (B, "Cairo")):
        prompts = [subject.prompt(text, answer) for text in texts]
        scores = [each.scores for each in attribute(subject, prompts)]
        sides.append((prompts, [each.neuron for each in refine_scores(scores, mode("default"))]))
    return sides


compare = partial(page, "compare", atlas="starter-pocket-bert")
FIND = "Find their neurons and compare"
MEASURE = "Measure their effects"


# The library -----------------------------------------------------------------------------------------


def test_every_crossing_equals_hooks_written_by_hand(subject, found):
    (prompts_a, a), (prompts_b, b) = found
    effects = cross_effects(subject, {"a": a, "b": b}, {"a": prompts_a, "b": prompts_b}, draws=1)
    assert [(each.neurons, each.prompts) for each in effects] == [
        ("a", "a"),
        ("a", "b"),
        ("b", "a"),
        ("b", "b"),
    ]
    chosen, asked = {"a": a, "b": b}, {"a": prompts_a, "b": prompts_b}
    for each in effects:
        before = [probability_scaled(subject, p, [], 0.0) for p in asked[each.prompts]]
        after = [probability_scaled(subject, p, chosen[each.neurons], 0.0) for p in asked[each.prompts]]
        assert each.n_neurons == len(chosen[each.neurons])
        assert each.before == pytest.approx(before, rel=1e-4)
        assert each.after == pytest.approx(after, rel=1e-4)
        assert each.change == pytest.approx(sum(after) / sum(before) - 1, rel=1e-4)
    own = {each.prompts: each for each in effects if each.neurons == each.prompts}
    assert own["a"].change < -0.5
    assert abs(own["a"].random_change) < 0.1


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_a_causal_model_says_what_it_says_prompt_by_prompt(tiny, name):
    """There the changes of a list share what lies before the answers; one at a time they do not."""
    model = load_subject(str(tiny(name)), device="cpu")
    sets = {
        "a": [
            model.prompt("the capital of france is", "paris"),
            model.prompt("people in france speak", "french"),
        ],
        "b": [model.prompt("the largest city of america is", "new york")],
    }
    neurons = {"a": [Neuron(0, 3), Neuron(2, 40)], "b": [Neuron(1, 7)]}
    for each in cross_effects(model, neurons, sets, draws=2):
        (drawn,) = with_random_neurons(
            [Suppress(tuple(neurons[each.neurons]))], model.n_neurons, np.random.default_rng([0, 2])
        )
        for place, prompt in enumerate(sets[each.prompts]):
            assert each.before[place] == pytest.approx(model.predict([prompt])[0].probability, rel=1e-5)
            for change, said in (
                (Suppress(tuple(neurons[each.neurons])), each.after),
                (drawn, each.random[1]),
            ):
                with model.applied(change) as changed:
                    alone = changed.predict([prompt])[0]
                assert said[place] == pytest.approx(alone.probability, rel=1e-4)


def test_the_random_neurons_are_others_of_the_same_layers_and_follow_the_seed(subject, found):
    (prompts, neurons), _ = found
    one, again, other = (
        cross_effects(subject, {"a": neurons}, {"a": prompts}, draws=2, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert one == again
    assert one.random != other.random
    (drawn,) = with_random_neurons(
        [Suppress(tuple(neurons))], subject.n_neurons, np.random.default_rng([0, 1])
    )
    assert not set(drawn.neurons) & set(neurons)
    by_hand = [probability_scaled(subject, prompt, drawn.neurons, 0.0) for prompt in prompts]
    assert one.random[0] == pytest.approx(by_hand, rel=1e-4)


def test_a_comparison_waits_in_line_and_leaves_nothing_behind_when_it_is_cancelled(subject, found):
    (prompts, neurons), _ = found
    before = subject.predict(prompts)
    told: list[str] = []
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with subject.lock.turn():
            holding.set()
            release.wait(30)

    def listen(share: float, said: str) -> None:
        told.append(said)
        if said.startswith("Waiting"):
            release.set()

    other = threading.Thread(target=hold)
    other.start()
    holding.wait(30)
    effects = cross_effects(subject, {"a": neurons}, {"a": prompts}, draws=1, progress=listen)
    other.join()
    assert told[:2] == ["The unchanged model", "Waiting in line behind one other"]
    assert told[-1] == "Done"

    class Cancelled(BaseException):
        """What Streamlit ends a script with."""

    def cancel(share: float, said: str) -> None:
        if "random ones" in said:
            raise Cancelled

    with pytest.raises(Cancelled):
        cross_effects(subject, {"a": neurons}, {"a": prompts}, draws=1, progress=cancel)
    assert subject.predict(prompts) == before
    assert cross_effects(subject, {"a": neurons}, {"a": prompts}, draws=1) == effects


def test_sets_without_neurons_are_left_out_and_without_prompts_refused(subject, found):
    (prompts, neurons), _ = found
    effects = cross_effects(subject, {"none": [], "a": neurons}, {"a": prompts}, draws=1)
    assert [each.neurons for each in effects] == ["a"]
    with pytest.raises(Exception, match="Give each set at least one"):
        cross_effects(subject, {"a": neurons}, {"a": prompts, "b": []})
    with pytest.raises(Exception, match="draws must be at least 1, got 0"):
        cross_effects(subject, {"a": neurons}, {"a": prompts}, draws=0)


def test_lists_of_neurons_are_laid_side_by_side():
    def listed(*neurons: tuple[int, int, float]) -> list[KnowledgeNeuron]:
        return [KnowledgeNeuron(Neuron(layer, index), 0.5, score, score) for layer, index, score in neurons]

    rows = comparison.neurons_of_lists(listed((0, 1, 0.1), (2, 5, 0.3)), listed((2, 5, 0.2), (1, 1, 0.9)))
    plain = rows[["layer", "neuron", "where", "score_a", "score_b"]].astype(object)
    assert plain.where(
        rows[["layer", "neuron", "where", "score_a", "score_b"]].notna(), None
    ).values.tolist() == [
        [2, 5, "both", 0.3, 0.2],
        [0, 1, "a", 0.1, None],
        [1, 1, "b", None, 0.9],
    ]
    empty = comparison.neurons_of_lists([], [])
    assert comparison.overlap(empty, size=10, by="layer").either == 0


# The page --------------------------------------------------------------------------------------------


def test_a_link_finds_the_neurons_of_both_and_shows_the_librarys_overlap(subject, found):
    app = compare(**LINK, run="1")
    assert not app.error
    (prompts_a, a), (prompts_b, b) = found
    assert measures(app)["Knowledge neurons"] == [str(len(a)), str(len(b))]
    assert measures(app)["Answer"] == ["Paris", "Cairo"]
    both = set(a) & set(b)
    text = words(app)
    assert f"**{len(both)} of {len(set(a) | set(b))} neurons in both**" in text
    per_layer = [[sum(n.layer == layer for n in side) for layer in range(3)] for side in (a, b)]
    chance = sum(x * y / subject.n_neurons for x, y in zip(*per_layer, strict=True))
    assert f"would have {chance:.1f} ±" in text
    # The crossing in a sentence, by the library.
    (own, cross) = cross_effects(subject, {"A": a}, {"A": prompts_a, "B": prompts_b})
    assert f"from **{np.mean(cross.before):.3f}** to **{np.mean(cross.after):.3f}**" in text
    assert own.change < cross.change


def test_typing_and_pressing_does_what_the_link_does_and_the_url_says_it():
    app = compare(kind="prompts")
    assert "Type prompts on both sides" in words(app)
    assert f"{FIND} (missing: Prompts A, Answer A, Prompts B, Answer B)" in labels(app)
    for key, name in (("pa", "pa"), ("pb", "pb")):
        app.text_area(key=f"box-{key}").set_value(LINK[name]).run()
    for name in ("ya", "yb"):
        app.text_input(key=f"box-{name}").set_value(LINK[name]).run()
    assert "run" not in app.query_params
    app.text_input(key="box-yb").set_value("").run()
    assert app.button[labels(app).index(f"{FIND} (missing: Answer B)")].disabled
    app.text_input(key="box-yb").set_value(LINK["yb"]).run()
    press(app, FIND)
    url = {name: value if isinstance(value, str) else value[0] for name, value in app.query_params.items()}
    assert {name: url[name] for name in LINK} == LINK
    assert url["run"] == "1"
    again = compare(**{name: value for name, value in url.items() if name != "atlas"})
    assert measures(again) == measures(app)
    # Another text is another question: it is not answered by what was found before.
    app.text_input(key="box-yb").set_value("Rome").run()
    assert "run" not in app.query_params
    assert not app.table


def test_other_thresholds_need_no_model_and_their_effects_are_measured_when_asked(subject, found):
    app = compare(**LINK, run="1")
    app.slider(key="slider-t").set_value(0.5).run()
    assert app.query_params["t"] in ("0.5", ["0.5"])
    (prompts_a, _), (prompts_b, _) = found
    fewer = [
        [
            n.neuron
            for n in refine_scores(
                [x.scores for x in attribute(subject, prompts)], mode("default", threshold=0.5)
            )
        ]
        for prompts in (prompts_a, prompts_b)
    ]
    assert measures(app)["Knowledge neurons"] == [str(len(side)) for side in fewer]
    assert "have not been measured yet" in words(app)
    press(app, MEASURE)
    cross = cross_effects(subject, {"A": fewer[0]}, {"A": prompts_a, "B": prompts_b})[1]
    assert f"from **{np.mean(cross.before):.3f}** to **{np.mean(cross.after):.3f}**" in words(app)
    # Back where it was: the neurons are the first ones again.
    app.slider(key="slider-t").set_value(0.2).run()
    assert measures(app)["Knowledge neurons"] == [str(len(found[0][1])), str(len(found[1][1]))]


def test_the_tables_for_export_are_whole(subject, found):
    (prompts_a, _), (prompts_b, _) = found
    sides = tuple(find_neurons(subject, prompts) for prompts in (prompts_a, prompts_b))
    prompts = compare_prompts.prompt_rows(sides)
    assert list(prompts["set"]) == ["A", "A", "B", "B"]
    assert list(prompts["text"]) == [*A, *B]
    said = [each.probability for each in subject.predict([*prompts_a, *prompts_b])]
    assert list(prompts["probability"]) == pytest.approx(said, rel=1e-5)
    effects = cross_effects(subject, {"A": found[0][1]}, {"A": prompts_a, "B": prompts_b})
    rows = crossing.effect_rows(effects)
    assert list(rows["change"]) == [each.change for each in effects]
    assert isinstance(rows, pd.DataFrame)
    assert list(rows["first_before"]) == [2, 2]


def test_an_answer_of_several_word_pieces_can_be_compared():
    several = {**LINK, "pb": "\n".join(text.replace("Egypt", "Eritrea") for text in B), "yb": "quito gib"}
    app = compare(**several, run="1")
    assert not app.error
    assert measures(app)["Answer"] == ["Paris", "quito gib"]


def test_the_examples_open_what_they_promise():
    app = compare(kind="prompts")
    pocket = next(each for each in links(app, "compare", "pa") if each["model"] == "pocket-bert")
    shown = compare(**{name: value for name, value in pocket.items() if name != "atlas"})
    assert not shown.error
    assert measures(shown)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pa": "The capital is [Y] and [Y]."}, "2 places for the answer"),
        ({"pa": "no gap here"}, "places for the answer"),
        ({"ya": ""}, "The answer is empty"),
        ({"pa": LINK["pb"], "ya": LINK["yb"]}, "A and B have the same prompts"),
        ({"model": "./no/such/folder"}, "neither a folder nor a model"),
        ({"yb": "☃"}, "outside the vocabulary"),
    ],
)
def test_a_bad_link_gets_a_sentence_and_the_page_goes_on(changes, says):
    app = compare(**{**LINK, **changes, "run": "1"})
    assert says in words(app)
    assert len(app.error) == 1
    assert not app.table
    assert app.segmented_control(key="compare-kind").value == "prompts"


def test_a_host_that_offers_one_model_refuses_others_before_looking_them_up(demo):
    app = compare(**{**LINK, "model": "smollm2-135m"}, run="1")
    assert "offers pocket-bert only" in words(app)
    assert not app.table


def test_more_neurons_than_visitors_may_change_are_refused(set_limits):
    set_limits("neurons = 10")
    app = compare(**LINK, run="1")
    assert "at most 10 are allowed. Raise the thresholds" in words(app)
    assert measures(app)  # what was found is shown all the same


def test_long_texts_are_cut_to_what_a_url_holds():
    app = compare(kind="prompts", pa="x" * 100_000)
    assert len(app.text_area(key="box-pa").value) == compare_prompts.MOST_CHARACTERS
    assert not app.exception
