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
from build.bench import main, models, projection, sample
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
def population(request) -> sample.Population:
    return sample.population_of(made_up(), causal=request.param)


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


@pytest.mark.parametrize(("causal", "n_prompts"), [(True, 2 * 8 + 3 * 5 + 1), (False, 3 * 8 + 4 * 5 + 2 * 1)])
def test_the_population_is_what_a_build_would_ask(causal: bool, n_prompts: int):
    dataset = made_up()
    population = sample.population_of(dataset, causal=causal)
    by_hand = [
        (template.prompt(fact).text, fact.object)
        for template in dataset.templates
        for fact in dataset.facts
        if template.relation_id == fact.relation_id and (template.ends_with_object or not causal)
    ]
    assert sorted((p.text, p.answer) for p in population.prompts()) == sorted(by_hand)
    options, shape = BuildOptions(model="bench", dataset="made-up"), "causal" if causal else "masked"
    plan = Plan(options, ModelShape(shape), dataset)
    assert population.n_discovery == plan.n_discovery
    assert population.n_prompts == plan.n_prompts == n_prompts
    assert population.n_relations == 3
    assert not causal or all(prompt.ends_with_answer for prompt in population.prompts())


@pytest.mark.parametrize("n", [3, 4, 10, 20, 31, 32, 1000])
def test_a_sample_takes_every_relation_and_templates_by_their_share(population, n: int):
    given = sample.allocate(population, n)
    assert sum(given) == min(n, population.n_prompts)
    relations = Counter()
    for (template, facts), count in zip(population.strata, given, strict=True):
        relations[template.relation_id] += count
        share = len(facts) * n / population.n_prompts
        assert 0 <= count <= len(facts)
        if n >= 10:
            assert abs(count - min(share, len(facts))) < 2
    assert set(relations) == set(PATTERNS)
    assert min(relations.values()) >= 1


def test_a_sample_smaller_than_the_relations_is_refused(population):
    with pytest.raises(BuildError, match="cannot hold a prompt of each of 3 relations"):
        sample.allocate(population, 2)


def test_a_draw_is_dealt_into_groups_without_repeating_itself(population):
    groups = sample.draw_groups(population, 20, groups=4)
    drawn = [prompt for group in groups for prompt in group]
    everything = {(p.fact_id, p.template_id): p for p in population.prompts()}
    assert len({(p.fact_id, p.template_id) for p in drawn}) == len(drawn) == 20
    assert all(everything[p.fact_id, p.template_id] == p for p in drawn)
    assert [len(group) for group in groups] == [5, 5, 5, 5]
    # Strata lie beside each other before they are dealt, so the largest relation is in every group.
    assert all(any(p.template_id.startswith("P36.") for p in group) for group in groups)
    assert sample.draw_groups(population, 20, groups=4) == groups
    assert sample.draw_groups(population, 20, groups=4, seed=1) != groups
    assert sum(map(len, sample.draw_groups(population, 3, groups=20))) == 3


# --- the projection ---


def test_a_projection_is_seconds_a_prompt_times_prompts():
    found = projection.project_time([1.0, 2.0, 3.0], [10, 10, 20], 400)
    assert found.seconds == pytest.approx(6.0 / 40 * 400)
    assert found.n_prompts == 400
    assert found.low < found.seconds < found.high


def test_groups_that_agree_leave_no_doubt():
    found = projection.project_time([2.0, 4.0], [10, 20], 300)
    assert (found.low, found.seconds, found.high) == pytest.approx((60, 60, 60))


def test_the_interval_is_as_wide_as_resampling_makes_it():
    """Groups of 1 and 3 seconds: a quarter of the resamples have the first twice, a quarter the second."""
    found = projection.project_time([1.0, 3.0], [1, 1], 1)
    assert (found.low, found.seconds, found.high) == pytest.approx((1, 2, 3))
    many = projection.project_time([1.0, 3.0] * 50, [1] * 100, 1)
    standard_error = 1 / 100**0.5
    assert many.high - many.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_a_shape_is_projected_with_a_tokenizer_of_its_own(subject):
    population = sample.population_of(made_up(), causal=subject.family.kind == "causal")
    groups = sample.draw_groups(population, 16, groups=3)
    result = projection.measure_projection(subject, population, groups, tolerance=0.01, train=True)
    assert (result["n_sampled"], result["n_left_out"], result["group_prompts"]) == (16, 0, [6, 5, 5])
    mean = sum(result["group_seconds"]) / 16
    assert result["everything"].seconds == pytest.approx(mean * population.n_prompts)
    assert result["discovery"].seconds == pytest.approx(mean * population.n_discovery)
    assert result["prompts_per_second"] == pytest.approx(1 / mean)
    assert 4 < result["mean_tokens"] < 14
    assert result["converged_share"] == 1
    assert result["max_gap"] <= 0.01
    assert result["points_per_layer"] >= 3
    assert result["token_cost"] is not None
    assert "a public one's are longer" in projection.describe_projection(result)


def test_prompts_that_a_model_cannot_be_asked_are_counted(tiny_bert):
    """Its vocabulary has letters for every word, but not for these."""
    subject = models.named_subject(str(tiny_bert))
    population = sample.population_of(made_up(), causal=False)
    good = population.prompts()[:3]
    foreign = [Prompt("x", "P36.0", "the capital of oz is [Y] .", "☃")]
    groups = [good[:1] + foreign, good[1:]]
    result = projection.measure_projection(subject, population, groups, tolerance=0.01)
    assert (result["n_sampled"], result["n_left_out"], result["group_prompts"]) == (4, 1, [1, 2])
    assert result["mean_tokens"] == pytest.approx(sum(len(subject.encode(p).input_ids) for p in good) / 3)
    assert "1 of 4 sampled prompts do not fit" in projection.describe_projection(result)
    with pytest.raises(BuildError, match="none of the sampled prompts"):
        projection.measure_projection(subject, population, [foreign], tolerance=0.01)


# --- tokenizers ---


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_a_trained_tokenizer_keeps_answers_whole_and_its_size_and_is_the_same_each_time(model_type: str):
    population = sample.population_of(made_up(), causal=model_type != "bert")
    tokenizer, again = (models.trained_tokenizer(model_type, population.prompts(), 400) for _ in range(2))
    assert tokenizer.get_vocab() == again.get_vocab()
    assert len(tokenizer) <= 400
    for prompt in population.prompts():
        answer = prompt.answer if model_type == "bert" else f" {prompt.answer}"
        assert len(tokenizer.encode(answer, add_special_tokens=False)) == 1
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("Oz"))[0]
    assert first in {"bert": ("[CLS]",), "gpt2": ("O", "Oz"), "llama": (models.BEGIN,)}[model_type]


# --- the command ---


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
