"""Experiments equal the library's results; their controls; bad input is refused."""

import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.errors import AtlasError, PromptError
from atlas.experiments import controls
from atlas.experiments.experiment import Experiment
from atlas.interventions import (
    INTERVENTION_KINDS,
    Amplify,
    Edit,
    Erase,
    Patch,
    SetTo,
    Suppress,
    make_intervention,
)
from atlas.line import asking
from atlas.neuron import PROMPT_GROUPS, ExperimentPrompt, Neuron, Prompt
from atlas.store.atlas import bundled, open_atlas
from tests.app.pages import replace_tables
from tests.sample_atlas import write_sample_atlas

torch = pytest.importorskip("torch")

from atlas.experiments import run as experiments  # noqa: E402
from atlas.surgery import load_subject  # noqa: E402
from tests import ROOT  # noqa: E402

NEURONS = (Neuron(0, 3), Neuron(1, 5), Neuron(1, 70), Neuron(2, 41))
TEXTS = {
    "asked": "the capital of france is [Y]",
    "paraphrases": "in france , the capital is [Y]",
    "unrelated": "the official language of austria is [Y]",
}
ASKED = tuple(
    ExperimentPrompt(group, Prompt("f", group, text, "german" if group == "unrelated" else "paris"))
    for group, text in TEXTS.items()
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory):
    with open_atlas(write_sample_atlas(tmp_path_factory.mktemp("atlas") / "sample")) as atlas:
        yield atlas


@pytest.fixture(scope="module", params=["tiny_bert", "tiny_gpt2"])
def subject(request: pytest.FixtureRequest, tiny):
    return load_subject(str(tiny(request.param)), device="cpu")


@pytest.fixture(scope="module")
def bert(tiny_bert: Path):
    return load_subject(str(tiny_bert), device="cpu")


def suppress(neurons=NEURONS):
    return (make_intervention("suppress", neurons),)


# --- which prompts ---


def test_a_facts_prompts_are_split_into_discovery_and_held_out(sample):
    fact_id = sample.query_one("SELECT fact_id FROM facts ORDER BY fact_id")["fact_id"]
    asked = controls.experiment_prompts(sample, fact_id)
    rows = sample.query("SELECT * FROM prompts WHERE fact_id = $f", {"f": fact_id})
    assert {item.prompt.text for item in asked} == set(rows["text"])
    for item in asked:
        held_out = rows.set_index("template_id").loc[item.prompt.template_id, "held_out"]
        assert item.group == ("paraphrases" if held_out else "asked")


def test_control_facts_differ_as_their_group_says_and_are_drawn_by_the_seed(sample):
    own = sample.query_one("SELECT * FROM facts WHERE known ORDER BY fact_id")
    asked = controls.control_prompts(sample, fact_id=own["fact_id"], neighbours=4, unrelated=7, seed=3)
    assert [item.group for item in asked] == ["neighbours"] * 4 + ["unrelated"] * 7
    assert len({item.prompt.fact_id for item in asked}) == 11
    for item in asked:
        fact = sample.query_one("SELECT * FROM facts WHERE fact_id = $f", {"f": item.prompt.fact_id})
        assert (fact["relation_id"] == own["relation_id"]) == (item.group == "neighbours")
        assert fact["object"] == item.prompt.answer != own["object"]
        prompt = sample.query_one(
            "SELECT * FROM prompts WHERE fact_id = $f AND template_id = $t",
            {"f": fact["fact_id"], "t": item.prompt.template_id},
        )
        assert prompt["held_out"]
        assert prompt["rank"] == 1
        assert prompt["text"] == item.prompt.text
    again = controls.control_prompts(sample, fact_id=own["fact_id"], neighbours=4, unrelated=7, seed=3)
    other = controls.control_prompts(sample, fact_id=own["fact_id"], neighbours=4, unrelated=7, seed=4)
    assert asked == again != other


