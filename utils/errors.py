"""Errors that a person can mend: shown as one line, without a traceback."""


class UserError(Exception):
    """Wrong usage, configuration or input. The message says what, where and what to do; exit code 2."""


class ConfigError(UserError):
    """A configuration file or an override that cannot be used."""


class ComputationError(Exception):
    """What was computed cannot be used (NaN, black pictures). The message says what and names the cure; exit code 1."""


def first_line(error: BaseException, length: int = 200) -> str:
    """What a library's error says, on one line; the name of its class if it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:length]
