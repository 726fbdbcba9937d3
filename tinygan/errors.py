"""The exceptions of the package: what went wrong, in one line a person can act on.

Code anywhere in the package raises these; the scripts turn them into one line on the terminal and an exit code
(2: the command was typed wrong, 1: the run failed). Anything else that escapes is a bug and shows its traceback.
"""


class TinyganError(Exception):
    """A run failed for a reason its user can act on. The message is one line: what, where, what to do."""

    exit_code = 1


class GraphError(TinyganError):
    """A tensor was used in a way its graph or its shape does not allow."""


class Refused(Exception):
    """A file can be read but must not be used; the text is the reason. `files.reading` makes a TinyganError of it."""


class UsageError(TinyganError):
    """The command or call itself was wrong (a flag, a value, a combination)."""

    exit_code = 2
