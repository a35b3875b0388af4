"""SparseGPT leaves what it is given as it was, and promises no more than it keeps."""

import torch

from course_utils.pruning import sparsegpt
from course_utils.quantization import gptq


def test_the_weight_is_unchanged_also_with_one_row_or_one_column():
    for rows, columns in ((1, 6), (6, 1), (3, 6)):
        generator = torch.Generator().manual_seed(rows)
        weight = torch.randn(rows, columns, generator=generator)
        before, H = weight.clone(), gptq.hessian(torch.randn(40, columns, generator=generator))
        keep = torch.rand(rows, columns, generator=generator) > 0.5
        sparsegpt.prune_layer(weight, H, mask=keep)
        sparsegpt.prune_layer(weight, H, sparsity=0.5)
        assert weight.equal(before)


def test_a_repair_can_make_it_worse():
    """Lesson 3.4: the middle weight makes up for the first, counting on the third, which then goes
    as well.
    """
    H = torch.tensor([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]], dtype=torch.float64)
    weight, keep = (
        torch.tensor([[1.0, 1, -1]], dtype=torch.float64),
        torch.tensor([[False, True, False]]),
    )
    repaired = sparsegpt.prune_layer(weight, H, mask=keep, damping=0.0).weight
    assert torch.allclose(repaired, torch.tensor([[0, 5 / 3, 0]], dtype=torch.float64))
    assert gptq.layer_error(weight, weight * keep, H) < gptq.layer_error(weight, repaired, H)
