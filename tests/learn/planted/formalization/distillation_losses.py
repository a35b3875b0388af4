"""Right and wrong answers to the exercises of lesson 3.5."""

import torch
from torch.nn import functional as F

from course_utils.distillation import losses


def kl(student_logits, teacher_logits, temperature):
    p = F.softmax(teacher_logits.detach() / temperature, -1)
    return F.kl_div(F.log_softmax(student_logits / temperature, -1), p, reduction="batchmean")


def kl_of_entropies(student_logits, teacher_logits, temperature):
    """Cross-entropy less the teacher's own entropy."""
    with torch.no_grad():
        p = (teacher_logits / temperature).softmax(1)
        entropy = torch.distributions.Categorical(probs=p).entropy()
    return (F.cross_entropy(student_logits / temperature, p, reduction="none") - entropy).mean()


def kl_leaking(student_logits, teacher_logits, temperature):
    pair = [
        torch.distributions.Categorical(logits=z / temperature)
        for z in (teacher_logits, student_logits)
    ]
    return torch.distributions.kl_divergence(*pair).mean()


def probabilities(student_logits, teacher_logits, temperature):
    return [(z / temperature).softmax(-1) for z in (student_logits, teacher_logits.detach())]


def gradient(student_logits, teacher_logits, temperature):
    s, t = probabilities(student_logits, teacher_logits, temperature)
    return temperature * (s - t) / s.shape[0]


def gradient_by_autograd(student_logits, teacher_logits, temperature):
    student_logits.requires_grad_()
    (losses.kl(student_logits, teacher_logits, temperature) * temperature**2).backward()
    return student_logits.grad


def scaled_gradient(scale):
    return lambda **given: (
        scale(given["temperature"], len(given["student_logits"])) * gradient(**given)
    )


def response(
    student_logits,
    teacher_logits,
    labels,
    temperature,
    alpha,
    mask,
    flip=False,
    power=2,
    keep=None,
    hard=1.0,
):
    teacher_logits = teacher_logits.detach()
    keep = mask if keep is None else keep
    s, t = (F.log_softmax(z[keep] / temperature, -1) for z in (student_logits, teacher_logits))
    far = (
        F.kl_div(t, s, log_target=True, reduction="batchmean")
        if flip
        else F.kl_div(s, t, log_target=True, reduction="batchmean")
    )
    near = F.cross_entropy(student_logits.flatten(0, 1) / hard, labels.flatten(), ignore_index=-100)
    return alpha * near + (1 - alpha) * temperature**power * far


def response_of_the_course(student_logits, teacher_logits, labels, temperature, alpha, mask):
    return losses.response(student_logits, teacher_logits, labels, temperature, alpha, mask)


def response_by_weights(student_logits, teacher_logits, labels, temperature, alpha, mask):
    weight = mask / mask.sum()
    p = torch.softmax(teacher_logits / temperature, -1).detach()
    cross = -(p * torch.log_softmax(student_logits / temperature, -1)).sum(-1)
    entropy = -(p * p.clamp(min=1e-300).log()).sum(-1)
    hard = (
        -torch.log_softmax(student_logits, -1)
        .gather(-1, labels.clamp(min=0).unsqueeze(-1))
        .squeeze(-1)
    )
    return ((alpha * hard + (1 - alpha) * temperature**2 * (cross - entropy)) * weight).sum()


def response_leaking(student_logits, teacher_logits, labels, temperature, alpha, mask):
    s, t = ((z[mask] / temperature).log_softmax(-1) for z in (student_logits, teacher_logits))
    far = (t.exp() * (t - s)).sum(-1).mean()
    return (
        alpha * F.cross_entropy(student_logits[mask], labels[mask])
        + (1 - alpha) * temperature**2 * far
    )


def padded_mean(
    student_logits, teacher_logits, labels, temperature, alpha, mask, cut=False, divide=torch.numel
):
    s, t = ((z / temperature).log_softmax(-1) for z in (student_logits, teacher_logits.detach()))
    far = (t.exp() * (t - s)).sum(-1)
    far = far * mask if cut else far
    near = F.cross_entropy(student_logits.mT, labels, reduction="none")
    return (alpha * near + (1 - alpha) * temperature**2 * far).sum() / divide(mask)


