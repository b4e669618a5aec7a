"""A sample stands for all of it: every relation is in it, and seconds are multiplied by prompts.

The sentences and facts below were made up for these tests; none is PARAREL's.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from atlas.datasets import Dataset, pararel
from atlas.datasets.pararel import FACTS, TEMPLATES
from atlas.errors import BuildError
from atlas.neuron import Fact, Prompt, Relation, Template
from build.bench import main, projection, shapes, vocabulary
from build.plan import BuildOptions, ModelShape, Plan

SUBJECTS = ("Freedonia", "Ruritania", "Oz", "Sylvania", "Narnia", "Lilliput", "Erewhon", "Utopia")
OBJECTS = {"P36": ("strelsau", "emerald", "laputa"), "P37": ("elvish", "quenya"), "P30": ("atlantis",)}
PATTERNS = {
    "P36": ("The chief town of [X] is [Y] .", "They say [Y] governs [X].", "Ask in [X] for [Y]"),
    "P37": ("People in [X] speak [Y].", "[Y] is what [X] speaks .", "Speak in [X] only [Y]", "[X]: [Y]"),
    "P30": ("[X] lies in [Y].", "[Y] holds [X]."),
}
N_FACTS = {"P36": 8, "P37": 5, "P30": 1}


def made_up() -> Dataset:
    return Dataset(
        dataset_id="made-up",
        revision="",
        licence="",
        relations=tuple(Relation(name, name) for name in PATTERNS),
        templates=tuple(
            Template(f"{name}.{k}", name, pattern)
            for name, patterns in PATTERNS.items()
            for k, pattern in enumerate(patterns)
        ),
        facts=tuple(
            Fact(f"{name}-{k}", name, SUBJECTS[k], OBJECTS[name][k % len(OBJECTS[name])])
            for name, n in N_FACTS.items()
            for k in range(n)
        ),
    )


@pytest.fixture(params=[False, True], ids=["masked", "causal"])
def asked(request) -> projection.Population:
    return projection.population(made_up(), causal=request.param)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in PARAREL's form, taken for the published files."""
    folder, dataset = tmp_path / "pararel", made_up()
    for relation_id, patterns in PATTERNS.items():
        facts = [
            {"sub_label": f.subject, "obj_label": f.object, "uuid": f.fact_id}
            for f in dataset.facts_of(relation_id)
        ]
        for name, lines in ((TEMPLATES, [{"pattern": p} for p in patterns]), (FACTS, facts)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / name / f"{relation_id}.jsonl").write_text(text)
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.jsonl"))
    }
    monkeypatch.setattr(pararel, "published_hashes", lambda: hashes)
    return folder


# --- the population and the sample ---


def test_the_population_is_what_a_build_would_ask(asked):
    causal = asked.n_relations < 3 or asked.n_prompts < 46
    dataset = made_up()
    by_hand = [
        (fact, template)
        for template in dataset.templates
        for fact in dataset.facts
        if template.relation_id == fact.relation_id and (template.ends_with_object or not causal)
    ]
    assert sorted((p.text, p.answer) for p in asked.prompts()) == sorted(
        (template.prompt(fact).text, fact.object) for fact, template in by_hand
    )
    plan = Plan(
        BuildOptions(model="bench", dataset="made-up"), ModelShape("causal" if causal else "masked"), dataset
    )
    assert asked.n_discovery == plan.n_discovery
    assert asked.n_prompts == plan.n_prompts == len(by_hand)


def test_a_causal_model_is_asked_only_what_ends_with_the_answer():
    asked = projection.population(made_up(), causal=True)
    assert all(prompt.ends_with_answer for prompt in asked.prompts())
    assert (asked.n_prompts, asked.n_relations) == (2 * 8 + 3 * 5 + 1, 3)
    assert projection.population(made_up(), causal=False).n_prompts == 3 * 8 + 4 * 5 + 2 * 1


@pytest.mark.parametrize("n", [3, 4, 10, 20, 31, 32, 1000])
def test_a_sample_takes_every_relation_and_templates_by_their_share(asked, n: int):
    given = projection.allocation(asked, n)
    assert sum(given) == min(n, asked.n_prompts)
    relations = Counter()
    for (template, facts), count in zip(asked.strata, given, strict=True):
        relations[template.relation_id] += count
        share = len(facts) * n / asked.n_prompts
        assert 0 <= count <= len(facts)
        if n >= 10:
            assert abs(count - min(share, len(facts))) < 2
    assert set(relations) == set(PATTERNS)
    assert min(relations.values()) >= 1


def test_a_sample_smaller_than_the_relations_is_refused(asked):
    with pytest.raises(BuildError, match="cannot hold a prompt of each of 3 relations"):
        projection.allocation(asked, 2)


def test_a_draw_is_dealt_into_groups_without_repeating_itself(asked):
    groups = projection.draw(asked, 20, groups=4)
    drawn = [prompt for group in groups for prompt in group]
    everything = {(p.fact_id, p.template_id): p for p in asked.prompts()}
    assert len({(p.fact_id, p.template_id) for p in drawn}) == len(drawn) == 20
    assert all(everything[p.fact_id, p.template_id] == p for p in drawn)
    assert [len(group) for group in groups] == [5, 5, 5, 5]
    # Strata lie beside each other before they are dealt, so the largest relation is in every group.
    assert all(any(p.template_id.startswith("P36.") for p in group) for group in groups)
    assert projection.draw(asked, 20, groups=4) == groups
    assert projection.draw(asked, 20, groups=4, seed=1) != groups
    assert sum(map(len, projection.draw(asked, 3, groups=20))) == 3


# --- the projection ---


