"""Exceptions that are meant for a person: one line, no traceback. Exit code 2 for bad input, 75 for a lost process,
128 + n for signal n."""

import errno


class UserError(ValueError):
    """Bad input, described in one line that names the file, row, language or config path and says what to do."""


class LostProcess(UserError):
    """Another process of the same run is gone. Nothing is wrong with the input: the same command continues."""


class ConfigError(UserError):
    """A config value is wrong; the message starts with its dotted path."""

    def __init__(self, path: str, problem: str):
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path


_OS_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run again (finished stages are kept)",
    errno.EDQUOT: "the disk quota is used up; free some space and run again (finished stages are kept)",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission; choose another folder or mend its rights",
    errno.EPERM: "not permitted; choose another folder or mend its rights",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "not a folder",
}


def user_error_of(error: OSError, place: str) -> UserError | None:
    """The line for a file-system error that a person can mend, or None. `place` names it where the error does not."""
    advice = _OS_ADVICE.get(error.errno or 0)
    return UserError(f"{error.filename or place}: {advice}") if advice else None


class Interrupted(RuntimeError):
    """A signal ended the work after it had saved what it could; running the same command again continues."""

    def __init__(self, signum: int, message: str = "stopped by a signal"):
        super().__init__(message)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """The shell's convention: 128 + signal number."""
        return 128 + self.signum