@pytest.mark.parametrize(("name", "causal"), [("starter-smollm2-135m", True), ("starter-pocket-bert", False)])
def test_a_model_answers_the_control_prompts_right_before_the_change(name, causal):
    with open_atlas(bundled()[name]) as atlas:
        right = atlas.query(
            "SELECT fact_id, template_id, facts.* FROM prompts JOIN facts USING (fact_id) WHERE rank = 1"
        )
        known = atlas.query("SELECT fact_id, relation_id, object FROM facts WHERE known ORDER BY fact_id")
        pairs = set(zip(right["fact_id"], right["template_id"], strict=True))
        for fact in known.head(80).itertuples():
            chosen = controls.control_prompts(atlas, fact_id=fact.fact_id, causal=causal)
            assert {(item.prompt.fact_id, item.prompt.template_id) for item in chosen} <= pairs
            near = right[(right["relation_id"] == fact.relation_id) & (right["object"] != fact.object)]
            groups = [item.group for item in chosen]
            assert groups.count("neighbours") == min(6, near["fact_id"].nunique())
            assert groups.count("unrelated") == 12
        typed = controls.control_prompts(atlas, answers=["Paris"], unrelated=60, seed=5)
        assert {(item.prompt.fact_id, item.prompt.template_id) for item in typed} <= pairs


def test_control_prompts_have_as_many_wordings_as_there_are_held_out(sample):
    """In the sample every known fact has three, all answered right."""
    for seed in range(5):
        options = {"fact_id": "P36-00001", "neighbours": 6, "unrelated": 24, "seed": seed}
        chosen = controls.control_prompts(sample, **options)
        wordings = Counter(item.prompt.template_id for item in chosen)
        of_relation = Counter(template_id.split(".")[0] for template_id in wordings)
        assert {relation: n for relation, n in of_relation.items() if n < 3} == {}
        assert [n for template, n in wordings.items() if template.startswith("P36")] == [2, 2, 2]


@pytest.mark.parametrize("end", [".", "?", "。", "؟"])
def test_control_prompts_of_a_causal_model_may_end_as_its_templates_may(end, tmp_path):
    folder = write_sample_atlas(tmp_path / "ending")
    rows = pq.read_table(folder / "prompts.parquet").to_pandas()
    rows["text"] = rows["text"].str.rstrip(".") + end
    replace_tables(folder, prompts=pa.Table.from_pandas(rows, preserve_index=False))
    with open_atlas(folder) as atlas:
        chosen = controls.control_prompts(atlas, fact_id="P36-00001", causal=True)
    assert len(chosen) == 18
    assert all(item.prompt.ends_with_answer for item in chosen)


def test_where_an_atlas_has_no_ranks_any_prompt_is_a_control(tmp_path):
    folder = write_sample_atlas(tmp_path / "no-ranks")
    rows = pq.read_table(folder / "prompts.parquet")
    replace_tables(folder, prompts=rows.drop_columns(["rank"]))
    with open_atlas(folder) as atlas:
        assert len(controls.control_prompts(atlas, fact_id="P36-00001")) == 18


def test_controls_of_typed_prompts_never_have_their_answer(sample):
    asked = controls.control_prompts(sample, answers=[" oslo "], unrelated=50)
    assert {item.group for item in asked} == {"unrelated"}
    assert len(asked) > 20
    assert "Oslo" not in {item.prompt.answer for item in asked}


@pytest.mark.parametrize("causal", [False, True])
def test_chosen_prompts_are_a_facts_own_and_its_controls(sample, causal):
    fact_id = sample.query_one("SELECT fact_id FROM facts WHERE known ORDER BY fact_id")["fact_id"]
    asked = controls.choose_prompts(sample, fact_id, causal=causal, neighbours=2, unrelated=3, seed=1)
    assert [group for group in PROMPT_GROUPS if group in {item.group for item in asked}] == list(
        PROMPT_GROUPS
    )
    assert [item.group for item in asked][-5:] == ["neighbours"] * 2 + ["unrelated"] * 3
    own = {item.prompt for item in asked if item.group in ("asked", "paraphrases")}
    every = {item.prompt for item in controls.experiment_prompts(sample, fact_id)}
    assert own == ({prompt for prompt in every if prompt.ends_with_answer} if causal else every)


