"""Right and wrong answers to the exercises of senses."""

import numpy as np
import torch

# --- pictures in their places ---


def one_by_one(table, ids, digits, vectors):
    rows, left, known = [], list(vectors), set(digits.tolist())
    for token in ids.tolist():
        rows.append(left.pop(0) if token in known else table[token])
    return torch.stack(rows)


def by_running_count(table, ids, digits, vectors):
    held = (ids[:, None] == digits).any(1)
    return torch.where(held[:, None], vectors[held.long().cumsum(0).clamp(min=1) - 1], table[ids])


def by_numpy(table, ids, digits, vectors):
    out = table.numpy()[ids.numpy()]
    out[np.isin(ids.numpy(), digits.numpy())] = vectors.numpy()
    return out


def placed(
    where=lambda held: [i for i, h in enumerate(held) if h], vector=lambda v, old: v, order=1
):
    def answer(table, ids, digits, vectors):
        rows = [table[t] for t in ids.tolist()]
        for place, v in zip(
            where([t in digits.tolist() for t in ids.tolist()]), list(vectors)[::order], strict=True
        ):
            rows[place] = vector(v, rows[place])
        return torch.stack(rows)

    return answer


def given(table, ids, digits, vectors):
    inputs = table[ids].clone()
    first = torch.isin(ids, digits).int().argmax()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    inputs[first : first + len(vectors)] = vectors
    return inputs


def overwritten(table, ids, digits, vectors):
    known, new = digits.tolist(), {t: table[t] for t in ids.tolist()}
    left = iter(vectors)
    for t in ids.tolist():
        if t in known:
            new[t] = next(left)
    return torch.stack([new[t] for t in ids.tolist()])


# --- a step ---


def by_autograd(W, table, x, tokens, lr):
    V = W.clone().requires_grad_()
    (V @ x.T - table[tokens].T).square().sum(0).mean().backward()
    return V.detach() - lr * V.grad, table


def by_outer(W, table, x, tokens, lr):
    gradient = sum(
        2 * torch.outer(W @ a - table[t], a) for a, t in zip(x, tokens.tolist(), strict=True)
    ) / len(x)
    return (W - lr * gradient).tolist(), table.tolist()


def by_einsum(W, table, x, tokens, lr):
    W, E, X = W.numpy(), table.numpy(), x.numpy()
    return W - lr * np.einsum("ni,nj->ij", 2 * (X @ W.T - E[tokens.numpy()]), X) / len(X), E.copy()


def descended(
    loss=lambda d: d.square().sum(1).mean(),
    moves=False,
    sign=-1,
    target=lambda t: t,
    names=lambda t: t,
):
    def answer(W, table, x, tokens, lr):
        V, E = W.clone().requires_grad_(), table.clone().requires_grad_()
        loss(x @ V.T - target(E[names(tokens)])).backward()
        return (V + sign * lr * V.grad).detach(), (E - lr * E.grad).detach() if moves else table

    return answer


# --- DAgger ---


def by_arrays(old_states, old_labels, start, pushes, learner, expert, budget):
    xs = np.zeros(len(pushes))
    xs[0] = start
    for i in range(1, len(pushes)):
        xs[i] = (1 - learner) * xs[i - 1] + float(pushes[i - 1])
    whole = np.concatenate([old_states.numpy(), xs])[:budget]
    return whole, np.concatenate([old_labels.numpy(), -expert * xs])[:budget]


def by_powers(old_states, old_labels, start, pushes, learner, expert, budget):
    keep = 1 - learner
    xs = [
        keep**t * start + sum(keep ** (t - 1 - s) * float(pushes[s]) for s in range(t))
        for t in range(min(len(pushes), budget - len(old_states)))
    ]
    return [*old_states.tolist(), *xs], [*old_labels.tolist(), *(-expert * x for x in xs)]


def by_append(old_states, old_labels, start, pushes, learner, expert, budget):
    states, labels, x = list(old_states), list(old_labels), torch.tensor(start, dtype=torch.float64)
    for push in pushes:
        if len(labels) == budget:
            break
        states.append(x)
        labels.append(-(x * expert))
        x = x - x * learner + push
    return torch.stack(states), torch.stack(labels)


def drove(
    wheel=lambda i, own, e: own,
    says=lambda own, e: e,
    old=True,
    noise=1.0,
    late=0,
    skip=0,
    again=False,
    first=lambda budget, n: budget - n,
    end=False,
):
    def answer(old_states, old_labels, start, pushes, learner, expert, budget):
        xs = [start]
        for i, push in enumerate(pushes.tolist()):
            xs.append(xs[-1] * (1 - wheel(i, learner, expert)) + noise * push)
        xs = xs[late + skip : len(pushes) + late]
        room = first(budget, len(old_states))
        xs = xs[-room:] if end else xs[:room]
        before = old_states.tolist() if old else []
        said = ([-learner * x for x in before] if again else old_labels.tolist()) if old else []
        return before + xs, said + [-says(learner, expert) * x for x in xs]

    return answer


