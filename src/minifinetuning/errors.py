"""The errors that a person can mend: each is one sentence that names the input and the remedy."""


class InputError(ValueError):
    """An input cannot be used: the message names the file, line or option, and the remedy."""


class TrainingDivergedError(RuntimeError):
    """The loss is no longer finite: the message names the step and the last good checkpoint."""
