"""Errors that input can cause. The message is the fact, then the remedy.

The command lines print the message of an `AtlasError` and exit with status 2; the app shows it in a box and
goes on. Any other exception is a bug and keeps its traceback.
"""


class AtlasError(Exception):
    """Base of all errors that input can cause."""


class DatasetError(AtlasError):
    """A data set is missing, malformed or empty."""


class ModelError(AtlasError):
    """A model cannot be found or fetched, its family is not supported, or it returns NaN."""


class PromptError(AtlasError):
    """A prompt has no place for its answer, or the vocabulary lacks the answer."""


class StoreError(AtlasError):
    """An atlas on disk is missing, damaged, not an atlas, or of another schema version."""


class QueryError(AtlasError):
    """A query is refused, malformed, or was stopped at a limit."""


class BuildError(AtlasError):
    """A build cannot start or go on: options, output folder, disk."""


class DocumentError(AtlasError):
    """The JSON or the link of an experiment is malformed, too large or of another version."""
