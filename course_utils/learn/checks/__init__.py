"""Exercises, the check that judges them, hints, and what labs need around them."""
