"""Training material for pretraining: text to a memory-mapped cache of wordpieces, and the cache to masked sequences.

Everything that chance decides about a sequence (its pair, its masks) follows from the seed, the epoch and the number of
the sequence alone. So it's the same whatever shares its batch, however many processes share the work, and after a
resumption. Numbers only: no model is needed here.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

import numpy

from beto_spacy.errors import EncoderError, FormatError
from beto_spacy.files import new_folder, write_json
from beto_spacy.formats.running_text import read_documents

_TOKENS, _DOCUMENTS, _META = "wordpieces.bin", "documents.npy", "meta.json"
_PARAGRAPHS_A_BATCH = 4_000


class Vocabulary(NamedTuple):
    """What masking must know of a tokenizer's wordpieces.

    size: How many there are.
    continues: Whether a wordpiece goes on with a word. *Shape:* (size,)
    ends_sentence: Whether it ends a sentence. *Shape:* (size,)
    special: Whether it's a special token, the one for unknown words among them. *Shape:* (size,)
    ordinary: Wordpieces that are not special, for random replacement. *Shape:* (n_ordinary,)
    cls, sep, mask, pad: Special tokens.
    """

    size: int
    continues: numpy.ndarray
    ends_sentence: numpy.ndarray
    special: numpy.ndarray
    ordinary: numpy.ndarray
    cls: int
    sep: int
    mask: int
    pad: int


def describe_vocabulary(tokenizer: Any) -> Vocabulary:
    """Read from a fast tokenizer of transformers which wordpieces go on with a word.

    WordPiece marks them (``##``); byte-level BPE and SentencePiece mark the others, and signs start words as well.
    Raises EncoderError for a tokenizer without a mask.
    """
    special = {"cls": tokenizer.cls_token_id, "sep": tokenizer.sep_token_id}
    special.update(mask=tokenizer.mask_token_id, pad=tokenizer.pad_token_id)
    missing = [name for name, number in special.items() if number is None]
    if missing:
        raise EncoderError(
            "B611", f"The tokenizer has no token for {', '.join(missing)}.", "Use an encoder pretrained with masks."
        )
    pieces = tokenizer.get_vocab()
    size = 1 + max(pieces.values())
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"]
    mark = "" if kind == "WordPiece" else "\u0120" if any(p.startswith("\u0120") for p in pieces) else "\u2581"
    continues, ends = numpy.zeros(size, dtype=bool), numpy.zeros(size, dtype=bool)
    for piece, number in pieces.items():
        bare = piece.lstrip(mark) if mark else piece
        continues[number] = not piece.startswith(mark) and bare[:1].isalnum() if mark else piece.startswith("##")
        ends[number] = bare in (".", "?", "!", "\u2026", "...")
    is_special = numpy.zeros(size, dtype=bool)
    is_special[tokenizer.all_special_ids] = True
    continues[is_special] = ends[is_special] = False
    ordinary = numpy.setdiff1d(numpy.fromiter(pieces.values(), dtype="i8"), numpy.flatnonzero(is_special))
    return Vocabulary(size, continues, ends, is_special, ordinary, **special)


class TokenCache(NamedTuple):
    """The wordpieces of a corpus, mapped from a file.

    tokens: All wordpieces, without special tokens. *Shape:* (n_tokens,)
    documents: Where each document starts, and where the last one ends. *Shape:* (n_documents + 1,)
    """

    tokens: numpy.ndarray
    documents: numpy.ndarray


def identify(paths: Sequence[Path], *what: str) -> str:
    """A name for what is made of some files as they are now. Raises FormatError if one is missing, or none is given."""
    if not paths:
        raise FormatError("B612", "There is no text to train on.", "Name one file or more.")
    identity = hashlib.sha256("\0".join(what).encode("utf8"))
    for path in paths:
        if not path.is_file():
            raise FormatError("B613", "The text is not there.", "Check the path.", path=path)
        status = path.stat()
        identity.update(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return identity.hexdigest()[:16]


def open_cache(texts: Sequence[Union[str, Path]], tokenizer: Any, folder: Union[str, Path]) -> TokenCache:
    """Tokenize texts into a memory-mapped cache, once; later calls with the same texts and tokenizer only open it.

    texts: Files as `read_documents` reads them. One that is named twice counts twice.
    folder: Where caches lie; each has a folder of its own there, which appears when it's complete.
    Raises FormatError for texts that can't be read or have no wordpieces.
    """
    paths = [Path(text) for text in texts]
    place = Path(folder) / identify(paths, tokenizer.backend_tokenizer.to_str())
    if not (place / _META).is_file():
        _write_cache(paths, tokenizer, place)
    meta = json.loads((place / _META).read_text(encoding="utf8"))
    tokens = numpy.memmap(place / _TOKENS, dtype=meta["dtype"], mode="r", shape=(meta["n_tokens"],))
    return TokenCache(tokens, numpy.load(place / _DOCUMENTS))


def _write_cache(paths: Sequence[Path], tokenizer: Any, place: Path) -> None:
    dtype = "uint16" if len(tokenizer) < 1 << 16 else "uint32"
    starts, n_tokens = [0], 0
    with new_folder(place) as part:
        with open(part / _TOKENS, "wb") as out:
            for lengths, ids in _encode_documents(paths, tokenizer):
                out.write(numpy.asarray(ids, dtype=dtype).tobytes())
                for length in lengths:
                    n_tokens += length
                    if length:
                        starts.append(n_tokens)
        if not n_tokens:
            raise FormatError("B614", "The texts have no wordpieces.", "Give texts with words.", path=paths[0])
        numpy.save(part / _DOCUMENTS, numpy.asarray(starts, dtype="i8"))
        write_json({"dtype": dtype, "n_tokens": n_tokens}, part / _META)


def _encode_documents(paths: Sequence[Path], tokenizer: Any) -> Iterator[Tuple[List[int], List[int]]]:
    """Batches of documents: the length of each, and their wordpieces in a row."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    counts: List[int] = []
    paragraphs: List[str] = []

    def encode() -> Tuple[List[int], List[int]]:
        encoded = backend.encode_batch(paragraphs, add_special_tokens=False)
        ids: List[int] = []
        lengths, first = [], 0
        for count in counts:
            before = len(ids)
            for encoding in encoded[first : first + count]:
                ids.extend(encoding.ids)
            lengths.append(len(ids) - before)
            first += count
        return lengths, ids

    for document in read_documents(paths):
        counts.append(len(document))
        paragraphs.extend(document)
        if len(paragraphs) >= _PARAGRAPHS_A_BATCH:
            yield encode()
            counts, paragraphs = [], []
    if paragraphs:
        yield encode()


def pack(cache: TokenCache, continues: numpy.ndarray, length: int) -> Tuple[numpy.ndarray, numpy.ndarray]:
    """Cut documents into sequences that are as long as possible and start with a word; none spans two documents.

    The last sequence of a document reaches back into the one before it until it's full. So only documents that are
    shorter than a sequence give shorter ones, and each wordpiece is in one sequence or more.

    cache: The wordpieces.
    continues: Whether a wordpiece goes on with a word. *Shape:* (vocabulary,)
    length: Wordpieces a sequence at most, without special tokens.
    Returns start and end of each sequence. *Shape:* (n_sequences, 2), and its document. *Shape:* (n_sequences,)
    """
    tokens = cache.tokens
    first, last = cache.documents[:-1], cache.documents[1:]
    starts, documents = [first.copy()], [numpy.arange(len(first))]
    ends = []
    here, there, number = first, last, documents[0]
    while len(here):
        cut = numpy.minimum(here + length, there)
        going_on = cut < there
        # A cut inside a word goes back to its start; a word that is longer than a sequence is cut after all.
        back = cut.copy()
        inside = numpy.flatnonzero(going_on)
        while len(inside):
            inside = inside[continues[tokens[back[inside]]] & (back[inside] > here[inside])]
            back[inside] -= 1
        cut = numpy.where(back > here, back, cut)
        ends.append(cut)
        here, there, number = cut[going_on], there[going_on], number[going_on]
        starts.append(here)
        documents.append(number)
    start, end, document = (numpy.concatenate(parts) for parts in (starts, ends, documents))
    # The last sequences of documents reach back.
    reach = numpy.flatnonzero(end == last[document])
    back = numpy.minimum(numpy.maximum(first[document[reach]], end[reach] - length), start[reach])
    inside = numpy.flatnonzero(back > first[document[reach]])
    while len(inside):
        inside = inside[continues[tokens[back[inside]]] & (back[inside] < start[reach][inside])]
        back[inside] += 1
    start[reach] = back
    order = numpy.lexsort((start, document))
    return numpy.stack([start, end], axis=1)[order], document[order]


def epoch_order(lengths: numpy.ndarray, batch_size: int, seed: int, epoch: int) -> numpy.ndarray:
    """An order of sequences for an epoch: by chance, but with sequences of like length in the same batch.

    Some hundred batches are sorted by length among themselves, and their batches shuffled. *Shape:* (n_sequences,)
    """
    chance = numpy.random.Generator(numpy.random.Philox(key=[seed, epoch]))
    order = chance.permutation(len(lengths))
    block = 256 * batch_size
    out = []
    for first in range(0, len(order), block):
        part = order[first : first + block]
        part = part[numpy.argsort(lengths[part], kind="stable")]
        whole = len(part) // batch_size * batch_size
        batches = part[:whole].reshape((-1, batch_size))
        out.extend([chance.permutation(batches).reshape(-1), part[whole:]])
    return numpy.concatenate(out)


class Sequences:
    """Masked sequences of a corpus, by number; an endless row of epochs.

    The sequence with number ``epoch * len(self) + place`` is another one, with other masks and pairs, in each epoch.

    cache: The corpus.
    vocabulary: Its wordpieces.
    length: Wordpieces a sequence, special tokens included.
    batch_size: Sequences an update; sequences of like length share one.
    mask_rate: Part of the wordpieces that are to be predicted, chosen by whole words. Of these 80% become [MASK], 10%
        another wordpiece, 10% stay (Devlin et al. 2019).
    pairs: Make pairs for next sentence prediction: a sequence is cut in two at the end of a sentence near its middle,
        and every other second part comes from another document.
    seed: Of the order, the masks and the pairs.
    shuffled: In an order by chance, or as in the corpus.
    shortest: Batches are padded to this length or a power of two above it, so that a compiled encoder sees few shapes.
    Raises EncoderError for settings that can't be, FormatError for pairs of a corpus of one document.
    """

    def __init__(
        self,
        cache: TokenCache,
        vocabulary: Vocabulary,
        *,
        length: int,
        batch_size: int,
        mask_rate: float = 0.15,
        pairs: bool = False,
        seed: int = 0,
        shuffled: bool = True,
        shortest: int = 32,
    ):
        if length < 8 or not 0 < mask_rate < 1 or batch_size < 1:
            raise EncoderError(
                "B615",
                f"Sequences of {length}, batches of {batch_size} and a mask rate of {mask_rate} can't be.",
                "Give 8 wordpieces or more, one sequence or more, and a rate between 0 and 1.",
            )
        self.vocabulary, self.length, self.batch_size = vocabulary, length, batch_size
        self.mask_rate, self.pairs, self.seed, self.shuffled = mask_rate, pairs, seed, shuffled
        self.shortest = shortest
        self.tokens = cache.tokens
        self.spans, self.documents = pack(cache, vocabulary.continues, length - (3 if pairs else 2))
        if pairs and len(cache.documents) < 3:
            raise FormatError(
                "B616",
                "Pairs need two documents.",
                "Put a blank line between documents, or give none of the loss to pairs.",
            )
        self.lengths = self.spans[:, 1] - self.spans[:, 0]
        self._order: Tuple[int, numpy.ndarray] = (-1, self.lengths)

    def __len__(self) -> int:
        return len(self.spans)

    def _places(self, numbers: Sequence[int]) -> List[int]:
        places = []
        for number in numbers:
            epoch, place = divmod(number, len(self))
            if self.shuffled:
                if self._order[0] != epoch:
                    self._order = (epoch, epoch_order(self.lengths, self.batch_size, self.seed, epoch))
                place = int(self._order[1][place])
            places.append(place)
        return places

    def n_tokens(self, first: int, last: int) -> int:
        """Wordpieces of the sequences from one number to before another, special tokens included."""
        places = self._places(range(first, last))
        return int(self.lengths[places].sum()) + (3 if self.pairs else 2) * len(places)

    def plain(self, place: int) -> numpy.ndarray:
        """A sequence as it is in the corpus, by its place there, without masks. *Shape:* (length,)"""
        start, end = self.spans[place].tolist()
        return numpy.concatenate([[self.vocabulary.cls], self.tokens[start:end], [self.vocabulary.sep]]).astype("i8")

    def batch(self, numbers: Sequence[int]) -> Dict[str, numpy.ndarray]:
        """Some sequences, masked and padded.

        Returns ``input_ids``, ``attention_mask`` and ``token_type_ids``, *shape:* (n_sequences, length); ``positions``
        of the wordpieces to predict, counted through the batch, and their true ``labels``, *shape:* (n_masked,); with
        pairs, ``next_sentence_label``: 0 if the second part follows the first, 1 if not. *Shape:* (n_sequences,)
        """
        voc = self.vocabulary
        rows, types, follows, draws = [], [], [], []
        for number, place in zip(numbers, self._places(numbers)):
            chance = numpy.random.Generator(numpy.random.Philox(key=[self.seed + (1 << 32), number]))
            start, end = self.spans[place].tolist()
            ids = self.tokens[start:end].astype("i8")
            if self.pairs:
                first, second, is_next = self._pair(ids, place, chance)
                rows.append(numpy.concatenate([[voc.cls], first, [voc.sep], second, [voc.sep]]))
                types.append(len(first) + 2)
                follows.append(0 if is_next else 1)
            else:
                rows.append(numpy.concatenate([[voc.cls], ids, [voc.sep]]))
                types.append(len(rows[-1]))
            draws.append(chance.random((3, len(rows[-1]))))
        longest = max(map(len, rows))
        longest = min(self.length, max(self.shortest, 1 << (longest - 1).bit_length()))
        shape = (len(rows), longest)
        ids, mask = numpy.full(shape, voc.pad, dtype="i8"), numpy.zeros(shape, dtype="i8")
        type_ids, draw = numpy.zeros(shape, dtype="i8"), numpy.ones((3, *shape))
        for r, row in enumerate(rows):
            ids[r, : len(row)] = row
            mask[r, : len(row)] = 1
            type_ids[r, types[r] : len(row)] = 1
            draw[:, r, : len(row)] = draws[r]
        inputs, positions = mask_words(ids, draw, voc, self.mask_rate)
        out = {"input_ids": inputs, "attention_mask": mask, "token_type_ids": type_ids}
        out.update(positions=positions, labels=ids.reshape(-1)[positions])
        if self.pairs:
            out["next_sentence_label"] = numpy.asarray(follows, dtype="i8")
        return out

    def _pair(self, ids: numpy.ndarray, place: int, chance: Any) -> Tuple[numpy.ndarray, numpy.ndarray, bool]:
        """Cut a sequence in two near its middle; or take another document's words as its second part."""
        voc = self.vocabulary
        low, high = max(1, len(ids) // 4), max(2, len(ids) - len(ids) // 4)
        cuts = low + numpy.flatnonzero(voc.ends_sentence[ids[low - 1 : high - 1]])
        if not len(cuts):
            cuts = low + numpy.flatnonzero(~voc.continues[ids[low:high]])
        cut = int(cuts[int(chance.integers(len(cuts)))]) if len(cuts) else len(ids) // 2
        first, second = ids[:cut], ids[cut:]
        if chance.random() < 0.5:
            return first, second, True
        while True:
            other = int(chance.integers(len(self)))
            if self.documents[other] != self.documents[place]:
                break
        start, end = self.spans[other].tolist()
        return first, self.tokens[start : min(end, start + max(1, len(second)))].astype("i8"), False


def mask_words(
    ids: numpy.ndarray, draws: numpy.ndarray, vocabulary: Vocabulary, rate: float
) -> Tuple[numpy.ndarray, numpy.ndarray]:
    """Mask whole words: all wordpieces of a word or none; special tokens never.

    ids: Padded sequences. *Shape:* (n_sequences, length)
    draws: Random numbers from 0 to 1: by word (the one at its first wordpiece counts), what becomes of a wordpiece, and
        which one takes its place. *Shape:* (3, n_sequences, length)
    Returns the sequences with masks, and the positions of the chosen wordpieces, counted through all of them.
        *Shape:* (n_masked,)
    """
    special = vocabulary.special[ids]
    starts = ~vocabulary.continues[ids] | special
    starts[:, 0] = True
    # The number of each word's first column, carried on to the wordpieces that go on with it.
    columns = numpy.maximum.accumulate(numpy.where(starts, numpy.arange(ids.shape[1]), 0), axis=1)
    chosen = (numpy.take_along_axis(draws[0], columns, axis=1) < rate) & ~special
    out = ids.copy()
    out[chosen & (draws[1] < 0.8)] = vocabulary.mask
    replaced = chosen & (draws[1] >= 0.9)
    out[replaced] = vocabulary.ordinary[(draws[2][replaced] * len(vocabulary.ordinary)).astype("i8")]
    return out, numpy.flatnonzero(chosen)
