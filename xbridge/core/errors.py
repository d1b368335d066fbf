"""Exceptions that are meant for a person: one line, no traceback. Exit code 2 for bad input, 128 + n for signal n."""


class UserError(ValueError):
    """Bad input, described in one line that names the file, row, language or config path and says what to do."""


class ConfigError(UserError):
    """A config value is wrong; the message starts with its dotted path."""

    def __init__(self, path: str, problem: str):
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path


class Interrupted(RuntimeError):
    """A signal ended the work after it had saved what it could; running the same command again continues."""

    def __init__(self, signum: int, message: str = "stopped by a signal"):
        super().__init__(message)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """The shell's convention: 128 + signal number."""
        return 128 + self.signum
