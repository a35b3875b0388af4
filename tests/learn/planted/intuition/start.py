"""Planted answers for course_utils/learn/exercises/intuition/start.py."""

from fractions import Fraction


def by_shifting(count, bits):
    return float(Fraction(count * bits) / (1 << 3))


def by_adding(count, bits):
    return sum(count for _ in range(bits)) * 0.125


def by_whole_bytes(count, bits):
    """Whole bytes, and what is left over in bits."""
    whole, left = divmod(count * bits, 8)
    return whole + left / 8


RIGHT = {"start.bytes_needed": [by_whole_bytes, by_shifting, by_adding]}
WRONG = {
    "start.bytes_needed": [
        (lambda count, bits: count * bits, "bits_not_bytes"),
        (lambda count, bits: count, "bits_forgotten"),
        (lambda count, bits: count * 8 / bits, "upside_down"),
        (lambda count, bits: count * bits / 8 / 1000, None),
        (lambda count, bits: 1000.0, None),
        (lambda count, bits: str(count * bits / 8), None),
        (lambda count, bits: count / 8 + bits, None),
    ]
}
