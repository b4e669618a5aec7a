"""What can go wrong, said in one sentence: the fact, then the remedy.

Every error that a person can cause is an `AtlasError`. The command lines print its text and exit
with status 2; the app shows the same text in a box and goes on. Anything else is a bug and keeps
its traceback.
"""


class AtlasError(Exception):
    """Base of all errors caused by input: one sentence with the fact, one with the remedy."""


class DatasetError(AtlasError):
    """A data set is missing, malformed or empty."""


class ModelError(AtlasError):
    """A model cannot be had, is of no supported family, or returns NaN."""


class PromptError(AtlasError):
    """A prompt has no place for its answer, or the answer is outside the vocabulary."""


class StoreError(AtlasError):
    """An atlas on disk is missing, broken, foreign or of another schema version."""


class QueryError(AtlasError):
    """A query is refused, malformed, or was stopped at a limit."""


class BuildError(AtlasError):
    """A build cannot start or go on: options, output folder, disk."""


class DocumentError(AtlasError):
    """The JSON or the link of an experiment is malformed, too large or of another version."""
