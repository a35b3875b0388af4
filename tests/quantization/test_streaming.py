"""Block by block from disk to disk gives what the method gives in memory, bit for bit, however
often it is interrupted.
"""

import os
import random
import signal
import subprocess
import sys
import textwrap

import pytest
import tiny_models
import torch

from course_utils import models, pruning, quantization
from course_utils.errors import CompressionError
from course_utils.models import checkpointing, loading, shards, walk
from course_utils.quantization import compressed, streaming

IDS = torch.randint(3, tiny_models.VOCABULARY, (10, 24), generator=torch.Generator().manual_seed(1))
METHODS = {
    "rtn": (quantization.rtn.quantize, (), {"bits": 3, "group_size": 8, "ignore": "0.*v_proj"}),
    "gptq": (quantization.gptq.quantize, (IDS,),
             {"group_size": 8, "act_order": True, "per_layer": {"down_proj": {"bits": 8}}}),
    "hqq": (quantization.hqq.quantize, (), {"group_size": 8}),
    "wanda": (pruning.wanda.prune, (IDS,), {"pattern": "2:4"}),
    "sparsegpt": (pruning.sparsegpt.prune, (IDS,), {"sparsity": 0.6}),
    "e8": (quantization.e8.quantize, (IDS,), {"rotation": 0}),
    "trellis": (quantization.trellis.quantize, (IDS,),
                {"state_bits": 4, "segment": 8, "per_layer": {"down_proj": {"bits": 3}}}),
    "additive": (quantization.additive.quantize, (),
                 {"shared": False, "entries": 8, "rounds": 1, "ignore": "0.*v_proj"}),
    "low_rank": (quantization.low_rank.compress, (IDS,),
                 {"per_layer": {"down_proj": {"ratio": 0.7}}}),
    "magnitude": (pruning.magnitude.prune, (), {"ignore": "0.*v_proj"}),
    "nf4": (quantization.nf4.quantize, (), {"ignore": "0.*v_proj"}),
    "mxfp4": (quantization.microscaling.quantize, (),
              {"scheme": "MXFP4", "per_layer": {"down_proj": {"scheme": "MXFP8 E4M3"}}}),
    "nvfp4": (quantization.microscaling.quantize, (),
              {"scheme": "NVFP4", "four_over_six": True, "ignore": "0.*v_proj"}),
}  # fmt: skip
PAIRS = [("llama", name) for name in METHODS] + [
    (kind, "gptq") for kind in ("qwen2", "qwen3", "opt", "gpt2", "gemma", "gpt_neox", "gemma3_text")
] + [("qwen3_moe", "gptq"), ("mixtral", "wanda"), ("qwen3_moe", "nvfp4")]  # fmt: skip


def folder_of(kind, place, layers=2):
    tiny_models.model_of(kind, layers=layers).save_pretrained(place)
    return place


def in_memory(place):
    config = models.loading.AutoConfig.from_pretrained(place)
    return loading.auto_class(config).from_pretrained(place, dtype=torch.float32).eval()


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert [
        k
        for k in first
        if first[k].dtype != second[k].dtype or not torch.equal(first[k], second[k])
    ] == []
    with torch.no_grad():
        assert torch.equal(a(IDS[:2])[0], b(IDS[:2])[0])


@pytest.mark.parametrize(("kind", "method"), PAIRS)
@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_the_same_model_as_in_memory(kind, method, tmp_path):
    place = folder_of(kind, tmp_path / "model")
    function, ids, settings = METHODS[method]
    settings = {
        k: v for k, v in settings.items() if kind == "llama" or k not in ("ignore", "per_layer")
    }
    result = streaming.compress(
        place, function, *ids, out=tmp_path / "out", states="disk", **settings
    )
    wanted = function(in_memory(place), *ids, **settings)
    wanted.save(tmp_path / "wanted")
    same(compressed.load(tmp_path / "out"), compressed.load(tmp_path / "wanted"))
    told, expected = (
        {k: v for k, v in r.details.items() if k not in ("bytes", "bits_per_weight")}
        for r in (result, wanted)
    )
    assert (result.settings, told, result.coverage) == (wanted.settings, expected, wanted.coverage)
    # in the file each layer has its own table; else as in memory
    if "bits_per_weight" in result.details:
        shared = method == "trellis"
        assert (result.details["bits_per_weight"] > wanted.details["bits_per_weight"]) == shared
        assert shared or result.details["bits_per_weight"] == wanted.details["bits_per_weight"]
    assert result.details["bytes"] == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out", "wanted"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("method", ["gptq", "sparsegpt"])
