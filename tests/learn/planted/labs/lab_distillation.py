"""Right and wrong answers to the exercises of lab 3.3."""

import torch
from scipy import stats
from torch.nn import functional as F

from course_utils.distillation import compare, losses


def labels(ids, mask):
    return torch.where(mask[:, 1:], ids[:, 1:], -100)


def labels_in_place(ids, mask):
    ids[~mask] = -100
    return ids[:, 1:]


def loop(student, teacher, batches, temperature, rate):
    """By the formula of the gradient: τ (P_S − P_T) xᵀ, the mean over rows."""
    for x in batches:
        s, t = ((x @ w.T / temperature).softmax(-1) for w in (student, teacher))
        student = student - rate * temperature * (s - t).T @ x / len(x)
    return student


def loop_with_optimizer(
    student, teacher, batches, temperature, rate, loss=None, frozen=True, zero=True
):
    net, guide = (
        torch.nn.Linear(student.shape[1], student.shape[0], bias=False).double() for _ in range(2)
    )
    net.weight.data, guide.weight.data = student.clone(), teacher.clone()
    optimizer = torch.optim.SGD(
        [*net.parameters(), *([] if frozen else guide.parameters())], lr=rate
    )
    loss = loss or (lambda s, t: losses.response(s, t, temperature=temperature, alpha=0.0))
    for x in batches:
        if zero:
            optimizer.zero_grad()
        loss(net(x), guide(x)).backward()
        optimizer.step()
    return net.weight


def kl(s, t, tau, target_tau=None):
    return F.kl_div(
        (s / tau).log_softmax(-1), (t / (target_tau or tau)).softmax(-1), reduction="batchmean"
    )


def mean_only(batches):
    return batches[:1]


def labels_from_the_end(ids, mask):
    """Shifted to the left; the last column is cut off."""
    moved, real = ids.roll(-1, dims=1)[:, :-1], mask.roll(-1, dims=1)[:, :-1]
    return moved * real - 100 * (~real).long()


def loop_by_autograd(student, teacher, batches, temperature, rate):
    weight = student.detach().clone().requires_grad_(True)
    for x in batches:
        with torch.no_grad():
            target = F.softmax(x @ teacher.T / temperature, dim=-1)
        F.kl_div(
            F.log_softmax(x @ weight.T / temperature, dim=-1), target, reduction="batchmean"
        ).backward()
        weight.data = weight.data - rate * temperature**2 * weight.grad
        weight.grad = None
    return weight


