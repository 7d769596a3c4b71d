"""The random field of `crf.py` token by token, in numpy: the best tags, and the sums over all.

A step of all sequences at once costs little on a CPU, and there are as many as the longest has tokens. The tree of
`crf.py` has fewer steps, each of n_tags times the work. Numbers only. Sequences are sorted by length, so that those
that have ended are left out of a step.
"""

from typing import List, NamedTuple, Tuple

import numpy

#: What is less probable than this, beside the rest, has no logarithm.
_LEAST = 1e-300


class Chains(NamedTuple):
    """The log-potentials of some sequences, longest first.

    emissions: *Shape:* (length, n_tags, n_sequences); that of the first token has the start in it.
    transitions: *Shape:* (n_tags, n_tags): [tag, next tag]
    left: How many sequences have each token, and 0 at the end. *Shape:* (length + 1,)
    order: The number of each sequence where they come from. *Shape:* (n_sequences,)
    """

    emissions: numpy.ndarray
    transitions: numpy.ndarray
    left: List[int]
    order: numpy.ndarray

    def unsorted(self, by_sequence: numpy.ndarray) -> numpy.ndarray:
        """Put what is by sequence into the order where these come from. *Shape:* (n_sequences, ...)"""
        found = numpy.empty_like(by_sequence)
        found[self.order] = by_sequence
        return found


def sort_chains(
    emissions: numpy.ndarray, starts: numpy.ndarray, transitions: numpy.ndarray, lengths: numpy.ndarray
) -> Chains:
    """Bring log-potentials into the form that is worked on; what is forbidden is in them.

    emissions: *Shape:* (n_sequences, length, n_tags). starts: *Shape:* (n_tags,). transitions: *Shape:* (n_tags,
        n_tags). lengths: *Shape:* (n_sequences,), 1 or more.
    """
    order = numpy.argsort(-lengths, kind="stable")
    by_token = numpy.ascontiguousarray(emissions[order].transpose(1, 2, 0))
    by_token[0] += starts[:, None]
    left = numpy.searchsorted(-lengths[order], -numpy.arange(len(by_token)), side="left").tolist()
    return Chains(by_token, transitions, [*left, 0], order)


def best_tags(chains: Chains) -> numpy.ndarray:
    """The most probable tag sequences (Viterbi 1967). *Shape:* (n_sequences, length), int64; 0 beyond the end."""
    emissions, transitions, left, _ = chains
    scores = emissions.copy()  # of the best sequence up to a token that ends with a tag
    for t in range(1, len(scores)):
        n = left[t]
        scores[t, :, :n] += (transitions[:, :, None] + scores[t - 1, :, None, :n]).max(axis=0)
    tags = numpy.zeros((len(scores), scores.shape[2]), dtype="i8")
    for t in reversed(range(len(scores))):
        n, going_on = left[t], left[t + 1]
        tags[t, going_on:n] = scores[t, :, going_on:n].argmax(axis=0)
        if going_on:
            onwards = transitions[:, tags[t + 1, :going_on]]
            tags[t, :going_on] = (scores[t, :, :going_on] + onwards).argmax(axis=0)
    return chains.unsorted(tags.T)


def chain_sums(chains: Chains) -> Tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """The logarithms of the forward and the backward sums, and of the sum over all; see `crf.ForwardBackward`.

    They are computed as probabilities, in double precision, scaled at each token (Rabiner 1989).
    *Shapes:* (n_sequences, length, n_tags) twice, (n_sequences,)
    """
    emissions, transitions, left, _ = chains
    length, _, n_sequences = emissions.shape
    by_token = emissions.astype("f8")
    most = by_token.max(axis=1)
    by_token = numpy.exp(by_token - most[:, None])
    largest = float(transitions.max())
    steps = numpy.exp(transitions.astype("f8") - largest)
    forward, backward = numpy.ones_like(by_token), numpy.ones_like(by_token)
    scales = numpy.ones((2, length, n_sequences))
    for t in range(length):
        n = left[t]
        found = (steps.T @ forward[t - 1, :, :n]) * by_token[t, :, :n] if t else by_token[0]
        scale = numpy.maximum(found.sum(axis=0), _LEAST)
        forward[t, :, :n] = found / scale
        scales[0, t, :n] = scale
    for t in reversed(range(length - 1)):
        n = left[t + 1]
        found = steps @ (backward[t + 1, :, :n] * by_token[t + 1, :, :n])
        scale = numpy.maximum(found.sum(axis=0), _LEAST)
        backward[t, :, :n] = found / scale
        scales[1, t, :n] = scale
    # What was taken out: at each token itself, and on the way back at the next.
    taken = numpy.where(numpy.arange(n_sequences) < numpy.asarray(left[:-1])[:, None], most + largest, 0.0)
    taken[0] -= largest
    upto = (numpy.log(scales[0]) + taken).cumsum(axis=0)
    taken[:-1], taken[-1] = taken[1:], 0.0
    after = (numpy.log(scales[1]) + taken)[::-1].cumsum(axis=0)[::-1]
    logs = (numpy.log(numpy.maximum(part, _LEAST)) + out[:, None] for part, out in ((forward, upto), (backward, after)))
    by_sequence = [chains.unsorted(part.transpose(2, 0, 1)) for part in logs]
    return by_sequence[0], by_sequence[1], chains.unsorted(upto[-1])
