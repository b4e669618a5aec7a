"""Makes atlases offline: command line, plan, stages, writer, experiments, training of `pocket-bert`."""
