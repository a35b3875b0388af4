"""The one error type that compression code raises for input it cannot work with."""


class CompressionError(ValueError):
    """The message names the argument, what is wrong with it, and what to do instead."""
