"""An experiment as a value: the neurons, the change, the prompts, and the controls beside them.

    from atlas.experiments.experiment import Experiment
    from atlas.experiments.run import run
    outcome = run(subject, Experiment(...))

The value, its JSON and its link (`experiment`, `documents`, `controls`) need no torch.
"""
