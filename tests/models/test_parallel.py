"""Two processes with half of the calibration each come to the result of one with all of it."""

import pytest
import tiny_models
import torch
from torch import distributed, multiprocessing

from course_utils.errors import CompressionError
from course_utils.models import parallel
from course_utils.quantization import gptq

IDS = torch.randint(3, tiny_models.VOCABULARY, (12, 24), generator=torch.Generator().manual_seed(1))


def compressed(model):
    result = gptq.quantize(model, IDS, bits=4, group_size=8)
    with torch.no_grad():
        return result.details["layer_error"], result.details["few_tokens"], result.model(IDS[:2]).logits


def work(rank, place):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    with parallel.calibration():
        torch.save(compressed(tiny_models.model_of("qwen3_moe", layers=2)), f"{place}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_two_processes_do_what_one_does(tmp_path):
    """Experts are reached by different tokens in each process; what both saw is counted together."""
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=2, start_method="fork")
    (errors, few, logits), (other_errors, _, other_logits) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone_errors, alone_few, alone = compressed(tiny_models.model_of("qwen3_moe", layers=2))
    assert torch.equal(logits, other_logits) and errors == other_errors and few == alone_few
    assert errors == pytest.approx(alone_errors, rel=1e-5)
    torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)


def test_without_a_process_group_it_is_refused():
    with pytest.raises(CompressionError, match="torchrun"), parallel.calibration():
        pass
    assert parallel.part_of(IDS) is IDS
