"""Sixteen concurrent visitors on one model each get a single user's results, bit for bit.

1. *Alone.* Every distinct experiment is done once by a single user.
2. *Together.* Sixteen threads do a hundred of them each, in their own random order, one in ten with the text
   that the model then writes. One in five is to be
   ended by a BaseException, as Streamlit ends scripts: when progress is reported, while waiting in line, or
   during a forward pass.
3. *After.* Every result was the single user's, and the model is as it was.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from dataclasses import dataclass, field

import pytest

import atlas
from atlas.experiments.controls import choose_prompts
from atlas.experiments.experiment import Experiment
from atlas.interventions import Amplify, Edit, Erase, Intervention, Patch, SetTo, Suppress
from atlas.neuron import Neuron

torch = pytest.importorskip("torch")

from atlas.experiments.generate import Texts, write_texts  # noqa: E402
from atlas.experiments.run import Outcome, run  # noqa: E402
from atlas.surgery import load_subject  # noqa: E402

VISITORS = 16
EXPERIMENTS_EACH = 100
DISTINCT = 48
RELATIONS = ("P36", "P37", "P30", "P17")


class Stopped(BaseException):
    """The exception of a stopped script; it is not an `Exception`."""


@pytest.fixture(scope="module")
def subject():
    # One thread an operation: sixteen visitors keep the cores busy, and two would mostly wait for each other.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_subject("pocket-bert", device="cpu")
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def experiments() -> list[Experiment]:
    """Distinct experiments of every kind, on neurons that matter for the prompts."""
    dice = random.Random(3)
    with atlas.open("starter-pocket-bert") as opened:
        facts = opened.query(
            """
            SELECT fact_id, relation_id, object,
                   list((layer, neuron) ORDER BY mean_score DESC, layer, neuron)[:24] AS neurons
            FROM facts JOIN knowledge_neurons USING (fact_id, relation_id)
            WHERE known AND list_contains($relations, relation_id)
            GROUP BY ALL ORDER BY ANY_VALUE(hash(fact_id)) LIMIT $distinct
            """,
            {"relations": list(RELATIONS), "distinct": DISTINCT},
        )
        return [experiment_on(opened, n, fact, facts, dice) for n, fact in enumerate(facts.itertuples())]


def experiment_on(opened, place: int, fact, facts, dice: random.Random) -> Experiment:
    neurons = [Neuron(*(int(number) for number in pair)) for pair in fact.neurons]
    rivals = facts[(facts["relation_id"] == fact.relation_id) & (facts["object"] != fact.object)]
    new = dice.choice(sorted(rivals["object"]))
    asked = choose_prompts(opened, fact.fact_id, neighbours=1, unrelated=1, seed=place)
    own = [item for item in asked if item.group == "paraphrases"][:1]
    others = dice.sample(asked[-2:], dice.choice([0, 0, 0, 1]))
    return Experiment(changes(dice, neurons, fact.object, new), (*own, *others), seed=place, draws=1)


def changes(dice: random.Random, neurons: list[Neuron], old: str, new: str) -> tuple[Intervention, ...]:
    """One to three interventions of random kinds on random halves of the neurons."""

    def one() -> Intervention:
        some = tuple(dice.sample(neurons, max(1, len(neurons) // 2)))
        return dice.choice(
            [
                Suppress(some),
                Amplify(some, dice.choice([-2.0, 0.5, 3.0, 8.0])),
                SetTo(some, dice.choice([-2.0, 0.5])),
                Patch(some, "The capital of Italy is [Y]."),
                Erase(some, dice.choice(["zero", "unk"])),
                Edit(some, old, new, dice.choice([0.0, 1.0]), dice.choice([4.0, 8.0])),
            ]
        )

    return tuple(one() for _ in range(dice.choice([1, 1, 2, 3])))


@dataclass
class Visit:
    """A visitor's record: the results that differ from the single user's, and the number of stops."""

    differing: list[int] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    most_waiting: int = 0


class Interrupter:
    """Ends the forward pass of the threads that ask for it, after some more modules have run."""

    def __init__(self) -> None:
        self.countdown = threading.local()

    def __call__(self, module, args) -> None:
        left = getattr(self.countdown, "left", None)
        if left is not None:
            if left == 0:
                raise Stopped
            self.countdown.left = left - 1


def written(subject, experiment, progress=None) -> Texts:
    """What the model writes in the gap of the experiment's first prompt."""
    return write_texts(subject, experiment, experiment.prompts[0].prompt, progress=progress)


