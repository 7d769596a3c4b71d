"""A linear-chain conditional random field over entity tags, in torch: exact, batched, and without a loop over tokens.

Sums over all tag sequences, and the best of them, are products of matrices in the semirings (log-sum, +) and (max, +).
Products are associative, so they are computed as a tree: the depth is the logarithm of the length. Where a CPU predicts
it goes from token to token instead, if that is quicker, see `crf_steps.py`. The model is that of Lafferty, McCallum and
Pereira (2001); missing annotation is summed over, as in Tsuboi et al. (2008). Pure torch: spaCy and thinc are in
`ner.py`.

Tags follow the BIO scheme: 0 is O; of the label with number ``n``, ``1 + 2n`` begins a span and ``2 + 2n`` goes on
with it. What the scheme forbids has no probability at all.
"""

import math
from typing import Any, List, NamedTuple, Tuple

import torch

from beto_spacy.heads.ner.crf_steps import Chains, best_tags, chain_sums, sort_chains

#: Log-potential of what is forbidden: its exponential is zero, and sums of it are still finite.
FORBIDDEN = -1e5
#: On a CPU longer sequences go up the tree, unless there are so many that steps of all of them are worth it.
_LONG, _MANY = 128, 16


def n_tags(n_labels: int) -> int:
    """How many tags there are for so many labels."""
    return 1 + 2 * n_labels


def begin_tag(label: int) -> int:
    """The tag that begins a span of the label with this number."""
    return 1 + 2 * label


def inside_tag(label: int) -> int:
    """The tag that goes on with a span of the label with this number."""
    return 2 + 2 * label


def allowed_starts(n_labels: int) -> torch.Tensor:
    """Which tags a sequence may start with. *Shape:* (n_tags,), bool"""
    allowed = torch.ones(n_tags(n_labels), dtype=torch.bool)
    allowed[2::2] = False
    return allowed


def allowed_transitions(n_labels: int) -> torch.Tensor:
    """Which tag may follow which: a span is gone on with only after its beginning or itself.

    *Shape:* (n_tags, n_tags), bool: [tag, next tag]
    """
    size = n_tags(n_labels)
    allowed = torch.ones((size, size), dtype=torch.bool)
    allowed[:, 2::2] = False
    for label in range(n_labels):
        allowed[begin_tag(label), inside_tag(label)] = allowed[inside_tag(label), inside_tag(label)] = True
    return allowed


