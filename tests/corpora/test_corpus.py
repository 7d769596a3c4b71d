"""Documents from records, DocBins from files, and several corpora as one stream in which missing stays missing."""

import errno
import os
import warnings
from collections import Counter

import numpy
import pytest
import spacy
from conftest import SHARED
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus, Example
from thinc.api import Adam

from beto_spacy.corpora import reader as corpus_module
from beto_spacy.corpora.reader import (
    convert,
    count_words,
    group_docs,
    load_docs,
    make_corpora_reader,
    read_docs,
    record_to_doc,
)
from beto_spacy.errors import CorpusError, FormatError
from beto_spacy.formats.records import Record

needs_data = pytest.mark.skipif(not SHARED.exists(), reason="the real corpora (shared/data) are not on this machine")

LAYERS = ["TAG", "POS", "MORPH", "LEMMA", "DEP", "ENT_IOB"]
TEXTS = ["Ana ríe.", "Leo duerme.", "Eva corre.", "Raúl lee."]


def sentence(number, text, comments="", entity="NE=B-PER", after="_"):
    name, verb = text.rstrip(".").split()
    rows = [
        f"1\t{name}\t{name}\tPROPN\tNP\tGender=Fem\t2\tnsubj\t_\t{entity}",
        f"2\t{verb}\tleer\tVERB\tVMI\tMood=Ind|VerbForm=Fin\t0\troot\t_\tSpaceAfter=No",
        f"3\t.\t.\tPUNCT\tFp\t_\t2\tpunct\t_\t{after}",
    ]
    return f"{comments}# sent_id = s{number}\n# text = {text}\n" + "\n".join(rows) + "\n\n"


def conllu(texts=TEXTS, **options):
    return "".join(sentence(i, text, **options) for i, text in enumerate(texts))


def iob(texts=TEXTS):
    return "".join(f"{t.split()[0]} NP B-PER\n{t.split()[1][:-1]} VMI O\n. Fp O\n\n" for t in texts)


def tsv(texts=TEXTS):
    return "".join(f"{i}\t{text} Qué cosa más rara\t{'PN'[i % 2]}\n" for i, text in enumerate(texts))


CONTENT = {"conllu": conllu, "iob": iob, "tsv": tsv}


@pytest.fixture
def files(tmp_path):
    """One small corpus of each kind, and the same converted."""
    paths = {}
    for name, content in CONTENT.items():
        path = tmp_path / f"x.{name}"
        path.write_text(content(), encoding="utf8")
        paths[name] = path
        convert(path, tmp_path / f"{name}.spacy", n_sents=1)
        paths[f"{name}.spacy"] = tmp_path / f"{name}.spacy"
    return paths


@pytest.fixture
def nlp():
    return spacy.blank("es")


def annotated(doc):
    return {name for name in [*LAYERS, "SENT_START"] if doc.has_annotation(name)}


# ------------------------------------------------------------------------------------------------ record to doc


def record(text, **layers):
    return Record(id="r1", path="x.txt", line=7, text=text, **layers)


def test_missing_layers_stay_missing(nlp):
    doc = record_to_doc(record("Vive en Lima."), nlp)
    assert doc.text == "Vive en Lima." and annotated(doc) == set() and doc.cats == {}
    assert [token.ent_iob for token in doc] == [0, 0, 0, 0]
    doc = record_to_doc(record("Vive en Lima.", entities=[]), nlp)
    assert [token.ent_iob for token in doc] == [2, 2, 2, 2], "annotated and none is not missing"


def test_tokens_of_the_source_are_kept(nlp):
    doc = record_to_doc(record("10 000 a.b", words=["10 000", "a.b"], spaces=[True, True]), nlp)
    assert [token.text for token in doc] == ["10 000", "a.b"] and doc.text == "10 000 a.b"
    doc = record_to_doc(record("10 000 a.b", words=["10 000", "a.b"], spaces=[True, True]), nlp, trailing_space=True)
    assert doc.text == "10 000 a.b "


def test_single_missing_values(nlp):
    doc = record_to_doc(
        record(
            "a  b c",
            words=["a", " ", "b", "c"],
            spaces=[True, False, True, False],
            tags=["X", "", "Y", ""],
            pos=["NOUN", "", "VERB", ""],
            morphs=["", "", "Tense=Past", ""],
            lemmas=["a", "", "b", ""],
            heads=[0, 0, 0, None],
            deps=["ROOT", "", "obj", ""],
        ),
        nlp,
    )
    assert [t.tag_ for t in doc] == ["X", "", "Y", ""]
    assert [t.pos_ for t in doc] == ["NOUN", "", "VERB", ""]
    assert [t.has_morph() for t in doc] == [True, False, True, False]
    assert [t.has_dep() for t in doc] == [True, False, True, False]
    assert len(list(doc.sents)) == 1
    example = Example(nlp.make_doc(doc.text), doc)
    assert example.get_aligned("LEMMA", as_string=True) == ["a", "", "b", ""]