def feature(student_hidden, teacher_hidden, projector, mask):
    hidden = torch.einsum("btn,wn->btw", student_hidden, projector)
    return F.mse_loss(hidden[mask], teacher_hidden[mask].detach())


def feature_of_the_course(student_hidden, teacher_hidden, projector, mask):
    return losses.feature(student_hidden, teacher_hidden, lambda h: h @ projector.T, mask)


def feature_leaking(student_hidden, teacher_hidden, projector, mask):
    return ((student_hidden @ projector.T - teacher_hidden) * mask.unsqueeze(-1)).square().sum() / (
        mask.sum() * len(projector)
    )


def off(student_hidden, teacher_hidden, projector, mask):
    return (F.linear(student_hidden, projector) - teacher_hidden.detach())[mask]


def attention(student_map, teacher_map, mask):
    teacher_map, seen = teacher_map.detach(), student_map > 0
    log = torch.where(seen, student_map, 1.0).log()
    rows = torch.xlogy(teacher_map, teacher_map).sum(-1) - (teacher_map * log).sum(-1)
    weight = mask[:, None].double().expand_as(rows)
    return (rows * weight).sum() / weight.sum()


def attention_by_xlogy(student_map, teacher_map, mask):
    """0 · log 0 is 0, but its slope is NaN."""
    kept = mask[:, None].expand(student_map.shape[:3])
    return (
        (
            torch.xlogy(teacher_map.detach(), teacher_map.detach())
            - torch.xlogy(teacher_map.detach(), student_map)
        )
        .sum(-1)[kept]
        .mean()
    )


def attention_with_epsilon(student_map, teacher_map, mask, eps=1e-6):
    t = teacher_map.detach()
    rows = (t * ((t + eps).log() - (student_map + eps).log())).sum(-1)
    return rows.mean(1)[mask].mean()


def attention_clamped(student_map, teacher_map, mask):
    t, s = teacher_map.detach().clamp(min=1e-300), student_map.clamp(min=1e-300)
    per_query = (t * (t / s).log()).sum(-1).mean(1)
    return per_query[mask].mean()


def rows(student_map, teacher_map):
    teacher_map = teacher_map.detach()
    return torch.xlogy(teacher_map, teacher_map).sum(-1) - torch.xlogy(
        teacher_map, student_map
    ).sum(-1)


def chosen(student_map, teacher_map, mask):
    return rows(student_map, teacher_map).transpose(1, 2)[mask]


def matrix_of(x):
    return (x[:, None] - x[None]).square().sum(-1).clamp(min=1e-300).sqrt()


def distance(student, teacher):
    n = len(student)
    i, j = torch.triu_indices(n, n, 1)
    s, t = ((x[i] - x[j]).norm(dim=1) for x in (student, teacher.detach()))
    return F.smooth_l1_loss(s / s.mean(), t / t.mean())


def distance_by_matrix(student, teacher):
    off_diagonal = ~torch.eye(len(student), dtype=torch.bool)
    s, t = (matrix_of(x)[off_diagonal] for x in (student, teacher.detach()))
    return F.huber_loss(s / s.mean(), t / t.mean())


def whole_matrix(mean):
    """Every pair of points, (i, i) too."""

    def loss(student, teacher):
        s, t = (
            matrix_of(x).masked_fill(torch.eye(len(x), dtype=torch.bool), 0)
            for x in (student, teacher.detach())
        )
        return F.huber_loss(s / mean(s), t / mean(t))

    return loss


def of_pairs(formula):
    return lambda student, teacher: formula(F.pdist(student), F.pdist(teacher.detach()))