class TagPotentials(torch.nn.Module):
    """A linear layer from token vectors to tags, and the potentials of starting with a tag and of one after another.

    width: Of the token vectors.
    n_tags: How many tags there are.
    dropout: Of the token vectors, in training.
    """

    def __init__(self, width: int, n_tags: int, dropout: float):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.linear = torch.nn.Linear(width, n_tags)
        self.starts = torch.nn.Parameter(torch.zeros(n_tags))
        self.transitions = torch.nn.Parameter(torch.zeros(n_tags, n_tags))
        torch.nn.init.normal_(self.linear.weight, std=0.02)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give the emissions, *shape:* (n_tokens, n_tags), the starts and the transitions.

        vectors: *Shape:* (n_tokens, width)
        """
        return self.linear(self.dropout(vectors)), self.starts, self.transitions


class Potentials(NamedTuple):
    """The log-potentials of some sequences.

    emissions: Of each tag at each token; what is beyond a sequence's length is of no matter. *Shape:* (n_sequences,
        length, n_tags)
    starts: Of each tag at the first token. *Shape:* (n_tags,)
    transitions: Of each tag after each. *Shape:* (n_tags, n_tags): [tag, next tag]
    lengths: Tokens of each sequence, 1 or more. *Shape:* (n_sequences,)
    """

    emissions: torch.Tensor
    starts: torch.Tensor
    transitions: torch.Tensor
    lengths: torch.Tensor

    def centred(self) -> "Potentials":
        """With the largest emission of each token subtracted: the same distribution, in numbers that stay small."""
        return self._replace(emissions=self.emissions - self.emissions.amax(dim=2, keepdim=True))

    def double(self) -> "Potentials":
        """In double precision; everything here is computed in the precision of the emissions."""
        return Potentials(self.emissions.double(), self.starts.double(), self.transitions.double(), self.lengths)

    def scaled(self, temperature: float) -> "Potentials":
        """With all potentials divided by a temperature, which flattens (above 1) or sharpens the distribution."""
        return Potentials(
            self.emissions / temperature, self.starts / temperature, self.transitions / temperature, self.lengths
        )


def _in_scheme(potentials: Potentials) -> Tuple[torch.Tensor, torch.Tensor]:
    """The starts and the transitions without what the scheme forbids."""
    n_labels, device = potentials.emissions.shape[2] // 2, potentials.emissions.device
    starts = potentials.starts.masked_fill(~allowed_starts(n_labels).to(device), FORBIDDEN)
    return starts, potentials.transitions.masked_fill(~allowed_transitions(n_labels).to(device), FORBIDDEN)


def _goes_by_steps(potentials: Potentials) -> bool:
    n_sequences, length, _ = potentials.emissions.shape
    return potentials.emissions.device.type == "cpu" and (length <= _LONG or n_sequences >= _MANY)


def _chains(potentials: Potentials) -> Chains:
    tensors = (potentials.emissions, *_in_scheme(potentials), potentials.lengths)
    return sort_chains(*(tensor.detach().numpy() for tensor in tensors))


def step_matrices(potentials: Potentials) -> torch.Tensor:
    """The log-potential of each tag at a token, given the tag before it; beyond the end, that of staying as one is.

    At the first token it does not depend on the tag before. Scheme and lengths are observed. The sequences come last,
    so that what is done to a tag is done to all of them at once.

    *Shape:* (n_tags, n_tags, length, n_sequences): [tag before, tag]
    """
    emissions, lengths, device = potentials.emissions, potentials.lengths, potentials.emissions.device
    starts, transitions = _in_scheme(potentials)
    by_tag = emissions.permute(2, 1, 0).contiguous()
    matrices = transitions[:, :, None, None] + by_tag[None]
    matrices[:, :, 0] = (starts[:, None] + by_tag[:, 0])[None]
    beyond = torch.arange(emissions.shape[1], device=device)[:, None] >= lengths[None, :]
    return torch.where(beyond, _identity(matrices), matrices)


def _identity(like: torch.Tensor) -> torch.Tensor:
    """Changes nothing in a product. *Shape:* (n_tags, n_tags, 1, 1)"""
    identity = like.new_full((like.shape[0], like.shape[0]), FORBIDDEN)
    return identity.fill_diagonal_(0.0)[:, :, None, None]


def _halves(matrices: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """The neighbours in a row of matrices, each pair to be multiplied; a last one alone gets the identity."""
    if matrices.shape[2] % 2:
        one = _identity(matrices).expand(-1, -1, 1, matrices.shape[3])
        matrices = torch.cat([matrices, one], dim=2)
    return matrices[:, :, 0::2], matrices[:, :, 1::2]


class _Scaled(NamedTuple):
    """The two factors of products in the semiring (log-sum, +): exponentials, and what was taken out before."""

    left: torch.Tensor
    left_scale: torch.Tensor
    right: torch.Tensor
    right_scale: torch.Tensor


def _factors(matrices: torch.Tensor) -> _Scaled:
    left, right = _halves(matrices)
    left_scale = left.detach().amax(dim=1, keepdim=True)
    right_scale = right.detach().amax(dim=0, keepdim=True)
    return _Scaled(_exp(left - left_scale), left_scale, _exp(right - right_scale), right_scale)


def _exp(logarithms: torch.Tensor) -> torch.Tensor:
    # Numbers so small that they aren't normal any more are slow.
    return logarithms.clamp_min(1.0 + math.log(torch.finfo(logarithms.dtype).tiny)).exp()


def _log(sums: torch.Tensor) -> torch.Tensor:
    return sums.clamp_min(torch.finfo(sums.dtype).tiny).log()


class _SumProducts(torch.autograd.Function):
    """Products of many small matrices, which lie in the first two dimensions; torch would take them one by one."""

    @staticmethod
    def forward(ctx: Any, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(left, right)
        return _multiply(left, right)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        left, right = ctx.saved_tensors
        (gradient,) = gradients
        return _multiply(gradient, right.transpose(0, 1)), _multiply(left.transpose(0, 1), gradient)


def _multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    sums = left[:, 0, None] * right[None, 0]
    for middle in range(1, len(right)):
        sums.addcmul_(left[:, middle, None], right[None, middle])
    return sums


def _products(factors: _Scaled) -> torch.Tensor:
    sums = _SumProducts.apply(factors.left, factors.right)
    return _log(sums) + factors.left_scale + factors.right_scale


def log_partition(potentials: Potentials) -> torch.Tensor:
    """The logarithm of the sum over all tag sequences. *Shape:* (n_sequences,)"""
    matrices = step_matrices(potentials)
    while matrices.shape[2] > 1:
        matrices = _products(_factors(matrices))
    return torch.logsumexp(matrices[0, :, 0], dim=0)


def negative_log_likelihood(potentials: Potentials, possible: torch.Tensor) -> torch.Tensor:
    """How improbable the annotation is, by sequence: minus the log of the sum over all that agrees with it.

    possible: Which tags each token may have by the annotation: one where it's known, all where it's missing. *Shape:*
        (n_sequences, length, n_tags), bool
    *Shape of the result:* (n_sequences,), float64; 0 for a sequence without any annotation.
    """
    potentials = potentials.double()
    agreeing = potentials._replace(emissions=potentials.emissions.masked_fill(~possible, FORBIDDEN))
    return log_partition(potentials) - log_partition(agreeing)


def divergence(potentials: Potentials, targets: Potentials, temperature: float = 1.0) -> torch.Tensor:
    """How far the distribution over tag sequences is from another (Kullback and Leibler), summed over sequences.

    Exact, over all sequences. How often each tag and each transition is to be expected by the targets is the gradient
    of their `log_partition`; the divergence is linear in that.

    potentials, targets: Of the same sequences.
    temperature: Both are flattened by it, and the result is multiplied by its square.
    *Shape of the result:* (), float64
    """
    found, wanted = potentials.double().scaled(temperature), targets.double().scaled(temperature)
    with torch.enable_grad():
        leaves = tuple(tensor.detach().requires_grad_() for tensor in wanted[:3])
        total = log_partition(Potentials(*leaves, wanted.lengths)).sum()
        expected = torch.autograd.grad(total, leaves)
    apart = sum((often * (w.detach() - f)).sum() for often, w, f in zip(expected, leaves, found[:3]))
    return temperature**2 * (apart + log_partition(found).sum() - total.detach())


def viterbi(potentials: Potentials) -> torch.Tensor:
    """The most probable tag sequence. *Shape:* (n_sequences, length), int64; 0 beyond a sequence's length.

    It always follows the scheme.
    """
    if _goes_by_steps(potentials):
        return torch.from_numpy(best_tags(_chains(potentials)))
    matrices = step_matrices(potentials)
    size, _, length, n_sequences = matrices.shape
    levels: List[Tuple[torch.Tensor, torch.Tensor]] = []
    while matrices.shape[2] > 1:
        levels.append(_halves(matrices))
        matrices = _max_product(*levels[-1])
    # Down the tree: between the tags before and at the end of a part lies the tag at the end of its first half.
    before = torch.zeros((1, n_sequences), dtype=torch.int64, device=matrices.device)
    at_end = matrices[0, :, 0].argmax(dim=0, keepdim=True)
    for left, right in reversed(levels):
        n = left.shape[2]
        before, at_end = before[:n], at_end[:n]
        first = left.gather(0, before.expand(1, size, -1, -1))[0]
        second = right.gather(1, at_end.expand(size, 1, -1, -1))[:, 0]
        middle = (first + second).argmax(dim=0)
        before = torch.stack([before, middle], dim=1).reshape(2 * n, n_sequences)
        at_end = torch.stack([middle, at_end], dim=1).reshape(2 * n, n_sequences)
    tags = at_end[:length].T
    beyond = torch.arange(length, device=tags.device) >= potentials.lengths[:, None]
    return tags.masked_fill(beyond, 0)


def _max_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The matrix product in the semiring (max, +)."""
    best = left[:, 0, None] + right[None, 0]
    for middle in range(1, len(left)):
        torch.maximum(best, left[:, middle, None] + right[None, middle], out=best)
    return best


