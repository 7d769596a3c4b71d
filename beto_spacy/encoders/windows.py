"""Cutting a document into wordpiece windows that an encoder can take, and grouping windows into batches.

Only numbers here: wordpieces are positions, texts and tensors are somebody else's business. The two rules that
everything rests on: each wordpiece of a document belongs to the own part of exactly one window, and nothing is ever
truncated.
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy
from numpy.typing import NDArray

from beto_spacy.errors import EncoderError

#: How good it is to cut before a wordpiece: the higher, the better.
INSIDE_TOKEN, TOKEN, PUNCTUATION, SENTENCE = range(4)


class Window(NamedTuple):
    """A stretch of a document's wordpieces that goes through the encoder as one sequence.

    start, end: The window's own wordpieces, the ones whose vectors are read from it.
    left, right: The same with the context on both sides; ``left <= start < end <= right``.
    """

    start: int
    end: int
    left: int
    right: int


def check_window(size: int, context: int, limit: int, n_special: int) -> None:
    """Refuse window settings that can't work with an encoder.

    size: Wordpieces a window, special tokens included.
    context: Wordpieces of context on either side, part of ``size``.
    limit: The longest sequence that the encoder takes.
    n_special: How many special tokens frame a sequence.
    Raises EncoderError.
    """
    if not n_special < size <= limit:
        raise EncoderError(
            "B301",
            f"A window of {size} wordpieces does not suit this encoder, which takes sequences of {n_special + 1} to "
            f"{limit}.",
            f"Set 'window' of the encoder to a number in that range, or to null for {limit}.",
        )
    if context < 0 or size - n_special - 2 * context < 1:
        raise EncoderError(
            "B302",
            f"A context of {context} wordpieces on both sides leaves nothing of a window of {size}.",
            f"Set 'context' of the encoder to a number from 0 to {(size - n_special - 1) // 2}.",
        )


def cut_windows(
    n_pieces: int, capacity: int, *, context: int = 0, quality: Optional[NDArray[numpy.integer]] = None
) -> List[Window]:
    """Cut a document into windows.

    A document that fits one window is one window. Otherwise each window's own part is as long as fits beside its
    context, and ends at the best cut in its second half, the last one where several are as good.

    n_pieces: How many wordpieces the document has.
    capacity: How many wordpieces fit one window, context included, special tokens not.
    context: Wordpieces of context on either side of the own part.
    quality: How good it is to cut before each wordpiece, INSIDE_TOKEN to SENTENCE. *Shape:* (n_pieces,)
    """
    if n_pieces == 0:
        return []
    if n_pieces <= capacity:
        return [Window(0, n_pieces, 0, n_pieces)]
    own = capacity - 2 * context
    windows = []
    start = 0
    while start < n_pieces:
        # What the context could not use at the edges of the document goes to the own part.
        room = capacity - min(context, start)
        if start + room >= n_pieces:
            end = n_pieces
        else:
            end = start + room - context
            if quality is not None:
                first = start + max(1, own // 2)
                choices = quality[first : end + 1]
                end = first + len(choices) - 1 - int(numpy.argmax(choices[::-1]))
        left = max(0, start - context)
        windows.append(Window(start, end, left, min(n_pieces, end + context)))
        start = end
    return windows


def length_buckets(lengths: Sequence[int], budget: int) -> List[NDArray[numpy.intp]]:
    """Group sequences of similar length into batches.

    Each batch has at most ``budget`` wordpieces, padding included; a sequence longer than that is a batch of its own.
    The longest come first, so that a batch that doesn't fit the memory fails at once.

    lengths: Wordpieces of each sequence.
    budget: Wordpieces a padded batch.
    Returns the positions of the sequences of each batch; every position occurs once.
    """
    order = numpy.argsort(-numpy.asarray(lengths, dtype="i8"), kind="stable")
    buckets = []
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        buckets.append(order[start : start + size])
        start += size
    return buckets


def ranges(firsts: NDArray[numpy.integer], sizes: NDArray[numpy.integer]) -> NDArray[numpy.integer]:
    """Runs of numbers, one after another: ``sizes[i]`` of them from ``firsts[i]`` on. *Shape:* (sum of sizes,)"""
    ends = numpy.cumsum(sizes)
    return numpy.repeat(firsts - (ends - sizes), sizes) + numpy.arange(ends[-1] if len(ends) else 0)


def pad_rows(
    flat: NDArray[numpy.integer], firsts: NDArray[numpy.integer], lengths: NDArray[numpy.integer], fill: int = 0
) -> Tuple[NDArray[numpy.integer], NDArray[numpy.bool_]]:
    """Put rows that lie one after another below one another.

    flat: All rows. firsts, lengths: Where the chosen ones begin in it, and how long each is. *Shape:* (n_rows,)
    fill: What stands beyond the end of a shorter row.
    Returns the rows, and what is no filling. *Shape:* (n_rows, longest) each
    """
    places = numpy.arange(lengths.max())
    real = places < lengths[:, None]
    rows = numpy.full(real.shape, fill, dtype="i8")
    rows[real] = flat[ranges(firsts, lengths)]
    return rows, real