RIGHT = {
    "lab_distillation.labels_of": [labels_from_the_end, labels, labels_in_place],
    "lab_distillation.distil": [loop_by_autograd, loop, loop_with_optimizer],
    "lab_distillation.paired_interval": [
        lambda alone, distilled, t: (
            (alone - distilled).mean().item(),
            (t * (alone - distilled).std() / len(alone) ** 0.5).item(),
        ),
        lambda alone, distilled, t: (
            float((alone - distilled).mean()),
            float(t * stats.sem((alone - distilled).numpy())),
        ),
        lambda alone, distilled, t: tuple(
            v * w
            for v, w in zip(
                compare.interval((alone - distilled).tolist()),
                (1, t / stats.t.ppf(0.975, len(alone) - 1)),
                strict=True,
            )
        ),
    ],
}
WRONG = {
    "lab_distillation.labels_of": [
        (lambda ids, mask: torch.where(mask, ids, -100)[:, :-1], "not_shifted"),
        (lambda ids, mask: F.pad(torch.where(mask, ids, -100), (1, 0))[:, 1:-1], "not_shifted"),
        (lambda ids, mask:
            torch.cat([torch.where(mask, ids, -100)[:, -1:], torch.where(mask, ids, -100)[:, :-1]],
                      1)[:, :-1], "shifted_back"),
        (lambda ids, mask: ids[:, 1:].clone(), "padding_kept"),
        (lambda ids, mask: torch.where(mask[:, :-1], ids[:, 1:], -100), "mask_not_shifted"),
        (lambda ids, mask: F.pad(labels(ids, mask), (0, 1), value=-100), "too_long"),
        (lambda ids, mask: torch.where(mask[:, 1:], ids[:, 1:], 0), "zero_at_padding"),
        (lambda ids, mask: ids[:, 1:][mask[:, 1:]], None),
        (lambda ids, mask: torch.where(mask[:, 1:], ids[:, 1:], -100).double(), None),
    ],
    "lab_distillation.distil": [
        (lambda **given: loop(**given | {"rate": given["rate"] / given["temperature"]}),
         "not_squared"),
        (lambda student, teacher, batches, temperature, rate:
            loop(student, teacher, batches, temperature, -rate), "uphill"),
        (lambda student, teacher, batches, temperature, rate: loop_with_optimizer(
            student, teacher, batches, temperature, rate, lambda s, t:
                temperature**2 * kl(t, s, temperature)), "direction"),
        (lambda student, teacher, batches, temperature, rate: loop_with_optimizer(
            student, teacher, batches, temperature, rate, lambda s, t: kl(s, t, temperature)),
            "square_forgotten"),
        (lambda **given: loop_with_optimizer(**given, frozen=False, loss=lambda s, t:
            given["temperature"] ** 2 * kl(s, t, given["temperature"])), "teacher_moves"),
        (lambda student, teacher, batches, temperature, rate:
            loop(student, teacher, batches[-1:], temperature, rate), "starts_again"),
        (lambda student, teacher, batches, temperature, rate:
            loop(student, teacher, mean_only(batches), temperature, rate), "first_batch_only"),
        (lambda student, teacher, batches, temperature, rate:
            loop(student, teacher, batches, temperature, rate * len(batches[0])), "summed"),
        (lambda student, teacher, batches, temperature, rate:
            loop(student, teacher, batches, temperature, rate / len(student)), "over_classes"),
        (lambda **given: loop_with_optimizer(**given, zero=False), "gradients_pile_up"),
        (lambda **given: loop_with_optimizer(**given, loss=lambda s, t:
            given["temperature"] ** 2 * kl(s, t, given["temperature"], 1)), "teacher_sharp"),
        (lambda **given: loop_with_optimizer(**given, loss=lambda s, t:
            F.cross_entropy(s, t.argmax(-1))), "labels"),
        (lambda student, teacher, batches, temperature, rate: student, None),
        (lambda student, teacher, batches, temperature, rate:
            loop(student, teacher, batches[::-1], temperature, rate), None),
        (lambda student, teacher, batches, temperature, rate:
            loop(student, teacher, [torch.cat(batches)], temperature, rate), None),
    ],
    "lab_distillation.paired_interval": [
        (lambda alone, distilled, t:
            ((alone - distilled).mean(), t * ((alone.var() + distilled.var()) / len(alone)) ** 0.5),
            "unpaired"),
        (lambda alone, distilled, t: ((distilled - alone).mean(),
                                      t * (alone - distilled).std() / len(alone) ** 0.5), "sign"),
        (lambda alone, distilled, t:
            tuple((alone - distilled).mean() + side * t * (alone - distilled).std() / len(
                alone) ** 0.5 for side in (-1, 1)), "ends"),
        (lambda alone, distilled, t:
            ((alone - distilled).mean(),
             t * (alone - distilled).std(unbiased=False) / len(alone) ** 0.5), "divided_by_n"),
        (lambda alone, distilled, t: ((alone - distilled).mean(), t * (alone - distilled).std()),
         "of_one_run"),
        (lambda alone, distilled, t:
            ((alone - distilled).mean(), t * (alone - distilled).std() / len(alone)),
            "root_forgotten"),
        (lambda alone, distilled, t:
            ((alone - distilled).mean(), t * (alone - distilled).var() / len(alone) ** 0.5),
            "variance"),
        (lambda alone, distilled, t:
            ((alone - distilled).mean(), (alone - distilled).std() / len(alone) ** 0.5),
            "standard_error"),
        (lambda alone, distilled, t:
            ((alone / distilled).mean(), t * (alone - distilled).std() / len(alone) ** 0.5), None),
        (lambda alone, distilled, t: (alone - distilled).mean(), None),
    ],
}  # fmt: skip
