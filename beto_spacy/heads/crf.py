"""A linear-chain conditional random field over entity tags, in torch: exact, batched, and without a loop over tokens.

Sums over all tag sequences, and the best of them, are products of matrices in the semirings (log-sum, +) and (max, +).
Products are associative, so they are computed as a tree: the depth is the logarithm of the length. The model is that of
Lafferty, McCallum and Pereira (2001); missing annotation is summed over, as in Tsuboi et al. (2008). Pure torch: spaCy
and thinc are in `ner.py`.

Tags follow the BIO scheme: 0 is O; of the label with number ``n``, ``1 + 2n`` begins a span and ``2 + 2n`` goes on
with it. What the scheme forbids has no probability at all.
"""

from typing import List, NamedTuple, Tuple

import torch

#: Log-potential of what is forbidden: its exponential is zero, and sums of it are still finite.
FORBIDDEN = -1e5
_TINY = 1e-300


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

    def scaled(self, temperature: float) -> "Potentials":
        """With all potentials divided by a temperature, which flattens (above 1) or sharpens the distribution."""
        return Potentials(
            self.emissions / temperature, self.starts / temperature, self.transitions / temperature, self.lengths
        )


def step_matrices(potentials: Potentials) -> torch.Tensor:
    """The log-potential of each tag at a token, given the tag before it; beyond the end, that of staying as one is.

    At the first token it does not depend on the tag before. Scheme and lengths are observed.

    *Shape:* (n_sequences, length, n_tags, n_tags), float64
    """
    emissions, starts, transitions, lengths = potentials
    n_labels = emissions.shape[2] // 2
    device = emissions.device
    starts = starts.double().masked_fill(~allowed_starts(n_labels).to(device), FORBIDDEN)
    transitions = transitions.double().masked_fill(~allowed_transitions(n_labels).to(device), FORBIDDEN)
    before = transitions.expand(emissions.shape[1], -1, -1).clone()
    before[0] = starts
    matrices = before + emissions.double()[:, :, None, :]
    beyond = torch.arange(emissions.shape[1], device=device) >= lengths[:, None]
    return torch.where(beyond[:, :, None, None], _identity(emissions.shape[2], device), matrices)


def _identity(size: int, device: torch.device) -> torch.Tensor:
    identity = torch.full((size, size), FORBIDDEN, dtype=torch.float64, device=device)
    identity.fill_diagonal_(0.0)
    return identity


def _log_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The matrix product in the semiring (log-sum, +)."""
    scale_left = left.detach().amax(dim=-1, keepdim=True)
    scale_right = right.detach().amax(dim=-2, keepdim=True)
    product = torch.matmul((left - scale_left).exp(), (right - scale_right).exp())
    return product.clamp_min(_TINY).log() + scale_left + scale_right


def _padded_to_even(matrices: torch.Tensor) -> torch.Tensor:
    if matrices.shape[1] % 2 == 0:
        return matrices
    one = _identity(matrices.shape[2], matrices.device).expand(matrices.shape[0], 1, -1, -1)
    return torch.cat([matrices, one], dim=1)


def log_partition(potentials: Potentials) -> torch.Tensor:
    """The logarithm of the sum over all tag sequences. *Shape:* (n_sequences,), float64"""
    matrices = step_matrices(potentials)
    while matrices.shape[1] > 1:
        matrices = _padded_to_even(matrices)
        matrices = _log_product(matrices[:, 0::2], matrices[:, 1::2])
    return torch.logsumexp(matrices[:, 0, 0, :], dim=-1)


def negative_log_likelihood(potentials: Potentials, possible: torch.Tensor) -> torch.Tensor:
    """How improbable the annotation is, by sequence: minus the log of the sum over all that agrees with it.

    possible: Which tags each token may have by the annotation: one where it's known, all where it's missing. *Shape:*
        (n_sequences, length, n_tags), bool
    *Shape of the result:* (n_sequences,), float64; 0 for a sequence without any annotation.
    """
    agreeing = potentials._replace(emissions=potentials.emissions.double().masked_fill(~possible, FORBIDDEN))
    return log_partition(potentials) - log_partition(agreeing)


def viterbi(potentials: Potentials) -> torch.Tensor:
    """The most probable tag sequence. *Shape:* (n_sequences, length), int64; 0 beyond a sequence's length.

    It always follows the scheme.
    """
    matrices = step_matrices(potentials)
    n_sequences, length = matrices.shape[:2]
    choices: List[torch.Tensor] = []
    while matrices.shape[1] > 1:
        matrices = _padded_to_even(matrices)
        matrices, best = _max_product(matrices[:, 0::2], matrices[:, 1::2])
        choices.append(best)
    # Down the tree: between the tags before and at the end of a part lies the tag at the end of its first half.
    rows = torch.arange(n_sequences, device=matrices.device)[:, None]
    before = torch.zeros((n_sequences, 1), dtype=torch.int64, device=matrices.device)
    at_end = matrices[:, 0, 0, :].argmax(dim=-1, keepdim=True)
    for best in reversed(choices):
        parts = torch.arange(best.shape[1], device=matrices.device)[None, :]
        before, at_end = before[:, : best.shape[1]], at_end[:, : best.shape[1]]
        middle = best[rows, parts, before, at_end]
        before = torch.stack([before, middle], dim=2).reshape(n_sequences, -1)
        at_end = torch.stack([middle, at_end], dim=2).reshape(n_sequences, -1)
    tags = at_end[:, :length]
    beyond = torch.arange(length, device=tags.device) >= potentials.lengths[:, None]
    return tags.masked_fill(beyond, 0)


def _max_product(left: torch.Tensor, right: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """The matrix product in the semiring (max, +), and which inner index gave each maximum."""
    best = left[..., :, 0, None] + right[..., None, 0, :]
    index = torch.zeros(best.shape, dtype=torch.int64, device=best.device)
    for middle in range(1, left.shape[-1]):
        other = left[..., :, middle, None] + right[..., None, middle, :]
        index = torch.where(other > best, middle, index)
        best = torch.maximum(best, other)
    return best, index


def _prefix_products(matrices: torch.Tensor) -> torch.Tensor:
    """The products of the first one, the first two, ... matrices, in the semiring (log-sum, +)."""
    length = matrices.shape[1]
    if length == 1:
        return matrices
    even = _padded_to_even(matrices)
    pairs = _prefix_products(_log_product(even[:, 0::2], even[:, 1::2]))
    out = torch.empty_like(even)
    out[:, 0] = even[:, 0]
    out[:, 1::2] = pairs
    if even.shape[1] > 2:
        out[:, 2::2] = _log_product(pairs[:, :-1], even[:, 2::2])
    return out[:, :length]


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
    """Compute the forward and backward sums of all tokens."""
    matrices = step_matrices(potentials)
    forward = _prefix_products(matrices)[:, :, 0, :]
    total = torch.logsumexp(forward[:, -1], dim=-1)
    # From the end: products of the last matrix, the last two, ..., as prefixes of the reversed and transposed ones.
    suffix = _prefix_products(matrices.flip(1).transpose(2, 3)).flip(1).transpose(2, 3)
    after = torch.logsumexp(suffix, dim=-1)  # of what follows the tag before a token
    backward = torch.zeros_like(forward)
    backward[:, :-1] = after[:, 1:]
    return ForwardBackward(forward, backward, total)


def tag_marginals(sums: ForwardBackward) -> torch.Tensor:
    """The probability of each tag at each token. *Shape:* (n_sequences, length, n_tags), float64"""
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
    follows = transitions[at_end] + emissions[row, after] + sums.backward[row, after]
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
