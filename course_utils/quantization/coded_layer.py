"""A linear layer whose codes are kept as one stream of rANS (`course_utils.theory.coding`)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.errors import CompressionError
from course_utils.theory import coding

from .convert import ExpandedLinear, frozen
from .grids import is_half
from .layer import storable


def column_classes(codes: Tensor, classes: int) -> Tensor:
    """Each column's class (in,) int64:
    equal parts of the columns in the order of their mean |q|.
    """
    spread = codes.abs().float().mean(0)
    rank = spread.argsort(stable=True).argsort()
    return rank * min(classes, codes.shape[1]) // codes.shape[1]


@storable
class EntropyCodedLinear(ExpandedLinear):
    """y = x Ŵᵀ + b with Ŵ = Δ_j q_ij, its codes kept as one rANS stream; they are decoded at the
    first product.

    Buffers: `stream` uint8; `table` (classes, K) int16 of frequencies; `lowest` (), the code of the
    table's first entry;
    `which` (in,) uint8, each column's class; `step` (1 or in,) float16 where that is exact enough,
    else float32. In memory the decoded codes stay, one or two bytes each; the file holds the
    stream.
    """

    stream: Tensor
    table: Tensor
    lowest: Tensor
    which: Tensor
    step: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, stream: int = 0, classes: int = 1,
        symbols: int = 1, steps: int = 1, step_dtype: str = "float32", bias: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("stream", torch.zeros(stream, dtype=torch.uint8))
        self.register_buffer("table", torch.zeros(classes, symbols, dtype=torch.int16))
        self.register_buffer("lowest", torch.zeros((), dtype=torch.int32))
        self.register_buffer(
            "which", torch.zeros(in_features if classes > 1 else 0, dtype=torch.uint8)
        )
        self.register_buffer("step", torch.ones(steps, dtype=getattr(torch, step_dtype)))
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None
        self._decoded: Tensor | None = None

    def shape(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features,
            "stream": len(self.stream), "classes": len(self.table), "symbols": self.table.shape[1],
            "steps": len(self.step), "step_dtype": str(self.step.dtype).removeprefix("torch."),
            "bias": self.bias is not None,
        }  # fmt: skip

    @classmethod
    def of(
        cls, codes: Tensor, steps: Tensor, bias: Tensor | None, *, classes: int = 1
    ) -> "EntropyCodedLinear":
        """The coded form of codes (out, in) and steps (in,) or a scalar."""
        if not 1 <= classes <= 256:
            raise CompressionError(f"classes={classes}: choose 1 to 256.")
        rows, columns = codes.shape
        which = column_classes(codes, classes)
        lowest, highest = int(codes.min()), int(codes.max())
        if highest - lowest >= 1 << coding.PRECISION:
            raise CompressionError(
                f"codes span {highest - lowest + 1} values, more than {1 << coding.PRECISION}; "
                "use a larger step."
            )
        shifted = (codes - lowest).long().cpu()
        counts = torch.zeros(int(which.max()) + 1, highest - lowest + 1, dtype=torch.int64)
        counts.index_put_(
            (which.cpu().expand(rows, -1), shifted),
            torch.ones((), dtype=torch.int64),
            accumulate=True,
        )
        table = np.stack([coding.frequencies(row.numpy()) for row in counts])
        lanes = max(8, min(128, codes.numel() // 2048))
        data = coding.encode(shifted.numpy(), table, which.cpu().expand(rows, -1).numpy(), lanes)
        steps = steps.reshape(-1).float()
        layer = cls(
            columns,
            rows,
            stream=len(data),
            classes=len(table),
            symbols=table.shape[1],
            steps=len(steps),
        )
        layer.stream.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        layer.table.copy_(torch.from_numpy(table))
        layer.lowest.fill_(lowest)
        if len(table) > 1:
            layer.which.copy_(which)
        layer.step = steps.half() if len(steps) > 1 and is_half(steps) else steps
        layer.bias = frozen(bias)
        return layer.to(codes.device)

    @property
    def codes(self) -> Tensor:
        """Q (out, in), the smallest integer type that holds them."""
        if self._decoded is None:
            which = (
                self.which.cpu().numpy().astype(np.int64)
                if len(self.which)
                else np.zeros(self.in_features, np.int64)
            )
            which = np.broadcast_to(which, (self.out_features, self.in_features))
            flat = coding.decode(
                self.stream.cpu().numpy().tobytes(), self.table.cpu().numpy(), which
            )
            codes = torch.from_numpy(flat).view(self.out_features, self.in_features) + int(
                self.lowest
            )
            largest = max(-int(codes.min()), int(codes.max()))
            kind = next(
                kind
                for kind in (torch.int8, torch.int16, torch.int32)
                if largest <= torch.iinfo(kind).max
            )
            self._decoded = codes.to(kind).to(self.stream.device)
        return self._decoded

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32."""
        return self.codes.float() * self.step.float()

    def forget(self) -> None:
        """Let go of the decoded codes; the next product decodes them again."""
        self._decoded = None

    def coded_bytes(self) -> int:
        """Bytes of everything that the weight needs: stream, tables, classes, steps."""
        return sum(b.nbytes for b in (self.stream, self.table, self.lowest, self.which, self.step))

    def extra_repr(self) -> str:
        rate = 8 * self.coded_bytes() / (self.in_features * self.out_features)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bits per weight={rate:.3f}"
        )
