"""Data sets: facts and the templates that ask for them.

dataset = load_dataset("starter")
dataset.facts[0], dataset.templates_of("P36")
"""

from atlas.datasets.dataset import Dataset
from atlas.datasets.load import LOADERS, load_dataset

__all__ = ["LOADERS", "Dataset", "load_dataset"]
