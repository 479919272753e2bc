"""The error of a file that cannot be read as the text or the table that its name promises."""


class UnreadableError(Exception):
    """The file cannot be read; the message is the short reason."""
