"""What happens around a model when it runs: the machine's speed and energy, inexact hardware, which
tokens pass through which blocks.
"""
