"""Random packed weights, and the product in float64 as a slow, separate calculation."""

import numpy as np
import torch

from course_utils import kernels


def make_weight(rows, columns, groups, bits, *, symmetric=False, half=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (rows, columns), generator=g)
    scale = torch.rand(rows, groups, generator=g) * 0.1 + 0.01
    zero = None if symmetric else torch.randint(2**bits, (rows, groups), generator=g)
    return kernels.from_codes(codes, scale.half() if half else scale, zero, bits=bits)


def spec(weight):
    """Ŵ and the size of its parts, s q + s z, both float64, read from the bytes with numpy."""

    def read(packed, count):
        data = packed.numpy()
        if weight.bits == 4:
            data = np.stack([data % 16, data // 16], -1).reshape(len(data), -1)
        return data[:, :count].astype(np.float64)

    codes, scale = read(weight.codes, weight.columns), weight.scale.double().numpy()
    zero = (
        np.full(scale.shape, 2.0 ** (weight.bits - 1))
        if weight.zero_point is None
        else read(weight.zero_point, weight.groups)
    )
    size = weight.columns // weight.groups
    s, z = scale.repeat(size, 1), zero.repeat(size, 1)
    return torch.from_numpy(s * (codes - z)), torch.from_numpy(s * (codes + z))
