"""Windows and buckets: every wordpiece once, nothing past the limit, the best cut, nothing lost in batching."""

import random

import numpy
import pytest

from beto_spacy.encoders.windows import (
    INSIDE_TOKEN,
    PUNCTUATION,
    SENTENCE,
    TOKEN,
    Window,
    check_window,
    cut_windows,
    length_buckets,
)
from beto_spacy.errors import EncoderError


@pytest.mark.parametrize("seed", range(30))
def test_each_wordpiece_is_the_own_part_of_one_window(seed):
    rng = random.Random(seed)
    n_pieces = rng.randrange(0, 3_000)
    context = rng.randrange(0, 20)
    capacity = 2 * context + rng.randrange(1, 200)
    quality = numpy.array([rng.randrange(4) for _ in range(n_pieces)]) if rng.random() < 0.7 else None
    windows = cut_windows(n_pieces, capacity, context=context, quality=quality)
    assert [i for w in windows for i in range(w.start, w.end)] == list(range(n_pieces))
    for window in windows:
        assert 0 <= window.left <= window.start < window.end <= window.right <= n_pieces
        assert window.right - window.left <= capacity
    for before, after in zip(windows, windows[1:]):
        assert after.start - after.left == min(context, after.start)
        assert before.right - before.end == min(context, n_pieces - before.end)


def test_a_document_that_fits_is_one_window_and_an_empty_one_none():
    assert cut_windows(0, 10) == []
    assert cut_windows(10, 10, context=4) == [Window(0, 10, 0, 10)]
    assert cut_windows(11, 10) == [Window(0, 10, 0, 10), Window(10, 11, 10, 11)]


def test_the_cut_is_the_best_and_then_the_last_of_the_second_half():
    quality = numpy.full(20, TOKEN)
    quality[[2, 6, 7]] = SENTENCE, PUNCTUATION, PUNCTUATION
    assert cut_windows(20, 10, quality=quality)[0].end == 7  # the sentence end lies in the first half
    quality[6] = SENTENCE
    assert cut_windows(20, 10, quality=quality)[0].end == 6
    inside = numpy.full(20, INSIDE_TOKEN)
    assert [w.end for w in cut_windows(20, 10, quality=inside)] == [10, 20]  # a giant token spans windows


def test_settings_that_cannot_work_are_refused():
    check_window(512, 255 - 1, 512, 2)
    for size, context, code in [(513, 0, "B301"), (2, 0, "B301"), (10, 4, "B302"), (10, -1, "B302")]:
        with pytest.raises(EncoderError, match=code):
            check_window(size, context, 512, 2)


@pytest.mark.parametrize("seed", range(10))
def test_buckets_hold_everything_once_within_the_budget(seed):
    rng = random.Random(seed)
    lengths = [rng.randrange(1, 600) for _ in range(rng.randrange(0, 200))]
    buckets = length_buckets(lengths, 512)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(lengths)))
    for bucket in buckets:
        longest = max(lengths[i] for i in bucket)
        assert len(bucket) == 1 or longest * len(bucket) <= 512


def test_buckets_pad_a_few_per_cent_only():
    rng = random.Random(0)
    lengths = [rng.randrange(8, 460) for _ in range(1_000)]
    padded = sum(max(lengths[i] for i in bucket) * len(bucket) for bucket in length_buckets(lengths, 512))
    assert padded < 1.05 * sum(lengths)
