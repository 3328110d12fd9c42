"""Errors that the command line shows as one paragraph instead of a traceback."""


class UserError(ValueError):
    """Something the user gave does not fit; the message says what, where, what was expected and what to do."""


class MissingExtraError(ImportError):
    """An optional part is not installed; the message holds the install command."""


def require_extra(module: str, extra: str) -> None:
    """
    Checks that the packages of an extra are installed before work starts.

    Raises:
        MissingExtraError: with the command that installs `extra`, when `module` cannot be found.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtraError(
            f"This command needs the package {module!r}, which is not installed. Install it with: "
            f'pip install "st4vla[{extra}]"'
        )


__all__ = ["MissingExtraError", "UserError", "require_extra"]