def newest(old_states, old_labels, start, pushes, learner, expert, budget):
    states, labels = by_append(old_states, old_labels, start, pushes, learner, expert, 99)
    return states[-budget:], labels[-budget:]


# --- leaks ---


def by_loops(reports):
    found = []
    for number in range(len(reports)):
        seen = reports[number]["fitted"] + reports[number]["chosen"]
        if any(image in seen for image in reports[number]["tested"]):
            found.append(number)
    return found


def by_counting(reports):
    return np.array(
        [
            i
            for i, r in enumerate(reports)
            if len({*r["fitted"], *r["chosen"]} - {*r["tested"]})
            < len({*r["fitted"], *r["chosen"]})
        ]
    )


def by_disjoint(reports):
    return tuple(
        i
        for i, r in enumerate(reports)
        if not (
            set(r["tested"]).isdisjoint(r["fitted"]) and set(r["tested"]).isdisjoint(r["chosen"])
        )
    )


def judged(test):
    return lambda reports: [
        i
        for i, r in enumerate(reports)
        if test(*(set(r[k]) for k in ("fitted", "chosen", "tested")), r)
    ]


RIGHT = {
    "senses.insert": [one_by_one, by_running_count, by_numpy],
    "senses.step": [by_autograd, by_outer, by_einsum],
    "senses.dagger": [by_arrays, by_powers, by_append],
    "senses.leaked": [by_loops, by_counting, by_disjoint],
}
WRONG = {
    "senses.insert": [
        (given, "as_given"),
        (
            placed(where=lambda held: range(held.index(True), held.index(True) + 3)),
            "one_after_the_other",
        ),
        (placed(where=lambda held: range(3)), "at_the_start"),
        (
            placed(
                where=lambda held: [
                    min(i + 1, max(k for k, one in enumerate(held) if one))
                    for i, one in enumerate(held)
                    if one
                ]
            ),
            "one_late",
        ),
        (placed(vector=lambda v, old: v / v.square().sum().sqrt()), "norm"),
        (placed(vector=lambda v, old: v * (old.norm() / v.norm())), "norm_of_the_digit"),
        (placed(vector=lambda v, old: v + old), "added"),
        (placed(order=-1), "backwards"),
        (overwritten, "table_changed"),
        (lambda table, ids, digits, vectors: table[ids].clone(), "text_only"),
        (lambda table, ids, digits, vectors: vectors, None),
    ],
    "senses.step": [
        (descended(moves=True), "model_trained"),
        (descended(loss=lambda d: d.square().sum()), "sum_for_mean"),
        (descended(loss=lambda d: d.square().mean()), "mean_over_entries"),
        (descended(loss=lambda d: 0.5 * d.square().sum(1).mean()), "half"),
        (descended(sign=1), "uphill"),
        (descended(target=lambda t: torch.nn.functional.normalize(t, dim=1)), "unit_targets"),
        (descended(names=lambda t: torch.arange(len(t))), "first_rows"),
        (descended(loss=lambda d: d.norm(dim=1).mean()), None),
        (lambda W, table, x, tokens, lr: (W, table), None),
    ],
    "senses.dagger": [
        (drove(wheel=lambda i, own, e: e), "expert_drives"),
        (drove(old=False), "forgets"),
        (drove(says=lambda own, e: own), "own_labels"),
        (drove(wheel=lambda i, own, e: e, says=lambda own, e: own), "clone"),
        (drove(noise=0.0), "no_pushes"),
        (drove(late=1), "state_after"),
        (drove(wheel=lambda i, own, e: own if i % 2 else e), "expert_helps"),
        (drove(again=True), "old_relabelled"),
        (drove(skip=1), "start_left_out"),
        (drove(first=lambda budget, n: 99), "unequal_labels"),
        (drove(first=lambda budget, n: budget), "unequal_labels"),
        (drove(end=True), "last_of_the_drive"),
        (newest, "old_thrown_out"),
        (drove(says=lambda own, e: -e), None),
    ],
    "senses.leaked": [
        (judged(lambda f, c, t, r: bool(f & t)), "fitted_only"),
        (judged(lambda f, c, t, r: bool(c & t)), "chosen_only"),
        (judged(lambda f, c, t, r: bool(c & t) and bool(f & t)), "both_needed"),
        (judged(lambda f, c, t, r: t.issubset(f | c)), "all_needed"),
        (judged(lambda f, c, t, r: len(f | c | t) < len(f) + len(c) + len(t)), "any_overlap"),
        (judged(lambda f, c, t, r: t.isdisjoint(f | c)), "clean_ones"),
        (judged(lambda f, c, t, r: r["tested"][0] in f or r["tested"][0] in c), "first_image"),
        (lambda reports: list(range(len(reports))), None),
    ],
}