def kl_by_rows(student_logits, teacher_logits, temperature):
    """Σ p (log p − log q) with logarithms of sums of exponentials, a row at a time."""
    total = 0.0
    for z_s, z_t in zip(
        student_logits / temperature, teacher_logits.detach() / temperature, strict=True
    ):
        log_q = z_s - torch.logsumexp(z_s, 0)
        log_p = z_t - torch.logsumexp(z_t, 0)
        total = total + (log_p.exp() * (log_p - log_q)).sum()
    return total / len(student_logits)


def gradient_by_entries(student_logits, teacher_logits, temperature):
    out = torch.empty_like(student_logits)
    rows, columns = student_logits.shape
    for i in range(rows):
        s = [float(z) / temperature for z in student_logits[i]]
        t = [float(z) / temperature for z in teacher_logits[i]]
        s_sum, t_sum = (sum(2.718281828459045**z for z in side) for side in (s, t))
        for j in range(columns):
            p_s = 2.718281828459045 ** s[j] / s_sum
            p_t = 2.718281828459045 ** t[j] / t_sum
            out[i, j] = temperature * (p_s - p_t) / rows
    return out


def response_by_rows(student_logits, teacher_logits, labels, temperature, alpha, mask):
    hard, soft, count = 0.0, 0.0, 0
    for row, token in mask.nonzero().tolist():
        z_s, z_t = student_logits[row, token], teacher_logits[row, token].detach()
        hard = hard - z_s.log_softmax(0)[labels[row, token]]
        log_s, log_t = (z_s / temperature).log_softmax(0), (z_t / temperature).log_softmax(0)
        soft = soft + (log_t.exp() * (log_t - log_s)).sum()
        count += 1
    return alpha * hard / count + (1 - alpha) * temperature**2 * soft / count


def feature_by_entries(student_hidden, teacher_hidden, projector, mask):
    projected, target = student_hidden @ projector.mT, teacher_hidden.detach()
    total, count = 0.0, 0
    for row in range(mask.shape[0]):
        for token in range(mask.shape[1]):
            if mask[row, token]:
                total = total + ((projected[row, token] - target[row, token]) ** 2).mean()
                count += 1
    return total / count


def distance_by_pairs(student, teacher):
    def distances(x):
        squares = torch.stack(
            [(x[i] - x[j]).square().sum() for i in range(len(x)) for j in range(i + 1, len(x))]
        )
        found = squares.clamp(min=1e-24).sqrt()
        return found / found.mean()

    difference = distances(student) - distances(teacher).detach()
    size = difference.abs()
    return torch.where(size < 1, 0.5 * size**2, size - 0.5).mean()


def masked_labels_only(student_logits, teacher_logits, labels, temperature, alpha, mask):
    hard = F.cross_entropy(student_logits.flatten(0, 1), labels.flatten())
    target = (teacher_logits.detach() / temperature).softmax(-1)
    soft = F.kl_div((student_logits / temperature).log_softmax(-1), target, reduction="batchmean")
    return alpha * hard + (1 - alpha) * temperature**2 * soft


def in_single(function):
    """The same answer computed in single precision."""

    def single(value):
        return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

    def answer(*given, **named):
        return function(
            *map(single, given), **{name: single(value) for name, value in named.items()}
        )

    return answer


def hot(limit=None, start=1, close=lambda value, end, share: abs(value - end) <= share * end):
    """A search by doubling, with the limit as a variance."""

    def tau_of(student_logits, teacher_logits, share):
        d = student_logits - teacher_logits
        end = float((d.var(-1, correction=0) / 2).mean()) if limit is None else float(limit(d))
        tau = start
        while not close(float(tau**2 * losses.kl(student_logits, teacher_logits, tau)), end, share):
            tau = 2 * tau
        return tau

    return tau_of


def hot_by_loop(student_logits, teacher_logits, share):
    s, t = (z - z.mean(1, keepdim=True) for z in (student_logits, teacher_logits))
    limit = F.mse_loss(s, t) / 2
    temperature = 1.0
    while abs(temperature**2 * losses.kl(s, t, temperature) / limit - 1) > share:
        temperature *= 2
    return temperature