def test_an_unknown_group_is_refused():
    with pytest.raises(PromptError, match="group must be one of asked"):
        ExperimentPrompt("friends", ASKED[0].prompt)


def test_an_unknown_fact_has_no_controls(sample):
    assert controls.control_prompts(sample, fact_id="P0-nothing") == ()


def test_prompts_a_model_cannot_read_are_left_out_with_the_reason(bert):
    bad = ExperimentPrompt("unrelated", Prompt("f", "t", "the capital is [Y] .", "☃"))
    kept, reasons = experiments.usable(bert, [*ASKED, bad])
    assert kept == ASKED
    assert len(reasons) == 1
    assert "outside the vocabulary" in reasons[0]


def test_typed_prompts_are_read_line_by_line(bert):
    second = "in france , the capital is [Y] ."
    text = f"the capital of france is [MASK] .\n\n  {second}  \n{second}"
    prompts = experiments.parse_prompts(bert, text, " paris ")
    assert [prompt.text for prompt in prompts] == [
        "the capital of france is [Y] .",
        "in france , the capital is [Y] .",
    ]
    assert {prompt.answer for prompt in prompts} == {"paris"}


@pytest.mark.parametrize(
    ("text", "answer", "message"),
    [
        ("", "paris", "There are no prompts"),
        ("paris is big .", "paris", "Write exactly one"),
        ("[Y] and [Y] .", "paris", "Write exactly one"),
        ("the capital is [Y] .", " ", "The answer is empty"),
        ("the capital is [Y] .", "☃", "outside the vocabulary"),
        ("the capital " * 300 + "is [Y] .", "paris", "at most 2000"),
        ("\n".join(f"{i} is [Y] ." for i in range(400)), "paris", "at most 300"),
        ("very " * 70 + "is [Y] .", "paris", "reads at most 64"),
    ],
)
def test_invalid_typed_prompts_are_refused(bert, text, answer, message):
    with pytest.raises(PromptError, match=message):
        experiments.parse_prompts(bert, text, answer)


# --- which neurons ---


def test_finding_neurons_without_prompts_is_refused(bert):
    with pytest.raises(PromptError, match="no prompts to find neurons on"):
        experiments.find_neurons(bert, [])


def test_neurons_found_live_are_those_of_the_library(subject):
    from atlas.refinement import MODES, refine_scores
    from atlas.surgery import attribute

    prompts = [item.prompt for item in ASKED[:2]]
    steps = []
    found = experiments.find_neurons(subject, prompts, progress=lambda share, message: steps.append(share))
    scores = [each.scores for each in attribute(subject, prompts, batch_rows=1)]
    assert list(found.neurons) == refine_scores(scores, MODES["default"])
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert found.n_paths == 2 * subject.n_layers


def test_neurons_are_told_after_the_first_prompt_and_each_batch_as_those_of_the_prompts_so_far(subject):
    prompts = [item.prompt for item in ASKED[:2]]
    negatives = [ASKED[2].prompt]
    parts = []
    found = experiments.find_neurons(subject, prompts, negatives=negatives, on_part=parts.append)
    assert [(part.prompts, part.negatives) for part in parts] == [((prompts[0],), ()), (tuple(prompts), ())]
    for part in parts:
        alone = experiments.find_neurons(subject, part.prompts)
        assert part.neurons == alone.neurons
        for told, each in zip(part.attributions, alone.attributions, strict=True):
            assert (told.scores == each.scores).all()
    assert found.negatives == tuple(negatives)
    assert found.attributions[: len(parts[1].attributions)] == parts[1].attributions
    # The first prompt is read alone, the others several at once, with the same scores.
    several, told = [item.prompt for item in ASKED], []
    found = experiments.find_neurons(subject, several, on_part=told.append)
    n = experiments.PROMPTS_AT_ONCE
    assert [len(part.prompts) for part in told] == list(range(1, len(several), n))
    for each in found.attributions:
        (alone,) = experiments.find_neurons(subject, [each.prompt]).attributions
        np.testing.assert_allclose(each.scores, alone.scores, atol=0.01 * abs(alone.scores).max())
    # A single prompt's neurons are told once, as the answer.
    assert experiments.find_neurons(subject, prompts[:1], on_part=parts.append).neurons
    assert len(parts) == 2


