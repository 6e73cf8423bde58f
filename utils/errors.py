"""Expected errors: shown to the user as one line, without a traceback."""


class UserError(Exception):
    """Wrong usage, configuration or input. The message names the mistake, its place and a remedy; exit code 2."""


class FileError(UserError):
    """An unusable sound or video; `reason` is a short category for counting."""

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class ConfigError(UserError):
    """A wrong configuration file or override."""


class ModelError(UserError, ValueError):
    """A model that cannot be found, or is of another kind; every `from_pretrained` raises a ValueError for these."""


class ComputationError(Exception):
    """An unusable result (NaN, black pictures). The message names the result and a remedy; exit code 1."""


class LostProcessError(ComputationError):
    """Another process of a run has ended, or did not answer in time; exit code 1."""


def first_line(error: BaseException, length: int = 200) -> str:
    """The first line of an error message, or the name of the exception class if the message is empty."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:length]
