"""PARAREL by the original's name of the module: `from atlas.compat.data import pararel`."""

from atlas.compat.pararel import PARAREL_RELATION_NAMES, pararel, pararel_expanded

__all__ = ["PARAREL_RELATION_NAMES", "pararel", "pararel_expanded"]
