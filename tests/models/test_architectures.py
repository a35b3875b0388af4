"""The walk over every causal architecture that transformers can make small: what enters and leaves
each block is the model's own.

The list is transformers' and grows with it. What cannot be made here stands in NOT_MADE with the
reason.
"""

import pytest
import tiny_models
import torch
import transformers

from course_utils.models import walk

transformers.logging.set_verbosity_error()
NOT_MADE = {
    "blt": "a byte model with encoders of other names",
    "cohere_compass_text": "its default config has no full attention",
    "cpmant": "sizes of other names", "dbrx": "its config lacks rope_theta (transformers 5.23)",
    "deepseek_v2": "no default for topk", "dots1": "no default number of experts",
    "dots3_note": "towers", "dots3_note_text": "sizes of other names", "fuyu": "towers",
    "gemma3": "towers", "gemma3n": "wants timm", "gemma4_assistant": "reads another model's states",
    "gemma4_unified_assistant": "reads another model's states", "git": "towers",
    "got_ocr2": "towers", "inkling2_text": "sizes of other names",
    "inkling_text": "sizes of other names", "kimi_linear": "sizes of other names",
    "moss_transcribe_diarize": "towers", "musicgen": "no causal text model",
    "musicgen_melody": "no causal text model", "phi4_multimodal": "towers",
    "qwen4_exp": "no default sizes", "qwen4_exp_text": "no default sizes",
    "reformer": "axial positions", "roc_bert": "three embeddings of other names",
    "xlm": "sizes of other names", "xmod": "wants a language",
    "zamba": "shared blocks that do not tie at this depth", "zamba2": "54 layer types",
}  # fmt: skip
LOOPED = {"hrm_text"}  # calls its blocks many times: the walk ends when each was called once


@pytest.fixture(params=tiny_models.KINDS)
def made(request):
    try:
        model = tiny_models.model_of(request.param)
        with torch.no_grad():
            model(input_ids=torch.arange(3, 8)[None], use_cache=False)
    except Exception as error:
        if request.param in NOT_MADE:
            pytest.skip(NOT_MADE[request.param])
        raise AssertionError(
            f"{request.param}: not made; add sizes to tiny_models or a line to NOT_MADE"
        ) from error
    return request.param, model


def plain(out):
    return out[0] if isinstance(out, tuple | list) else out


def calls_of(model, ids):
    """What enters and leaves each block in one pass of the whole model, by hooks."""
    entered, left, handles = [], [], []
    for block in dict.fromkeys(walk.blocks(model)):
        handles += [
            block.register_forward_pre_hook(
                lambda _, args, kwargs: entered.append(
                    (args[0] if args else kwargs["hidden_states"]).clone()
                ),
                with_kwargs=True,
            ),
            block.register_forward_hook(lambda _, args, out: left.append(plain(out).clone())),
        ]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return entered, left


def agree(model, kind):
    # beyond the window of 8
    ids = torch.randint(
        3, tiny_models.VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1)
    )
    wanted = [calls_of(model, part) for part in ids.split(2)]
    steps = 0
    for i, (block, states) in enumerate(walk.through_blocks(model, ids, batch=2)):
        for (hidden, kwargs), (entered, left) in zip(states, wanted, strict=True):
            torch.testing.assert_close(hidden, entered[i], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                walk.run_block(block, hidden, kwargs), left[i], atol=1e-5, rtol=1e-5
            )
        steps += 1
    assert steps == len(wanted[0][0]) or kind in LOOPED
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_walk_is_the_model(made):
    kind, model = made
    agree(model, kind)


@pytest.mark.parametrize(
    "kind", ["gpt2", "llama", "opt", "gemma2", "qwen2", "gpt_neox", "bloom", "phi3", "mixtral"]
)
def test_whatever_the_attention_implementation(kind):
    """With eager attention some models hand the mask by position."""
    agree(tiny_models.model_of(kind, "eager"), kind)
