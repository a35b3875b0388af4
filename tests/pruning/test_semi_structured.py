"""The way to torch's 2:4 kernels.

They run on a GPU only; without one, what they are given is checked.
"""

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS as Cutlass

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import magnitude, semi_structured

GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() >= semi_structured.CAPABILITY


def network(pattern="2:4"):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32, bias=False)
    )
    return magnitude.prune(model, 0.5, pattern=pattern).model.half()


def test_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CompressionError, match="no NVIDIA GPU.*storage.compress"):
        semi_structured.use_kernels(network())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Turing")
    with pytest.raises(CompressionError, match=r"Turing has compute capability 7\.5.*8\.0"):
        semi_structured.use_kernels(network())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    with pytest.raises(
        CompressionError, match=r"0 is torch.float16 on cpu; call model.half\(\).cuda\(\)"
    ):
        semi_structured.use_kernels(network())


@pytest.fixture
def pretend(monkeypatch):
    """A machine that looks like one with a GPU, and torch's compression done by its CUTLASS
    backend, which packs on a CPU.
    """
    given = []
    monkeypatch.setattr(semi_structured, "check_device", lambda: None)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    monkeypatch.setattr(
        torch.sparse,
        "to_sparse_semi_structured",
        lambda dense: given.append(dense) or Cutlass.from_dense(dense),
    )
    return given


def test_layers_that_fit_get_torchs_weight_and_no_others(pretend):
    model = network()
    dense = {name: walk.weight_of(m).clone() for name, m in walk.compressible(model).items()}
    assert semi_structured.use_kernels(model) == ["0", "4"], "96 inputs are no multiple of 64"
    assert all(torch.equal(a, dense[name]) for a, name in zip(pretend, ("0", "4"), strict=True))
    for name in ("0", "4"):
        weight = model.get_submodule(name).weight
        assert (
            isinstance(weight.data, Cutlass)
            and not weight.requires_grad
            and weight.shape == dense[name].shape
        )
    assert torch.equal(model[2].weight, dense["2"])


def test_a_model_without_the_pattern_is_refused_and_unchanged(pretend):
    model = network("per_layer")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CompressionError, match="no linear layer is 2:4"):
        semi_structured.use_kernels(model)
    assert not pretend and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU of the Ampere generation or later")
def test_the_kernels_compute_the_same():
    model, x = network().cuda(), torch.randn(64, 64).half().cuda()
    with torch.inference_mode():
        wanted = model(x)
        semi_structured.use_kernels(model)
        assert torch.allclose(model(x), wanted, atol=1e-2, rtol=1e-2)
