"""How far probabilities are from those to be learned: the divergence of Kullback and Leibler, in torch.

At a temperature, all scores are divided by it, which flattens both distributions, and the divergence is multiplied by
its square, so that its gradient keeps its size (Hinton, Vinyals and Dean 2015). It's zero, and so is its gradient,
where both are the same.
"""

import torch

#: In place of minus infinity: its exponential is zero, and differences of it are still numbers.
_NEVER = -1e4


def categorical_divergence(scores: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Of distributions over classes that exclude one another.

    scores, targets: Logits, up to a constant; minus infinity for what can't be, in the same places of both.
        *Shape:* (..., n_classes)
    *Shape of the result:* (...,)
    """
    never = targets.isneginf()
    found = (scores / temperature).masked_fill(never, _NEVER).log_softmax(dim=-1)
    wanted = (targets / temperature).masked_fill(never, _NEVER).log_softmax(dim=-1)
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(dim=-1)


def binary_divergence(scores: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Of answers yes or no.

    scores, targets: Logits. *Shape:* (...)
    *Shape of the result:* (...)
    """
    found, wanted = scores / temperature, targets / temperature
    logsigmoid = torch.nn.functional.logsigmoid
    yes = wanted.sigmoid() * (logsigmoid(wanted) - logsigmoid(found))
    no = (-wanted).sigmoid() * (logsigmoid(-wanted) - logsigmoid(-found))
    return temperature**2 * (yes + no)
