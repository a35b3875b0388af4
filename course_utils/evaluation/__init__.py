"""Numbers that say how they were measured: perplexity, task scores, bytes, speed."""

from . import benchmarks, configs, harness, memory
from .answers import judge
from .by_window import kl_by_window, nats_by_window, predictions
from .perplexity import Perplexity, calibration, perplexity
from .report import Report, compare, decoding_speed, report
from .tasks import Score, task_scores

__all__ = [
    "Perplexity", "Report", "Score", "benchmarks", "calibration", "compare", "configs",
    "decoding_speed", "harness", "judge", "kl_by_window", "memory", "nats_by_window", "perplexity",
    "predictions", "report", "task_scores",
]  # fmt: skip
