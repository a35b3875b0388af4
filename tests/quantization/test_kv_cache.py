import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from course_utils.errors import CompressionError
from course_utils.quantization import kv_cache


def tiny(kind="llama"):
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=128)
        ).eval()
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_states_against_a_loop(bits, by_channel):
    states = torch.randn(2, 3, 8, 16, generator=torch.Generator().manual_seed(bits))
    found = kv_cache.restore(kv_cache.compress(states, bits=bits, by_channel=by_channel))
    for b in range(2):
        for h in range(3):
            block = states[b, h].double()
            lines = block.T if by_channel else block
            for i, line in enumerate(lines):
                low, high = min(0.0, float(line.min())), max(0.0, float(line.max()))
                scale = float(torch.tensor((high - low) / (2**bits - 1)).half())
                zero = round(-low / scale)
                wanted = ((line / scale).round() + zero).clamp(0, 2**bits - 1).sub(zero) * scale
                got = found[b, h, :, i] if by_channel else found[b, h, i]
                torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-6)


def test_bytes():
    states = torch.randn(2, 3, 32, 16)
    packed = kv_cache.compress(states, bits=4, by_channel=True)
    assert packed.bytes == 2 * 3 * 16 * (32 // 2 + 2 + 1)  # codes, float16 scale, zero point
    assert kv_cache.compress(states, bits=2, by_channel=False).bytes == 2 * 3 * 32 * (
        16 // 4 + 2 + 1
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_eight_bits_generate_what_the_full_cache_generates(kind):
    model, ids = tiny(kind), torch.randint(60, (2, 40), generator=torch.Generator().manual_seed(0))
    cache = kv_cache.new(model, bits=8, group=8, window=4)
    settings = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    exact = model.generate(ids, **settings)
    found = model.generate(ids, past_key_values=cache, **settings)
    assert found.shape == exact.shape == (2, 70)
    assert (found == exact).float().mean() > 0.9
    layer = cache.layers[0]
    assert cache.get_seq_length() == 69
    assert 4 <= layer.keys.shape[-2] < 12 and len(layer.old) * 8 + layer.keys.shape[-2] == 69
    full = DynamicCache()
    model.generate(ids, past_key_values=full, **settings)
    assert cache.bytes < 0.55 * sum(
        t.numel() * t.element_size() for k, v, _ in full for t in (k, v)
    )


def test_beam_search():
    model, ids = tiny(), torch.randint(60, (2, 20), generator=torch.Generator().manual_seed(1))
    settings = {
        "max_new_tokens": 16,
        "num_beams": 3,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    found = model.generate(
        ids, past_key_values=kv_cache.new(model, bits=8, group=4, window=0), **settings
    )
    exact = model.generate(ids, **settings)
    assert found.shape == (2, 36) and (found == exact).float().mean() > 0.8


def test_selection_follows_the_batch():
    layer = kv_cache.QuantizedCacheLayer(bits=8, group=4, window=2)
    states = torch.randn(3, 2, 11, 8)
    layer.update(states, states + 1)
    before, _ = layer.update(states[:, :, :1], states[:, :, :1])
    layer.reorder_cache(torch.tensor([2, 0]))
    after, _ = layer.update(states[[2, 0], :, :1], states[[2, 0], :, :1])
    torch.testing.assert_close(after[:, :, :12], before[[2, 0]], atol=0.02, rtol=0)
    layer.batch_repeat_interleave(2)
    assert layer.update(states[[0, 0, 1, 1], :, :1], states[[0, 0, 1, 1], :, :1])[0].shape == (
        4,
        2,
        14,
        8,
    )
    layer.reset()
    assert layer.get_seq_length() == 0 and layer.bytes == 0
    with pytest.raises(CompressionError, match="cannot be cut"):
        layer.crop(1)


def test_keys_with_outlier_channels_want_a_scale_for_each_channel():
    """Large key channels do not disturb per-channel codes; values without them do better per token
    of a varied text.
    """
    g = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 2, 64, 32, generator=g)
    keys[..., 5] += 20
    values = torch.randn(1, 2, 64, 32, generator=g) * torch.logspace(-1, 1, 64)[:, None]
    query = torch.randn(1, 2, 10, 32, generator=g)

    def error(states, by_channel, use):
        return float(
            (
                use(kv_cache.restore(kv_cache.compress(states, bits=3, by_channel=by_channel)))
                - use(states)
            ).norm()
        )

    def scores(k):
        return query @ k.transpose(-1, -2)

    assert error(keys, True, scores) < 0.4 * error(keys, False, scores)
    assert error(values, False, lambda v: v[:, :, :32]) < 0.4 * error(
        values, True, lambda v: v[:, :, :32]
    )


def test_loss_through_a_full_cache_is_the_ordinary_loss():
    model, ids = tiny(), torch.randint(60, (3, 50), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
    wanted = float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    assert kv_cache.loss(model, ids, chunk=16, bits=None) == pytest.approx(wanted, rel=1e-5)
    assert kv_cache.loss(model, ids, chunk=16, bits=8, group=8, window=0) == pytest.approx(
        wanted, rel=2e-3
    )


def test_errors():
    model = tiny()
    for settings, message in (
        ({"bits": 1}, "bits"), ({"group": 0}, "group=0"), ({"window": -1}, "window=-1"),
        ({"key_axis": "head"}, "key_axis"),
    ):  # fmt: skip
        with pytest.raises(CompressionError, match=message):
            kv_cache.new(model, **settings)
    ids = torch.zeros(2, 8, dtype=torch.long)
    for wrong, settings in (
        (ids[:0], {}),
        (ids[:, :1], {}),
        (ids, {"chunk": 0}),
        (ids, {"batch": 0}),
        (ids - 1, {}),
    ):
        with pytest.raises(CompressionError):
            kv_cache.loss(model, wrong, **settings)
    config = MistralConfig(
        vocab_size=60, hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, sliding_window=8,
        layer_types=["sliding_attention"],
    )  # fmt: skip
    with pytest.raises(CompressionError, match="sliding_attention"):
        kv_cache.new(MistralForCausalLM(config))
