import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.errors import CompressionError
from course_utils.quantization import observers


def feed(observer, *batches):
    for batch in batches:
        observer.observe(batch)
    return tuple(float(v) for v in observer.range())


def skewed(n=20_000, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g) * 0.5 + 0.3 * torch.rand(n, generator=g) ** 6 * 10


def test_min_max_and_moving_average_against_torch():
    from torch.ao.quantization.observer import MinMaxObserver, MovingAverageMinMaxObserver

    batches = [skewed(500, seed) * (1 + seed) for seed in range(5)]
    theirs = MinMaxObserver()
    average = MovingAverageMinMaxObserver(averaging_constant=0.1)
    for batch in batches:
        theirs(batch)
        average(batch)
    assert feed(observers.MinMax(), *batches) == (float(theirs.min_val), float(theirs.max_val))
    found = feed(observers.MovingAverage(0.9), *batches)
    assert found == pytest.approx((float(average.min_val), float(average.max_val)), rel=1e-6)


def test_histogram_keeps_every_value_when_it_grows():
    small, large = torch.randn(1000), 300 * torch.randn(1000)
    histogram = observers.Histogram(bins=256)
    histogram.observe(small)
    histogram.observe(large)
    assert float(histogram.counts.sum()) == 2000
    edges = np.linspace(-histogram.reach, histogram.reach, 257)
    wanted = np.histogram(large.numpy(), edges)[0]
    counted = histogram.counts.numpy() - wanted
    middle = np.abs((edges[1:] + edges[:-1]) / 2) < 8
    assert counted[~middle].sum() == 0 and counted[middle].sum() == 1000 and counted.min() >= 0


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9])
def test_percentile_against_numpy(percent):
    x = skewed()
    low, high = feed(observers.Percentile(percent), *x.split(3000))
    tail = (100 - percent) / 2
    width = 2 * 2 * float(x.abs().max()) / observers.BINS
    # between the two neighbours in rank, give or take a bin
    for found, share in ((low, tail), (high, 100 - tail)):
        assert found >= np.percentile(x.numpy(), share, method="lower") - 2 * width
        assert found <= np.percentile(x.numpy(), share, method="higher") + 2 * width


def true_error(x, low, high, bits, symmetric):
    x = x.double().numpy()
    if symmetric:
        scale, zero = max(-low, high) / (2 ** (bits - 1) - 1), 2 ** (bits - 1)
    else:
        scale = (high - low) / (2**bits - 1)
        zero = round(-low / scale)
    return float(
        ((x - scale * (np.clip(np.round(x / scale) + zero, 0, 2**bits - 1) - zero)) ** 2).mean()
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_squared_error_range_is_as_good_as_brute_force(bits, symmetric):
    x = skewed(4000)
    x[0] = 12.0
    low, high = feed(observers.SquaredError(bits, symmetric), x)
    ours = true_error(x, low, high, bits, symmetric)
    lowest, largest = float(x.min()), float(x.max())
    best = math.inf
    for c in np.linspace(0.03, 1, 60):
        for d in [1.0] if symmetric else np.linspace(0.03, 1, 60):
            best = min(
                best,
                true_error(
                    x,
                    max(lowest, -c * 12) if symmetric else d * lowest,
                    c * largest,
                    bits,
                    symmetric,
                ),
            )
    assert ours <= 1.06 * best
    if bits < 8:
        assert ours < 0.9 * true_error(x, lowest, largest, bits, symmetric)


def slow_divergence(counts, end, levels):
    """Migacz's pseudo-code with loops."""
    p = list(counts[:end])
    p[-1] += sum(counts[end:])
    q = [0.0] * end
    for level in range(levels):
        members = range(level * end // levels, (level + 1) * end // levels)
        filled = [i for i in members if counts[i] > 0]
        for i in filled:
            q[i] = sum(counts[j] for j in members) / len(filled)
    total_p, total_q = sum(p), sum(q)
    return sum(
        a / total_p * math.log(a / total_p / max(b / total_q, 1e-12))
        for a, b in zip(p, q, strict=True)
        if a > 0
    )


def test_entropy_threshold_is_the_minimum_of_the_slow_formula():
    x = torch.cat(
        [torch.randn(5000, generator=torch.Generator().manual_seed(1)), torch.tensor([25.0, -31.0])]
    )
    observer = observers.Entropy(bits=4, bins=256)
    low, high = feed(observer, x)
    counts = np.histogram(x.abs().numpy(), 128, (0, observer.reach))[0].astype(float)
    costs = {end: slow_divergence(counts, end, 8) for end in range(8, 129)}
    best = min(costs, key=costs.get)
    assert high == pytest.approx(observer.reach * best / 128) and low == pytest.approx(-high)
    assert high < 10  # the two outliers are clipped


def test_every_observer_serves_non_negative_and_constant_activations():
    for name in observers.OBSERVERS:
        for x in (torch.rand(500), torch.zeros(10), torch.full((5,), 3.0)):
            observer = observers.make(name, symmetric=False)
            low, high = feed(observer, x)
            assert low <= high <= float(x.max())
            grid = observers.grid(observer, 4, symmetric=False)
            assert grid.zero_point.item() == 0 and grid.scale.item() > 0


def test_watch_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    model = LlamaForCausalLM(config).train()
    ids = torch.randint(50, (3, 7))
    found = observers.watch(model, ids, observers.MinMax, batch=2)
    assert len(found) == 14 and model.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    model.eval()
    caught = {}
    layer = model.model.layers[1].mlp.down_proj
    layer.register_forward_pre_hook(lambda _, args: caught.update(x=args[0]))
    model(input_ids=ids)
    observer = found["model.layers.1.mlp.down_proj"]
    torch.testing.assert_close(
        torch.stack(observer.range()), torch.stack([caught["x"].min(), caught["x"].max()])
    )


def test_errors():
    with pytest.raises(CompressionError, match="choose one of min_max"):
        observers.make("magic")
    with pytest.raises(CompressionError, match="has seen no activations"):
        observers.MinMax().range()
    for bad in (torch.tensor([1.0, math.nan]), torch.tensor([])):
        with pytest.raises(CompressionError, match="activations"):
            observers.Entropy().observe(bad)
    for make in (
        lambda: observers.Percentile(101),
        lambda: observers.MovingAverage(1.0),
        lambda: observers.Histogram(10),
    ):
        with pytest.raises(CompressionError):
            make()