def test_misaligned_entities_are_reported_and_missing(nlp):
    text = "La Coruña y Lima, Perú."
    problems = []
    entities = [(3, 9, "LOC"), (12, 14, "LOC"), (18, 22, "LOC")]
    doc = record_to_doc(record(text, entities=entities), nlp, on_problem=problems.append)
    assert [ent.text for ent in doc.ents] == ["Coruña", "Perú"]
    assert [token.ent_iob_ for token in doc] == ["O", "B", "O", "", "O", "B", "O"]
    (problem,) = problems
    assert (problem.id, problem.start, problem.end, problem.path, problem.line) == ("r1", 12, 14, "x.txt", 7)
    assert "'Li' among the tokens 'y' 'Lima' ','" in problem.message
    with pytest.raises(FormatError, match="B160.*'Li'"):
        record_to_doc(record(text, entities=entities), nlp)


@pytest.mark.parametrize(
    "entities, kept, iob, message",
    [
        ([(0, 9, "LOC"), (3, 9, "PER")], ["La Coruña"], "BIOOO", "overlaps"),
        ([(0, 9, "LOC"), (3, 11, "PER")], ["La Coruña"], "BI-OO", "overlaps"),
        ([(0, 9, "LOC"), (3, 99, "PER")], ["La Coruña"], "BIOOO", "outside of the text"),
        ([(0, 4, "LOC"), (3, 9, "PER")], ["Coruña"], "-BOOO", "doesn't fit"),
        ([(10, 17, "LOC")], [], "OO--O", "whitespace"),
    ],
)
def test_entities_that_can_not_be_represented(nlp, entities, kept, iob, message):
    problems = []
    # The words: La, Coruña, whitespace of two characters, vive, point.
    given = record("La Coruña  \n vive.", entities=entities)
    if message != "whitespace":
        given = record("La Coruña y Eva.", entities=entities)
    doc = record_to_doc(given, nlp, on_problem=problems.append)
    assert [ent.text for ent in doc.ents] == kept
    assert "".join(token.ent_iob_ or "-" for token in doc) == iob
    assert [message in problem.message for problem in problems] == [True]


def test_unknown_stretches_are_missing(nlp):
    doc = record_to_doc(record("norte y sur", entities=[(8, 11, "LOC")], unknown=[(0, 3), (8, 11)]), nlp)
    assert [token.ent_iob_ for token in doc] == ["", "O", "B"]


def test_questions(nlp):
    def question(name, *answers):
        answers = [{"text": text, "start": 8} for text in answers]
        return {"id": name, "question": "¿Dónde?", "answers": answers, "is_impossible": False}

    questions = [question("q1", "Lima", "Lima"), question("q2", "Lim")]
    problems = []
    doc = record_to_doc(record("Vive en Lima.", questions=questions), nlp, on_problem=problems.append)
    assert doc.user_data["questions"] == questions
    assert [(span.text, span.label_, span.id_) for span in doc.spans["answers"]] == [("Lima", "answer", "q1")]
    assert [problem.id for problem in problems] == ["q2"]


# ----------------------------------------------------------------------------------------------------- grouping


def docs_of(nlp, path, **options):
    from beto_spacy.formats.records import read_records

    return [record_to_doc(r, nlp, trailing_space=True) for r in read_records(path, **options)]


def test_whole_sentences_only(nlp, tmp_path):
    odd = ["- O", "Madrid B-LOC\n, O\n10 O", ". O\nY O\n. O"]  # a dash, a dateline, what belongs to something before
    whole = iob(TEXTS[:1]).replace(" NP", "").replace(" VMI", "").replace(" Fp", "").strip()
    source = tmp_path / "x.iob"
    source.write_text("\n\n".join([whole, whole, odd[0], whole, odd[1], odd[2], whole, whole, whole]) + "\n", "utf8")
    report = convert(source, tmp_path / "x.spacy", sentences=True)
    docs = list(read_docs(tmp_path / "x.spacy", nlp.vocab))
    assert [doc.text for doc in docs] == ["Ana ríe. Ana ríe.", "Ana ríe.", "Ana ríe. Ana ríe. Ana ríe."]
    assert [[sentence.text for sentence in doc.sents] for doc in docs] == [["Ana ríe."] * n for n in (2, 1, 3)]
    assert not any(doc.has_annotation(layer) for doc in docs for layer in LAYERS)
    assert (report.left_out, report.sentences, report.documents) == (3, 6, 3)
    assert "3 records don't look like whole sentences" in str(report)
    convert(source, tmp_path / "x.spacy", sentences=True, n_sents=2)
    assert [len(list(doc.sents)) for doc in read_docs(tmp_path / "x.spacy", nlp.vocab)] == [2, 1, 2, 1]


