"""Right and wrong answers to the exercises of lesson 2.3."""

import torch
from torch.nn import functional as F

from course_utils.distillation import losses


def soft(logits, temperature):
    weights = torch.exp(logits / temperature - (logits / temperature).amax(1, keepdim=True))
    return weights / weights.sum(1)[:, None]


def powers(logits, temperature):
    """p^(1/τ), scaled again."""
    p = F.softmax(logits, 1) ** (1 / temperature)
    return p / p.sum(1, keepdim=True)


def rest(probabilities, labels):
    mask = F.one_hot(labels, probabilities.shape[1]).bool()
    others = probabilities.masked_fill(mask, 0)
    return others / others.sum(1, keepdim=True)


def rest_by_rows(probabilities, labels):
    probabilities[torch.arange(len(labels)), labels] = 0
    return F.normalize(probabilities, p=1, dim=1)


def mix(teacher_logits, temperature):
    return sum(F.softmax(z / temperature, -1) for z in teacher_logits) / len(teacher_logits)


def rest_by_division(probabilities, labels):
    own = probabilities.gather(1, labels[:, None])
    return (probabilities / (1 - own)).scatter(1, labels[:, None], 0.0)


def mix_in_single_precision(teacher_logits, temperature):
    """All teachers at once, the largest logit taken off first."""
    z = teacher_logits.float() / temperature
    e = (z - z.amax(-1, keepdim=True)).exp()
    return torch.einsum("kbc,kb->bc", e, 1 / e.sum(-1)) / teacher_logits.shape[0]


def blocks_by_counting(student, teacher):
    block, found = -1, []
    while len(found) < student:
        block += teacher // student
        found.append(block)
    return tuple(found)


def loss_into_both(student_logits, teacher_logits, labels, temperature, alpha):
    soft = F.kl_div(
        (student_logits / temperature).log_softmax(-1),
        (teacher_logits / temperature).softmax(-1),
        reduction="batchmean",
    )
    return alpha * F.cross_entropy(student_logits, labels) + (1 - alpha) * temperature**2 * soft


def loss_in_two_lines(student_logits, teacher_logits, labels, temperature, alpha):
    soft = F.kl_div(
        (student_logits / temperature).log_softmax(-1),
        (teacher_logits.detach() / temperature).softmax(-1),
        reduction="batchmean",
    )
    return alpha * F.cross_entropy(student_logits, labels) + (1 - alpha) * temperature**2 * soft


def loss_by_entropies(student_logits, teacher_logits, labels, temperature, alpha):
    p = torch.softmax(teacher_logits.detach() / temperature, 1)
    crossed = F.cross_entropy(student_logits / temperature, p)
    own = torch.distributions.Categorical(probs=p).entropy().mean()
    return (
        alpha * F.nll_loss(student_logits.log_softmax(1), labels)
        + (1 - alpha) * (crossed - own) * temperature * temperature
    )


def loss_in_numpy_order(student_logits, teacher_logits, labels, temperature, alpha):
    """Sums of exponentials written out, in single precision."""
    s, t = student_logits.float(), teacher_logits.detach().float()
    log_s = s / temperature - torch.logsumexp(s / temperature, 1, keepdim=True)
    log_t = t / temperature - torch.logsumexp(t / temperature, 1, keepdim=True)
    soft = torch.sum(torch.exp(log_t) * (log_t - log_s)) / len(labels)
    hard = (torch.logsumexp(s, 1) - s[torch.arange(len(labels)), labels]).mean()
    return alpha * hard + (1 - alpha) * temperature**2 * soft


def altered(loss=loss_into_both, frozen=True, mode=False, zero=True, keep=slice(None), rate_sign=1):
    """A loop with an optimizer, with one thing changed."""

    def loop(student, teacher, batches, temperature, alpha, rate):
        teacher.train(mode)
        learned = [*student.parameters(), *([] if frozen else teacher.parameters())]
        optimizer = torch.optim.SGD(learned, lr=rate, maximize=rate_sign < 0)
        for images, labels in batches[keep]:
            if zero:
                optimizer.zero_grad()
            loss(student(images), teacher(images), labels, temperature, alpha).backward()
            optimizer.step()
        return list(student.parameters())

    return loop