@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_interrupted_at_every_write_and_begun_again(method, tmp_path, monkeypatch):
    place = folder_of("llama", tmp_path / "model", layers=3)
    function, ids, settings = METHODS[method]
    stored = {} if method == "gptq" else {"stored": pruning.storage.store}
    settings.pop("per_layer", None)
    streaming.compress(place, function, *ids, out=tmp_path / "whole", **stored, **settings)
    plain, left = os.replace, {"writes": 0}

    def replace(a, b):
        left["writes"] -= 1
        if left["writes"] < 0:
            raise Killed
        plain(a, b)

    monkeypatch.setattr(os, "replace", replace)
    for tries in range(1, 30):
        begun = any((tmp_path / ".out.part").glob("block-*"))
        # the job, a block, then a write more each time; two to end
        left["writes"] = (1 + tries // 8 if begun else 2) if tries > 1 else 0
        try:
            streaming.compress(place, function, *ids, out=tmp_path / "out", **stored, **settings)
            break
        except Killed:
            assert not (tmp_path / "out").exists()
    assert tries > 5
    same(compressed.load(tmp_path / "out"), compressed.load(tmp_path / "whole"))


def test_killed_at_a_random_moment(tmp_path):
    """SIGKILL, which nothing can catch; the second process ends what the first began."""
    place = folder_of("llama", tmp_path / "model", layers=6)
    code = textwrap.dedent(f"""
        import torch
        from course_utils.quantization import gptq, streaming
        torch.set_num_threads(1)
        ids = torch.randint(3, 90, (40, 64), generator=torch.Generator().manual_seed(1))
        print("ready", flush=True)
        streaming.compress({str(place)!r}, gptq.quantize, ids,
                           out={str(tmp_path)!r} + "/out", group_size=8)
    """)
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert first.stdout.readline() == b"ready\n"
    blocks = tmp_path / ".out.part"
    wanted = random.randrange(1, 5)
    while len(list(blocks.glob("block-*.safetensors"))) < wanted and first.poll() is None:
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "out").exists()
    ids = torch.randint(3, 90, (40, 64), generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        streaming.compress(
            place, quantization.gptq.quantize, ids, out=tmp_path / "out", group_size=8
        )
        wanted = quantization.gptq.quantize(in_memory(place), ids, group_size=8)
    finally:
        torch.set_num_threads(threads)
    wanted.save(tmp_path / "wanted")
    same(compressed.load(tmp_path / "out"), compressed.load(tmp_path / "wanted"))


def test_one_block_has_its_numbers_at_a_time_and_no_state_is_kept(tmp_path, monkeypatch):
    place = folder_of("llama", tmp_path / "model", layers=5)
    held = []

    def hessians(block, states, *rest):
        model = next(m for m in made)
        held.append(
            sum(
                not all(p.is_meta for p in (*b.parameters(), *b.buffers()))
                for b in walk.blocks(model)
            )
        )
        assert (
            model.get_output_embeddings().weight.is_meta
            and model.get_input_embeddings().weight.is_meta
        )
        assert all(hidden.untyped_storage().nbytes() == 0 for _, hidden, _ in states.arrived)
        return plain(block, states, *rest)

    plain, structure, made = (
        quantization.convert.block_hessians,
        quantization.convert.sharing.structure,
        [],
    )
    monkeypatch.setattr(quantization.convert, "block_hessians", hessians)
    monkeypatch.setattr(
        quantization.convert.sharing, "structure", lambda m: made.append(structure(m)) or made[-1]
    )
    streaming.compress(
        place, quantization.gptq.quantize, IDS, out=tmp_path / "out", states="disk", group_size=8
    )
    assert held == [1] * 5


def test_states_in_half_precision_change_little(tmp_path):
    place = folder_of("llama", tmp_path / "model", layers=3)
    for states in ("half", "memory"):
        streaming.compress(
            place,
            quantization.gptq.quantize,
            IDS,
            out=tmp_path / states,
            states=states,
            group_size=8,
        )
    with torch.no_grad():
        half, whole = (compressed.load(tmp_path / name)(IDS)[0] for name in ("half", "memory"))
        dense = in_memory(place)(IDS)[0]
    assert 0 < (half - whole).norm() < 0.5 * (whole - dense).norm()


def refuse(told, *arguments, **settings):
    with pytest.raises(CompressionError, match=told):
        streaming.compress(*arguments, **settings)


def test_what_cannot_go_on_is_told(tmp_path, monkeypatch):
    place = folder_of("llama", tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    rtn, out = quantization.rtn.quantize, tmp_path / "out"
    refuse("holds something else", place, rtn, out=tmp_path / "full")
    refuse("is no folder", "some/name", rtn, out=out)
    refuse("device='nowhere': cannot be used", place, rtn, out=out, device="nowhere")
    refuse("bits=9", place, rtn, out=out, bits=9)
    refuse("meta device", place, quantization.awq.quantize, IDS, out=out)
    refuse("both must be in memory", place, quantization.qronos.quantize, IDS, out=out)
    refuse("give shared=False", place, quantization.additive.quantize, out=out)
    refuse("'global'", place, pruning.magnitude.prune, out=out, pattern="global")
    refuse("states='tape'", place, quantization.gptq.quantize, IDS, out=out, states="tape")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "model"]

    def full(tensors, path, **_):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    plain = checkpointing.save_file
    monkeypatch.setattr(
        checkpointing,
        "save_file",
        lambda tensors, path, **kw: (
            full(tensors, path) if "00001" in path.name else plain(tensors, path, **kw)
        ),
    )
    refuse("Free some space and run again", place, rtn, out=out, group_size=8)
    monkeypatch.undo()
    refuse("another model, calibration or settings", place, rtn, out=out, group_size=16)
    streaming.compress(place, rtn, out=out, group_size=8)
    before = compressed.load(out).state_dict()
    # a folder that was written here is replaced
    streaming.compress(place, rtn, out=out, group_size=16)
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.scale"],
        compressed.load(out).state_dict()["model.layers.0.mlp.up_proj.scale"],
    )


