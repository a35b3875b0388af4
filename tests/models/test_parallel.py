"""Two processes with half of the calibration each come to the result of one with all of it."""

import pytest
import tiny_models
import torch
from torch import distributed, multiprocessing
from transformers import AutoModelForCausalLM

from course_utils.errors import CompressionError
from course_utils.models import parallel
from course_utils.pruning import sparsegpt, wanda
from course_utils.quantization import compressed as compressed_files
from course_utils.quantization import gptq, streaming

IDS = torch.randint(3, tiny_models.VOCABULARY, (12, 24), generator=torch.Generator().manual_seed(1))


def compressed(model):
    result = gptq.quantize(model, IDS, bits=4, group_size=8)
    with torch.no_grad():
        return (
            result.details["layer_error"],
            result.details["few_tokens"],
            result.model(IDS[:2]).logits,
        )


def work(rank, place):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2
    )
    with parallel.calibration():
        torch.save(compressed(tiny_models.model_of("qwen3_moe", layers=2)), f"{place}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_two_processes_do_what_one_does(tmp_path):
    """Experts are reached by different tokens in each process;
    what both saw is counted together.
    """
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=2, start_method="fork")
    (errors, few, logits), (other_errors, _, other_logits) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(2)
    )
    alone_errors, alone_few, alone = compressed(tiny_models.model_of("qwen3_moe", layers=2))
    assert torch.equal(logits, other_logits) and errors == other_errors and few == alone_few
    assert errors == pytest.approx(alone_errors, rel=1e-5)
    torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)


def test_without_a_process_group_it_is_refused():
    with pytest.raises(CompressionError, match="torchrun"), parallel.calibration():
        pass
    assert parallel.part_of(IDS) is IDS


def in_memory(place):
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()


METHODS = {
    "gptq": lambda: (gptq.quantize, {"bits": 4, "group_size": 8}),
    "sparsegpt": lambda: (sparsegpt.prune, {"sparsity": 0.6}),
    "wanda": lambda: (wanda.prune, {"pattern": "2:4"}),
}


def from_disk(rank, place):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2
    )
    with parallel.calibration():
        for name, made in METHODS.items():
            method, settings = made()
            told = streaming.compress(
                f"{place}/model", method, IDS, out=f"{place}/{name}", states="disk", **settings
            )
            whole = method(in_memory(f"{place}/model"), IDS, **settings)
            torch.save(
                (told.settings, told.details, whole.settings, whole.details),
                f"{place}/{name}-{rank}.pt",
            )
            if rank == 0:
                whole.save(f"{place}/{name}-memory")
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_two_processes_from_disk_to_disk(tmp_path):
    """The bits of the same two processes with the model in memory, and what one process does up to
    rounding of the sums.
    """
    tiny_models.model_of("qwen3_moe", layers=2).save_pretrained(tmp_path / "model")
    multiprocessing.start_processes(from_disk, (str(tmp_path),), nprocs=2, start_method="fork")
    for name, made in METHODS.items():
        found, memory = (
            compressed_files.load(tmp_path / folder) for folder in (name, f"{name}-memory")
        )
        first, second = found.state_dict(), memory.state_dict()
        assert first.keys() == second.keys() and all(
            torch.equal(first[key], second[key]) for key in first
        )
        (_, told, settings, details), other = (
            torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=False) for rank in range(2)
        )
        size = told.pop("bytes")
        assert (
            size
            == other[1].pop("bytes")
            == sum(f.stat().st_size for f in (tmp_path / name).iterdir())
        )
        assert told == details == other[1] and settings == other[0]
        method, options = made()
        alone = method(in_memory(tmp_path / "model"), IDS, **options).model
        with torch.no_grad():
            torch.testing.assert_close(
                found(IDS[:2]).logits, alone(IDS[:2]).logits, rtol=1e-5, atol=1e-5
            )
    assert not list(tmp_path.glob(".*"))
