"""The one exception that is meant for a person: one line, exit code 2, no traceback."""


class UserError(ValueError):
    """Bad input, described in one line that names the file, row, language or config path and says what to do."""


class ConfigError(UserError):
    """A config value is wrong; the message starts with its dotted path."""

    def __init__(self, path: str, problem: str):
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