def test_starts_are_open_beside_what_does_not_look_like_a_sentence(nlp, tmp_path):
    rows = ["Lima B-LOC\n, O\n25 O\nmay O", "- O", "Ana B-PER\nríe O\n. O", "Leo B-PER\nríe O\n. O"]
    source = tmp_path / "x.iob"
    source.write_text("\n\n".join(rows) + "\n", "utf8")
    report = convert(source, tmp_path / "x.spacy", n_sents=10)
    (doc,) = read_docs(tmp_path / "x.spacy", nlp.vocab)
    assert [sentence.text for sentence in doc.sents] == ["Lima, 25 may - Ana ríe.", "Leo ríe."]
    assert report.sentences == 2
    assert [token.text for token in doc if token.is_sent_start is None] == ["-", "Ana"]
    assert [ent.text for ent in doc.ents] == ["Lima", "Ana", "Leo"]
    convert(source, tmp_path / "x.spacy")
    assert all(len(list(doc.sents)) == 1 and doc[0].is_sent_start for doc in read_docs(tmp_path / "x.spacy", nlp.vocab))


def test_whole_sentences_of_a_treebank(nlp, files, tmp_path):
    convert(files["conllu"], tmp_path / "s.spacy", sentences=True)
    (doc,) = read_docs(tmp_path / "s.spacy", nlp.vocab)
    assert [sentence.text for sentence in doc.sents] == TEXTS
    assert not any(doc.has_annotation(layer) for layer in LAYERS)


@pytest.mark.parametrize("content, code", [("- O\n\nSí O\n", "B205"), ("1\tMuy bien\tP\n", "B203")])
def test_whole_sentences_where_there_are_none(tmp_path, content, code):
    source = tmp_path / ("x.tsv" if "\t" in content else "x.iob")
    source.write_text(content, "utf8")
    with pytest.raises(CorpusError, match=code):
        convert(source, tmp_path / "x.spacy", sentences=True)
    assert not (tmp_path / "x.spacy").exists()


@pytest.mark.parametrize("n_sents, sizes", [(1, [1, 1, 1, 1]), (3, [3, 1]), (10, [4])])
def test_groups_keep_everything(nlp, files, n_sents, sizes):
    singles = docs_of(nlp, files["conllu"])
    groups = list(group_docs(docs_of(nlp, files["conllu"]), n_sents))
    assert [len(list(doc.sents)) for doc in groups] == sizes
    assert " ".join(doc.text for doc in groups) == " ".join(TEXTS)
    for attr in ("ORTH", "TAG", "POS", "MORPH", "LEMMA", "DEP", "HEAD", "ENT_IOB", "ENT_TYPE", "SENT_START"):
        joined = numpy.concatenate([doc.to_array(attr) for doc in groups])
        assert joined.tolist() == numpy.concatenate([doc.to_array(attr) for doc in singles]).tolist(), attr


def test_groups_of_columns_have_sentences_but_no_parse(nlp, files):
    (doc,) = group_docs(docs_of(nlp, files["iob"]), 10)
    assert [sent.text for sent in doc.sents] == TEXTS
    assert annotated(doc) == {"TAG", "ENT_IOB", "SENT_START"}


def test_no_space_where_the_source_has_none(nlp, tmp_path):
    path = tmp_path / "x.conllu"
    path.write_text(sentence(0, TEXTS[0], after="SpaceAfter=No") + sentence(1, TEXTS[1]), encoding="utf8")
    (doc,) = group_docs(docs_of(nlp, path), 2)
    assert doc.text == "Ana ríe.Leo duerme."


def test_documents_are_not_joined(nlp):
    docs = [nlp.make_doc(text) for text in TEXTS]
    groups = [doc.text for doc in group_docs(docs, 4, newdocs=[True, False, True, False])]
    assert groups == ["Ana ríe.Leo duerme.", "Eva corre.Raúl lee."]
    docs[1].cats = {"P": 1.0}
    groups = list(group_docs(docs, 4))
    assert [len(doc) for doc in groups] == [3, 3, 6] and [doc.cats for doc in groups] == [{}, {"P": 1.0}, {}]
    with pytest.raises(CorpusError, match="B203"):
        list(group_docs(docs, 0))


def test_parsed_sentences_are_not_joined_to_others(nlp, files):
    docs = docs_of(nlp, files["conllu"])[:2] + docs_of(nlp, files["iob"])[:2]
    groups = list(group_docs(docs, 4))
    assert [[sent.text for sent in doc.sents] for doc in groups] == [TEXTS[:2], TEXTS[:2]]


# --------------------------------------------------------------------------------------------------- conversion


def test_convert_and_report(tmp_path, files, nlp):
    dest = tmp_path / "new" / "x.spacy"
    report = convert(files["conllu"], dest)
    assert (report.documents, report.sentences, report.tokens) == (1, 4, 12)
    assert report.layers == {"tags": 12, "pos": 12, "morphs": 12, "lemmas": 12, "deps": 12, "entities": 12, "cats": 0}
    assert report.labels["pos"] == {"PROPN": 4, "VERB": 4, "PUNCT": 4}
    assert report.labels["entities"] == {"PER": 4} and report.labels["cats"] == {}
    assert "1 documents, 4 sentences, 12 tokens" in str(report) and "cats: missing" in str(report)
    (doc,) = read_docs(dest, nlp.vocab)
    assert doc.text == " ".join(TEXTS) and [ent.text for ent in doc.ents] == ["Ana", "Leo", "Eva", "Raúl"]
    assert "P 2" in str(convert(files["tsv"], tmp_path / "y.spacy"))