class ForwardBackward(NamedTuple):
    """Sums over the tag sequences up to a token, and from it on.

    forward: Of those that end with a tag at a token, this token included. *Shape:* (n_sequences, length, n_tags)
    backward: Of those that follow a tag at a token, this token not included. *Shape:* (n_sequences, length, n_tags)
    total: Over all. *Shape:* (n_sequences,)
    """

    forward: torch.Tensor
    backward: torch.Tensor
    total: torch.Tensor


def forward_backward(potentials: Potentials) -> ForwardBackward:
    """Compute the forward and backward sums of all tokens; on a CPU by steps, in double precision, if that is quicker.

    Up the tree go products of matrices; down it goes, for each part, what comes before it and what follows it.
    """
    if _goes_by_steps(potentials):
        return ForwardBackward(*map(torch.from_numpy, chain_sums(_chains(potentials))))
    matrices = step_matrices(potentials)
    size, _, length, n_sequences = matrices.shape
    levels: List[_Scaled] = []
    while matrices.shape[2] > 1:
        levels.append(_factors(matrices))
        matrices = _products(levels[-1])
    last = matrices[0]
    before = matrices.new_full((size, 1, n_sequences), FORBIDDEN)
    before[0] = 0.0  # the first matrix doesn't depend on what is before it
    after = torch.zeros_like(before)
    for factors in reversed(levels):
        n = factors.left.shape[2]
        before, after = before[:, :n], after[:, :n]
        come, follow = before + factors.left_scale[:, 0], after + factors.right_scale[0]
        scale_come, scale_follow = come.amax(dim=0), follow.amax(dim=0)
        middle_before = _log((_exp(come - scale_come)[:, None] * factors.left).sum(dim=0)) + scale_come
        middle_after = _log((factors.right * _exp(follow - scale_follow)[None]).sum(dim=1)) + scale_follow
        before = torch.stack([before, middle_before], dim=2).reshape(size, 2 * n, n_sequences)
        after = torch.stack([middle_after, after], dim=2).reshape(size, 2 * n, n_sequences)
    forward = torch.cat([before[:, 1:length], last], dim=1)
    total = torch.logsumexp(last[:, 0], dim=0)
    return ForwardBackward(forward.permute(2, 1, 0), after[:, :length].permute(2, 1, 0), total)


