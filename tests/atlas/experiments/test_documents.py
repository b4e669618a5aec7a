"""Experiments survive JSON and links unchanged, and malformed documents are refused."""

import base64
import copy
import json
import random
import time
import tracemalloc
import zlib
from dataclasses import replace

import pytest

from atlas.errors import AtlasError, DocumentError
from atlas.experiments.documents import MAX_LINK_BYTES, from_json, from_link, read_document, to_json, to_link
from atlas.experiments.experiment import (
    Experiment,
    ExperimentResults,
    FiledPrediction,
    PromptResults,
    compare_results,
)
from atlas.interventions import Amplify, Edit, Erase, Patch, SetTo, Suppress
from atlas.neuron import ExperimentPrompt, Neuron, Prompt

NEURONS = (Neuron(0, 3), Neuron(1, 5), Neuron(11, 3071))
EXPERIMENT = Experiment(
    interventions=(
        Suppress(NEURONS),
        Amplify(NEURONS[:1], -1.5),
        Erase(NEURONS, "unk"),
        Edit(NEURONS, old="São Paulo", new="東京", remove=0.5, add=3),
        Suppress(NEURONS[1:]),
        SetTo(NEURONS, -2.5),
        Patch(NEURONS[:2], "東京 is the capital of [Y] 🦙"),
    ),
    prompts=(
        ExperimentPrompt("asked", Prompt("P36:france", "P36.0", "the capital of France is [Y]", "Paris")),
        ExperimentPrompt("paraphrases", Prompt("", "", 'Q: "What is it?"\n\tA: [Y].', "Saint-Étienne")),
        ExperimentPrompt("neighbours", Prompt("P36:peru", "P36.1", "[Y] is the capital of Peru 🦙", "Lima")),
        ExperimentPrompt("unrelated", Prompt("P37:x", "P37.2", "<b>[Y]</b> \\ & [X]", "german")),
    ),
    seed=2**63 - 1,
    draws=2,
    model="pocket-bert",
    weights_sha256="0123456789abcdef" * 4,
    config_sha256="fedcba9876543210" * 4,
    atlas_id="starter-pocket-bert",
    fact_id="P36:france",
)


def filed(probability: float, rank: int = 1) -> FiledPrediction:
    return FiledPrediction(probability, rank, ((" Paris", probability), ("'\\n'", 1e-9)))


def measured(shift: float = 0.0, *, new: bool = True) -> PromptResults:
    return PromptResults(
        before=filed(0.7),
        after=filed(0.1 + shift, 12),
        random=(0.69, 0.1234567890123),
        random_ranks=(1, 2),
        new_before=filed(1e-12, 30_000) if new else None,
        new_after=filed(0.5) if new else None,
        new_random=(1e-12, 0.25) if new else (),
        new_random_ranks=(30_000, 3) if new else (),
    )


RESULTS = ExperimentResults(
    prompts=(measured(), measured(), measured(new=False), measured(new=False)),
    random_neurons=((Neuron(0, 1), Neuron(1, 2)), (Neuron(0, 7),)),
    undo_is_exact=True,
    device="cuda:0",
    dtype="float32",
)
PLAIN = json.loads(to_json(EXPERIMENT, RESULTS))


def link_of(content: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(content, 9)).decode().rstrip("=")


def refused(text: str, reader=read_document) -> str:
    """The message of the error that refuses a text."""
    with pytest.raises(DocumentError) as caught:
        reader(text)
    sentence = str(caught.value)
    assert sentence
    assert len(sentence.splitlines()) == 1
    assert sentence.endswith(".")
    assert len(sentence) < 700
    return sentence


# --- there and back ---


def test_an_experiment_survives_json_and_a_link():
    assert from_json(to_json(EXPERIMENT)) == EXPERIMENT
    assert from_link(to_link(EXPERIMENT)) == EXPERIMENT


def test_results_survive_json():
    found = read_document(to_json(EXPERIMENT, RESULTS))
    assert found.experiment == EXPERIMENT
    assert found.results == RESULTS
    assert read_document(to_json(EXPERIMENT)).results is None