def test_sentences_are_counted_where_they_are_annotated(tmp_path, files):
    assert convert(files["iob"], tmp_path / "y.spacy").sentences == 4
    report = convert(files["tsv"], tmp_path / "y.spacy")
    assert report.sentences == 0 and "4 documents, no sentence boundaries, " in str(report)
    report = convert([files["conllu"], files["tsv"]], tmp_path / "y.spacy")
    assert (report.documents, report.sentences) == (8, 4), "labels of the one are no option of the other"
    assert report.layers["cats"] == 4


def test_load_docs_equals_convert(tmp_path, files, nlp):
    for name in CONTENT:
        convert(files[name], tmp_path / "y.spacy")
        for source in (files[name], str(tmp_path / "y.spacy")):
            assert DocBin(docs=load_docs(source, nlp)).to_bytes() == (tmp_path / "y.spacy").read_bytes()
    assert len(load_docs(files["conllu"], nlp)) == 1, "ten sentences a document"


def test_load_docs_of_folders_and_problems(tmp_path, files, nlp):
    assert [doc.text for doc in load_docs(tmp_path, nlp)] == [doc.text for doc in read_docs(tmp_path, nlp.vocab)]
    folder = tmp_path / "brat"
    folder.mkdir()
    (folder / "d.txt").write_text("Vive en Lima.", encoding="utf8")
    (folder / "d.ann").write_text("T1\tLOC 8 10\tLi\n", encoding="utf8")
    with pytest.raises(FormatError, match="B160.*'Li'"):
        load_docs(folder, nlp)
    problems = []
    (doc,) = load_docs(folder, nlp, on_problem=problems.append)
    assert [p.label for p in problems] == ["LOC"] and [token.ent_iob_ for token in doc] == ["O", "O", "", "O"]


@pytest.mark.parametrize(
    "name, content, error, code",
    [
        ("none.conllu", None, CorpusError, "B210"),
        ("x.spacy", b"text", CorpusError, "B212"),
        ("x.dat", b"some text", FormatError, "B104.*beto-spacy convert --format"),
        ("x.conllu", b"1\ta\n", FormatError, "B110.*x.conllu:1"),
        ("folder", "folder", CorpusError, "B211"),
    ],
)
def test_load_docs_says_what_is_wrong(tmp_path, nlp, name, content, error, code):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=code):
        load_docs(path, nlp)


def test_missing_layers_survive_the_file(files, nlp):
    assert [annotated(doc) for doc in read_docs(files["tsv.spacy"], nlp.vocab)] == [set()] * 4
    assert [annotated(d) for d in read_docs(files["iob.spacy"], nlp.vocab)] == [{"TAG", "ENT_IOB", "SENT_START"}] * 4
    assert [annotated(d) for d in read_docs(files["conllu.spacy"], nlp.vocab)] == [{*LAYERS, "SENT_START"}] * 4
    assert [doc.cats for doc in read_docs(files["iob.spacy"], nlp.vocab)] == [{}] * 4


def test_spacys_own_reader_loads_it(files, nlp):
    for name in CONTENT:
        examples = list(Corpus(files[f"{name}.spacy"])(nlp))
        assert [eg.reference.text[:3] for eg in examples] == ["Ana", "Leo", "Eva", "Raú"]


def test_same_input_same_bytes(files, tmp_path):
    for name in CONTENT:
        first = convert(files[name], tmp_path / "1.spacy")
        convert(files[name], tmp_path / "2.spacy")
        assert (tmp_path / "1.spacy").read_bytes() == (tmp_path / "2.spacy").read_bytes() and first.documents


@pytest.mark.parametrize(
    "slice, expected",
    [(":2", [0, 1]), ("2:", [2, 3]), ("::2", [0, 2]), ("!::2", [1, 3]), ("-1:", [3]), ("!1:3", [0, 3]), ("!:", None)],
)
def test_slices(files, tmp_path, nlp, slice, expected):
    if expected is None:
        with pytest.raises(CorpusError, match="B205.*the slice !: takes no record"):
            convert(files["conllu"], tmp_path / "s.spacy", slice=slice)
        return
    convert(files["conllu"], tmp_path / "s.spacy", slice=slice, n_sents=1)
    assert [doc.text for doc in read_docs(tmp_path / "s.spacy", nlp.vocab)] == [TEXTS[i] for i in expected]


@pytest.mark.parametrize("slice", ["1", "a:b", "1:2:3:4", "::0", "::-1", "!"])
def test_bad_slices(files, tmp_path, slice):
    with pytest.raises(CorpusError, match="B204"):
        convert(files["conllu"], tmp_path / "s.spacy", slice=slice)


