from sonolume.utils.errors import ConfigError, UserError


def test_a_config_error_is_a_user_error() -> None:
    assert issubclass(ConfigError, UserError)