def test_a_single_prompt_keeps_its_coarse_neurons(bert):
    from atlas.refinement import coarse

    found = experiments.find_neurons(bert, [ASKED[0].prompt])
    assert len(found.neurons) == coarse(found.attributions[0].scores, 0.2).sum() > 0


@pytest.mark.parametrize("kind", INTERVENTION_KINDS)
def test_every_kind_of_the_lab_makes_its_intervention(kind):
    value = 1.5 if kind == "set" else "unk"
    made = make_intervention(
        kind, NEURONS, factor=3.0, value=value, from_prompt="in [Y]", old="paris", new="rome", add=4
    )
    assert type(made) is INTERVENTION_KINDS[kind]
    assert made.neurons == NEURONS


def test_a_new_edit_starts_with_the_strengths_that_spare_most_and_the_paper_s_stay_edit_s_own():
    assert make_intervention("edit", NEURONS, old="paris", new="rome") == Edit(NEURONS, "paris", "rome", 1, 2)
    assert Edit(NEURONS, "paris", "rome") == Edit(NEURONS, "paris", "rome", 1, 8)


@pytest.mark.parametrize("kind", ["destroy", "", "Suppress"])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(AtlasError, match="kind must be one of suppress"):
        make_intervention(kind, NEURONS)


def test_an_edit_without_a_new_answer_is_refused():
    with pytest.raises(PromptError, match="Give both"):
        make_intervention("edit", NEURONS, old="paris", new=" ")


def test_random_neurons_are_others_of_the_same_layers():
    change = (*suppress(), make_intervention("amplify", NEURONS[:2]))
    control = experiments.with_random_neurons(change, 72, np.random.default_rng(0))
    assert [n.layer for n in control[0].neurons] == [n.layer for n in NEURONS]
    assert not set(control[0].neurons) & set(NEURONS)
    # A neuron in both interventions has the same random match in both.
    assert set(control[1].neurons) < set(control[0].neurons)
    assert control == experiments.with_random_neurons(change, 72, np.random.default_rng(0))
    assert control != experiments.with_random_neurons(change, 72, np.random.default_rng(1))


def test_random_neurons_are_fewer_in_a_layer_with_too_few():
    whole_layer = suppress(tuple(Neuron(0, i) for i in range(6)))
    control = experiments.with_random_neurons(whole_layer, 8, np.random.default_rng(0))
    assert control[0].neurons == (Neuron(0, 6), Neuron(0, 7))


# --- the experiment ---


def test_an_experiments_numbers_are_the_librarys(subject):
    change = suppress()
    outcome = experiments.run(subject, Experiment(change, ASKED, seed=5, draws=3))
    prompts = [item.prompt for item in ASKED]
    before = subject.predict(prompts, top_k=100)
    with subject.applied(change) as changed:
        after = changed.predict(prompts, top_k=100)
    assert [trial.before for trial in outcome.prompts] == before
    assert [trial.after for trial in outcome.prompts] == after
    assert [trial.group for trial in outcome.prompts] == list(TEXTS)
    assert len(outcome.random_neurons) == 3
    # All draws go through the model together.
    controls = [suppress(neurons) for neurons in outcome.random_neurons for _ in prompts]
    random = subject.predict(prompts * 3, top_k=1, interventions=controls)
    assert [trial.random[draw] for draw in range(3) for trial in outcome.prompts] == random
    assert outcome.undo_is_exact


