"""Model compression, from the intuition to the kernel: the support package of the course."""

__version__ = "0.1.0"
