"""Draws that the inputs of several exercises share."""

import torch


def pick(rng: torch.Generator, *values):
    """One of the values."""
    return values[int(torch.randint(len(values), (), generator=rng))]
