"""The distillation op from the paper's equations: float64, one token and one entry at a time.

Plain Python on lists; of the code under test it reads the fields of a `Head` and calls nothing.
"""

import math
from types import SimpleNamespace


def truth(
    hidden,
    head,
    labels,
    objective,
    tau=0.25,
    teacher_hidden=None,
    teacher_head=None,
    ignore_index=-100,
    weight_of=lambda student, label: 1.0,
):
    """All that the op gives, and d loss / d (hidden, weight, bias), as Python numbers and lists.

    `objective` is a name, or a number: the same share m for every token.
    `weight_of` gives w from p_S, a list, and l.
    """
    hidden, weight = hidden.tolist(), head.weight.tolist()
    result = SimpleNamespace(
        loss=0.0,
        tokens=0,
        negative_log_likelihood=[0.0] * len(hidden),
        forward_kl=[0.0] * len(hidden),
        teacher_is_right=[False] * len(hidden),
        mixing=[0.0] * len(hidden),
        hidden=[[0.0] * len(row) for row in hidden],
        weight=[[0.0] * len(row) for row in weight],
        bias=[0.0] * len(weight),
    )
    for n, label in enumerate(labels.tolist()):
        if label == ignore_index:
            continue
        logits, slopes = logits_of(hidden[n], head)
        log_student = log_softmax(logits)
        student = [math.exp(value) for value in log_student]
        w = weight_of(student, label)
        if teacher_hidden is None:
            corrected = [float(i == label) for i in range(len(student))]
        else:
            log_teacher = log_softmax(logits_of(teacher_hidden[n].tolist(), teacher_head)[0])
            log_teacher += [-math.inf] * (len(student) - len(log_teacher))
            teacher = [math.exp(value) for value in log_teacher]
            m = mixing_of(objective, teacher, label, tau)
            corrected = [(1 - m) * p + m * (i == label) for i, p in enumerate(teacher)]
            result.mixing[n] = m
            result.teacher_is_right[n] = teacher[label] == max(teacher)
            result.forward_kl[n] = sum(
                p * (log_teacher[i] - log_student[i]) for i, p in enumerate(teacher) if p > 0
            )
        result.tokens += 1
        result.negative_log_likelihood[n] = -log_student[label]
        result.loss += w * sum(-p * log_p for p, log_p in zip(corrected, log_student, strict=True))
        for k in range(len(logits)):
            # log p_S[i] = z[i] - log(sum_k exp z[k]), so d log p_S[i] / d z[k] = (i == k) - p_S[k].
            on_logit = w * sum(-p * ((i == k) - student[k]) for i, p in enumerate(corrected))
            on_product = on_logit * slopes[k] * head.scale
            result.bias[k] += on_product
            for j, value in enumerate(hidden[n]):
                result.hidden[n][j] += on_product * weight[k][j]
                result.weight[k][j] += on_product * value
    return result


def mixing_of(objective, teacher, label, tau):
    """The share of the one-hot label in p^C: sections 2 and 4 of the paper."""
    if not isinstance(objective, str):
        return objective
    p_label, p_max = teacher[label], max(teacher)
    right = p_label == p_max

    def separation(a):
        return ((1 - a) * p_label + a) - ((1 - a) * p_max + tau)

    def shortfall(b):
        return ((1 - b) * p_label + b) - min(1.0, p_label + tau)

    if objective == "ft":
        return 1.0
    if objective == "distillation" or (right and objective != "mft"):
        return 0.0
    if objective == "corrective":
        return 1.0
    return root(shortfall if right else separation)


def root(line):
    """Where a function of the form a + b * x is zero; 1 where it is zero everywhere."""
    return line(0) / (line(0) - line(1)) if line(0) != line(1) else 1.0


def logits_of(hidden, head):
    """(z, d z / d a), one value for each entry that is not padding."""
    rows = head.weight.tolist()[: head.vocabulary_size]
    bias = [0.0] * len(rows) if head.bias is None else head.bias.tolist()[: len(rows)]
    products = [
        head.scale * (sum(w * h for w, h in zip(row, hidden, strict=True)) + b)
        for row, b in zip(rows, bias, strict=True)
    ]
    if head.soft_cap is None:
        return products, [1.0] * len(rows)
    tanh = [math.tanh(a / head.soft_cap) for a in products]
    return [head.soft_cap * t for t in tanh], [1 - t * t for t in tanh]


def log_softmax(logits):
    highest = max(logits)
    total = math.log(math.fsum(math.exp(z - highest) for z in logits))
    return [z - highest - total for z in logits]
