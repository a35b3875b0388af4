"""In the sandbox there is one process.

What would start others works in this one, so that a right answer stays right.
"""

import concurrent.futures.process
import multiprocessing
import multiprocessing.context
import multiprocessing.pool
from collections.abc import Callable
from typing import Any

WHY = (
    "when answers are graded there are no other processes, no network, and no "
    "files but those of the lab"
)


def install() -> None:
    """Data loaders without workers, pools of threads in the place of processes, functions that are
    not compiled.
    """
    import torch.utils.data

    loader = torch.utils.data.DataLoader
    made = loader.__init__

    def without_workers(self: Any, *arguments: Any, **named: Any) -> None:
        arguments = (*arguments[:5], 0, *arguments[6:]) if len(arguments) > 5 else arguments
        for name in ("multiprocessing_context", "prefetch_factor", "persistent_workers"):
            named.pop(name, None)
        made(
            self, *arguments, **{**named, **({"num_workers": 0} if "num_workers" in named else {})}
        )

    loader.__init__ = without_workers  # type: ignore[method-assign]

    class Threads(concurrent.futures.ThreadPoolExecutor):
        def __init__(
            self, max_workers: int | None = None, mp_context: Any = None,
            initializer: Callable[..., Any] | None = None, initargs: tuple[Any, ...] = (),
            **_others: Any,
        ) -> None:  # fmt: skip
            super().__init__(max_workers=max_workers, initializer=initializer, initargs=initargs)

    concurrent.futures.ProcessPoolExecutor = Threads  # type: ignore[misc,assignment]
    concurrent.futures.process.ProcessPoolExecutor = Threads  # type: ignore[misc,assignment]

    def pool(
        processes: int | None = None,
        initializer: Any = None,
        initargs: Any = (),
        *_others: Any,
        **_named: Any,
    ) -> Any:
        return multiprocessing.pool.ThreadPool(processes, initializer, initargs)

    def pool_of_context(_context: Any, *arguments: Any, **named: Any) -> Any:
        return pool(*arguments, **named)

    multiprocessing.Pool = pool  # type: ignore[assignment]
    multiprocessing.context.BaseContext.Pool = pool_of_context  # type: ignore[method-assign,assignment]

    def as_it_is(model: Any = None, **_settings: Any) -> Any:
        return (lambda function: function) if model is None else model

    torch.compile = as_it_is  # type: ignore[assignment]
