"""The one exception a stage may end with."""


class StageError(Exception):
    """A stage cannot go on. The message is one line that names the file, key or task and the way out."""