def loop_by_hand(student, teacher, batches, temperature, alpha, rate):
    teacher.eval()
    for images, labels in batches:
        with torch.no_grad():
            answers = teacher(images)
        gradients = torch.autograd.grad(
            loss_in_two_lines(student(images), answers, labels, temperature, alpha),
            student.parameters(),
        )
        with torch.no_grad():
            for weight, gradient in zip(student.parameters(), gradients, strict=True):
                weight.sub_(rate * gradient)
    return tuple(p.detach() for p in student.parameters())


def loop_by_formula(student, teacher, batches, temperature, alpha, rate):
    """The gradient in the logits of one layer: α (p − e_y) + (1 − α) τ (p(τ) − p_T(τ)), the mean
    over rows.
    """
    W, b = (p.detach().clone() for p in student.parameters())
    teacher.eval()
    for x, y in batches:
        z = x @ W.T + b
        push = alpha * (z.softmax(1) - F.one_hot(y, z.shape[1])) + (1 - alpha) * temperature * (
            soft(z, temperature) - soft(teacher(x).detach(), temperature)
        )
        W, b = W - rate * push.T @ x / len(x), b - rate * push.mean(0)
    return [W, b]


def part(change):
    """A loss with one part replaced."""

    def loss(student_logits, teacher_logits, labels, temperature, alpha):
        return change(student_logits, teacher_logits, labels, temperature, alpha)

    return loss


def kl_of(s, t, tau, tau_t=None, reduction="batchmean"):
    return F.kl_div(
        (s / tau).log_softmax(-1), (t / (tau_t or tau)).softmax(-1), reduction=reduction
    )


def mixed(hard, far, tau, a):
    return a * hard + (1 - a) * tau**2 * far


LOSS_SLIPS = {
    "direction": part(lambda s, t, y, tau, a:
        mixed(F.cross_entropy(s, y), kl_of(t, s, tau), tau, a)),
    "square_forgotten": part(lambda s, t, y, tau, a:
        mixed(F.cross_entropy(s, y), kl_of(s, t, tau) / tau**2, tau, a)),
    "not_squared": part(lambda s, t, y, tau, a:
        mixed(F.cross_entropy(s, y), kl_of(s, t, tau) / tau, tau, a)),
    "labels_softened": part(lambda s, t, y, tau, a:
        mixed(F.cross_entropy(s / tau, y), kl_of(s, t, tau), tau, a)),
    "teacher_sharp": part(lambda s, t, y, tau, a:
        mixed(F.cross_entropy(s, y), kl_of(s, t, tau, 1), tau, a)),
    "alpha_swapped": part(lambda s, t, y, tau, a: loss_in_two_lines(s, t, y, tau, 1 - a)),
    "unweighted": part(lambda s, t, y, tau, a: F.cross_entropy(s, y) + tau**2 * kl_of(s, t, tau)),
    "cross_entropy": part(lambda s, t, y, tau, a:
        mixed(F.cross_entropy(s, y), F.cross_entropy(s / tau, (t / tau).softmax(1)), tau, a)),
    "over_classes": part(lambda s, t, y, tau, a:
        mixed(F.cross_entropy(s, y), kl_of(s, t, tau, reduction="mean"), tau, a)),
    "summed": part(lambda s, t, y, tau, a: len(y) * loss_in_two_lines(s, t, y, tau, a)),
}  # fmt: skip


def gain(labels_choose, labels_judge, distilled_choose, distilled_judge):
    rows = torch.arange(len(labels_choose))
    return (
        labels_judge[rows, labels_choose.argmin(1)]
        - distilled_judge[rows, distilled_choose.argmin(1)]
    ).mean()


def gain_by_gather(labels_choose, labels_judge, distilled_choose, distilled_judge):
    kept = [
        judge.gather(1, choose.argmin(1, keepdim=True))
        for choose, judge in ((labels_choose, labels_judge), (distilled_choose, distilled_judge))
    ]
    return float((kept[0] - kept[1]).float().mean())


def gain_by_masks(labels_choose, labels_judge, distilled_choose, distilled_judge):
    def kept(choose, judge):
        return judge[choose == choose.min(1, keepdim=True).values]

    return float(
        kept(labels_choose, labels_judge).mean() - kept(distilled_choose, distilled_judge).mean()
    )


