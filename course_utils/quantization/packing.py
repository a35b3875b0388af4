"""Small integers stored without wasted bits; the kernels read the same bytes, so the code is `kernels.packing`."""

from course_utils.kernels.packing import check_bits, pack, packed_width, unpack

__all__ = ["check_bits", "pack", "packed_width", "unpack"]