def test_random_neurons_are_set_and_patched_as_the_experiment_s_own(subject):
    change = (SetTo(NEURONS[:1], 3.0), Patch(NEURONS, "the old town of rome lies in [Y]"))
    outcome = experiments.run(subject, Experiment(change, ASKED, draws=2))
    assert outcome.undo_is_exact
    for draw, neurons in enumerate(outcome.random_neurons):
        assert [each.layer for each in neurons] == [each.layer for each in NEURONS]
        assert not set(neurons) & set(NEURONS)
        # The neuron that both change lies in layer 0, where it is the only one.
        control = (replace(change[0], neurons=neurons[:1]), replace(change[1], neurons=neurons))
        for trial in outcome.prompts:
            alone = subject.predict([trial.prompt], interventions=[control])[0]
            assert trial.random[draw].probability == pytest.approx(alone.probability, rel=1e-4)


def test_an_outcome_names_its_model(bert):
    outcome = experiments.run(bert, Experiment(suppress(), ASKED, draws=1, model="elsewhere"))
    assert outcome.experiment.model == bert.name
    assert outcome.experiment.weights_sha256 == bert.weights_sha256
    assert (outcome.device, outcome.dtype) == ("cpu", "float32")


def test_a_neuron_that_the_model_does_not_have_is_refused_before_anything_runs(bert):
    messages = []
    change = (Suppress((Neuron(7, 7),)),)
    with pytest.raises(AtlasError, match=r"has no neuron L7\.N7"):
        experiments.run(bert, Experiment(change, ASKED), progress=lambda *report: messages.append(report))
    assert messages == []


def test_an_experiment_gives_the_same_result_each_time(subject):
    experiment = Experiment(suppress(), ASKED, seed=1, draws=2)
    assert experiments.run(subject, experiment) == experiments.run(subject, experiment)


def test_an_edit_reports_its_new_answer_on_the_facts_own_prompts(subject):
    edit = (make_intervention("edit", NEURONS, old="paris", new="rome"),)
    outcome = experiments.run(subject, Experiment(edit, ASKED, draws=3))
    for trial in outcome.prompts:
        if trial.group == "unrelated":
            assert trial.new_before is trial.new_after is trial.new_random_probability is None
            assert trial.new_random == ()
            continue
        rival = replace(trial.prompt, answer="rome")
        assert trial.new_before.probability == pytest.approx(subject.predict([rival])[0].probability)
        assert trial.new_after.probability == pytest.approx(
            subject.predict([rival], interventions=[edit])[0].probability, rel=1e-4
        )
        # The same edit of the same random neurons as for the old answer.
        alone = [
            subject.predict([rival], interventions=[replace(edit[0], neurons=neurons)])[0]
            for neurons in outcome.random_neurons
        ]
        assert [each.probability for each in trial.new_random] == pytest.approx(
            [each.probability for each in alone], rel=1e-4
        )
        assert len({each.probability for each in trial.new_random}) == 3
        assert trial.new_random_probability == pytest.approx(
            np.mean([p.probability for p in alone]), rel=1e-4
        )
        assert trial.new_random_rank == np.median([each.rank for each in trial.new_random])


def test_the_new_answer_is_summarized_like_the_old_one(subject):
    edits = (Edit(NEURONS, "paris", "london"), Edit(NEURONS[:2], "paris", "rome", add=4))
    experiment = Experiment((*edits, *suppress(NEURONS[3:])), (*ASKED, ASKED[0]), draws=2)
    assert experiment.new_answer == "rome"
    outcome = experiments.run(subject, experiment)
    summary = outcome.new_summary()
    assert [(each.group, each.n_prompts) for each in summary] == [("asked", 2), ("paraphrases", 1)]
    for each in summary:
        trials = outcome.of_group(each.group)
        assert each.before == pytest.approx(np.mean([t.new_before.probability for t in trials]))
        assert each.after == pytest.approx(np.mean([t.new_after.probability for t in trials]))
        assert each.random == pytest.approx(np.mean([p.probability for t in trials for p in t.new_random]))
        assert each.rank_1_random == sum(p.rank == 1 for t in trials for p in t.new_random) / 2
    # With the old answer as the edit's new answer, all numbers are equal, the random ones too.
    back = experiments.run(subject, Experiment((Edit(NEURONS, "rome", "paris"),), ASKED, draws=2))
    for new, each in zip(back.new_summary(), back.summary(), strict=False):
        assert (new.group, new.n_prompts) == (each.group, each.n_prompts)
        assert astuple(new)[2:] == pytest.approx(astuple(each)[2:], rel=1e-4)