def test_files_that_lack_something_or_hold_no_numbers(tmp_path):
    model = tiny_models.model_of("llama", layers=2)
    tensors = model.state_dict()
    model.save_pretrained(
        tmp_path / "nan",
        state_dict={
            **tensors,
            "model.layers.1.mlp.up_proj.weight": tensors["model.layers.1.mlp.up_proj.weight"]
            * torch.nan,
        },
    )
    refuse(
        r"layers\.1\.mlp\.up_proj: weight: contains NaN",
        tmp_path / "nan",
        quantization.rtn.quantize,
        out=tmp_path / "out",
        group_size=8,
    )
    model.save_pretrained(
        tmp_path / "less", state_dict={k: v for k, v in tensors.items() if "1.mlp.up" not in k}
    )
    refuse(
        "lack model.layers.1.mlp.up_proj.weight",
        tmp_path / "less",
        quantization.rtn.quantize,
        out=tmp_path / "out2",
        group_size=8,
    )
    found = shards.Shards(folder_of("llama", tmp_path / "model"))
    first, second = walk.blocks(found.blank)
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    with pytest.raises(
        CompressionError,
        match=r"1\.mlp\.up_proj\.weight is the same weight as .*0\.mlp\.up_proj.*in memory",
    ):
        found._refuse_sharing()


def test_tensors_in_several_files_and_half_precision(tmp_path):
    model = tiny_models.model_of("llama", layers=3).bfloat16()
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    found = shards.Shards(tmp_path / "model")
    whole = in_memory(tmp_path / "model")
    for number, block in enumerate(walk.blocks(whole)):
        mine = found.block(number).state_dict()
        assert all(torch.equal(mine[name], tensor) for name, tensor in block.state_dict().items())