def test_a_slice_keeps_the_boundaries_of_documents(tmp_path, nlp):
    path = tmp_path / "x.conllu"
    new = "# newdoc\n"
    path.write_text(
        "".join(sentence(i, text, comments=new if i == 2 else "") for i, text in enumerate(TEXTS)), encoding="utf8"
    )
    convert(path, tmp_path / "s.spacy", slice="!2:3")
    assert [doc.text for doc in read_docs(tmp_path / "s.spacy", nlp.vocab)] == ["Ana ríe. Leo duerme.", "Raúl lee."]


def test_several_sources_share_their_labels(tmp_path, nlp):
    for name, label in (("a", "P"), ("b", "N")):
        (tmp_path / f"{name}.tsv").write_text(f"1\tqué cosa\t{label}\n", encoding="utf8")
    convert([tmp_path / "a.tsv", tmp_path / "b.tsv"], tmp_path / "x.spacy")
    cats = [doc.cats for doc in read_docs(tmp_path / "x.spacy", nlp.vocab)]
    assert cats == [{"N": 0.0, "P": 1.0}, {"N": 1.0, "P": 0.0}]


def test_problems_are_in_the_report_or_stop_it(tmp_path):
    (tmp_path / "d.txt").write_text("Vive en Lima.", encoding="utf8")
    (tmp_path / "d.ann").write_text("T1\tLOC 8 10\tLi\nT2\tLOC 0 4;8 12\tVive Lima\n", encoding="utf8")
    dest = tmp_path / "x.spacy"
    report = convert(tmp_path, dest)
    assert sorted(problem.start for problem in report.problems) == [0, 8]
    assert "2 annotations were left out" in str(report) and "2 pieces" in str(report)
    before = dest.read_bytes()
    with pytest.raises(CorpusError, match="B206.*2 pieces"):
        convert(tmp_path, dest, strict=True)
    assert dest.read_bytes() == before


def test_questions_survive_the_file(tmp_path, nlp):
    (tmp_path / "x.json").write_text(
        '{"data": [{"title": "t", "paragraphs": [{"context": "Vive en Lima.", "qas": [{"id": "q1", "question": "¿?",'
        ' "answers": [{"text": "Lima", "answer_start": 8}]}]}]}]}',
        encoding="utf8",
    )
    assert convert(tmp_path / "x.json", tmp_path / "x.spacy").layers["questions"] == 1
    (doc,) = read_docs(tmp_path / "x.spacy", nlp.vocab)
    assert doc.user_data["questions"][0]["id"] == "q1"
    assert [(span.text, span.id_) for span in doc.spans["answers"]] == [("Lima", "q1")]


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"source": []}, CorpusError, "B201"),
        ({"dest": "x.bin"}, CorpusError, "B207"),
        ({"slice": "9:"}, CorpusError, "B205"),
        ({"lang": "qq"}, CorpusError, "B208"),
        ({"n_sents": 0}, CorpusError, "B203"),
        ({"source": "x.tsv", "n_sents": 2}, CorpusError, "whole texts"),
        ({"source": "none.conllu"}, FormatError, "no such file"),
        ({"colour": 1}, FormatError, "no option colour"),
        ({"format": "iob"}, FormatError, "x.conllu:1"),
    ],
)
def test_bad_conversions_leave_the_old_file(files, tmp_path, options, error, words):
    source = options.pop("source", "x.conllu")
    source = tmp_path / source if isinstance(source, str) else source
    dest = tmp_path / options.pop("dest", "old.spacy")
    dest.write_bytes(b"old")
    names = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=words):
        convert(source, dest, **options)
    assert dest.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == names


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_interruptions_leave_the_old_file(files, tmp_path, monkeypatch, failure, where):
    def fail(*args):
        raise failure

    dest = tmp_path / "old.spacy"
    dest.write_bytes(b"old")
    names = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(corpus_module.os, where, fail)
    expected = CorpusError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as error:
        convert(files["conllu"], dest)
    if expected is CorpusError:
        assert "old.spacy" in str(error.value) and "No space left" in str(error.value)
    assert dest.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == names


def test_result_in_a_place_that_is_no_folder(files, tmp_path):
    with pytest.raises(CorpusError, match="B207.*x.iob is no folder"):
        convert(files["conllu"], files["iob"] / "x.spacy")
    (tmp_path / "dir.spacy").mkdir()
    with pytest.raises(CorpusError, match="B207.*This is a folder"):
        convert(files["conllu"], tmp_path / "dir.spacy")


def test_result_through_a_link(files, tmp_path, nlp):
    (tmp_path / "far").mkdir()
    (tmp_path / "link.spacy").symlink_to(tmp_path / "far" / "x.spacy")
    convert(files["iob"], tmp_path / "link.spacy")
    assert (tmp_path / "link.spacy").is_symlink() and os.listdir(tmp_path / "far") == ["x.spacy"]
    assert len(list(read_docs(tmp_path / "far" / "x.spacy", nlp.vocab))) == 4


# ------------------------------------------------------------------------------------------------------ reading


def test_read_docs_of_a_folder(files, tmp_path, nlp):
    assert len(list(read_docs(tmp_path, nlp.vocab))) == 12


