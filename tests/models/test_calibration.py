"""Calibration in the forms in which people have it; padding is in no statistic, and every method
takes every form.
"""

import json

import pytest
import tiny_models
import torch
from torch import nn

from course_utils import models, pruning, quantization
from course_utils.errors import CompressionError
from course_utils.models import calibration, walk
from course_utils.pruning import structured
from course_utils.quantization import hessians

ROWS = [[5, 9, 12, 30, 7], [8, 44, 61], [20, 21, 22, 23, 24], [90, 4, 6, 6, 3, 2, 70]]


def padded(side: str) -> dict[str, torch.Tensor]:
    """What a tokenizer gives for ROWS with padding=True, padded with an id that would be loud."""
    width = max(map(len, ROWS))
    ids, mask = torch.full((len(ROWS), width), 95), torch.zeros(len(ROWS), width, dtype=torch.long)
    for i, row in enumerate(ROWS):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


FORMS = {
    "lists": lambda: ROWS,
    "padded on the right": lambda: padded("right"),
    "padded on the left": lambda: padded("left"),
    "examples": lambda: [{"input_ids": row} for row in ROWS],
    "padded examples": lambda: [
        dict(zip(("input_ids", "attention_mask"), pair, strict=True))
        for pair in zip(*(v.tolist() for v in padded("left").values()), strict=True)
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_tokens_that_are_there(form):
    found = calibration.of(FORMS[form]())
    assert [row.tolist() for row in found.rows] == ROWS
    assert found.shape == (4, 7) and found.numel() == 20 and len(found) == 4
    assert sorted(part.tolist() for part in found.split(8)) == sorted(
        [[ROWS[0], ROWS[2]], [ROWS[1]], [ROWS[3]]]
    )
    assert [part.shape[0] for part in found.split(1)] == [1, 1, 1, 1]


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def model(request):
    from course_utils.models import experts

    return experts.copy_listed(tiny_models.model_of(request.param, layers=2))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_the_hessians(model, side):
    """Against XᵀX of each sequence read alone, without any padding, also in experts."""
    wanted: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def see(name, x):
        x = x.flatten(0, -2).double()
        wanted[name] = wanted.get(name, 0) + x.T @ x
        counts[name] = counts.get(name, 0) + len(x)

    handles = [
        m.register_forward_pre_hook(lambda _, a, n=n: see(n, a[0]))
        for n, m in walk.compressible(model).items()
    ]
    with torch.no_grad():
        for row in ROWS:
            model(input_ids=torch.tensor([row]), use_cache=False)
    for handle in handles:
        handle.remove()
    names = {id(m): n for n, m in walk.compressible(model).items()}
    found = {}
    for block, states in walk.through_blocks(model, walk.check_calibration(padded(side), model)):
        found |= {names[id(m)]: H for m, H in hessians.block_hessians(block, states).items()}
    assert found.keys() == wanted.keys()
    for name, H in found.items():
        torch.testing.assert_close(
            H.double(), wanted[name] * 2 / counts[name], rtol=1e-4, atol=1e-6
        )


METHODS = {
    "gptq": lambda m, c: quantization.gptq.quantize(m, c, group_size=8),
    "awq": lambda m, c: quantization.awq.quantize(m, c, group_size=8),
    "smoothquant": lambda m, c: quantization.smoothquant.quantize(m, c, observer="min_max"),
    "w8a8": lambda m, c: quantization.w8a8.quantize(
        m, c, observer="min_max", activations="per_tensor"
    ),
    "wanda": lambda m, c: pruning.wanda.prune(m, c),
    "sparsegpt": lambda m, c: pruning.sparsegpt.prune(m, c),
    "prune_mlp": lambda m, c: structured.prune_mlp(m, c),
    "prune_heads": lambda m, c: structured.prune_heads(m, c),
    "prune_layers": lambda m, c: structured.prune_layers(m, c),
    "prune_blocks": lambda m, c: structured.prune_blocks(m, c),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_padded_batches_as_their_tokens(method):
    net = tiny_models.model_of("llama", layers=2)
    results = [METHODS[method](net, c) for c in (ROWS, padded("left"))]
    ids = torch.tensor([ROWS[3]])
    one, other = (r.model(input_ids=ids).logits for r in results)
    assert torch.equal(one, other) and not torch.equal(one, net(input_ids=ids).logits)
    assert results[0].settings.get("calibration", [4, 7]) == [4, 7]


def test_text_chats_and_files(tmp_path):
    words = models.load_tokenizer()
    texts = ["Ada puts the lamp in the shed.", "Story: Bo sees it."]
    rows = [words(t)["input_ids"] for t in texts]
    assert [r.tolist() for r in calibration.of(texts, words).rows] == rows
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    assert [r.tolist() for r in calibration.of(tmp_path / "a.jsonl", words).rows] == rows
    long = " ".join(texts * 20)
    (tmp_path / "a.txt").write_text(long)
    for given in (long, tmp_path / "a.txt", str(tmp_path / "a.txt")):
        cut = calibration.of(given, words, context=32)
        assert torch.cat([*cut.rows]).tolist() == words(long)["input_ids"] and cut.shape[1] == 32
    assert calibration.of(words(texts, padding=True, return_tensors="pt")).numel() == sum(
        map(len, rows)
    )
    chat = [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": "yes"}]
    with pytest.raises(CompressionError, match="no chat template"):
        calibration.of([chat], words)
    words.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    wanted = words(f"user: {texts[0]}\nassistant: yes\n", add_special_tokens=False)["input_ids"]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": chat}))
    for given in ([chat], chat, tmp_path / "chat.jsonl"):
        assert calibration.of(given, words).tolist() == [wanted]


def test_a_models_own_tokenizer_is_used(tmp_path):
    net, words = models.load()
    found = walk.check_calibration(["Ada puts the lamp in the shed."], net)
    assert found.tolist() == [words("Ada puts the lamp in the shed.")["input_ids"]]
    with pytest.raises(CompressionError, match="text needs the model's tokenizer"):
        walk.check_calibration(["words"], tiny_models.model_of("llama", layers=1))


@pytest.mark.parametrize("bad", [None, [], "", 3, [[]], torch.zeros(0, 4), torch.rand(2, 3),
                                 [[1.5, 2.0]], ["a", 3], {"input_ids": [[1, 2]],
                                 "attention_mask": [[1]]},
                                 {"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}])  # fmt: skip
def test_what_is_no_calibration(bad):
    with pytest.raises(CompressionError, match="calibration"):
        calibration.of(bad, models.load_tokenizer())


def test_other_errors_name_the_remedy():
    net = tiny_models.model_of("llama", layers=1)
    with pytest.raises(CompressionError, match="outside 0 to 95"):
        walk.check_calibration([[1, 2, 3], [96]], net)
    with pytest.raises(CompressionError, match="at most 128"):
        walk.check_calibration([[1] * 129, [2]], net)
    with pytest.raises(CompressionError, match="different lengths"):
        walk.check_calibration(ROWS, net, whole=True)
    with pytest.raises(CompressionError, match="no file"):
        calibration.of("nothing-here.txt")
    assert isinstance(
        walk.check_calibration(torch.ones(2, 3, dtype=torch.int32), nn.Linear(2, 2)), torch.Tensor
    )