def test_the_order_of_interventions_is_kept():
    turned = replace(EXPERIMENT, interventions=EXPERIMENT.interventions[::-1])
    assert from_link(to_link(turned)) == turned != EXPERIMENT


def test_a_link_is_url_safe_and_short():
    link = to_link(EXPERIMENT)
    assert set(link) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    many = tuple(Neuron(layer, 7 * n) for layer in range(3) for n in range(50))
    asked = tuple(
        ExperimentPrompt(
            "unrelated", Prompt(f"P36:{n}", "P36.1", f"The capital of country {n} is called [Y].", "Rome")
        )
        for n in range(26)
    )
    assert len(to_link(replace(EXPERIMENT, interventions=(Suppress(many),), prompts=asked))) < 2000


def test_the_json_equals_the_readmes():
    assert PLAIN["format"] == "knowledge-neuron-experiment"
    assert PLAIN["version"] == 3
    assert PLAIN["model"] == {
        "name": "pocket-bert",
        "weights_sha256": "0123456789abcdef" * 4,
        "config_sha256": "fedcba9876543210" * 4,
    }
    assert PLAIN["interventions"][1] == {"kind": "amplify", "neurons": ["L0.N3"], "factor": -1.5}
    assert PLAIN["interventions"][5:] == [
        {"kind": "set", "neurons": ["L0.N3", "L1.N5", "L11.N3071"], "value": -2.5},
        {"kind": "patch", "neurons": ["L0.N3", "L1.N5"], "from_prompt": "東京 is the capital of [Y] 🦙"},
    ]
    assert PLAIN["prompts"][1] == {
        "group": "paraphrases",
        "text": 'Q: "What is it?"\n\tA: [Y].',
        "answer": "Saint-Étienne",
    }
    assert PLAIN["results"]["prompts"][0]["after"]["rank"] == 12
    assert PLAIN["results"]["prompts"][0]["new_random"] == [1e-12, 0.25]
    assert "new_random" not in PLAIN["results"]["prompts"][2]


def of_version_1() -> ExperimentResults:
    """The results as version 1 kept them: without random neurons for an edit's new answer."""
    return replace(
        RESULTS, prompts=tuple(replace(each, new_random=(), new_random_ranks=()) for each in RESULTS.prompts)
    )


def test_a_document_of_version_1_is_read_and_can_be_written_again():
    plain = copy.deepcopy(PLAIN) | {"version": 1}
    for each in plain["results"]["prompts"]:
        each.pop("new_random", None)
        each.pop("new_random_ranks", None)
    found = read_document(json.dumps(plain))
    assert found.experiment == EXPERIMENT
    assert found.results == of_version_1()
    assert read_document(to_json(EXPERIMENT, found.results)) == found
    plain.pop("results")
    assert from_link(link_of(json.dumps(plain).encode())) == EXPERIMENT


def test_an_experiment_without_the_kinds_of_version_3_is_written_for_older_programs():
    for new in (SetTo(NEURONS, 1), Patch(NEURONS, "in [Y]")):
        assert json.loads(to_json(replace(EXPERIMENT, interventions=(new,))))["version"] == 3
    without = replace(EXPERIMENT, interventions=EXPERIMENT.interventions[:5])
    assert json.loads(to_json(without))["version"] == 2


def test_an_edit_that_names_no_strengths_has_the_paper_s():
    plain = copy.deepcopy(PLAIN) | {"version": 2}
    del plain["interventions"][3]["remove"], plain["interventions"][3]["add"]
    assert from_json(json.dumps(plain)).interventions[3] == Edit(NEURONS, "São Paulo", "東京", 1.0, 8.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("x" * 2001 + "[Y]", "has more than 2000 characters"), ("\x1b[2J [Y]", "contains control characters")],
)
def test_an_experiment_refuses_a_patch_whose_prompt_no_document_takes(text, sentence):
    with pytest.raises(AtlasError, match=sentence):
        replace(EXPERIMENT, interventions=(Patch(NEURONS, text),))


