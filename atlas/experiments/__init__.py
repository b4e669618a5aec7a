"""Experiments: an intervention on neurons, the prompts that measure it, and random controls.

    from atlas.experiments.experiment import Experiment
    from atlas.experiments.run import run
    outcome = run(subject, Experiment(...))

`experiment`, `documents` and `controls` import no torch.
"""