@pytest.mark.parametrize(
    "content, code",
    [(None, "B210"), (b"", "B211"), (b"text", "B212"), ("zlib", "B212"), ("none", "B211"), ("cut", "B212")],
)
def test_files_that_are_no_corpus(files, tmp_path, nlp, content, code):
    import zlib

    import srsly

    path = tmp_path / "bad.spacy"
    if content == "zlib":
        content = zlib.compress(srsly.msgpack_dumps({"x": 1}))
    elif content == "none":
        content = DocBin().to_bytes()
    elif content == "cut":
        content = files["conllu.spacy"].read_bytes()[:-20]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=code) as error:
        list(read_docs(path, nlp.vocab))
    assert "bad.spacy" in str(error.value)


def test_folder_without_corpora(tmp_path, nlp):
    with pytest.raises(CorpusError, match="B211"):
        list(read_docs(tmp_path, nlp.vocab))


def names_of(examples):
    return ["".join(sorted({n[0] for n in annotated(eg.reference)})) or "-" for eg in examples]


def test_reader_mixes_corpora_evenly(files, tmp_path, nlp):
    big = tmp_path / "big.tsv"
    big.write_text(tsv([f"Ana va{i}." for i in range(12)]), encoding="utf8")
    convert(big, tmp_path / "big.spacy")
    paths = [files["conllu.spacy"], tmp_path / "big.spacy"]
    examples = list(make_corpora_reader(paths)(nlp))
    assert len(examples) == 16
    kinds = ["c" if not eg.reference.cats else "t" for eg in examples]
    for start in range(0, 16, 4):
        assert Counter(kinds[start : start + 4]) == {"c": 1, "t": 3}
    texts = [eg.reference.text for eg in examples]
    assert [eg.reference.text for eg in make_corpora_reader(f"{paths[0]}, {paths[1]}")(nlp)] == texts
    assert all(eg.predicted.text == eg.reference.text and not annotated(eg.predicted) for eg in examples)
    assert len(list(make_corpora_reader(paths, limit=5)(nlp))) == 5
    assert len(list(make_corpora_reader(tmp_path)(nlp))) == 24


@pytest.mark.parametrize(
    "weight, times", [(2, [2, 2, 2, 2]), (0.5, [1, 0, 1, 0]), (1.5, [2, 1, 2, 1]), (0.01, [1, 0, 0, 0])]
)
def test_weights(files, nlp, weight, times):
    name = str(files["conllu.spacy"])
    reader = make_corpora_reader([name, files["tsv.spacy"]], weights={name: weight})
    counts = Counter(eg.reference.text for eg in reader(nlp))
    assert [counts[text] for text in TEXTS] == times
    assert sum(counts.values()) == sum(times) + 4


def test_the_files_of_a_folder_are_mixed_too(files, tmp_path, nlp):
    """Sorted one after the other they would be all of one kind for a while."""
    folder = tmp_path / "train"
    folder.mkdir()
    for name in CONTENT:
        (tmp_path / f"{name}.spacy").rename(folder / f"{name}.spacy")
    kinds = [("t" if eg.reference.cats else "c") for eg in make_corpora_reader(folder)(nlp)]
    assert kinds == ["c", "c", "t"] * 4
    counts = Counter(eg.reference.text for eg in make_corpora_reader(folder, weights={str(folder): 1.5})(nlp))
    extra = [f"{text} Qué cosa más rara" for text in TEXTS]
    assert [counts[text] for text in TEXTS] == [4, 2, 4, 2] and [counts[text] for text in extra] == [2, 1, 2, 1]


def test_long_documents_are_split_at_sentences(files, tmp_path, nlp):
    path = tmp_path / "long.spacy"
    convert(files["conllu"], path, n_sents=4)
    whole = list(read_docs(path, nlp.vocab))[0]
    examples = list(make_corpora_reader(path, max_length=7)(nlp))
    assert [eg.reference.text.strip() for eg in examples] == [" ".join(TEXTS[:2]), " ".join(TEXTS[2:])]
    for attr in ("TAG", "POS", "MORPH", "LEMMA", "DEP", "HEAD", "ENT_TYPE", "ENT_IOB"):
        joined = numpy.concatenate([eg.reference.to_array(attr) for eg in examples])
        assert joined.tolist() == whole.to_array(attr).tolist()
    assert [len(eg.reference) for eg in make_corpora_reader(path, max_length=12)(nlp)] == [12]
    assert [len(eg.predicted) for eg in make_corpora_reader(path, gold_preproc=True)(nlp)] == [3, 3, 3, 3]


def test_pieces_keep_the_categories(files, tmp_path, nlp):
    doc = list(group_docs(docs_of(nlp, files["conllu"]), 4))[0]
    doc.cats = {"NEU": 1.0, "P": 0.0}
    DocBin(docs=[doc]).to_disk(tmp_path / "x.spacy")
    examples = list(make_corpora_reader(tmp_path / "x.spacy", max_length=6)(nlp))
    assert [eg.reference.cats for eg in examples] == [{"NEU": 1.0, "P": 0.0}] * 2


