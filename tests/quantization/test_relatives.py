"""LDLQ, Qronos, GPTAQ and low rank, against slow mathematics in float64."""

import pytest
import tiny_models
import torch
from safetensors.torch import load_file

from course_utils import quantization
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import gptaq, gptq, low_rank, qronos
from course_utils.quantization.grids import Grid, make_grid

IDS = torch.randint(3, tiny_models.VOCABULARY, (8, 24), generator=torch.Generator().manual_seed(1))


def layer(seed=0, rows=6, columns=12, tokens=60):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=g, dtype=torch.float64)
    X = torch.randn(tokens, columns, generator=g, dtype=torch.float64) @ mix
    W = torch.randn(rows, columns, generator=g, dtype=torch.float64)
    # inputs, the original's inputs
    return W, X, X + 0.3 * torch.randn(tokens, columns, generator=g, dtype=torch.float64)


def slow_gptq(W, H, grid):
    """At each column the least-squares answer of the columns to come, from normal equations solved
    afresh.
    """
    W, out = W.clone(), torch.zeros_like(W)
    for i in range(W.shape[1]):
        g = grid.group_index[i]
        s, z = grid.scale[:, g].double(), grid.zero_point[:, g].double()
        out[:, i] = s * ((W[:, i] / s).round().add(z).clamp(0, grid.largest) - z)
        if i + 1 < W.shape[1]:
            W[:, i + 1 :] += torch.linalg.solve(
                H[i + 1 :, i + 1 :], torch.outer(H[i + 1 :, i], W[:, i] - out[:, i])
            ).T
    return out


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ldlq_is_gptq_whether_or_not_the_grid_clamps(bits):
    for seed in range(4):
        W, X, _ = layer(seed)
        H = gptq.hessian(X)
        grid = make_grid(W, bits=bits, symmetric=False, group_size=4)
        wanted = slow_gptq(W, gptq.damped(H, 0.01), grid)
        torch.testing.assert_close(qronos.ldlq_layer(W, H, grid), wanted, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            gptq.quantize_layer_spec(W, H, grid=grid), wanted, rtol=0, atol=1e-9
        )
        found = gptq.quantize_layer(
            W, H, bits=bits, group_size=4, static_groups=True, never_worse=False
        )
        torch.testing.assert_close(found.weight, wanted, rtol=0, atol=1e-9)


def test_ldlq_reaches_whole_numbers_far_from_any_limit():
    W, X, _ = layer(5)
    H = gptq.hessian(X)
    wide = Grid(
        torch.full((6, 1), 0.05, dtype=torch.float64),
        torch.full((6, 1), 2.0**15, dtype=torch.float64),
        torch.zeros(12, dtype=torch.long),
        16,
        False,
    )
    found = qronos.ldlq_layer(W, H, wide)
    torch.testing.assert_close(found, slow_gptq(W, gptq.damped(H, 0.01), wide), rtol=0, atol=1e-9)
    rounded = 0.05 * (W / 0.05).round()
    assert gptq.layer_error(W, found, H) < gptq.layer_error(W, rounded, H)


def slow_qronos(W, X, Y, grid, ridge, first):
    """Column by column, by least squares on the inputs themselves with √λ I below them, as the
    paper states it.
    """
    n = W.shape[1]
    A = torch.cat([X * (2 / len(X)) ** 0.5, ridge**0.5 * torch.eye(n, dtype=torch.float64)])
    B = torch.cat([Y * (2 / len(Y)) ** 0.5, ridge**0.5 * torch.eye(n, dtype=torch.float64)]) @ W.T
    out = torch.zeros_like(W)
    now = W.clone() if first == "held" else torch.linalg.lstsq(A, B).solution.T
    for i in range(n):
        if i == 0 and first == "held":
            rest = B - A[:, 1:] @ W[:, 1:].T
            value = (A[:, 0] @ rest) / A[:, 0].square().sum()
        else:
            value = now[:, i]
        g = grid.group_index[i]
        s, z = grid.scale[:, g].double(), grid.zero_point[:, g].double()
        out[:, i] = s * ((value / s).round().add(z).clamp(0, grid.largest) - z)
        if i + 1 < n:
            rest = B - A[:, : i + 1] @ out[:, : i + 1].T
            now[:, i + 1 :] = torch.linalg.lstsq(A[:, i + 1 :], rest).solution.T
    return out


