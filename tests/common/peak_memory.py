"""How much memory tensors take while a function runs: what torch's own allocator reports, temporary
copies inside its functions too.
"""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """(what `work` returns, the most bytes above the start that tensors made in this thread took at
    one time).
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        result = work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return result, most
