"""Figures: one look for all (`base`), and what single lessons draw. Loads matplotlib."""

from .base import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    MARKERS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    figure,
    plt,
    table,
    use_style,
)

__all__ = [
    "BLACK",
    "BLUE",
    "COLOURS",
    "GREEN",
    "MARKERS",
    "ORANGE",
    "PURPLE",
    "RED",
    "SKY",
    "YELLOW",
    "figure",
    "plt",
    "table",
    "use_style",
]
