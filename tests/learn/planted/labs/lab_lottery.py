"""Right and wrong answers to the exercises of lab 4.2."""

import statistics

import torch
from torch.nn import functional as F

from course_utils.pruning import apply, lottery
from course_utils.theory import intervals

# --- a round in all layers ---


def round_by_sorting(trained, masks, rate):
    """Places of what is left, sorted by size; the first ones go."""
    found = {}
    for name, mask in masks.items():
        places = [tuple(p) for p in mask.nonzero().tolist()]
        sizes = trained[name].abs().tolist()
        places.sort(key=lambda p, sizes=sizes: sizes[p[0]][p[1]])
        new = mask.clone()
        for place in places[: round(rate * len(places))]:
            new[place] = False
        found[name] = new
    return found


def round_by_threshold(trained, masks, rate):
    found = {}
    for name, mask in masks.items():
        left = trained[name][mask].abs()
        gone = round(rate * len(left))
        found[name] = mask & (trained[name].abs() > (left.kthvalue(gone).values if gone else -1))
    return found


def round_in_place(trained, masks, rate):
    """Each mask's own places, with topk."""
    found = {}
    for name, mask in masks.items():
        places = mask.flatten().nonzero().flatten()
        sizes = trained[name].flatten()[places].abs()
        new = mask.flatten().clone()
        new[places[sizes.topk(round(rate * len(places)), largest=False).indices]] = False
        found[name] = new.reshape(mask.shape)
    return found


def rounds(score, gone, start=None):
    """`score(weight, mask)`: the smallest go, so many of them."""

    def answer(trained, masks, rate):
        found = {}
        for name, mask in masks.items():
            s = score(trained[name], mask).flatten()
            new = torch.ones(mask.numel(), dtype=torch.bool)
            new[s.argsort()[: gone(mask, rate)]] = False
            found[name] = new.view_as(mask)
        return found

    return answer


def gone_of(mask, rate):
    """All that is gone after the round."""
    return mask.numel() - int(mask.sum()) + round(rate * int(mask.sum()))


def hidden_first(weight, mask):
    return weight.abs().masked_fill(~mask, -1)


def all_together(trained, masks, rate):
    sizes = torch.cat([trained[n][m].abs() for n, m in masks.items()]).sort().values
    limit = sizes[round(rate * len(sizes)) - 1]
    return {n: m & (trained[n].abs() > limit) for n, m in masks.items()}


# --- training under a mask ---


def by_autograd(start, mask, batches, labels, rate, momentum):
    weight = (start * mask).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=rate, momentum=momentum)
    for x, y in zip(batches, labels, strict=True):
        optimizer.zero_grad()
        F.cross_entropy(x @ weight.T, y).backward()
        optimizer.step()
        with torch.no_grad():
            weight.mul_(mask)
    return weight.detach()


def by_masked_gradients(start, mask, batches, labels, rate, momentum):
    """Only what is left gets a gradient, so nothing moves what is gone."""
    weight, speed = torch.where(mask, start, 0.0), 0.0
    for x, y in zip(batches, labels, strict=True):
        p = (x @ weight.T).softmax(-1) - F.one_hot(y, len(start))
        speed = momentum * speed + (p.T @ x / len(x)).masked_fill(~mask, 0)
        weight = weight - rate * speed
    return weight


