"""Packing, pairs and masks, against what they promise."""

import numpy
import pytest

from beto_spacy.encoders.sequences import (
    Sequences,
    TokenCache,
    describe_vocabulary,
    epoch_order,
    mask_words,
    open_cache,
    pack,
)
from beto_spacy.errors import EncoderError, FormatError
from beto_spacy.training.vocabulary import Texts, train_vocabulary

NAMES = ["Ana", "Berta", "Camilo", "Daniela", "Ernesto", "Fátima", "Gabriela", "Héctor"]
PLACES = ["Ñuñoa", "Bogotá", "Montevideo", "Güimar", "Cádiz", "Lima"]


def documents(n=40):
    """Documents whose words tell which one they are from."""
    return [
        [
            f"{NAMES[(i + j) % 8]} fue a {PLACES[(i * j) % 6]} con {i} amigos. ¿Volverá {NAMES[i % 8]} el año {j}?"
            for j in range(1 + i % 7)
        ]
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    file = folder / "text.txt"
    file.write_text("\n\n".join("\n".join(d) for d in documents()) + "\n", encoding="utf8")
    tokenizer = train_vocabulary(Texts([file]), size=220)
    return file, tokenizer, open_cache([file], tokenizer, folder / "cache"), describe_vocabulary(tokenizer)


def make(corpus, **options):
    return Sequences(corpus[2], corpus[3], **{"length": 32, "batch_size": 4, **options})


# --- the cache -------------------------------------------------------------------------------------------------------


def test_the_cache_is_what_the_tokenizer_says(corpus):
    file, tokenizer, cache, _ = corpus
    assert len(cache.documents) == 41 and cache.documents[-1] == len(cache.tokens)
    for i, document in enumerate(documents()):
        expected = [n for text in document for n in tokenizer(text, add_special_tokens=False)["input_ids"]]
        assert cache.tokens[cache.documents[i] : cache.documents[i + 1]].tolist() == expected


def test_the_cache_is_made_once_and_again_when_a_text_changes(corpus, tmp_path):
    _, tokenizer, _, _ = corpus
    text, folder = tmp_path / "a.txt", tmp_path / "cache"
    text.write_text("Ana fue a Lima.\n", encoding="utf8")
    first = open_cache([text], tokenizer, folder)
    (made,) = folder.iterdir()
    stamp = (made / "meta.json").stat().st_mtime_ns
    open_cache([text], tokenizer, folder)
    assert (made / "meta.json").stat().st_mtime_ns == stamp
    text.write_text("Ana fue a Lima. Berta fue a Lima.\n", encoding="utf8")
    assert len(open_cache([text], tokenizer, folder).tokens) > len(first.tokens)
    assert len(list(folder.iterdir())) == 2
    twice = open_cache([text, text], tokenizer, folder)
    assert len(twice.documents) == 3  # a text that is named twice counts twice


def test_the_cache_says_what_is_wrong(corpus, tmp_path):
    _, tokenizer, _, _ = corpus
    with pytest.raises(FormatError, match="B612"):
        open_cache([], tokenizer, tmp_path)
    with pytest.raises(FormatError, match="B613"):
        open_cache([tmp_path / "no.txt"], tokenizer, tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(FormatError, match="B603"):
        open_cache([tmp_path / "empty.txt"], tokenizer, tmp_path)
    (tmp_path / "signs.txt").write_text("\u0000\u0001\n")
    with pytest.raises(FormatError, match="B614"):
        open_cache([tmp_path / "signs.txt"], tokenizer, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


# --- packing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [6, 17, 30, 200])
def test_packing_keeps_to_documents_and_words_and_misses_nothing(corpus, length):
    _, _, cache, vocabulary = corpus
    spans, of = pack(cache, vocabulary.continues, length)
    seen = numpy.zeros(len(cache.tokens), dtype=bool)
    for (start, end), document in zip(spans.tolist(), of.tolist()):
        first, last = cache.documents[document], cache.documents[document + 1]
        assert first <= start < end <= last and end - start <= length
        assert not vocabulary.continues[cache.tokens[start]] or start == first
        seen[start:end] = True
        if end == last and last - first > length + 5:  # the last one is full but for a word's pieces
            assert end - start > length - 12
    assert seen.all()
    assert len(spans) < 2 * (len(cache.tokens) / length + len(cache.documents))


def test_a_word_longer_than_a_sequence_is_cut():
    tokens = numpy.asarray([1] + [2] * 30 + [1, 2], dtype="uint16")
    spans, _ = pack(TokenCache(tokens, numpy.asarray([0, 33])), numpy.asarray([False, False, True]), 8)
    covered = {i for start, end in spans.tolist() for i in range(start, end)}
    assert covered == set(range(33)) and max(e - s for s, e in spans.tolist()) <= 8


def test_an_epoch_has_every_sequence_once_and_like_lengths_together():
    lengths = numpy.random.default_rng(0).integers(5, 130, 3000)
    order = epoch_order(lengths, 16, seed=1, epoch=0)
    assert sorted(order.tolist()) == list(range(3000))
    spread = [numpy.ptp(lengths[order[i : i + 16]]) for i in range(0, 2900, 16)]
    assert numpy.mean(spread) < 5
    assert (order != epoch_order(lengths, 16, seed=1, epoch=1)).any()
    assert (order == epoch_order(lengths, 16, seed=1, epoch=0)).all()


# --- masks -----------------------------------------------------------------------------------------------------------


def test_the_rates_of_masking(corpus):
    """15% of the wordpieces; of these 80% [MASK], 10% another, 10% themselves."""
    vocabulary = corpus[3]
    chance = numpy.random.default_rng(0)
    ids = vocabulary.ordinary[chance.integers(len(vocabulary.ordinary), size=(2000, 100))]
    inputs, positions = mask_words(ids, chance.random((3, *ids.shape)), vocabulary, 0.15)
    n = len(positions)
    assert abs(n / ids.size - 0.15) < 0.003
    before, after = ids.reshape(-1)[positions], inputs.reshape(-1)[positions]
    masked, kept = (after == vocabulary.mask).mean(), (after == before).mean()
    assert abs(masked - 0.8) < 0.01 and abs(kept - 0.1) < 0.01
    others = after[(after != vocabulary.mask) & (after != before)]
    assert abs(len(others) / n - 0.1) < 0.01
    assert not vocabulary.special[others].any()
    assert len(numpy.unique(others)) > 0.9 * len(vocabulary.ordinary)  # any of them, evenly
    untouched = numpy.setdiff1d(numpy.arange(ids.size), positions)
    assert (inputs.reshape(-1)[untouched] == ids.reshape(-1)[untouched]).all()


def test_whole_words_are_chosen_and_special_tokens_never(corpus):
    vocabulary = corpus[3]
    sequences = make(corpus)
    n_words = n_chosen = 0
    for number in range(3 * len(sequences)):
        batch = sequences.batch([number])
        (true,) = batch["input_ids"].copy()
        true[batch["positions"]] = batch["labels"]
        assert not vocabulary.special[batch["labels"]].any()
        chosen = numpy.zeros(len(true), dtype=bool)
        chosen[batch["positions"]] = True
        assert not chosen[vocabulary.special[true]].any()
        starts = ~vocabulary.continues[true]
        for i in range(1, len(true)):  # a wordpiece that goes on with a word shares its fate
            assert starts[i] or chosen[i] == chosen[i - 1]
        n_words += int((starts & ~vocabulary.special[true]).sum())
        n_chosen += int((chosen & starts).sum())
    assert abs(n_chosen / n_words - 0.15) < 0.015


def test_masks_are_drawn_anew_each_epoch_and_are_the_same_when_asked_again(corpus):
    sequences = make(corpus, shuffled=False)
    first, again = sequences.batch([3]), sequences.batch([3])
    assert all((first[key] == again[key]).all() for key in first)
    later = [sequences.batch([epoch * len(sequences) + 3])["input_ids"] for epoch in range(1, 8)]
    assert any((other != first["input_ids"]).any() for other in later)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_sequence_does_not_depend_on_what_shares_its_batch(corpus, pairs):
    sequences = make(corpus, pairs=pairs)
    together = sequences.batch([5, 11, 2])
    alone = [sequences.batch([n]) for n in (5, 11, 2)]
    for row, one in enumerate(alone):
        n = int(one["attention_mask"].sum())
        for key in ("input_ids", "token_type_ids"):
            assert (together[key][row, :n] == one[key][0, :n]).all()
    assert together["labels"].tolist() == [n for one in alone for n in one["labels"].tolist()]


# --- pairs -----------------------------------------------------------------------------------------------------------


def whole(batch):
    """The ids of a batch of one, before masking."""
    (ids,) = batch["input_ids"].copy()
    ids[batch["positions"]] = batch["labels"]
    return ids[: int(batch["attention_mask"].sum())]


def test_pairs_are_balanced_and_do_not_leak_across_documents(corpus):
    _, tokenizer, cache, vocabulary = corpus
    sequences = make(corpus, pairs=True, shuffled=False)
    labels = []
    corpus_text = [cache.tokens[a:b].tolist() for a, b in zip(cache.documents[:-1], cache.documents[1:])]

    def inside(part, document):
        text = corpus_text[document]
        return any(text[i : i + len(part)] == part for i in range(len(text) - len(part) + 1))

    for number in range(6 * len(sequences)):
        batch = sequences.batch([number])
        label = int(batch["next_sentence_label"][0])
        labels.append(label)
        ids = whole(batch).tolist()
        document = int(sequences.documents[number % len(sequences)])
        seps = [i for i, n in enumerate(ids) if n == vocabulary.sep]
        assert ids[0] == vocabulary.cls and len(seps) == 2 and seps[1] == len(ids) - 1 and len(ids) <= 32
        first, second = ids[1 : seps[0]], ids[seps[0] + 1 : -1]
        assert first and second
        types = batch["token_type_ids"][0][: len(ids)].tolist()
        assert types == [0] * (seps[0] + 1) + [1] * (len(second) + 1)
        if label == 0:
            assert inside(first + second, document)  # what follows really follows
        else:
            start = sequences.spans[number % len(sequences)][0]
            assert first == cache.tokens[start : start + len(first)].tolist()
            others = [i for i in range(len(corpus_text)) if i != document]
            assert any(inside(second, other) for other in others)
    assert abs(numpy.mean(labels) - 0.5) < 0.06


def test_pairs_of_other_documents_come_from_other_documents(corpus, monkeypatch):
    """The draw is watched: no second part is ever taken from the document itself."""
    sequences = make(corpus, pairs=True, shuffled=False)
    # Each document has a wordpiece of its own; so the words say where a part is from.
    own = numpy.repeat(numpy.arange(40), numpy.diff(corpus[2].documents))
    sequences.tokens = own.astype("uint16") + 1000
    sequences.vocabulary = corpus[3]._replace(
        continues=numpy.zeros(2000, bool), ends_sentence=numpy.zeros(2000, bool), special=numpy.zeros(2000, bool)
    )
    for number in range(4 * len(sequences)):
        batch = sequences.batch([number])
        ids = whole(batch)
        seen = set(ids[ids >= 1000].tolist())
        assert len(seen) == 1 + int(batch["next_sentence_label"][0])


def test_pairs_need_two_documents(corpus, tmp_path):
    text = tmp_path / "one.txt"
    text.write_text("\n".join(["Ana fue a Lima."] * 50), encoding="utf8")
    cache = open_cache([text], corpus[1], tmp_path)
    with pytest.raises(FormatError, match="B616"):
        Sequences(cache, corpus[3], length=32, batch_size=2, pairs=True)


# --- vocabularies ----------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be(corpus):
    for options in ({"length": 4}, {"mask_rate": 0.0}, {"mask_rate": 1.0}, {"batch_size": 0}):
        with pytest.raises(EncoderError, match="B615"):
            make(corpus, **options)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "albert"])
def test_words_of_other_tokenizers(encoders, family):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoders[family])
    vocabulary = describe_vocabulary(tokenizer)
    text = "El presidente viajó ayer a Montevideo."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    starts = [piece for piece, number in zip(pieces, ids) if not vocabulary.continues[number]]
    marked = [piece for piece in pieces if piece[0] in "\u0120\u2581"]
    assert len(starts) <= 8 and set(marked) <= set(starts)
    assert len(ids) > len(starts)
