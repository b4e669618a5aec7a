"""A model's work in a process of its own: the same numbers, and nothing of it stays.

The cases run in a process that has not computed with torch before, as a host's server.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Work is done apart on Linux only")

BEFORE = """
import os, threading, time
import psutil
import atlas
from app.shared.apart import apart
from atlas.errors import AtlasError, PromptError
from atlas.experiments.controls import choose_prompts
from atlas.experiments.crossing import cross_effects
from atlas.experiments.experiment import Experiment
from atlas.experiments.generate import write_texts
from atlas.experiments.run import dose_response, find_neurons, run
from atlas.interventions import Suppress
from atlas.neuron import Neuron
from atlas.surgery.subject import load_subject

subject = load_subject("pocket-bert")
with atlas.open("starter-pocket-bert") as opened:
    prompts = choose_prompts(opened, "P36:france")
own = [each.prompt for each in prompts if each.group == "asked"][:2]
told = []
def tell(share, text): told.append((share, text))
def children(): return psutil.Process().children()
"""
CASES = {
    "gives_the_numbers_of_the_server_s_own": """
found = apart(find_neurons, subject, own, progress=tell)
experiment = Experiment((Suppress(found.chosen),), prompts)
outcome = apart(run, subject, experiment, progress=tell)
doses = apart(dose_response, subject, experiment, (0.0, 2.0), progress=tell)
texts = apart(write_texts, subject, experiment, own[0], progress=tell)
sides = {"A": found.chosen}, {"A": own}
effects = apart(cross_effects, subject, *sides, draws=1, progress=tell)
assert told[-1][0] == 1.0 and any("draw" in text for _, text in told)
assert not children() and not subject.lock.busy
here = find_neurons(subject, own)
assert here.neurons == found.neurons and (here.attributions[0].scores == found.attributions[0].scores).all()
assert run(subject, experiment) == outcome and outcome.undo_is_exact
assert dose_response(subject, experiment, (0.0, 2.0)) == doses
assert write_texts(subject, experiment, own[0]) == texts
assert cross_effects(subject, *sides, draws=1) == effects
""",
    "sends_what_it_has_so_far": """
parts, here = [], []
found = apart(find_neurons, subject, own, progress=tell, on_part=lambda part: parts.append((len(told), part)))
assert find_neurons(subject, own, on_part=here.append).neurons == found.neurons
(when, part), (same,) = parts[0], here
assert len(parts) == 1 and part.prompts == tuple(own[:1]) and 0 < when < len(told)
assert part.neurons == same.neurons == find_neurons(subject, own[:1]).neurons
assert (part.attributions[0].scores == found.attributions[0].scores).all()
class Left(BaseException): pass
def leave(part): raise Left
try: apart(find_neurons, subject, own, progress=tell, on_part=leave)
except Left: pass
else: raise AssertionError("It went on")
assert not children() and not subject.lock.busy
""",
    "ends_at_once_when_its_visitor_cancels": """
class Cancelled(BaseException): pass
def cancel(share, text):
    if share > 0: raise Cancelled
experiment = Experiment((Suppress((Neuron(0, 1), Neuron(2, 3))),), prompts, draws=20)
started = time.monotonic()
try: apart(run, subject, experiment, progress=cancel)
except Cancelled: pass
else: raise AssertionError("It went on")
assert not children() and not subject.lock.busy and time.monotonic() < started + 10
assert apart(run, subject, experiment, progress=tell).undo_is_exact
""",
    "tells_what_went_wrong": """
def refuse(subject, *, progress): raise PromptError("There are no prompts.")
def die(subject, *, progress): os._exit(3)
for function, kind, sentence in (
    (refuse, PromptError, "There are no prompts."), (die, AtlasError, "has ended without an answer"),
):
    try: apart(function, subject, progress=tell)
    except kind as error: assert sentence in str(error)
    else: raise AssertionError(function)
assert not children() and not subject.lock.busy
""",
    "goes_one_after_the_other": """
def sleep(subject, *, progress): time.sleep(1)
running = []
def first(): apart(sleep, subject, progress=lambda *_: None)
threads = [threading.Thread(target=first) for _ in range(3)]
start = time.monotonic()
for each in threads: each.start()
while any(each.is_alive() for each in threads):
    running.append(len(children())); time.sleep(0.05)
assert max(running) == 1 and time.monotonic() >= start + 3
""",
}


@pytest.mark.parametrize("name", CASES)
def test_work_done_apart(name, tmp_path):
    limits = tmp_path / "limits.toml"
    limits.write_text("model_process = true\n")
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + CASES[name]],
        cwd=ROOT,
        env=os.environ | {"KNOWLEDGE_NEURON_LIMITS": str(limits), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
