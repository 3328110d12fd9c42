"""Errors of the data layer: one paragraph that says what is wrong, where, and what to do about it."""

from training_st4vla.errors import UserError


class DataError(UserError):
    """A dataset cannot be used as asked. The message says where, what was expected, what was found, what to do."""


class VideoReadError(DataError):
    """A video file is missing, unreadable, or holds no frame at the requested time."""


class UntrustedPickleError(DataError):
    """A pickled value asks for more than numpy arrays and plain containers. Nothing in it was executed."""


def explain(what: str, *, where: str, expected: str, found: str, remedy: str) -> str:
    """Join the five parts of an error into one paragraph.

    Args:
        what: The problem in a few words, without a final full stop.
        where: File, dataset, column or frame concerned.
        expected: What would have been right.
        found: What is there instead.
        remedy: What the user can do.

    Returns:
        The paragraph.
    """
    return f"{what} ({where}): expected {expected}, found {found}. {remedy}"
