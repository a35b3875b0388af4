"""The error of compression code for input it cannot work with, and its warning for input that makes
the result poor.
"""


class CompressionError(ValueError):
    """The message names the argument, what is wrong with it, and what to do instead."""


class CompressionWarning(UserWarning):
    """The work goes on; the message says what will be poor, and what to do about it."""
