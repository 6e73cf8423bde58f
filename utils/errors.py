"""Errors that a person can mend: shown as one line, without a traceback."""


class UserError(Exception):
    """Wrong usage, configuration or input. The message says what, where and what to do; exit code 2."""


class ConfigError(UserError):
    """A configuration file or an override that cannot be used."""