@pytest.mark.parametrize("first", ["held", "free"])
def test_qronos_is_the_papers_walk(first):
    for seed in range(4):
        W, X, Y = layer(seed)
        H, C = gptq.hessian(X), (2 / len(X)) * Y.T @ X
        ridge = float((gptq.damped(H, 0.01) - H).diagonal()[0])
        V = qronos.target(W, H, C, first=first)
        found = gptq.quantize_layer(
            V, H, bits=4, group_size=4, static_groups=True, never_worse=False
        )
        wanted = slow_qronos(W, X, Y, found.grid, ridge, first)
        torch.testing.assert_close(found.weight, wanted, rtol=0, atol=1e-8)
        same = qronos.quantize_layer(W, H, C, bits=4, group_size=4, static_groups=True, first=first)
        torch.testing.assert_close(same.weight, found.weight)


def test_equal_inputs_leave_qronos_at_gptq_and_wrong_ones_are_errors():
    W, X, _ = layer(7)
    H = gptq.hessian(X)
    for first in ("held", "free"):
        torch.testing.assert_close(qronos.target(W, H, H, first=first), W, rtol=0, atol=1e-9)
    with pytest.raises(CompressionError, match="^C:"):
        qronos.target(W, H, H[:5, :5])
    with pytest.raises(CompressionError, match="^H:"):
        qronos.target(W, H * float("nan"), H)
    with pytest.raises(CompressionError, match="'held' or 'free'"):
        qronos.target(W, H, H, first="last")


def slow_gptaq(W, X, Y, grid, ridge, alpha):
    """Column by column: both steps of the columns behind it by least squares on the inputs
    themselves, √λ I below them.
    """
    n, scale = W.shape[1], (2 / len(X)) ** 0.5
    A = torch.cat([X * scale, ridge**0.5 * torch.eye(n, dtype=torch.float64)])
    off = torch.cat([(Y - X) * scale, torch.zeros(n, n, dtype=torch.float64)])
    now, out = W.clone(), torch.zeros_like(W)
    for q in range(n):
        g, value = grid.group_index[q], now[:, q].clone()
        s, z = grid.scale[:, g].double(), grid.zero_point[:, g].double()
        out[:, q] = s * ((value / s).round().add(z).clamp(0, grid.largest) - z)
        if q + 1 < n:
            lost = torch.outer(A[:, q], value - out[:, q]) + alpha * torch.outer(off[:, q], value)
            now[:, q + 1 :] += torch.linalg.lstsq(A[:, q + 1 :], lost).solution.T
    return out