def hot_from_above(student_logits, teacher_logits, share):
    """Every τ is tried, and the smallest good one kept."""
    d = student_logits - teacher_logits
    end = ((d * d).mean(-1) - d.mean(-1) ** 2).mean() / 2
    good = [
        2**k
        for k in range(15)
        if abs(4**k * losses.kl(student_logits, teacher_logits, 2**k) - end) <= share * end
    ]
    return min(good)


def enough(probabilities, share):
    held = probabilities.sort(descending=True).values.cumsum(1).mean(0)
    return int((held < share - 1e-9).sum()) + 1


def enough_by_topk(probabilities, share):
    for k in range(1, probabilities.shape[1] + 1):
        if probabilities.topk(k, dim=1).values.sum() >= share * len(probabilities) - 1e-9:
            return k


def enough_by_leftovers(probabilities, share):
    """What is left over, the smallest first."""
    left, k = 0.0, probabilities.shape[1]
    for column in probabilities.sort(dim=1).values.T:
        left += float(column.mean())
        if left > 1 - share + 1e-9:
            break
        k -= 1
    return k


RIGHT = {
    "distillation_losses.near_limit": [hot(), hot_by_loop, hot_from_above],
    "distillation_losses.enough_kept": [enough, enough_by_topk, enough_by_leftovers],
    "distillation_losses.kl": [
        kl_by_rows,
        kl,
        kl_of_entropies,
        lambda student_logits, teacher_logits, temperature: losses.kl(
            student_logits, teacher_logits, temperature
        ),
    ],
    "distillation_losses.logit_gradient": [gradient_by_entries, gradient, gradient_by_autograd],
    "distillation_losses.response": [
        in_single(response),
        response_by_rows,
        response,
        response_of_the_course,
        response_by_weights,
    ],
    "distillation_losses.feature": [
        in_single(feature),
        feature_by_entries,
        feature,
        feature_of_the_course,
    ],
    "distillation_losses.attention": [
        attention_with_epsilon,
        in_single(attention),
        attention,
        attention_clamped,
        lambda student_map, teacher_map, mask: losses.attention_maps(
            student_map, teacher_map, mask
        ),
    ],
    "distillation_losses.distance": [
        distance_by_pairs,
        distance,
        distance_by_matrix,
        lambda student, teacher: losses.distance(student, teacher),
    ],
}
WRONG = {
    "distillation_losses.near_limit": [
        (lambda **given:
            next(2**k for k in range(21) if abs(4**k * losses.kl(given["student_logits"],
                given["teacher_logits"], 2**k)
            - F.mse_loss(given["student_logits"], given["teacher_logits"]) / 2) <= given[
                "share"] * F.mse_loss(given["student_logits"], given["teacher_logits"]) / 2 or k
                    == 20), "not_centred"),
        (lambda **given: 2**20, "without_half"),
        (hot(close=lambda value, end, share: abs(value - end) <= share), "absolute"),
        (hot(close=lambda value, end, share: value - end <= share * end), "not_above"),
        (hot(close=lambda value, end, share: end - value <= share * end), "not_below"),
        (hot(start=2), None),
        (lambda **given: 2 * hot()(**given), "one_more"),
        (lambda **given: round(torch.tensor(float(hot()(**given))).log2().item()), "power"),
        (lambda student_logits, teacher_logits, share: 1, None),
        (lambda student_logits, teacher_logits, share: 64, None),
    ],
    "distillation_losses.enough_kept": [
        (lambda probabilities, share: max(enough(row[None], share) for row in probabilities),
         "every_position"),
        (lambda probabilities, share: min(enough(row[None], share) for row in probabilities),
         "best_position"),
        (lambda probabilities, share: enough(probabilities.mean(0, keepdim=True), share),
         "same_for_all"),
        (lambda probabilities, share: enough(probabilities, share + 1e-6), "more_than"),
        (lambda probabilities, share: enough(probabilities, share) - 1, "from_zero"),
        (lambda probabilities, share: int((probabilities.cumsum(1).mean(0) < share).sum()) + 1,
         None),
        (lambda probabilities, share: int((probabilities > 1 - share).sum(1).float().mean()), None),
        (lambda probabilities, share: probabilities.shape[1], None),
    ],
    "distillation_losses.kl": [
        (lambda student_logits, teacher_logits, temperature:
            losses.reverse_kl(student_logits, teacher_logits, temperature), "reversed"),
        (lambda student_logits, teacher_logits, temperature:
            F.cross_entropy(student_logits / temperature,
                            (teacher_logits.detach() / temperature).softmax(-1)), "cross_entropy"),
        (lambda **given: kl(**given) * len(given["student_logits"]), "summed"),
        (lambda **given: kl(**given) / given["student_logits"].shape[-1], "over_classes"),
        (lambda student_logits, teacher_logits, temperature: kl(student_logits, teacher_logits, 1),
         "not_softened"),
        (lambda student_logits, teacher_logits, temperature:
            kl(student_logits, teacher_logits * temperature, temperature), "teacher_sharp"),
        (lambda **given: -kl(**given), "sign"),
        (lambda **given: F.mse_loss(*probabilities(**given)) * given["student_logits"].shape[-1],
         "squared_difference"),
        (lambda **given: (lambda s, t: (t * (t / s).log()).sum(-1).mean())(*probabilities(**given)),
         None),
        (lambda student_logits, teacher_logits, temperature:
            F.kl_div((student_logits / temperature).log_softmax(0),
                     (teacher_logits.detach() / temperature).softmax(0), reduction="batchmean"),
                     "softmax_over_rows"),
        (kl_leaking, "teacher_gradient"),
        (lambda **given: kl(**given).detach(), "student_gradient"),
        (lambda student_logits, teacher_logits, temperature:
            losses.jensen_shannon(student_logits, teacher_logits, temperature), None),
        (lambda **given: kl(**given) * given["temperature"] ** 2, "with_square"),
        (lambda student_logits, teacher_logits, temperature:
            F.kl_div((student_logits / temperature).softmax(-1),
                     (teacher_logits.detach() / temperature).softmax(-1), reduction="batchmean"),
                     "not_in_logarithms"),
        (lambda **given: float(kl(**given).detach()) / 0.6931, "student_gradient"),
    ],
    "distillation_losses.logit_gradient": [
        (scaled_gradient(lambda t, n: -1), "sign"),
        (scaled_gradient(lambda t, n: t**-2), "without_the_square"),
        (scaled_gradient(lambda t, n: t), "square_whole"),
        (scaled_gradient(lambda t, n: 1 / t), "no_temperature"),
        (scaled_gradient(lambda t, n: n), "rows_not_averaged"),
        (lambda student_logits, teacher_logits, temperature:
            gradient(student_logits, teacher_logits, 1) * temperature, "at_temperature_one"),
        (lambda student_logits, teacher_logits, temperature:
            temperature * (student_logits - teacher_logits) / len(student_logits), "logits"),
        (scaled_gradient(lambda t, n: 2), None),
        (scaled_gradient(lambda t, n: 1 / 7), None),
    ],
    "distillation_losses.response": [
        (lambda **given:
            response(**given | {"teacher_logits": given["teacher_logits"] * given["temperature"]}),
            "teacher_sharp"),
        (lambda **given: response(**given, flip=True), "direction"),
        (lambda **given: response(**given, power=0), "square_forgotten"),
        (lambda **given: response(**given, power=1), "not_squared"),
        (lambda student_logits, teacher_logits, labels, temperature, alpha, mask:
            temperature**2 * (alpha * F.cross_entropy(student_logits[mask], labels[mask])
            + (1 - alpha) * losses.kl(student_logits, teacher_logits, temperature, mask)),
            "square_on_both"),
        (lambda student_logits, teacher_logits, labels, temperature, alpha, mask:
            alpha * F.cross_entropy(student_logits[mask], labels[mask])
            + (1 - alpha) * temperature**2 * losses.kl(student_logits, teacher_logits, 1.0, mask),
            "not_softened"),
        (lambda student_logits, teacher_logits, labels, temperature, alpha, mask:
            F.cross_entropy(student_logits[mask], labels[mask])
            + temperature**2 * losses.kl(student_logits, teacher_logits, temperature, mask),
            "unweighted"),
        (lambda **given: response(**{**given, "alpha": 1 - given["alpha"]}), "alpha_swapped"),
        (lambda **given: response(**given, hard=given["temperature"]), "labels_softened"),
        (lambda student_logits, teacher_logits, labels, temperature, alpha, mask:
            alpha * F.cross_entropy(student_logits[mask], labels[mask])
            + (1 - alpha) * temperature**2 * F.cross_entropy(student_logits[mask] / temperature,
                (teacher_logits[mask].detach() / temperature).softmax(-1)), "cross_entropy"),
        (padded_mean, "padding_counted"),
        (lambda **given: padded_mean(**given, divide=torch.sum), "padding_in_kl"),
        (lambda **given: padded_mean(**given, cut=True), "divided_by_all"),
        (lambda **given: padded_mean(**given, cut=True, divide=len), "divided_by_batch"),
        (masked_labels_only, "kl_over_batch"),
        (lambda student_logits, teacher_logits, labels, temperature, alpha, mask:
            alpha * F.cross_entropy(student_logits[mask], labels[mask])
            + (1 - alpha) * temperature**2 * losses.kl(student_logits, teacher_logits, temperature,
                mask) / student_logits.shape[-1], "over_classes"),
        (lambda **given:
            response(**given,
                     hard=1.0) - given["alpha"] * (
                         near := F.cross_entropy(given["student_logits"][given["mask"]],
                                                 given["labels"][given["mask"]])) + given[
                                                     "alpha"] * near.detach(),
                                                     "labels_have_no_gradient"),
        (lambda **given: given["alpha"] * F.cross_entropy(given["student_logits"][given["mask"]],
            given["labels"][given["mask"]])
            + torch.no_grad()(response)(**given) - given["alpha"] * F.cross_entropy(
                given["student_logits"][given["mask"]], given["labels"][given["mask"]]).detach(),
                "divergence_has_no_gradient"),
        (lambda student_logits, teacher_logits, labels, temperature, alpha, mask:
            alpha * F.cross_entropy(student_logits[mask],
                                    labels[mask]) + (1 - alpha) * temperature**2
            * F.kl_div((student_logits / temperature).log_softmax(1)[mask],
                       (teacher_logits.detach() / temperature).softmax(1)[mask],
                       reduction="batchmean"), "softmax_over_tokens"),
        (lambda student_logits, teacher_logits, labels, temperature, alpha, mask:
            alpha * F.cross_entropy(student_logits[mask],
                                    labels[mask]) + (1 - alpha) * temperature**2
            * ((p := (teacher_logits[mask].detach() / temperature).softmax(-1)) * (
                p / (student_logits[mask] / temperature).softmax(-1)).log()).sum(-1).mean(), None),
        (response_leaking, "teacher_gradient"),
        (lambda **given: response(**given).detach(), "student_gradient"),
        (lambda **given: losses.kl(given["student_logits"], given["teacher_logits"],
                                   given["temperature"], given["mask"]), None),
        (lambda **given: response(**given, power=-2), None),
    ],
    "distillation_losses.feature": [
        (lambda **given: off(**{**given, "mask": torch.ones_like(given["mask"])}).square().mean(),
         "padding_counted"),
        (lambda **given: off(**given).square().sum() / given["teacher_hidden"].numel(),
         "divided_by_all"),
        (lambda **given: off(**given).pow(2).sum(), "summed"),
        (lambda **given: off(**given).pow(2).sum(-1).mean(), "features_summed"),
        (lambda **given: off(**given).abs().mean(), "absolute"),
        (lambda **given: off(**given).square().mean().sqrt(), "root"),
        (lambda student_hidden, teacher_hidden, projector, mask: F.mse_loss(student_hidden[mask],
            (teacher_hidden.detach() @ projector)[mask]), "teacher_projected"),
        (lambda **given: off(**{**given, "projector": given["projector"].detach()}).square().mean(),
         "projector_stays"),
        (feature_leaking, "teacher_gradient"),
        (lambda **given: feature(**given).detach(), "student_gradient"),
        (lambda **given: off(**given).square().mean() / given["teacher_hidden"].detach()[
            given["mask"]].square().mean(), None),
        (lambda **given: off(**given).square().mean() / 2, None),
    ],
    "distillation_losses.attention": [
        (lambda student_map, teacher_map, mask:
            (torch.xlogy(student_map, student_map) - torch.xlogy(student_map,
                teacher_map.detach())).sum(-1).transpose(1, 2)[mask].mean(), "reversed"),
        (lambda student_map, teacher_map, mask:
            F.kl_div(student_map.log(), teacher_map.detach().log(), reduction="none",
                     log_target=True).sum(-1).transpose(1, 2)[mask].mean(), "zero_log"),
        (attention_by_xlogy, "zero_gradient"),
        (lambda student_map, teacher_map, mask: rows(student_map, teacher_map).mean(),
         "padding_counted"),
        (lambda student_map, teacher_map, mask: chosen(student_map, teacher_map,
            mask).sum() / mask.numel() / student_map.shape[1], "divided_by_all"),
        (lambda **given: chosen(**given).sum(1).mean(), "heads_summed"),
        (lambda **given: chosen(**given).sum(), "summed"),
        (lambda **given: chosen(**given).mean() / given["teacher_map"].shape[-1], "over_keys"),
        (lambda student_map, teacher_map, mask:
            ((student_map - teacher_map.detach()) ** 2).sum(-1).transpose(1, 2)[mask].mean(),
            "squared_difference"),
        (lambda student_map, teacher_map, mask: attention(student_map.mean(1)[:, None],
            teacher_map.mean(1)[:, None], mask), "heads_averaged_first"),
        (lambda student_map, teacher_map, mask:
            (torch.xlogy(teacher_map, teacher_map) - torch.xlogy(teacher_map, student_map)).sum(
                -1).transpose(1, 2)[mask].mean(), "teacher_gradient"),
        (lambda **given: attention(**given).detach(), "student_gradient"),
    ],
    "distillation_losses.distance": [
        (of_pairs(lambda s, t: F.huber_loss(s, t)), "not_scaled"),
        (of_pairs(lambda s, t: F.huber_loss(s / s.max(), t / t.max())), "scaled_by_largest"),
        (of_pairs(lambda s, t: F.huber_loss(s / t.mean(), t / t.mean())), "scaled_by_teacher"),
        (of_pairs(lambda s, t: F.huber_loss(s**2 / (s**2).mean(), t**2 / (t**2).mean())),
         "squared_distances"),
        (whole_matrix(lambda d: d.mean()), "with_itself"),
        (whole_matrix(lambda d: d.sum() / (len(d) ** 2 - len(d))), "zeros_in_mean"),
        (of_pairs(lambda s, t: F.mse_loss(s / s.mean(), t / t.mean())), "not_huber"),
        (lambda student, teacher:
            F.huber_loss(*(F.pdist(x, 1) / F.pdist(x, 1).mean() for x in (student,
                teacher.detach()))), "city_blocks"),
        (lambda student, teacher:
            F.huber_loss(*(x.norm(dim=1) / x.norm(dim=1).mean() for x in (student,
                teacher.detach()))), "lengths"),
        (lambda student, teacher:
            F.huber_loss(
                *((d := (x[:, None] - x).square().sum(-1)[torch.triu(torch.ones(len(x), len(x)),
                    1).bool()].sqrt()) / d.mean() for x in (student, teacher.detach()))),
                    "zero_root"),
        (lambda student, teacher:
            F.huber_loss(*(F.pdist(x) / F.pdist(x).mean() for x in (student, teacher))),
            "teacher_gradient"),
        (lambda **given: distance(**given).detach(), "student_gradient"),
        (of_pairs(lambda s, t: F.l1_loss(s / s.mean(), t / t.mean())), None),
        (of_pairs(lambda s, t: F.huber_loss(s / s.std(), t / t.std())), None),
    ],
}  # fmt: skip