def test_an_experiment_without_a_model_cannot_be_written():
    for keep in (to_json, to_link):
        with pytest.raises(AtlasError, match="has no model"):
            keep(replace(EXPERIMENT, model=""))


# --- untrusted input ---


def changed(path: str, value: object) -> str:
    """The document with one field changed: its path is like `a.0.b`."""
    plain = copy.deepcopy(PLAIN)
    *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
    place = plain
    for step in way:
        place = place[step]
    place[last] = value
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("format", "something", "The JSON is not an experiment"),
        ("version", 4, "has version 4; this program reads versions 1 to 3"),
        ("version", 0, "has version 0; this program reads"),
        ("version", "1", 'version must be a whole number, got "1"'),
        ("version", True, "version must be a whole number, got true"),
        ("colour", "red", "colour is not a known field"),
        ("model", "pocket-bert", "model must be an object"),
        ("model.name", " ", "model must have a name"),
        ("model.name", "m" * 301, "model.name must have at most 300 characters, got 301"),
        ("model.weights_sha256", "abc", "a weights_sha256 of 64 hexadecimal digits"),
        ("model.config_sha256", "abc", "a config_sha256 of 64 hexadecimal digits"),
        ("model.path", "/etc", "model.path is not a known field"),
        ("interventions", [], "changes no neurons"),
        ("interventions", {"kind": "suppress"}, "interventions must be a list"),
        (
            "interventions",
            [{"kind": "suppress", "neurons": ["L0.N1"]}] * 101,
            "must have at most 100 items, got 101",
        ),
        ("interventions.0", "suppress", "interventions[0] must be an object"),
        (
            "interventions.0.kind",
            "destroy",
            "interventions[0].kind must be 'suppress', 'amplify',",
        ),
        ("interventions.0.kind", 7, "interventions[0].kind must be 'suppress'"),
        ("interventions.0.factor", 7, "interventions[0] must not have the field factor"),
        ("interventions.0.neurons", "L0.N3", "interventions[0].neurons must be a list"),
        ("interventions.0.neurons", ["L0.N3"] * 50_001, "neurons must have at most 50,000 items, got 50,001"),
        ("interventions.0.neurons", ["L0"], 'neurons[0] must name a neuron, like L9.N2141, got "L0"'),
        ("interventions.0.neurons", ["L0\n.N3"], "neurons[0] must name a neuron"),
        ("interventions.0.neurons", ["L0.N" + "9" * 99], "neurons[0] must name a neuron"),
        ("interventions.0.neurons", [[]], "neurons[0] must name a neuron"),
        (
            "interventions.1.factor",
            1e9,
            "interventions[1].factor must be at most 100, got 1000000000.0",
        ),
        ("interventions.1.factor", True, "interventions[1].factor must be a number, got true"),
        ("interventions.1.factor", "2", "interventions[1].factor must be a number"),
        ("interventions.2.value", "gone", "interventions[2].value must be 'zero' or 'unk', got"),
        ("interventions.2.value", 3, "interventions[2].value must be 'zero' or 'unk', got 3"),
        ("interventions.5.value", "zero", "value must be a number between -10000 and 10000, got"),
        ("interventions.5.value", True, "value must be a number between -10000 and 10000, got true"),
        ("interventions.5.value", 10_001, "value must be a number between -10000 and 10000, got 10001"),
        ("interventions.5.value", 2**70, "value must be a number between -10000 and 10000, got"),
        ("interventions.5.value", {}, "value must be a number between -10000 and 10000"),
        ("interventions.5.value", None, "interventions[5] must have the field value, as its kind is set"),
        ("interventions.6.from_prompt", None, "interventions[6] must have the field from_prompt"),
        ("interventions.6.from_prompt", 7, "interventions[6].from_prompt must be text, got 7"),
        ("interventions.6.from_prompt", "no gap", "The prompt 'no gap' has 0 places for the answer"),
        ("interventions.6.from_prompt", "[Y] [Y]", "has 2 places for the answer"),
        ("interventions.6.from_prompt", "[Y]" + "a" * 2000, "at most 2,000 characters, got 2,003"),
        ("interventions.6.from_prompt", "\x1b[2J [Y]", "from_prompt must not contain control characters"),
        ("interventions.6.value", 1, "interventions[6].value must be 'zero' or 'unk', got 1"),
        ("interventions.3.old", None, "interventions[3] must have the field old"),
        ("interventions.3.new", "x" * 201, "interventions[3].new must have at most 200 characters, got 201"),
        ("interventions.3.add", -1, "interventions[3].add must be at least 0, got -1"),
        ("prompts", [], "has no prompts"),
        ("prompts", PLAIN["prompts"] * 76, "prompts must have at most 300 items, got 304"),
        ("prompts.0.group", "friends", "group must be one of asked"),
        ("prompts.0.text", "no place\nfor it", "has 0 places for the answer"),
        (
            "prompts.0.text",
            "[Y]" + "a" * 2000,
            "text must have at most 2,000 characters, got 2,003",
        ),
        ("prompts.0.text", "\x1b[2J [Y]", "prompts[0].text must not contain control characters"),
        ("prompts.0.text", "\ud800 [Y]", "control characters"),
        ("prompts.0.answer", " ", "empty answer"),
        ("prompts.0.fact_id", 36, "prompts[0].fact_id must be text, got 36"),
        ("prompts.0.held_out", True, "prompts[0].held_out is not a known field"),
        ("seed", -1, "seed must be at least 0, got -1"),
        ("seed", 2**63, "seed must be at most 9223372036854775807"),
        ("seed", 1.5, "seed must be a whole number, got 1.5"),
        ("draws", 0, "draws must be at least 1, got 0"),
        ("draws", 3, "results.prompts[0] does not have the experiment's 3 draws"),
        ("results", [], "results must be an object"),
        ("results.undo_is_exact", 1, "results.undo_is_exact must be true or false, got 1"),
        (
            "results.prompts",
            PLAIN["results"]["prompts"][:3],
            "results have 3 prompts, but the experiment has 4",
        ),
        (
            "results.prompts.0.before.probability",
            1.5,
            "before.probability must be at most 1.001, got 1.5",
        ),
        (
            "results.prompts.0.before.rank",
            0,
            "results.prompts[0].before.rank must be at least 1, got 0",
        ),
        ("results.prompts.0.before.top", [["a"]], "before.top[0][1] is missing"),
        ("results.prompts.0.before.top", [["a", "b"]], "before.top[0][1] must be a number"),
        ("results.prompts.0.random", [0.5], "must have as many entries in random as in random_ranks"),
        (
            "results.prompts.0.new_random",
            [0.5],
            "must have as many entries in new_random as in",
        ),
        ("results.prompts.0.new_random", [0.5] * 101, "new_random must have at most 100 items, got 101"),
        (
            "results.prompts.0.new_random",
            [0.5, -1],
            "new_random[1] must be at least 0, got -1",
        ),
        ("results.prompts.0.new_random", None, "must have as many entries in new_random as in"),
        (
            "results.prompts.0.new_random_ranks",
            [1, 0],
            "new_random_ranks[1] must be at least 1, got 0",
        ),
        ("results.prompts.0.new_random_ranks", [1], "must have as many entries in new_random as in"),
        ("results.prompts.0.new_after", None, "must have both new_before and new_after, or neither"),
        ("results.prompts.2.new_random", [0.5, 0.5], "must not have new_random without new_before"),
        ("results.random_neurons", [["L1"]], "results.random_neurons[0][0] must name a neuron"),
    ],
)
def test_a_wrong_field_is_named(path, value, sentence):
    assert sentence in refused(changed(path, value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "null",
        "[]",
        "17",
        '"knowledge-neuron-experiment"',
        "{",
        "[" * 100_000,
        '{"a":' * 50_000,
        "9" * 10_000,
        '{"format": NaN}',
        '{"format": -Infinity}',
        '{"seed": 1, "seed": 2}',
        to_json(EXPERIMENT).replace("-2.5", "1e999"),
        to_json(EXPERIMENT).replace("-2.5", "NaN"),
        to_json(EXPERIMENT)[:-2],
        to_json(EXPERIMENT) + "x",
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_not_an_experiment_is_refused(text):
    refused(text)
    refused(text, from_json)
    refused(link_of(text.encode()), from_link)


def test_a_text_beyond_its_bound_is_refused_before_it_is_parsed():
    text = to_json(EXPERIMENT)
    assert from_json(text, most=len(text.encode())) == EXPERIMENT
    with pytest.raises(DocumentError, match="longer than"):
        from_json(text, most=len(text.encode()) - 1)


@pytest.mark.parametrize(
    "link",
    [
        "",
        "=",
        "a",
        "????",
        "../../etc/passwd",
        to_link(EXPERIMENT)[:-5],
        to_link(EXPERIMENT)[5:],
        to_link(EXPERIMENT) + "AAAA",
        to_link(EXPERIMENT) + "\n",
        to_link(EXPERIMENT) + "=",
        " " + to_link(EXPERIMENT),
        base64.b64encode(b"plain").decode().rstrip("="),
        base64.urlsafe_b64encode(zlib.compress(to_json(EXPERIMENT).encode()) + b"more").decode().rstrip("="),
        link_of(b"\xff\xfe"),
        link_of("é".encode("latin-1")),
    ],
)
def test_a_broken_link_is_refused(link):
    assert "The link is not an experiment" in refused(link, from_link)


def test_a_link_that_inflates_beyond_its_bound_is_stopped_there():
    bomb = link_of(b" " * 30_000_000)  # forty thousand characters that would be 30 MB
    assert len(bomb) < 1000 + MAX_LINK_BYTES * 3 // 2
    tracemalloc.start()
    try:
        start = time.monotonic()
        assert f"larger than {MAX_LINK_BYTES:,} bytes" in refused(bomb, from_link)
        assert time.monotonic() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_link_longer_than_its_bound_is_not_decoded():
    assert "characters, more than" in refused("A" * 1_000_000, from_link)


def test_a_host_can_lower_the_bound_of_links():
    size = len(zlib.decompress(base64.urlsafe_b64decode(to_link(EXPERIMENT) + "==")))
    assert from_link(to_link(EXPERIMENT), most=size) == EXPERIMENT
    with pytest.raises(DocumentError, match="larger than"):
        from_link(to_link(EXPERIMENT), most=size - 1)


# --- fuzz ---

STRANGE = (
    *(None, True, False, 0, -1, 7, 2**70, 0.5, -1e308, 1e-320),
    *("", "x", "L0.N0", "[Y]", "a\nb", "\x00", "\ud800", "é" * 400, "suppress", "asked"),
    *([], {}, [[]], [None], {"": None}, {"kind": "suppress"}, ["L0.N0"] * 3),
)


def places(value: object, way: tuple = ()):
    """Every container inside a JSON value."""
    if isinstance(value, dict | list):
        yield value
        for each in value.values() if isinstance(value, dict) else value:
            yield from places(each)


def mutate(plain: dict, dice: random.Random) -> None:
    place = dice.choice(list(places(plain)))
    if isinstance(place, dict):
        key = dice.choice([*place, "unknown"])
        match dice.randrange(4):
            case 0:
                place.pop(key, None)
            case 1:
                place[key + "s"] = place.pop(key, 1)
            case _:
                place[key] = copy.deepcopy(dice.choice(STRANGE))
    elif place:
        index = dice.randrange(len(place))
        match dice.randrange(4):
            case 0:
                del place[index]
            case 1:
                place.insert(index, copy.deepcopy(place[index]))
            case _:
                place[index] = copy.deepcopy(dice.choice(STRANGE))
    else:
        place.append(copy.deepcopy(dice.choice(STRANGE)))


def read_or_refused(text: str, reader) -> bool:
    """Whether the text was read; any error but a `DocumentError` fails the test."""
    try:
        found = reader(text)
    except DocumentError as error:
        sentence = str(error)
    else:
        sentence = ""
    assert len(sentence.splitlines()) <= 1
    assert len(sentence) < 700
    if sentence:
        return False
    experiment = found if isinstance(found, Experiment) else found.experiment
    # A document that was read can be written and read again unchanged.
    assert from_json(to_json(experiment)) == experiment == from_link(to_link(experiment))
    return True


@pytest.mark.parametrize("seed", range(3))
def test_mutated_documents_are_read_or_refused(seed):
    dice = random.Random(seed)
    read = 0
    for _ in range(400):
        plain = copy.deepcopy(PLAIN)
        for _ in range(dice.choice([1, 1, 1, 2, 5])):
            mutate(plain, dice)
        read += read_or_refused(json.dumps(plain), read_document)
    assert 10 < read < 300


@pytest.mark.parametrize("seed", range(3))
def test_documents_with_mutated_characters_are_read_or_refused(seed):
    dice = random.Random(seed)
    text = to_json(EXPERIMENT, RESULTS)
    link = to_link(EXPERIMENT)
    alphabet = '{}[]",:-+.eE0123456789truefalsenull \\u\x00é\ud800'
    for _ in range(250):
        characters = list(text)
        for _ in range(dice.choice([1, 2, 10])):
            start = dice.randrange(len(characters))
            characters[start : start + dice.choice([0, 1, 1, 50])] = dice.choices(
                alphabet, k=dice.randrange(3)
            )
        read_or_refused("".join(characters), read_document)
        place = dice.randrange(len(link))
        letter = dice.choice("ABCxyz019-_ =é\x00")
        read_or_refused(link[:place] + letter + link[place + dice.randrange(2) :], from_link)
        packed = link_of("".join(characters).encode("utf-8", "replace"))
        read_or_refused(packed, from_link)


def test_random_bytes_are_refused():
    dice = random.Random(0)
    for _ in range(1000):
        content = dice.randbytes(dice.randrange(60))
        assert not read_or_refused(content.decode("latin-1"), read_document)
        assert not read_or_refused(content.decode("latin-1"), from_link)
        assert not read_or_refused(link_of(content), from_link)


# --- agreement ---


def test_results_agree_with_themselves_and_up_to_rounding():
    assert compare_results(RESULTS, RESULTS).holds
    near = replace(RESULTS, prompts=(measured(5e-7), *RESULTS.prompts[1:]))
    found = compare_results(RESULTS, near)
    assert found.holds
    assert found.largest == pytest.approx(5e-7)
    assert found.n_values == 2 * 8 + 2 * 4
    # Results of version 1 agree in what they have.
    for one, two in ((RESULTS, of_version_1()), (of_version_1(), RESULTS)):
        assert compare_results(one, two).holds
        assert compare_results(one, two).n_values == 2 * 6 + 2 * 4


def test_results_that_differ_are_counted_and_the_largest_difference_is_named():
    far = replace(RESULTS, prompts=(measured(0.01), measured(0.3), *RESULTS.prompts[2:]))
    found = compare_results(RESULTS, far)
    assert not found.holds
    assert (found.n_apart, found.prompt, found.what) == (2, 1, "after")
    assert found.largest == pytest.approx(0.3)
    other = replace(RESULTS.prompts[0], new_random=(1e-12, 0.5))
    found = compare_results(RESULTS, replace(RESULTS, prompts=(other, *RESULTS.prompts[1:])))
    assert (found.n_apart, found.prompt, found.what) == (1, 0, "new answer, random draw 2")


def test_results_of_different_experiments_cannot_be_compared():
    with pytest.raises(DocumentError, match="have 4 and 3 prompts"):
        compare_results(RESULTS, replace(RESULTS, prompts=RESULTS.prompts[:3]))
    with pytest.raises(DocumentError, match="prompt 3 have different fields"):
        compare_results(RESULTS, replace(RESULTS, prompts=(*RESULTS.prompts[:2], *RESULTS.prompts[:2])))