def test_without_an_edit_there_is_no_new_answer(bert):
    experiment = Experiment(suppress(), ASKED, draws=1)
    assert experiment.new_answer == ""
    outcome = experiments.run(bert, experiment)
    assert outcome.new_summary() == ()
    assert {trial.new_random for trial in outcome.prompts} == {()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ()}, "has no prompts"),
        ({"interventions": ()}, "changes no neurons"),
        ({"draws": 0}, "draws must be between 1 and 100"),
        ({"draws": 10**6}, "draws must be between 1 and 100"),
        ({"seed": -1}, "seed must be between 0 and .*got -1"),
        ({"seed": 2**63}, "got 9223372036854775808"),
        ({"prompts": ASKED * 101}, "There are 303 prompts"),
        (
            {"prompts": [ExperimentPrompt("asked", Prompt("", "", "a" * 3000 + "[Y]", "b"))]},
            "more than 2000 characters",
        ),
        ({"prompts": [ExperimentPrompt("asked", Prompt("", "", "a\x1b[Y]", "b"))]}, "control characters"),
        ({"interventions": suppress() * 101}, "101 interventions"),
        ({"interventions": (Suppress(tuple(Neuron(0, i) for i in range(50_001))),)}, "50,001 neurons"),
    ],
)
def test_an_invalid_experiment_is_refused(options, message):
    with pytest.raises(AtlasError, match=message):
        Experiment(**({"interventions": suppress(), "prompts": ASKED} | options))


def test_an_experiment_without_neurons_is_refused():
    with pytest.raises(AtlasError, match="changes no neurons"):
        Experiment(suppress(()), ASKED)


def test_the_summary_is_the_mean_of_each_group(subject):
    outcome = experiments.run(subject, Experiment(suppress(), (*ASKED, ASKED[0]), draws=2))
    summary = {each.group: each for each in outcome.summary()}
    assert list(summary) == ["asked", "paraphrases", "unrelated"]
    assert [each.n_prompts for each in summary.values()] == [2, 1, 1]
    trials = outcome.of_group("asked")
    before = np.mean([trial.before.probability for trial in trials])
    after = np.mean([trial.after.probability for trial in trials])
    random = np.mean([each.probability for trial in trials for each in trial.random])
    assert summary["asked"].before == pytest.approx(before)
    assert summary["asked"].after == pytest.approx(after)
    assert summary["asked"].change == pytest.approx(after / before - 1)
    assert summary["asked"].random_change == pytest.approx(random / before - 1)
    for each in summary.values():
        ranks = [(t.before.rank == 1, t.after.rank == 1) for t in outcome.of_group(each.group)]
        assert (each.rank_1_before, each.rank_1_after) == tuple(map(sum, zip(*ranks, strict=True)))


# --- stopping and waiting ---


class Stopped(BaseException):
    """The exception of a stopped script; it is not an `Exception`."""


def every_logit(subject) -> torch.Tensor:
    rows = []
    with torch.no_grad():
        for item in ASKED:
            ids = torch.tensor([subject.encode(item.prompt).input_ids])
            rows.append(subject.model(ids).logits[0].flatten())
    return torch.cat(rows)


