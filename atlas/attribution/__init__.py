"""Attribution: each neuron's part of an answer's probability, with the error of every score.

from atlas.attribution import attribute
attribute(subject, prompts)[0].scores          # (n_layers, n_neurons)
"""

from atlas.attribution.attribution import METHODS, RULES, Attribution, attribute, relative_difference

__all__ = ["METHODS", "RULES", "Attribution", "attribute", "relative_difference"]