@pytest.mark.parametrize(("alpha", "block_size"), [(1.0, 1), (1.0, 5), (0.25, 128)])
def test_gptaq_is_the_papers_walk(alpha, block_size):
    for seed in range(4):
        W, X, Y = layer(seed)
        H, C = gptq.hessian(X), (2 / len(X)) * Y.T @ X
        ridge = float((gptq.damped(H, 0.01) - H).diagonal()[0])
        found = gptaq.quantize_layer(
            W, H, C, bits=4, group_size=4, static_groups=True, alpha=alpha, block_size=block_size
        )
        torch.testing.assert_close(
            found.weight, slow_gptaq(W, X, Y, found.grid, ridge, alpha), rtol=0, atol=1e-8
        )
        plain = gptq.quantize_layer(
            W, H, bits=4, group_size=4, static_groups=True, never_worse=False
        )
        assert torch.equal(found.grid.scale, plain.grid.scale) and not torch.equal(
            found.weight, plain.weight
        )
        # another order of columns is the same walk over them
        turned = torch.argsort(H.diagonal(), descending=True)
        ordered = gptaq.quantize_layer(
            W, H, C, bits=4, group_size=-1, act_order=True, alpha=alpha, block_size=block_size
        )
        wanted = slow_gptaq(W[:, turned], X[:, turned], Y[:, turned], ordered.grid, ridge, alpha)
        torch.testing.assert_close(ordered.weight[:, turned], wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_equal_inputs_gptaq_is_gptq_bit_for_bit(dtype):
    for seed, settings in enumerate(
        (
            {"group_size": 4},
            {"group_size": -1, "act_order": True},
            {"group_size": 4, "block_size": 3},
            {"bits": 2, "group_size": 4, "symmetric": True},
        )
    ):
        W, X, Y = (t.to(dtype) for t in layer(seed))
        H = gptq.hessian(X)
        wanted = gptq.quantize_layer(W, H, never_worse=False, **settings)
        for found in (
            gptaq.quantize_layer(W, H, H, **settings),
            gptaq.quantize_layer(W, H, (2 / len(X)) * Y.T @ X, alpha=0, **settings),
        ):
            assert (
                torch.equal(found.weight, wanted.weight)
                and torch.equal(found.codes, wanted.codes)
                and torch.equal(found.grid.scale, wanted.grid.scale)
            )
    for message, arguments in (
        ("^C:", (W, H, H[:5, :5])),
        ("^H:", (W, H * float("nan"), H)),
        ("alpha=2", (W, H, H, 2)),
        ("alpha='x'", (W, H, H, "x")),
    ):
        with pytest.raises(CompressionError, match=message):
            gptaq.quantize_layer(
                *arguments[:3], group_size=4, alpha=arguments[3] if len(arguments) > 3 else 1
            )


def test_gptaq_comes_nearer_to_the_originals_outputs():
    """What it is for: where inputs are off by what later columns can make up for, ‖Ŵ X − W X̃‖² is
    smaller than GPTQ's.
    """
    errors = {0.0: 0.0, 0.25: 0.0, 1.0: 0.0}
    for seed in range(8):
        W, X, _ = layer(seed, tokens=200)
        Y = (
            X
            + 0.1
            * X
            @ torch.randn(
                12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            .tril(-1)
            .T
        )
        for alpha in errors:
            made = gptaq.quantize_layer(
                W,
                gptq.hessian(X),
                (2 / len(X)) * Y.T @ X,
                bits=8,
                group_size=-1,
                static_groups=True,
                alpha=alpha,
            )
            errors[alpha] += float((X @ made.weight.T - Y @ W.T).square().sum())
    assert errors[1.0] < errors[0.25] < errors[0.0]


@pytest.mark.parametrize("method", [qronos.quantize, gptaq.quantize])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "qwen2", "gemma", "mixtral"])
@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_models_are_quantized_beside_the_original_and_saved(kind, method, tmp_path):
    model = tiny_models.stirred(kind, 0.05, layers=2)
    made = method(model, IDS, bits=3, group_size=8)
    with pytest.raises(CompressionError, match="calibration"):
        gptq.quantize(model, None, group_size=8)  # type: ignore[arg-type]
    first = gptq.quantize(model, IDS, bits=3, group_size=8)
    names = [n for n, m in made.model.named_modules() if type(m).__name__ == "QuantizedLinear"]
    block = [n for n in names if ".0." in n and "expert" not in n]
    for name in block[:2]:  # nothing before the first block is changed: C = H there
        torch.testing.assert_close(
            made.model.get_submodule(name).weight,
            first.model.get_submodule(name).weight,
            rtol=1e-3,
            atol=1e-3,
        )
    made.save(tmp_path / "a")
    loaded = quantization.load(tmp_path / "a")
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, made.model(input_ids=IDS).logits)


# --- low rank ---