def tag_marginals(sums: ForwardBackward) -> torch.Tensor:
    """The probability of each tag at each token. *Shape:* (n_sequences, length, n_tags)"""
    return (sums.forward + sums.backward - sums.total[:, None, None]).exp()


def span_probabilities(potentials: Potentials, sums: ForwardBackward, spans: torch.Tensor) -> torch.Tensor:
    """The probability that a span is one, with exactly these bounds and this label.

    spans: Sequence, first token, last token and label of each. *Shape:* (n_spans, 4), int64
    *Shape of the result:* (n_spans,), float64
    """
    row, first, last, label = spans.unbind(1)
    begin, inside = 1 + 2 * label, 2 + 2 * label
    emissions, transitions = potentials.emissions.double(), potentials.transitions.double()
    # Going on with a span of a label, summed over the tokens so far.
    going_on = emissions[:, :, 2::2].cumsum(dim=1)
    score = sums.forward[row, first, begin] + going_on[row, last, label] - going_on[row, first, label]
    longer = (last - first).double()
    score = score + torch.where(longer > 0, transitions[begin, inside], 0.0)
    score = score + (longer - 1).clamp_min(0) * transitions[inside, inside]
    # After it comes anything but more of it.
    at_end = torch.where(last > first, inside, begin)
    is_last = last + 1 >= potentials.lengths[row]
    after = (last + 1).clamp_max(emissions.shape[1] - 1)
    n_labels = emissions.shape[2] // 2
    allowed = allowed_transitions(n_labels).to(emissions.device)[at_end]
    allowed = allowed & (torch.arange(emissions.shape[2], device=emissions.device)[None, :] != inside[:, None])
    follows = transitions[at_end] + emissions[row, after] + sums.backward[row, after].double()
    ended = torch.logsumexp(follows.masked_fill(~allowed, FORBIDDEN), dim=1)
    score = score + torch.where(is_last, torch.zeros_like(ended), ended)
    return (score - sums.total[row]).exp().clamp(0.0, 1.0)


def tags_to_spans(tags: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The spans that tags of the scheme stand for, by sequence and first token.

    tags: *Shape:* (n_sequences, length), int64
    lengths: *Shape:* (n_sequences,), int64
    Returns sequence, first token, last token and label of each. *Shape:* (n_spans, 4), int64
    """
    beyond = torch.arange(tags.shape[1], device=tags.device) >= lengths[:, None]
    tags = tags.masked_fill(beyond, 0)
    begins = (tags % 2 == 1).nonzero()
    goes_on = torch.zeros_like(tags, dtype=torch.bool)
    goes_on[:, :-1] = (tags[:, 1:] > 0) & (tags[:, 1:] % 2 == 0)
    inside = tags > 0
    ends = (inside & ~goes_on).nonzero()
    label = (tags[begins[:, 0], begins[:, 1]] - 1) // 2
    return torch.stack([begins[:, 0], begins[:, 1], ends[:, 1], label], dim=1)
