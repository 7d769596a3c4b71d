"""Training documents without the marks that end sentences."""

import random
from collections import Counter

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from beto_spacy.corpora.augment import make_final_punctuation_augmenter, without_final_punctuation
from beto_spacy.corpora.reader import convert, make_corpora_reader, read_docs
from beto_spacy.errors import CorpusError

WORDS = ["Ana", "vive", "en", "Lima", ".", "¿", "Y", "tú", "?", "Hola"]


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("es")


def parsed(nlp, heads=(1, 1, 3, 1, 1, 6, 6, 6, 6, 9)):
    return Doc(
        nlp.vocab,
        words=WORDS,
        spaces=[True, True, True, False, True, False, True, False, True, False],
        heads=list(heads),
        deps=["nsubj", "ROOT", "case", "obl", "punct", "punct", "ROOT", "nsubj", "punct", "ROOT"],
        pos=["PROPN", "VERB", "ADP", "PROPN", "PUNCT", "PUNCT", "CCONJ", "PRON", "PUNCT", "INTJ"],
        lemmas=[word.lower() for word in WORDS],
        ents=["B-PER", "O", "O", "B-LOC", "O", "O", "O", "O", "O", "O"],
    )


def test_only_the_final_marks_go(nlp):
    before = parsed(nlp)
    before.cats = {"a": 1.0}
    doc = without_final_punctuation(before)
    assert doc.text == "Ana vive en Lima ¿Y tú Hola"
    assert [sentence.text for sentence in doc.sents] == ["Ana vive en Lima", "¿Y tú", "Hola"]
    assert [token.head.text for token in doc] == ["vive", "vive", "Lima", "vive", "Y", "Y", "Y", "Hola"]
    assert [token.dep_ for token in doc] == ["nsubj", "ROOT", "case", "obl", "punct", "ROOT", "nsubj", "ROOT"]
    assert [token.pos_ for token in doc][:4] == ["PROPN", "VERB", "ADP", "PROPN"] and doc[0].lemma_ == "ana"
    assert [(e.text, e.label_) for e in doc.ents] == [("Ana", "PER"), ("Lima", "LOC")] and doc.cats == {"a": 1.0}
    assert not doc.has_annotation("TAG") and not doc.has_annotation("MORPH")
    assert before.text == "Ana vive en Lima. ¿Y tú? Hola"


def test_missing_entities_stay_missing_and_sentences_need_no_trees(nlp):
    starts = [True] + [False] * 4 + [True] + [False] * 3 + [True]
    doc = without_final_punctuation(Doc(nlp.vocab, words=WORDS, sent_starts=starts))
    assert len(list(doc.sents)) == 3 and "." not in [t.text for t in doc]
    assert not doc.has_annotation("DEP") and not doc.has_annotation("ENT_IOB")


def test_a_mark_that_something_hangs_on_stays(nlp):
    doc = without_final_punctuation(parsed(nlp, heads=(1, 1, 3, 4, 1, 6, 6, 6, 6, 9)))
    assert "." in [t.text for t in doc] and "?" not in [t.text for t in doc]


def test_nothing_to_leave_out(nlp):
    for doc in (nlp.make_doc("Hola."), Doc(nlp.vocab), Doc(nlp.vocab, words=["."], sent_starts=[True])):
        assert without_final_punctuation(doc) is doc
    spans = parsed(nlp)
    spans.spans["x"] = [spans[3:5]]
    assert without_final_punctuation(spans) is spans


def test_the_augmenter_follows_its_shares(nlp):
    random.seed(0)
    gold = parsed(nlp)
    example = Example(nlp.make_doc(gold.text), gold)
    whole = len(without_final_punctuation(gold))

    def lengths(*shares):
        augment = make_final_punctuation_augmenter(*shares)
        found = [next(iter(augment(nlp, example))) for _ in range(300)]
        assert all(e.predicted.text == e.reference.text for e in found)
        return Counter(len(e.reference) for e in found)

    assert lengths(0.0) == {len(gold): 300} and lengths(1.0) == lengths(0.0, 1.0) == {whole: 300}
    some = lengths(0.5)
    assert set(some) == {len(gold), whole} and abs(some[whole] - 150) < 40
    some = lengths(0.0, 0.5)  # two sentences lose theirs or don't: a quarter of the documents both
    assert len(some) > 2 and abs(some[whole] - 75) < 30 and abs(some[len(gold)] - 75) < 30
    assert lengths(1.0, 0.5) == {whole: 300}  # the documents that lose all aren't the others
    for shares in ((1.5, 0.5), (0.5, -0.1)):
        with pytest.raises(CorpusError, match="B270"):
            make_final_punctuation_augmenter(*shares)


def test_the_reader_and_the_converter_use_it(nlp, tmp_path):
    rows = [(i + 1, w, h) for i, (w, h) in enumerate(zip(("Ana", "vive", "."), (2, 0, 2)))]
    text = "\n".join(f"{i}\t{w}\t{w}\tNOUN\t_\t_\t{h}\t{'root' if not h else 'dep'}\t_\t_" for i, w, h in rows)
    (tmp_path / "a.conllu").write_text(f"# text = Ana vive .\n{text}\n\n" * 2, encoding="utf8")
    convert(tmp_path / "a.conllu", tmp_path / "with.spacy")
    convert(tmp_path / "a.conllu", tmp_path / "without.spacy", final_punctuation=False)
    (with_marks,), (without,) = (list(read_docs(tmp_path / f"{n}.spacy", nlp.vocab)) for n in ("with", "without"))
    assert len(with_marks) == 6 and [t.text for t in without] == ["Ana", "vive", "Ana", "vive"]
    augmenter = {"@augmenters": "beto_spacy.drop_final_punctuation.v1", "level": 1.0}
    made = spacy.registry.resolve({"augmenter": augmenter})["augmenter"]
    (example,) = make_corpora_reader(tmp_path / "with.spacy", augmenter=made)(nlp)
    assert [t.text for t in example.reference] == [t.text for t in without]