def of_ways(formula):
    def wrong(labels_choose, labels_judge, distilled_choose, distilled_judge):
        a, b = formula(labels_choose, labels_judge), formula(distilled_choose, distilled_judge)
        return float(sum(a) / len(a) - sum(b) / len(b))

    return wrong


RIGHT = {
    "distillation.distillation_loss": [loss_in_two_lines, loss_by_entropies, loss_in_numpy_order],
    "distillation.train_student": [altered(), loop_by_hand, loop_by_formula],
    "distillation.fair_gain": [gain, gain_by_gather, gain_by_masks],
    "distillation.soften": [
        soft,
        powers,
        lambda logits, temperature: (logits / temperature).log_softmax(1).exp(),
    ],
    "distillation.dark_knowledge": [rest_by_division, rest, rest_by_rows],
    "distillation.mix_teachers": [
        mix_in_single_precision,
        mix,
        lambda teacher_logits, temperature: losses.mixture(teacher_logits, None, temperature).exp(),
    ],
    "distillation.teacher_blocks": [
        blocks_by_counting,
        lambda student, teacher: list(range(teacher // student - 1, teacher, teacher // student)),
        lambda student, teacher: [
            max(group) for group in torch.arange(teacher).view(student, -1).tolist()
        ],
    ],
}
WRONG = {
    "distillation.distillation_loss": [
        *((slip, name) for name, slip in LOSS_SLIPS.items()),
        (lambda **given: loss_in_two_lines(**given).detach(), "student_gradient"),
        (lambda **given:
            loss_in_two_lines(**given) - given["alpha"] * (
                hard := F.cross_entropy(given["student_logits"], given["labels"])) + given[
                    "alpha"] * hard.detach(), "labels_have_no_gradient"),
        (lambda **given:
            torch.no_grad()(loss_in_two_lines)(**given) + given["alpha"] * (
                (hard := F.cross_entropy(given["student_logits"],
                                         given["labels"])) - hard.detach()),
                                         "teacher_has_no_gradient"),
        (loss_into_both, "teacher_gradient"),
        (lambda **given: given["alpha"] * F.cross_entropy(given["student_logits"],
            given["labels"]) + (1 - given["alpha"]) * given["temperature"] ** 2
            * ((p := (given["teacher_logits"].detach() / given["temperature"]).softmax(-1)) * (
                p.log() - (given["student_logits"] / given["temperature"]).log_softmax(-1))).sum(
                    -1).mean(), None),
        (lambda **given: loss_in_two_lines(**given | {"alpha": 0.0}), None),
        (lambda **given: loss_in_two_lines(**given | {"temperature": 1.0}), None),
        (lambda **given: F.mse_loss(given["student_logits"], given["teacher_logits"].detach()),
         None),
    ],
    "distillation.train_student": [
        (altered(mode=True), "teacher_in_training"),
        (altered(frozen=False), "teacher_moves"),
        (altered(zero=False), "gradients_pile_up"),
        (altered(LOSS_SLIPS["square_forgotten"]), "square_forgotten"),
        (altered(LOSS_SLIPS["over_classes"]), "over_classes"),
        (altered(LOSS_SLIPS["labels_softened"]), "labels_softened"),
        (altered(LOSS_SLIPS["alpha_swapped"]), "alpha_swapped"),
        (altered(rate_sign=-1), "uphill"),
        (altered(keep=slice(1)), "first_batch_only"),
        (altered(keep=slice(-1, None)), "starts_again"),
        (altered(keep=slice(0)), "untrained"),
        (altered(LOSS_SLIPS["direction"]), None),
        (altered(keep=slice(None, None, -1)), None),
        (altered(LOSS_SLIPS["square_forgotten"], mode=True, zero=False, frozen=False), None),
        (lambda **given: list(given["teacher"].parameters()), None),
    ],
    "distillation.fair_gain": [
        (of_ways(lambda choose, judge: judge[:, -1]), "last_checkpoint"),
        (of_ways(lambda choose, judge: judge.min(1).values), "peeked"),
        (of_ways(lambda choose, judge: choose.min(1).values), "chosen_and_judged"),
        (lambda labels_choose, labels_judge, distilled_choose, distilled_judge:
            gain(labels_choose, labels_judge, labels_choose, distilled_judge), "one_step_for_both"),
        (lambda **given: -gain(**given), "turned"),
        (of_ways(lambda choose, judge: judge[:, choose.sum(0).argmin()]), "one_for_all_seeds"),
        (of_ways(lambda choose, judge: judge.mean(1)), "all_checkpoints"),
        (of_ways(lambda choose, judge: judge[:, 0]), None),
        (of_ways(lambda choose, judge: judge.gather(1, choose.argmax(1, keepdim=True))[:, 0]),
         None),
    ],
    "distillation.soften": [
        (lambda logits, temperature: soft(logits, 1 / temperature), "multiplied"),
        (lambda logits, temperature: soft(logits, 1), "not_softened"),
        (lambda logits, temperature: soft(logits, 1) / temperature, "divided_afterwards"),
        (lambda logits, temperature: torch.exp(logits / temperature), "not_normalized"),
        (lambda logits, temperature: soft(logits.T, temperature).T, "columns"),
        (lambda logits, temperature: soft(logits, temperature).log(), "logarithm"),
        (lambda logits, temperature: soft(logits, temperature**2), "squared"),
        (lambda logits, temperature: soft(soft(logits, 1), temperature), None),
        (lambda logits, temperature: F.one_hot(logits.argmax(1), 7).double(), None),
    ],
    "distillation.dark_knowledge": [
        (lambda probabilities, labels: probabilities * (1 - F.one_hot(labels, 5)), "not_scaled"),
        (lambda probabilities, labels: probabilities, "label_kept"),
        (lambda probabilities, labels: rest(probabilities, probabilities.argmax(1)),
         "likeliest_removed"),
        (lambda probabilities, labels:
            probabilities * (1 - F.one_hot(labels, 5)) / (
                probabilities * (1 - F.one_hot(labels, 5))).sum(), "scaled_together"),
        (lambda probabilities, labels: (probabilities * (1 - F.one_hot(labels, 5))).softmax(1),
         "softmax_again"),
        (lambda probabilities, labels: probabilities * F.one_hot(labels, 5), "only_the_label"),
        (lambda probabilities, labels: rest(probabilities, labels).T, None),
        (lambda probabilities, labels: rest(probabilities, labels).flip(0), None),
    ],
    "distillation.mix_teachers": [
        (lambda teacher_logits, temperature:
            sum(F.softmax(z / temperature, 1) for z in teacher_logits) * 0.5, "halved"),
        (lambda teacher_logits, temperature:
            torch.stack([F.softmax(z / temperature, 0) for z in teacher_logits]).mean(0),
            "over_rows"),
        (lambda teacher_logits, temperature: F.softmax(teacher_logits.mean(0) / temperature, -1),
         "logits_averaged"),
        (lambda teacher_logits, temperature: len(teacher_logits) * mix(teacher_logits, temperature),
         "summed"),
        (lambda teacher_logits, temperature: mix(teacher_logits, 1), "not_softened"),
        (lambda teacher_logits, temperature: F.softmax(mix(teacher_logits, 1) / temperature, -1),
         "softened_afterwards"),
        (lambda teacher_logits, temperature: F.softmax(teacher_logits / temperature, 0).mean(0),
         "over_teachers"),
        (lambda teacher_logits, temperature: soft(teacher_logits[0], temperature), "first_only"),
        (lambda teacher_logits, temperature: mix(1e9 * teacher_logits, 1), "votes"),
        (lambda teacher_logits, temperature: F.softmax(teacher_logits / temperature, -1).amax(0),
         None),
        (lambda teacher_logits, temperature: mix(teacher_logits, 1 / temperature), None),
    ],
    "distillation.teacher_blocks": [
        (lambda student, teacher: [teacher // student * (i + 1) for i in range(student)],
         "counted_from_one"),
        (lambda student, teacher: list(range(0, teacher, teacher // student)), "first_of_each"),
        (lambda student, teacher: [*range(student)], "the_first_ones"),
        (lambda student, teacher: [*range(teacher)][-student:], "the_last_ones"),
        (lambda student, teacher:
            [round(i * (teacher - 1) / (student - 1)) for i in range(student)], "ends"),
        (lambda student, teacher: list(range(teacher - 1, 0, -(teacher // student))), "backwards"),
        (lambda student, teacher: [teacher - 1] * student, None),
        (lambda student, teacher: [*range(teacher)], None),
    ],
}  # fmt: skip