def visit(
    seed: int,
    subject,
    experiments,
    alone: list[Outcome],
    texts: list[Texts],
    interrupter: Interrupter,
    record: Visit,
) -> None:
    dice = random.Random(seed)
    for _ in range(EXPERIMENTS_EACH):
        place = dice.randrange(len(experiments))
        how = dice.choices(["left alone", "reported", "in line", "forward"], [16, 2, 1, 1])[0]
        reports = dice.randrange(5)

        def progress(share: float, message: str, how: str = how) -> None:
            nonlocal reports
            record.most_waiting = max(record.most_waiting, subject.lock.waiting)
            if how == "in line" and "Waiting in line" in message:
                raise Stopped
            if how == "reported":
                reports -= 1
                if reports < 0:
                    raise Stopped

        interrupter.countdown.left = dice.randrange(36) if how == "forward" else None
        try:
            outcome = run(subject, experiments[place], progress=progress)
            text = written(subject, experiments[place], progress) if dice.random() < 0.1 else texts[place]
        except Stopped:
            record.counts[how] += 1
        else:
            record.counts["done"] += 1
            if outcome != alone[place] or text != texts[place]:
                record.differing.append(place)
        finally:
            interrupter.countdown.left = None


def logits(subject, experiments) -> torch.Tensor:
    """Every logit of the plain model on every prompt."""
    rows = []
    with torch.no_grad():
        for experiment in experiments:
            for item in experiment.prompts:
                ids = torch.tensor([subject.encode(item.prompt).input_ids])
                rows.append(subject.model(ids).logits.flatten())
    return torch.cat(rows)


def digest(subject) -> str:
    """A hash of every weight."""
    found = hashlib.sha256()
    for name, value in sorted(subject.model.state_dict().items()):
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def test_sixteen_visitors_each_get_the_single_users_results(subject, experiments):
    weights, answers = digest(subject), logits(subject, experiments)
    # Step 1: alone.
    alone = [run(subject, experiment) for experiment in experiments]
    texts = [written(subject, experiment) for experiment in experiments]
    assert all(outcome.undo_is_exact for outcome in alone)
    moved = [any(trial.before != trial.after for trial in outcome.prompts) for outcome in alone]
    assert all(moved)  # another visitor's change would show
    # Step 2: together.
    interrupter = Interrupter()
    handles = [
        module.register_forward_pre_hook(interrupter)
        for index, layer in enumerate(subject.family.layer_modules(subject.model))
        for module in (layer, subject.family.down(subject.model, index))
    ]
    records = [Visit() for _ in range(VISITORS)]
    failures: list[BaseException] = []

    def thread(seed: int) -> None:
        try:
            visit(seed, subject, experiments, alone, texts, interrupter, records[seed])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread, args=(seed,)) for seed in range(VISITORS)]
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        for handle in handles:
            handle.remove()
    # Step 3: after.
    assert failures == []
    assert [record.differing for record in records] == [[]] * VISITORS
    total = sum((record.counts for record in records), Counter())
    assert total.total() == VISITORS * EXPERIMENTS_EACH
    assert min(total[how] for how in ("reported", "in line", "forward")) > total.total() // 100
    assert total["done"] > total.total() // 2
    assert max(record.most_waiting for record in records) > VISITORS // 2  # visitors did wait
    assert not subject.lock.busy
    assert subject.lock.waiting == 0
    assert [m for m in subject.model.modules() if m._forward_pre_hooks or m._forward_hooks] == []
    assert torch.equal(logits(subject, experiments), answers)
    assert digest(subject) == weights
    assert [run(subject, experiment) for experiment in experiments[:10]] == alone[:10]