def by_holding(start, mask, batches, labels, rate, momentum):
    layer = torch.nn.Linear(start.shape[1], start.shape[0], bias=False, dtype=start.dtype)
    model = torch.nn.Sequential(layer)
    with torch.no_grad():
        layer.weight.copy_(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    apply.hold(model, {"0": mask}, optimizer)
    for x, y in zip(batches, labels, strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return layer.weight.detach().clone()


def trains(before, after=lambda w, m, s: w, last=lambda w, m: w, speed=1, way=1):
    def answer(start, mask, batches, labels, rate, momentum):
        weight = before(start, mask).clone().requires_grad_()
        optimizer = torch.optim.SGD([weight], lr=rate, momentum=speed * momentum, maximize=way < 0)
        for x, y in zip(batches, labels, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(x @ weight.T, y).backward()
            optimizer.step()
            with torch.no_grad():
                weight.copy_(after(weight, mask, start))
        return last(weight.detach(), mask)

    return answer


def put_on(weight, mask, start=None):
    return weight * mask


# --- the search ---


def search_by_recursion(start, train, rounds, rate):
    if rounds == 0:
        return [{name: w == w for name, w in start.items()}]
    found = search_by_recursion(start, train, rounds - 1, rate)
    return [*found, round_by_threshold(train(start, found[-1]), found[-1], rate)]


def search_in_a_loop(start, train, rounds, rate):
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in start.items()}
    found = [masks]
    while len(found) <= rounds:
        begin = {name: w.clone() for name, w in start.items()}
        masks = round_in_place(train(begin, masks), masks, rate)
        found.append(masks)
    return found


def search_masked_start(start, train, rounds, rate):
    """The pruned weights go in as they are, too: here they are those of the start."""
    found = [dict.fromkeys(start)]
    found[0] = {name: torch.full(w.shape, True) for name, w in start.items()}
    for masks in found:
        if len(found) > rounds:
            break
        found.append(round_by_sorting(train(weights=start, masks=masks), masks, rate))
    return found


def searches(begin="start", under="last", whole=False, rank=None, more=0, cut=slice(None)):
    def answer(start, train, rounds, rate):
        found, trained = [{name: w == w for name, w in start.items()}], start
        for k in range(1, rounds + more + 1):
            trained = train(
                trained if begin == "trained" else start, found[-1] if under == "last" else found[0]
            )
            score = start if rank else trained
            found.append(
                round_in_place(score, found[0], 1 - (1 - rate) ** k)
                if whole
                else round_in_place(score, found[-1], rate)
            )
        return found[cut]

    return answer


# --- the control ---


def shuffled(masks, seed):
    """The mask's own entries, shuffled."""
    torch.manual_seed(seed)
    return {name: m.flatten()[torch.randperm(m.numel())].view(m.shape) for name, m in masks.items()}


def by_noise(masks, seed):
    g, found = torch.Generator().manual_seed(seed), {}
    for name, m in masks.items():
        noise = torch.rand(m.shape, generator=g)
        found[name] = noise >= noise.flatten().sort(descending=True).values[int(m.sum()) - 1]
    return found


def by_course(masks, seed):
    return lottery.random_masks(masks, seed)


def by_coin(masks, seed):
    torch.manual_seed(seed)
    return {name: torch.rand(m.shape) < m.double().mean() for name, m in masks.items()}


def the_first(masks, seed):
    return {
        name: (torch.arange(m.numel()) < int(m.sum())).view(m.shape) for name, m in masks.items()
    }


def same_everywhere(masks, seed):
    torch.manual_seed(seed)
    kept, every = (sum(int(f(m)) for m in masks.values()) for f in (torch.sum, torch.numel))
    return {
        n: (torch.randperm(m.numel()) < round(m.numel() * kept / every)).view(m.shape)
        for n, m in masks.items()
    }


# --- the verdict ---


def verdict_by_statistics(ticket, control):
    gains = [t - c for t, c in zip(ticket, control, strict=True)]
    half = intervals.quantile(0.95, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    low, high = statistics.mean(gains) - half, statistics.mean(gains) + half
    return "better" if low > 0 else "worse" if high < 0 else "no difference seen"


def verdict_by_scipy(ticket, control):
    from scipy import stats

    found = stats.ttest_rel(ticket, control)
    if found.pvalue >= 0.05:
        return "no difference seen"
    return "better" if found.statistic > 0 else "worse"


def verdict_by_tensors(ticket, control):
    d = torch.tensor(ticket, dtype=torch.float64) - torch.tensor(control, dtype=torch.float64)
    ratio = float(d.mean() / (d.std() / len(d) ** 0.5)) / intervals.quantile(0.95, len(d) - 1)
    return {True: "better", False: "worse"}[ratio > 0] if abs(ratio) > 1 else "no difference seen"


def judged(width):
    def answer(ticket, control):
        n, mean = len(ticket), statistics.mean(ticket) - statistics.mean(control)
        gains = [t - c for t, c in zip(ticket, control, strict=True)]
        half = width(ticket, control, gains, n)
        return "better" if mean - half > 0 else "worse" if mean + half < 0 else "no difference seen"

    return answer


def t_of(n):
    return intervals.quantile(0.95, n - 1)


def within_rows(masks, seed):
    """Each row keeps its number of weights."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.stack([row[torch.randperm(len(row), generator=rng)] for row in mask])
        for name, mask in masks.items()
    }


RIGHT = {
    "lab_lottery.next_masks": [
        round_by_sorting,
        round_by_threshold,
        round_in_place,
        rounds(hidden_first, gone_of),
    ],
    "lab_lottery.train_masked": [
        by_autograd,
        by_masked_gradients,
        by_holding,
        trains(put_on, put_on),
    ],
    "lab_lottery.find_ticket": [
        search_by_recursion,
        search_in_a_loop,
        search_masked_start,
        searches(),
    ],
    "lab_lottery.random_masks": [shuffled, by_noise, by_course],
    "lab_lottery.verdict": [verdict_by_statistics, verdict_by_scipy, verdict_by_tensors],
}
WRONG = {
    "lab_lottery.next_masks": [
        (rounds(lambda w, m: w.abs(), gone_of), "revived"),
        (rounds(lambda w, m: w.abs(), lambda m, rate: round(rate * m.numel())), "mask_reset"),
        (
            rounds(
                hidden_first, lambda m, rate: m.numel() - int(m.sum()) + round(rate * m.numel())
            ),
            "rate_of_all",
        ),
        (
            rounds(
                hidden_first, lambda m, rate: m.numel() - int(m.sum()) + int(rate * int(m.sum()))
            ),
            "cut_off",
        ),
        (rounds(lambda w, m: (-w.abs()).masked_fill(~m, -50), gone_of), "largest_go"),
        (rounds(lambda w, m: w.masked_fill(~m, -50), gone_of), "signed"),
        (all_together, "one_ranking"),
        (
            rounds(hidden_first, lambda m, rate: m.numel() - round(rate * int(m.sum()))),
            "kept_share",
        ),
        (lambda trained, masks, rate: masks, None),
        (
            lambda trained, masks, rate: {
                n: ~m for n, m in round_in_place(trained, masks, rate).items()
            },
            None,
        ),
    ],
    "lab_lottery.train_masked": [
        (trains(put_on), "revived"),
        (trains(lambda w, m: w, last=put_on), "masked_at_the_end"),
        (trains(lambda w, m: w, put_on), "not_masked_at_the_start"),
        (trains(lambda w, m: w, lambda w, m, start: torch.where(m, w, start)), "pruned_stay"),
        (trains(lambda w, m: w * ~m, lambda w, m, start: w * ~m), "inverted"),
        (trains(put_on, put_on, speed=0), "no_momentum"),
        (trains(put_on, put_on, way=-1), "uphill"),
        (lambda start, mask, batches, labels, rate, momentum: start * mask, None),
        (
            lambda start, mask, batches, labels, rate, momentum: by_autograd(
                start, mask, batches[:1], labels[:1], rate, momentum
            ),
            None,
        ),
    ],
    "lab_lottery.find_ticket": [
        (searches(begin="trained"), "not_rewound"),
        (searches(under="first"), "trained_once"),
        (searches(whole=True), "pruned_anew"),
        (searches(rank="start"), "ranked_by_start"),
        (searches(cut=slice(-1, None)), "last_only"),
        (searches(cut=slice(1, None)), "first_missing"),
        (searches(more=1), "one_round_more"),
        (lambda start, train, rounds, rate: searches()(start, train, rounds, rate)[::-1], None),
        (lambda start, train, rounds, rate: searches()(start, train, 1, rate), None),
    ],
    "lab_lottery.random_masks": [
        (same_everywhere, "share_of_all"),
        (lambda masks, seed: {n: ~m for n, m in shuffled(masks, seed).items()}, "gone_for_kept"),
        (the_first, "by_chance"),
        (lambda masks, seed: masks, "by_chance"),
        (
            lambda masks, seed: {
                n: m[torch.randperm(len(m), generator=torch.Generator().manual_seed(seed))]
                for n, m in masks.items()
            },
            "by_chance",
        ),
        (within_rows, "by_chance"),
        (by_coin, None),
        (lambda masks, seed: {n: torch.zeros_like(m) for n, m in masks.items()}, "by_chance"),
    ],
    "lab_lottery.verdict": [
        (judged(lambda a, b, d, n: 0), "mean_only"),
        (
            judged(
                lambda a, b, d, n: (
                    t_of(n) * ((statistics.variance(a) + statistics.variance(b)) / n) ** 0.5
                )
            ),
            "unpaired",
        ),
        (judged(lambda a, b, d, n: 1.96 * statistics.stdev(d) / n**0.5), "normal_quantile"),
        (judged(lambda a, b, d, n: t_of(n) * statistics.stdev(d)), "spread"),
        (judged(lambda a, b, d, n: t_of(n) * statistics.pstdev(d) / n**0.5), "degrees_of_freedom"),
        (lambda ticket, control: verdict_by_scipy(control, ticket), "turned"),
        (lambda ticket, control: "no difference seen", None),
        (lambda ticket, control: statistics.mean(ticket) - statistics.mean(control), None),
    ],
}
