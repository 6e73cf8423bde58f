from sonolume.utils.errors import ConfigError, UserError, first_line


def test_a_config_error_is_a_user_error() -> None:
    assert issubclass(ConfigError, UserError)


def test_first_line_is_never_empty() -> None:
    assert first_line(ValueError("a: wrong\nand more")) == "a: wrong"
    assert first_line(EOFError()) == "EOFError"
    assert first_line(ValueError("\n" + 300 * "x"), length=120) == 120 * "x"