def test_too_long_documents_are_left_out_with_a_warning(files, nlp):
    reader = make_corpora_reader([files["conllu.spacy"], files["tsv.spacy"]], max_length=4)
    with pytest.warns(UserWarning, match="4 documents or sentences .*tsv.spacy .*max_length"):
        assert len(list(reader(nlp))) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(reader(nlp))) == 4, "it warns once"


def test_empty_documents_are_left_out_and_gold_tokens_kept(tmp_path, nlp):
    docs = [Doc(nlp.vocab), nlp.make_doc(" \n "), Doc(nlp.vocab, words=["a.b", "c"]), nlp.make_doc("uno dos")]
    DocBin(docs=docs).to_disk(tmp_path / "x.spacy")
    examples = list(make_corpora_reader(tmp_path / "x.spacy")(nlp))
    assert [[t.text for t in eg.predicted] for eg in examples] == [["a.b", "c"], ["uno", "dos"]]


@pytest.mark.parametrize(
    "options, code",
    [
        ({"paths": None}, "B213"),
        ({"paths": " , "}, "B213"),
        ({"paths": "none.spacy"}, "B210"),
        ({"weights": {"other": 2.0}}, "B214"),
        ({"weights": {"x": 0.0}}, "B214"),
        ({"max_length": -1}, "B214"),
    ],
)
def test_reader_checks_its_settings(files, options, code):
    name = str(files["tsv.spacy"])
    options = {"paths": name, **options}
    if "x" in (options.get("weights") or {}):
        options["weights"] = {name: options["weights"]["x"]}
    with pytest.raises(CorpusError, match=code):
        make_corpora_reader(**options)


def test_reader_in_a_config(files, nlp):
    from spacy.util import registry

    try:
        registry.readers.get("beto_spacy.Corpora.v1")
    except Exception:
        pytest.skip("beto_spacy isn't installed here, so that its entry points can't be found")
    for paths in (str(files["tsv.spacy"]), [str(files["tsv.spacy"])], f"{files['tsv.spacy']},{files['iob.spacy']}"):
        config = {"corpus": {"@readers": "beto_spacy.Corpora.v1", "paths": paths, "max_length": 100}}
        assert len(list(registry.resolve(config)["corpus"](nlp))) >= 4


# ------------------------------------------------------------------------------------- missing stays missing


HEADS = {
    "morphologizer": ["pos", "morphs"],
    "tagger": ["tags"],
    "trainable_lemmatizer": ["lemmas"],
    "parser": ["heads", "deps"],
    "ner": ["entities"],
}


def full_records():
    for i, text in enumerate(TEXTS):
        name, verb = text.rstrip(".").split()
        yield Record(
            id=str(i),
            path="x",
            line=1,
            text=text,
            words=[name, verb, "."],
            spaces=[True, False, False],
            tags=["NP", "VMI", "Fp"],
            pos=["PROPN", "VERB", "PUNCT"],
            morphs=["Gender=Fem", "Mood=Ind", ""],
            lemmas=[name, "leer", "."],
            heads=[1, 1, 1],
            deps=["nsubj", "ROOT", "punct"],
            sent_starts=[True, False, False],
            entities=[(0, len(name), "PER")],
        )


@pytest.fixture(scope="module")
def pipeline():
    nlp = spacy.blank("es")
    tok2vec = {
        "@architectures": "spacy.HashEmbedCNN.v2",
        "pretrained_vectors": None,
        "width": 16,
        "depth": 1,
        "embed_size": 50,
        "window_size": 1,
        "maxout_pieces": 2,
        "subword_features": True,
    }
    for name in HEADS:
        rare = {"parser": {"min_action_freq": 1}, "trainable_lemmatizer": {"min_tree_freq": 1}}
        nlp.add_pipe(name, config={"model": {"tok2vec": tok2vec}, **rare.get(name, {})})
    docs = [record_to_doc(r, nlp) for r in full_records()]
    nlp.initialize(lambda: [Example(nlp.make_doc(doc.text), doc) for doc in docs])
    return nlp


def weights(nlp, name):
    return {
        (i, param): node.get_param(param).copy()
        for i, node in enumerate(nlp.get_pipe(name).model.walk())
        for param in node.param_names
        if node.has_param(param)
    }


def moved(nlp, lacking):
    """Which heads' weights an update changes, on documents that lack some layers. The pipeline is left as it was."""
    examples = []
    for r in full_records():
        for layer in lacking:
            setattr(r, layer, None)
        doc = record_to_doc(r, nlp)
        examples.append(Example(nlp.make_doc(doc.text), doc))
    saved = nlp.to_bytes()
    before = {name: weights(nlp, name) for name in HEADS}
    nlp.update(examples, sgd=Adam(0.01, L2=0.0), drop=0.0)
    after = {name: weights(nlp, name) for name in HEADS}
    nlp.from_bytes(saved)
    return {name for name in HEADS if any((before[name][k] != after[name][k]).any() for k in before[name])}


@pytest.mark.parametrize("head", HEADS)
def test_a_head_learns_nothing_from_documents_without_its_layer(pipeline, head):
    assert moved(pipeline, []) == set(HEADS)
    assert moved(pipeline, HEADS[head]) == set(HEADS) - {head}