def work_of(name: str, subject, progress):
    experiment = Experiment((*suppress(), Edit(NEURONS, "paris", "rome")), ASKED, draws=2)
    match name:
        case "run":
            return experiments.run(subject, experiment, progress=progress)
        case "find":
            return experiments.find_neurons(subject, [item.prompt for item in ASKED], progress=progress)
        case "dose":
            return experiments.dose_response(subject, experiment, (0, 2), progress=progress)


@pytest.mark.parametrize("work", ["run", "find", "dose"])
def test_work_stopped_at_any_of_its_reports_leaves_the_model_as_it_was(subject, work, monkeypatch):
    monkeypatch.setattr(experiments, "TELL_EVERY_SECONDS", 0)  # at every batch
    logits = every_logit(subject)
    shares = []
    whole = work_of(work, subject, lambda share, message: shares.append(share))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    for last in range(0, len(shares), max(1, len(shares) // 10)):
        reports = iter(range(len(shares)))

        def stop(share: float, message: str, last=last, reports=reports) -> None:
            if next(reports) == last:
                raise Stopped

        with pytest.raises(Stopped):
            work_of(work, subject, stop)
        assert torch.equal(every_logit(subject), logits)
        assert not subject.lock.busy
    if work == "run":
        assert work_of(work, subject, None) == whole


@pytest.mark.parametrize("work", ["run", "find", "dose"])
def test_work_stopped_in_the_middle_of_a_forward_pass_leaves_the_model_as_it_was(subject, work):
    logits = every_logit(subject)

    def stop(module, args):
        if subject.lock.busy:  # the last pass of all is the test's own
            raise Stopped

    down = subject.family.down(subject.model, subject.n_layers - 1)
    handle = down.register_forward_pre_hook(stop)
    try:
        with pytest.raises(Stopped):
            work_of(work, subject, None)
    finally:
        handle.remove()
    assert torch.equal(every_logit(subject), logits)
    assert not subject.lock.busy
    hooks = [m for m in subject.model.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert hooks == []


@pytest.mark.parametrize("work", ["run", "find", "dose"])
def test_the_model_is_free_before_each_step(bert, work, monkeypatch):
    monkeypatch.setattr(experiments, "TELL_EVERY_SECONDS", 1000)  # at no batch
    held = []
    work_of(work, bert, lambda share, message: held.append(bert.lock.busy))
    assert held
    assert not any(held)


@pytest.mark.parametrize("work", ["run", "find", "dose"])
def test_long_work_is_reported_between_batches_and_gives_way_there(subject, work, monkeypatch):
    monkeypatch.setattr(experiments, "TELL_EVERY_SECONDS", 0)
    monkeypatch.setattr(experiments, "batch_tokens", lambda subject: 1)
    alone = work_of(work, subject, None)
    served, quick = [], threading.Event()

    def other() -> None:
        with asking("a newcomer"), subject.lock:
            served.append("newcomer")

    thread = threading.Thread(target=other)

    def show(share: float, message: str) -> None:
        served.append(message)
        if subject.lock.busy and not quick.is_set():
            quick.set()
            subject.lock._line.times.add("an old hand", 60)
            thread.start()
            until(lambda: subject.lock.waiting == 1)

    with asking("an old hand"):
        found = work_of(work, subject, show)
    assert (found.neurons if work == "find" else found) == (alone.neurons if work == "find" else alone)
    thread.join()
    assert served[-1] == "Done"
    assert "newcomer" in served[:-1]


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.001)


def test_a_waiting_run_is_told_how_many_are_ahead_and_can_stop(bert):
    asked = Experiment(suppress(), ASKED, draws=1)
    messages = []

    def stop_when_told(share: float, message: str) -> None:
        messages.append(message)
        if "Waiting in line" in message:
            raise Stopped

    release, taken = threading.Event(), threading.Event()

    def hold() -> None:
        with bert.lock:
            taken.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert taken.wait(30)
        with pytest.raises(Stopped):
            experiments.run(bert, asked, progress=stop_when_told)
        assert messages == ["The unchanged model", "Waiting in line behind one other"]
        assert bert.lock.waiting == 0
    finally:
        release.set()
        holder.join()
    assert experiments.run(bert, asked).undo_is_exact


def test_after_waiting_the_work_is_reported_again(bert):
    messages = []

    def show(share: float, message: str) -> None:
        messages.append(message)
        if "Waiting in line" in message:
            release.set()

    release, taken = threading.Event(), threading.Event()

    def hold() -> None:
        with bert.lock:
            taken.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(30)
    experiments.find_neurons(bert, [ASKED[0].prompt], progress=show)
    holder.join()
    assert messages[0] == messages[-2] == "Prompt 1 of 1"
    assert messages[1] == "Waiting in line behind one other"
    assert messages[-1] == "Done"


# --- dose and response ---


def test_a_dose_of_one_is_the_unchanged_model_bit_for_bit(subject):
    experiment = Experiment(suppress(), ASKED, draws=2)
    outcome = experiments.run(subject, experiment)
    doses = experiments.dose_response(subject, experiment, (1.0,))
    assert [dose.group for dose in doses] == list(TEXTS)
    for dose, trial in zip(doses, outcome.prompts, strict=True):
        assert dose.probability == trial.before.probability
        own = trial.group in ("asked", "paraphrases")
        assert dose.random == pytest.approx([trial.before.probability] * 2 if own else [], rel=1e-6)


def test_a_dose_of_zero_is_suppression_and_its_random_neurons_are_the_experiments(subject):
    experiment = Experiment(suppress(), ASKED, seed=9, draws=3)
    outcome = experiments.run(subject, experiment)
    doses = experiments.dose_response(subject, experiment, (0.0, 3.0))
    assert [dose.factor for dose in doses] == [0.0] * 3 + [3.0] * 3
    for dose, trial in zip(doses[:3], outcome.prompts, strict=True):
        assert dose.probability == trial.after.probability
        assert dose.rank_1 == (trial.after.rank == 1)
        if dose.random:
            assert dose.random == pytest.approx([each.probability for each in trial.random], rel=1e-6)
    amplified = subject.predict([item.prompt for item in ASKED], interventions=[Amplify(NEURONS, 3.0)] * 3)
    assert [dose.probability for dose in doses[3:]] == pytest.approx([p.probability for p in amplified])


def test_a_dose_scales_the_neurons_of_every_intervention(bert):
    mixed = (Erase(NEURONS[:2]), Edit(NEURONS[1:], "paris", "rome"))
    assert experiments.dose_response(bert, Experiment(mixed, ASKED)) == experiments.dose_response(
        bert, Experiment(suppress(), ASKED)
    )


def test_groups_are_means_of_their_own_prompts(bert):
    double = Experiment(suppress(), (*ASKED, ASKED[2], replace(ASKED[1], group="asked")), draws=1)
    doses = {dose.group: dose for dose in experiments.dose_response(bert, double, (0.5,))}
    assert [dose.n_prompts for dose in doses.values()] == [2, 1, 2]
    change = [Amplify(NEURONS, 0.5)] * 2
    own = bert.predict([ASKED[0].prompt, ASKED[1].prompt], interventions=change)
    assert doses["asked"].probability == pytest.approx(np.mean([p.probability for p in own]))
    assert doses["asked"].rank_1 == sum(p.rank == 1 for p in own)


@pytest.mark.parametrize("factors", [(), range(99), (1e6,), (float("nan"),)])
def test_invalid_factors_are_refused(bert, factors):
    with pytest.raises(AtlasError, match=r"Give|must be between"):
        experiments.dose_response(bert, Experiment(suppress(), ASKED), factors)


# --- what is imported ---


def test_the_values_of_experiments_import_neither_torch_nor_streamlit():
    code = (
        "import sys; import app.lab.tables; "
        "from atlas.experiments import controls, documents, experiment; "
        "assert not {'torch', 'transformers', 'streamlit'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