def test_a_projection_is_seconds_a_prompt_times_prompts():
    estimate = projection.estimate([1.0, 2.0, 3.0], [10, 10, 20], 400)
    assert estimate.seconds == pytest.approx(6.0 / 40 * 400)
    assert estimate.n_prompts == 400
    assert estimate.low < estimate.seconds < estimate.high


def test_groups_that_agree_leave_no_doubt():
    estimate = projection.estimate([2.0, 4.0], [10, 20], 300)
    assert (estimate.low, estimate.seconds, estimate.high) == pytest.approx((60, 60, 60))


def test_the_interval_is_as_wide_as_resampling_makes_it():
    """Groups of 1 and 3 seconds: a quarter of the resamples have the first twice, a quarter the second."""
    estimate = projection.estimate([1.0, 3.0], [1, 1], 1)
    assert (estimate.low, estimate.seconds, estimate.high) == pytest.approx((1, 2, 3))
    many = projection.estimate([1.0, 3.0] * 50, [1] * 100, 1)
    standard_error = 1 / 100**0.5
    assert many.high - many.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


@pytest.mark.parametrize("shape", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
def test_a_shape_is_projected_with_a_tokenizer_of_its_own(shape: str):
    subject = shapes.shape_subject(shape)
    causal = subject.family.kind == "causal"
    asked = projection.population(made_up(), causal=causal)
    subject = projection.with_trained_tokenizer(subject, asked.prompts())
    groups = projection.draw(asked, 16, groups=3)
    result = projection.project(subject, asked, groups, tolerance=0.01, trained_tokenizer=True)
    assert (result.n_sampled, result.n_left_out, result.group_prompts) == (16, 0, (6, 5, 5))
    mean = sum(result.group_seconds) / 16
    assert result.everything.seconds == pytest.approx(mean * asked.n_prompts)
    assert result.discovery.seconds == pytest.approx(mean * asked.n_discovery)
    assert result.prompts_per_second == pytest.approx(1 / mean)
    lengths = [len(subject.encode(prompt).input_ids) for group in groups for prompt in group]
    assert result.mean_tokens == pytest.approx(sum(lengths) / 16)
    assert result.converged_share == 1
    assert result.max_gap <= 0.01
    assert result.points_per_layer >= 3
    assert result.token_cost is not None
    assert "a public one's are longer" in projection.report(result)


def test_prompts_that_a_model_cannot_be_asked_are_counted(tiny_bert):
    """Its vocabulary has letters for every word, but not for these."""
    from atlas.surgery.subject import load_subject

    subject = load_subject(str(tiny_bert), device="cpu")
    asked = projection.population(made_up(), causal=False)
    good = asked.prompts()[:3]
    foreign = [Prompt("x", "P36.0", "the capital of oz is [Y] .", "☃")]
    result = projection.project(subject, asked, [good[:1] + foreign, good[1:]], tolerance=0.01)
    assert (result.n_sampled, result.n_left_out, result.group_prompts) == (4, 1, (1, 2))
    assert "1 of 4 sampled prompts cannot be asked" in projection.report(result)
    with pytest.raises(BuildError, match="none of the sampled prompts"):
        projection.project(subject, asked, [foreign], tolerance=0.01)


# --- tokenizers ---


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_a_trained_tokenizer_keeps_answers_whole_and_its_size(model_type: str):
    asked = projection.population(made_up(), causal=model_type != "bert")
    tokenizer = vocabulary.trained(model_type, asked.prompts(), 400)
    assert len(tokenizer) <= 400
    for prompt in asked.prompts():
        answer = prompt.answer if model_type == "bert" else f" {prompt.answer}"
        assert len(tokenizer.encode(answer, add_special_tokens=False)) == 1
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("Oz"))[0]
    assert first == {"bert": "[CLS]", "gpt2": "O", "llama": vocabulary.BEGIN}.get(model_type) or first == "Oz"


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_training_gives_the_same_tokenizer_each_time(model_type: str):
    asked = projection.population(made_up(), causal=False)
    first, second = (vocabulary.trained(model_type, asked.prompts(), 300).get_vocab() for _ in range(2))
    assert first == second


# --- the command ---


@pytest.fixture(autouse=True)
def torchs_threads():
    """The command sets them for its process, which here is the other tests' too."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_command_projects(source: Path, tmp_path: Path, capsys):
    path = tmp_path / "bench.json"
    arguments = ["--shape", "bert-tiny", "--parts", "projection", "--source", str(source), "--threads", "1"]
    sample = ["--sample", "12", "--groups", "3", "--batch-rows", "2"]
    assert main([*arguments, *sample, "--device", "cpu", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert list(result) == ["options", "subject", "machine", "projection"]
    found = result["projection"]
    assert (found["n_sampled"], found["n_relations"], found["n_templates"]) == (12, 3, 9)
    assert found["everything"]["n_prompts"] == 46
    assert found["discovery"]["n_prompts"] == 2 * 8 + 2 * 5 + 1
    assert "discovery prompts, as a build" in capsys.readouterr().out


def test_a_model_reads_with_its_own_tokenizer(source: Path, tiny_gpt2: Path, capsys):
    arguments = ["--model", str(tiny_gpt2), "--parts", "projection", "--source", str(source)]
    assert main([*arguments, "--sample", "6", "--groups", "2", "--threads", "1", "--device", "cpu"]) == 0
    assert "trained on the prompts" not in capsys.readouterr().out


def test_a_sample_too_small_is_refused_before_anything_is_timed(source: Path, capsys):
    arguments = ["--shape", "bert-tiny", "--parts", "projection", "--source", str(source), "--no-memory"]
    assert main([*arguments, "--sample", "2"]) == 2
    assert "cannot hold a prompt of each of 3 relations" in capsys.readouterr().err