def test_the_loss_is_the_sum_of_the_dropped_squares_and_no_other_factors_are_better():
    W, X, _ = layer(3, rows=8)
    H = gptq.hessian(X)
    Hd = gptq.damped(H, 1e-4)
    for rank in (1, 3, 7):
        found = low_rank.factor(W, H, rank=rank)
        D = W - found.weight
        assert float((D @ Hd * D).sum()) == pytest.approx(found.loss, rel=1e-9)
        assert found.out_factor.shape == (8, rank) and found.in_factor.shape == (rank, 12)
        plain = low_rank.factor(W, rank=rank)
        torch.testing.assert_close(plain.weight, best_by_hand(W, rank), rtol=0, atol=1e-9)
        g = torch.Generator().manual_seed(rank)
        others = [plain.weight]
        for size in (1e-3, 1e-1, 1.0):
            for _ in range(40):  # near the answer and far from it, the other factor at its best
                B = found.in_factor + size * torch.randn(rank, 12, generator=g, dtype=torch.float64)
                A = torch.linalg.solve(B @ Hd @ B.T, B @ Hd @ W.T).T
                others.append(A @ B)
        assert all(float(((W - V) @ Hd * (W - V)).sum()) >= found.loss * (1 - 1e-9) for V in others)


def best_by_hand(W, rank):
    """By eigenvectors of WᵀW, without an SVD."""
    _, vectors = torch.linalg.eigh(W.T @ W)
    top = vectors[:, -rank:]
    return W @ top @ top.T


def test_ranks_and_bad_arguments():
    assert low_rank.rank_for(0.5, 8, 8) == 2 and low_rank.rank_for(0.5, 64, 32) == 10
    for rows, columns, ratio in ((48, 32, 0.9), (10, 10, 0.3), (512, 256, 0.5)):
        rank = low_rank.rank_for(ratio, rows, columns)
        assert rank * (rows + columns) <= ratio * rows * columns < (rank + 1) * (rows + columns)
    W, X, _ = layer()
    for rank in (0, 7, -1):
        with pytest.raises(CompressionError, match="rank="):
            low_rank.factor(W, rank=rank)
    for ratio in (0, 1, 2.5):
        with pytest.raises(CompressionError, match="ratio="):
            low_rank.rank_for(ratio, 8, 8)
    with pytest.raises(CompressionError, match="not even rank 1"):
        low_rank.rank_for(0.1, 4, 4)
    with pytest.raises(CompressionError, match="^H:"):
        low_rank.factor(W, gptq.hessian(X)[:4, :4], rank=2)
    singular = torch.zeros(12, 12, dtype=torch.float64)
    singular[0, 0] = 1.0
    assert torch.isfinite(low_rank.factor(W, singular, rank=2).weight).all()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_thin_factors_are_what_is_saved(kind, tmp_path):
    model = tiny_models.stirred(kind, 0.05, layers=2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for calibration in (None, IDS):
        made = low_rank.compress(model, calibration, ratio=0.5)
        layers = {
            n: m for n, m in made.model.named_modules() if isinstance(m, low_rank.LowRankLinear)
        }
        assert set(layers) == set(made.details["loss"]) == set(walk.compressible(model))
        inside = sum(m.in_factor.numel() + m.out_factor.numel() for m in layers.values())
        dense = sum(walk.weight_of(m).numel() for m in walk.compressible(model).values())
        assert 0.4 * dense < inside <= 0.5 * dense and made.coverage["share_of_blocks"] > 0.9
        made.save(tmp_path / "a")
        loaded = quantization.load(tmp_path / "a")
        with torch.no_grad():
            assert torch.equal(loaded(input_ids=IDS).logits, made.model(input_ids=IDS).logits)
        file = load_file(tmp_path / "a" / "weights.safetensors")
        factors = [t for n, t in file.items() if n.endswith("_factor")]
        assert sum(t.nbytes for t in factors) == 2 * inside
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(CompressionError, match="precision"):
        low_rank.compress(model, precision="int8")
    with pytest.raises(CompressionError, match="per_layer"):
        low_rank.compress(model, per_layer={"nowhere": {"ratio": 0.3}})