def test_scores_leave_out_missing_layers(pipeline):
    def evaluate(lacking):
        examples = []
        for r in full_records():
            for layer in lacking:
                setattr(r, layer, None)
            doc = record_to_doc(r, pipeline)
            examples.append(Example(pipeline.make_doc(doc.text), doc))
        return pipeline.evaluate(examples)

    scores = evaluate(["entities", "tags", "heads", "deps"])
    assert scores["ents_f"] is None and scores["tag_acc"] is None and scores["dep_uas"] is None
    assert evaluate([])["ents_f"] is not None


# ---------------------------------------------------------------------------------------------------- real data


@needs_data
@pytest.mark.parametrize(
    "source, options, counts",
    [
        ("ud/ancora/es_ancora-ud-test.conllu", {}, (173, 1721)),
        ("ner/conll2002/esp.testb", {"repair": True}, (1517, 1517)),
        ("textcat/emoevent/dev.tsv", {}, (857, 0)),
    ],
)
def test_real_corpora(tmp_path, source, options, counts):
    report = convert(SHARED / source, tmp_path / "x.spacy", **options)
    assert (report.documents, report.sentences) == counts and report.problems == []


@needs_data
def test_real_clinical_records(tmp_path, nlp):
    report = convert(SHARED / "ner" / "meddocan.tar.xz", tmp_path / "x.spacy", slice="::25")
    docs = list(read_docs(tmp_path / "x.spacy", nlp.vocab))
    assert len(docs) == 30
    assert sum(len(doc.ents) for doc in docs) + len(report.problems) > 500
    for problem in report.problems:
        assert "doesn't fit the tokens" in problem.message


def test_temperature_repeats_small_corpora(files, tmp_path, nlp):
    small, large = tmp_path / "small.spacy", tmp_path / "large.spacy"
    convert(files["conllu"], small, n_sents=1, slice=":1")
    convert([files["conllu"]] * 8, large, n_sents=1)
    words = [sum(len(doc) for doc in read_docs(path, nlp.vocab)) for path in (small, large)]
    for temperature in (1.0, 2.0, 4.0):
        examples = list(make_corpora_reader([small, large], temperature=temperature)(nlp))
        shown = len(examples) - sum(1 for _ in read_docs(large, nlp.vocab))  # the largest is seen once
        share = (words[1] / words[0]) ** (1 - 1 / temperature)
        assert abs(shown - share) <= 1
        counted = count_words([small, large], temperature=temperature)
        assert counted == round(words[1] + share * words[0])
    for temperature in (0.5, float("nan")):
        with pytest.raises(CorpusError, match="B215"):
            make_corpora_reader([small, large], temperature=temperature)


def test_a_corpus_of_categories_alone_has_its_own_weight(files, tmp_path, nlp):
    treebank, categories = tmp_path / "treebank.spacy", tmp_path / "categories.spacy"
    convert(files["conllu"], treebank, n_sents=1)
    texts = [nlp.make_doc(f"El texto {i} .") for i in range(8)]
    for doc in texts:
        doc.cats = {"P": 1.0, "N": 0.0}
    DocBin(docs=texts, store_user_data=True).to_disk(categories)
    for weight, seen in ((0.5, 4), (1.5, 12)):
        mixing = dict(temperature=2.0, categories_weight=weight)
        examples = list(make_corpora_reader([treebank, categories], **mixing)(nlp))
        assert sum(bool(eg.reference.cats) for eg in examples) == seen
        words = sum(len(eg.reference) for eg in examples)
        assert abs(count_words([treebank, categories], **mixing) - words) <= 20
    both = nlp.make_doc("Un texto .")
    both.cats, both[0].tag_ = {"P": 1.0, "N": 0.0}, "D"
    DocBin(docs=[both, *texts]).to_disk(categories)  # tags want more passes
    examples = list(make_corpora_reader([categories], categories_weight=0.5)(nlp))
    assert len(examples) == 9
    with pytest.raises(CorpusError, match="B214"):
        make_corpora_reader([treebank, categories], categories_weight=0.0)


def test_documents_are_cut_into_runs_of_sentences(files, tmp_path, nlp):
    path = tmp_path / "long.spacy"
    convert([files["conllu"]] * 6, path, n_sents=12)
    whole = [doc for doc in read_docs(path, nlp.vocab)]
    cut = list(make_corpora_reader(path, most_sentences=3)(nlp))
    sizes = [sum(1 for _ in eg.reference.sents) for eg in cut]
    assert set(sizes) == {1, 2, 3}
    assert sum(sizes) == sum(sum(1 for _ in doc.sents) for doc in whole)
    assert [token.text for eg in cut for token in eg.reference] == [token.text for doc in whole for token in doc]
    again = list(make_corpora_reader(path, most_sentences=3)(nlp))
    assert [eg.reference.text for eg in again] == [eg.reference.text for eg in cut]
    with pytest.raises(CorpusError, match="B214"):
        make_corpora_reader(path, most_sentences=-1)
