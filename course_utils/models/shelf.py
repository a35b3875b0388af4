"""Where the hidden states of calibration wait while others are computed: in memory, in half the
bytes, or in files.
"""

import shutil
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor

from course_utils.errors import CompressionError

PLACES = ("memory", "half", "disk")
LARGEST_HALF = 6e4  # above it float16 has no numbers; bfloat16 has


class Shelf:
    """Takes the numbers out of tensors and puts them back, while the tensors themselves stay where
    the model holds them.

    "memory" leaves them as they are. "half" keeps 16 bits of each, so that results change a little.
    "disk" keeps all bits in files below `folder` (by default the system's folder for temporary
    files). Raises CompressionError for another place.
    """

    def __init__(self, place: str = "memory", folder: Path | None = None) -> None:
        if place not in PLACES:
            raise CompressionError(f"states={place!r}: choose one of {', '.join(PLACES)}.")
        self.place, self.away, self.count = place, {}, 0  # type: tuple[str, dict[int, Tensor | Path], int]
        self.folder = (
            Path(tempfile.mkdtemp(dir=folder, prefix="states-")) if place == "disk" else None
        )

    def put(self, tensor: Tensor) -> None:
        """Take the numbers out.

        Until `bring`, nobody may read the tensor or another view of its memory.
        """
        storage = tensor.untyped_storage()
        if (
            self.place == "memory"
            or storage._cdata in self.away
            or not storage.resizable()
            or not tensor.is_floating_point()
        ):
            return
        flat = _flat(tensor)
        kept: Tensor | Path
        if self.folder is None:
            kept = flat.to(torch.float16 if flat.abs().max() < LARGEST_HALF else torch.bfloat16)
        else:
            kept = self.folder / str(self.count)
            self.count += 1
            try:
                # a clone: memory that numpy has seen keeps its size
                flat.view(torch.uint8).cpu().clone().numpy().tofile(kept)
            except OSError as error:
                raise CompressionError(
                    f"states: {kept} could not be written ({error}); free some space, "
                    "or choose states='half'."
                ) from error
        self.away[storage._cdata] = kept
        storage.resize_(0)

    def bring(self, tensor: Tensor) -> None:
        """Put the numbers back, if they were taken out."""
        storage = tensor.untyped_storage()
        kept = self.away.pop(storage._cdata, None)
        if kept is None:
            return
        if isinstance(kept, Tensor):
            storage.resize_(kept.numel() * tensor.element_size())
            _flat(tensor).copy_(kept)
            return
        size = kept.stat().st_size
        storage.resize_(size)
        _flat(tensor).view(torch.uint8).copy_(
            torch.from_file(str(kept), size=size, dtype=torch.uint8)
        )
        kept.unlink()

    def close(self) -> None:
        """Forget the states, and delete their files."""
        self.away.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class Place:
    """What one forward pass holds at a gate: the states that entered the block, and earlier ones
    that it has not let go of.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.known: list[weakref.ref[Tensor]] = []
        self.held: list[Tensor] = []

    def arrive(self, hidden: Tensor) -> None:
        """States that came to the block: they are kept here,
        and those from before go to the shelf.
        """
        self.held = [
            tensor for ref in self.known if (tensor := ref()) is not None and tensor is not hidden
        ] + [hidden]
        self.known = [weakref.ref(tensor) for tensor in self.held]
        for tensor in self.held:
            self.shelf.put(tensor)

    def depart(self) -> None:
        """All numbers are where the pass expects them, and nothing here keeps them alive."""
        for tensor in self.held:
            self.shelf.bring(tensor)
        self.held = []


def _flat(tensor: Tensor) -> Tensor:
    """The whole memory of a tensor's storage as a vector of its type."""
    storage = tensor.untyped_storage()
    return tensor.new_empty(0).set_(storage, 0, (storage.nbytes() // tensor.element_size(),), (1,))  # type: ignore[call-overload]
