"""Corpus formats: exact records from small files, spaCy's converter as reference, and an error for each bad input."""

import io
import json
import tarfile

import pytest
from conftest import SHARED

from beto_spacy.errors import FormatError
from beto_spacy.formats.records import FORMATS, detect_format, read_labels, read_records, readable_spaces

needs_data = pytest.mark.skipif(not SHARED.exists(), reason="the real corpora (shared/data) are not on this machine")


def conllu(*rows, text=None, comments=()):
    """A sentence of CoNLL-U; columns are separated by spaces here, and a `~` is a space inside a column."""
    lines = [f"# {comment}" for comment in comments]
    if text is not None:
        lines.append(f"# text = {text}")
    lines += ["\t".join(cell.replace("~", " ") for cell in row.split()) for row in rows]
    return "\n".join(lines) + "\n\n"


DAMELO = conllu(
    "1 Ve ir VERB VMM Mood=Imp|VerbForm=Fin 0 root _ _",
    "2-3 al _ _ _ _ _ _ _ _",
    "2 a a ADP SP _ 4 case _ _",
    "3 el el DET DA Definite=Def|Gender=Masc|Number=Sing 4 det _ _",
    "4 banco banco NOUN NC Gender=Masc|Number=Sing 1 obl _ _",
    "5 y y CCONJ CC _ 6 cc _ _",
    "6-8 dámelo _ _ _ _ _ _ _ SpaceAfter=No",
    "6 da dar VERB VMM Mood=Imp|Number=Sing|VerbForm=Fin 1 conj _ _",
    "7 me yo PRON PP Case=Dat|Number=Sing|Person=1 6 iobj _ _",
    "8 lo él PRON PP Case=Acc|Gender=Masc|Number=Sing|Person=3 6 obj _ _",
    "9 . . PUNCT Fp _ 1 punct _ SpaceAfter=No",
    text="Ve al banco y dámelo.",
    comments=("newdoc id = d1", "sent_id = s1"),
)


def write(tmp_path, content, name="x.conllu"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf8"))
    return path


def one(path, **options):
    (record,) = read_records(path, **options)
    return record


def texts_of(record):
    return [record.text[start:end] for start, end, _ in record.entities]


# ------------------------------------------------------------------------------------------------------ CoNLL-U


def test_conllu_multiword_tokens_become_one_word(tmp_path):
    record = one(write(tmp_path, DAMELO))
    assert record.words == ["Ve", "al", "banco", "y", "dámelo", "."]
    assert record.spaces == [True, True, True, True, False, False]
    assert record.text == "Ve al banco y dámelo."
    assert record.tags == ["VMM", "SP_DA", "NC", "CC", "VMM_PP_PP", "Fp"]
    assert record.pos == ["VERB", "ADP", "NOUN", "CCONJ", "VERB", "PUNCT"]
    assert record.lemmas == ["ir", "a el", "banco", "y", "dar yo él", "."]
    assert record.heads == [0, 2, 0, 4, 0, 0]
    assert record.deps == ["ROOT", "case", "obl", "cc", "conj", "punct"]
    assert record.morphs[4] == "Case=Acc,Dat|Gender=Masc|Mood=Imp|Number=Sing|Person=1,3|VerbForm=Fin"
    assert record.morphs[3] == ""
    assert record.entities is None and record.cats is None and record.questions is None
    assert (record.id, record.line, record.newdoc) == ("s1", 1, True)


def test_conllu_subtokens_can_be_kept(tmp_path):
    record = one(write(tmp_path, DAMELO), merge_subtokens=False)
    assert record.words == ["Ve", "a", "el", "banco", "y", "da", "me", "lo", "."]
    assert record.text == "Ve ael banco y damelo."
    assert record.heads == [0, 3, 3, 0, 5, 0, 5, 5, 0]
    assert record.tags[1:3] == ["SP", "DA"]


def assert_like_spacy(path, with_tags):
    """Word by word what spaCy's converter makes of the file. A lemma "_" of spaCy's is missing here."""
    from spacy.training.converters import conllu_to_docs

    text = path.read_text(encoding="utf8")
    docs = list(conllu_to_docs(text, n_sents=1, merge_subtokens=True, no_print=True))
    records = list(read_records(path))
    assert len(docs) == len(records) > 0
    for doc, record in zip(docs, records):
        assert [t.text for t in doc] == record.words
        assert [bool(t.whitespace_) for t in doc] == record.spaces
        assert [t.pos_ for t in doc] == record.pos
        # A Doc sorts the features in its own way.
        assert [sorted(str(t.morph).split("|")) for t in doc] == [sorted(morph.split("|")) for morph in record.morphs]
        assert [t.lemma_ for t in doc if "_" not in t.lemma_] == [
            lemma for t, lemma in zip(doc, record.lemmas) if "_" not in t.lemma_
        ]
        assert [t.head.i for t in doc] == record.heads
        assert [t.dep_ for t in doc] == record.deps
        assert doc.text.rstrip() == record.text
        if with_tags:
            assert [t.tag_ for t in doc] == record.tags
        else:
            assert record.tags is None
        if record.entities is not None:
            assert [(e.start_char, e.end_char, e.label_) for e in doc.ents] == record.entities


def test_conllu_equals_spacys_converter(tmp_path):
    # The second sentence has a range whose words hang on different heads, and crossing arcs.
    other = conllu(
        "1 Lo él PRON PP _ 3 obj _ _",
        "2 quiere querer AUX VMI _ 3 aux _ _",
        "3-4 verlo _ _ _ _ _ _ _ _",
        "3 ver ver VERB VMN VerbForm=Inf 0 root _ _",
        "4 lo él PRON PP Case=Acc 3 obj _ _",
        "5-6 del _ _ _ _ _ _ _ _",
        "5 de de ADP SP _ 7 case _ NE=O",
        "6 el el DET DA _ 8 det _ NE=O",
        "7 Banco banco PROPN NP _ 3 obl _ NE=B-ORG",
        "8-9 del _ _ _ _ _ _ _ _",
        "8 de de ADP SP _ 10 case _ NE=I-ORG",
        "9 el el DET DA _ 10 det _ NE=I-ORG",
        "10 Sur sur PROPN NP _ 7 nmod _ NE=I-ORG|SpaceAfter=No",
        "11 , , PUNCT Fc _ 12 punct _ _",
        "12 Lima Lima PROPN NP _ 7 appos _ SpaceAfter=No|NE=B-LOC",
        text="Lo quiere verlo del Banco del Sur, Lima",
    )
    # The last word of this range is the highest in the tree.
    third = conllu(
        "1-2 ab _ _ _ _ _ _ _ _",
        "1 a a ADP SP _ 4 case _ NE=O",
        "2 b b NOUN NC _ 3 obj _ NE=O",
        "3 c c VERB VMI _ 0 root _ NE=O",
        "4 d d NOUN NC _ 3 obl _ NE=B-LOC",
    )
    assert_like_spacy(write(tmp_path, DAMELO + other + third), with_tags=True)


@needs_data
@pytest.mark.parametrize("name", ["ancora/es_ancora-ud-test.conllu", "ancora/es_ancora-ud-dev.conllu"])
def test_ancora_equals_spacys_converter(name):
    assert_like_spacy(SHARED / "ud" / name, with_tags=False)


WORDS = ("1 a a X _ _ 0 root _ _", "2 b b X _ _ 1 dep _ _")


@pytest.mark.parametrize(
    "text, words",
    [
        ("a b", ["a", "b"]),
        ("a  b", ["a", " ", "b"]),
        ("a\u00a0b", ["a", "\u00a0", "b"]),
        ("a \u2003b", ["a", "\u2003", "b"]),
        (" a b", [" ", "a", "b"]),
    ],
)
def test_conllu_keeps_the_whitespace_of_the_text(tmp_path, text, words):
    record = one(write(tmp_path, conllu(*WORDS, text=text)))
    assert record.words == words
    assert record.text == text
    joined = "".join(word + " " * space for word, space in zip(record.words, record.spaces))
    assert joined == text + " "
    spaces = [i for i, word in enumerate(words) if not word.strip()]
    assert [record.pos[i] for i in spaces] == [record.deps[i] for i in spaces] == [""] * len(spaces)
    root = words.index("a")
    assert record.heads[root] == root and record.heads[words.index("b")] == root


def test_conllu_without_text_follows_misc(tmp_path):
    rows = ("1 a a X _ _ 0 root _ SpacesAfter=\\s\\n", "2 b b X _ _ 1 dep _ SpaceAfter=No", "3 c c X _ _ 1 dep _ _")
    record = one(write(tmp_path, conllu(*rows)))
    assert record.text == "a \nbc"
    assert record.words == ["a", "\n", "b", "c"]
    record = one(write(tmp_path, conllu(*rows, text="a bc")))
    assert record.text == "a bc" and record.words == ["a", "b", "c"]


def test_conllu_missing_layers_and_values(tmp_path):
    rows = ("1 _ _ X _ _ 0 root _ _", "2 b _ _ _ _ 1 _ _ _")
    record = one(write(tmp_path, conllu(*rows)))
    assert record.tags is None and record.morphs is None
    assert record.lemmas is None, "an underscore alone doesn't make a layer"
    assert record.pos == ["X", ""] and record.deps == ["ROOT", ""]
    record = one(write(tmp_path, conllu("1 a a X NC _ _ _ _ _", "2 b _ X _ _ _ _ _ _")))
    assert record.tags == ["NC", ""] and record.lemmas == ["a", ""]
    assert record.heads is None and record.deps is None and record.sent_starts == [True, False]


@pytest.mark.parametrize("change", [lambda d: d.replace(b"\n", b"\r\n"), lambda d: b"\xef\xbb\xbf" + d, bytes.rstrip])
def test_conllu_crlf_bom_and_last_newline(tmp_path, change):
    expected = one(write(tmp_path, DAMELO))
    assert one(write(tmp_path, change(DAMELO.encode()))) == expected


def test_conllu_empty_nodes_are_skipped(tmp_path):
    rows = (WORDS[0], "1.1 x x X _ _ _ _ _ _", WORDS[1])
    assert one(write(tmp_path, conllu(*rows))).words == ["a", "b"]


@pytest.mark.parametrize(
    "misc, expected",
    [
        ("NE=B-PER NE=I-PER NE=B-PER NE=O", ["a b", "c"]),
        ("name=B-PER name=L-PER name=U-PER _", ["a b", "c"]),
        ("NE=B-PER NE=E-PER NE=S-PER _", ["a b", "c"]),
        ("_ _ _ NE=O", []),
        ("B-PER I-PER B-PER O", ["a b", "c"]),
        ("_ _ _ Lang=es", None),
    ],
)
def test_conllu_entities(tmp_path, misc, expected):
    rows = [f"{i} {w} {w} X _ _ {int(i > 1)} {'dep' if i > 1 else 'root'} _ {m}" for i, (w, m) in
            enumerate(zip("abcd", misc.split()), 1)]  # fmt: skip
    record = one(write(tmp_path, conllu(*rows)))
    assert (record.entities if record.entities is None else texts_of(record)) == expected


def test_conllu_entity_that_starts_inside_a_word_does_not_fit_it(tmp_path):
    text = conllu(
        "1-2 del _ _ _ _ _ _ _ _",
        "1 de de ADP _ _ 3 case _ _",
        "2 el el DET _ _ 3 det _ NE=B-LOC",
        "3 Salvador Salvador PROPN _ _ 0 root _ NE=I-LOC",
    )
    (entity,) = one(write(tmp_path, text)).entities
    assert entity == (1, 12, "LOC")


def bad(*rows, **options):
    return conllu(*(rows or WORDS), **options)


BAD_CONLLU = [
    ("columns", bad(WORDS[0], "2 b b X"), 2, "4 columns"),
    ("ids", bad(WORDS[0], "3 b b X _ _ 1 dep _ _"), 2, "should be 2"),
    ("word id", bad(WORDS[0], "x b b X _ _ 1 dep _ _"), 2, "should be 2"),
    ("empty node", bad(WORDS[0], "5.1 b b X _ _ _ _ _ _", WORDS[1]), 2, "empty node 5.1"),
    ("range down", bad("2-1 ab _ _ _ _ _ _ _ _", *WORDS), 1, "upwards"),
    ("range place", bad("2-3 ab _ _ _ _ _ _ _ _", *WORDS), 1, "before word 2"),
    ("range end", bad(WORDS[0], "2-3 ab _ _ _ _ _ _ _ _", WORDS[1]), 2, "ends at 3"),
    ("ranges overlap", bad("1-2 ab _ _ _ _ _ _ _ _", WORDS[0], "2-3 b _ _ _ _ _ _ _ _", WORDS[1]), 3, "overlaps"),
    ("head range", bad(WORDS[0], "2 b b X _ _ 7 dep _ _"), 2, "out of range"),
    ("head number", bad(WORDS[0], "2 b b X _ _ x dep _ _"), 2, "not a number"),
    ("self", bad(WORDS[0], "2 b b X _ _ 2 dep _ _"), 2, "own head"),
    ("roots", bad(WORDS[0], "2 b b X _ _ 0 root _ _"), 2, "several roots"),
    ("no root", bad("1 a a X _ _ 2 dep _ _", "2 b b X _ _ 1 dep _ _"), 1, "no root"),
    ("circle", bad(WORDS[0], "2 b b X _ _ 3 dep _ _", "3 c c X _ _ 2 dep _ _"), 2, "circle"),
    ("form", WORDS[0].replace(" ", "\t") + "\n" + "2\t\tb\tX\t_\t_\t1\tdep\t_\t_\n", 2, "FORM"),
    ("upos", bad(WORDS[0], "2 b b Nope _ _ 1 dep _ _"), 2, "UPOS 'Nope'"),
    ("feats", bad(WORDS[0], "2 b b X _ Number 1 dep _ _"), 2, "FEATS"),
    ("feats twice", bad(WORDS[0], "2 b b X _ A=B|A=C 1 dep _ _"), 2, "FEATS"),
    ("text other", bad(text="a c"), 3, "'b' isn't in # text"),
    ("text space", bad(text="ab"), 2, "no space"),
    ("text longer", bad(text="a b c"), 1, "goes on"),
    ("comment inside", bad().replace("\n2", "\n# x\n2"), 2, "comment"),
    ("only comments", "# a\n# b\n", None, "no sentence"),
    ("empty", "", None, "nothing"),
    ("latin-1", "# á\n".encode() + "# año\n".encode("latin-1") + bad().encode(), 2, "Byte 4"),
    ("nul", b"# a\n\0\1\2", 2, "binary"),
    ("gzip", b"\x1f\x8b\x08\0\0", None, "compressed"),
    ("old line ends", bad().replace("\n", "\r"), None, "carriage returns"),
    ("head digit", bad(WORDS[0], "2 b b X _ _ \u0661 dep _ _"), 2, "not a number"),
    ("root below", bad(WORDS[0], "2 b b X _ _ 1 root _ _"), 2, "head 1 and the relation 'root'"),
    ("top no root", bad("1 a a X _ _ 0 dep _ _", WORDS[1]), 1, "head 0 and the relation 'dep'"),
    ("empty column", bad().replace("\tdep\t", "\t\t"), 2, "Column 8"),
    ("cut off", bad() + "# sent_id = s2\n# text = c\n", 4, "ends after the comments"),
    ("entity prefix", bad(WORDS[0], "2 b b X _ _ 1 dep _ NE=b-PER"), 2, "'NE=b-PER' in MISC"),
    ("entity type only", bad(WORDS[0], "2 b b X _ _ 1 dep _ NE=PER"), 2, "'NE=PER' in MISC"),
    ("entity", bad(WORDS[0], "2 b b X _ _ 1 dep _ NE=I-PER"), 2, "doesn't continue"),
    ("schemes", bad(WORDS[0][:-1] + "NE=U-PER", "2 b b X _ _ 1 dep _ NE=S-PER"), None, "mix"),
]


@pytest.mark.parametrize("content, line, words", [case[1:] for case in BAD_CONLLU], ids=[c[0] for c in BAD_CONLLU])
def test_bad_conllu_says_where_and_what(tmp_path, content, line, words):
    if words == "doesn't continue":  # alone, an I- would be legal IOB1
        content = content + bad("1 a a X _ _ 0 root _ NE=B-PER")
    path = write(tmp_path, content)
    with pytest.raises(FormatError) as error:
        list(read_records(path))
    assert words in str(error.value)
    assert error.value.line == line
    assert str(path) in str(error.value)


def test_encoding_is_named_in_the_hint(tmp_path):
    path = write(tmp_path, conllu("1 año año NOUN _ _ 0 root _ _").encode("latin-1"))
    with pytest.raises(FormatError, match="--encoding latin-1"):
        list(read_records(path))
    assert one(path, encoding="latin-1").words == ["año"]
    with pytest.raises(FormatError, match="no encoding 'utf-99'"):
        list(read_records(path, encoding="utf-99"))
    with pytest.raises(FormatError, match="B103.*can't be read as undefined"):
        list(read_records(path, encoding="undefined"))


# ---------------------------------------------------------------------------------------------------------- iob

IOB2 = "El DA O\nRío NC B-LOC\nUruguay NC B-LOC\n. Fp O\n\nAna NP B-PER\nPaz NP I-PER\n"


def test_iob_adjacent_entities_stay_two(tmp_path):
    first, second = read_records(write(tmp_path, IOB2, "esp.train"))
    assert first.words == ["El", "Río", "Uruguay", "."]
    assert first.text == "El Río Uruguay."
    assert first.tags == ["DA", "NC", "NC", "Fp"]
    assert texts_of(first) == ["Río", "Uruguay"]
    assert texts_of(second) == ["Ana Paz"] and second.line == 6
    assert first.sent_starts == [True, False, False, False]
    assert first.pos is None and first.heads is None and first.lemmas is None


SCHEMES = {
    "bio": "B I B O B",
    "iob1": "I I B O I",
    "bioes": "B E S O S",
    "bilou": "B L U O U",
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("separator", [" ", "\t", "   "])
def test_iob_schemes_mean_the_same(tmp_path, scheme, separator):
    tags = [prefix if prefix == "O" else f"{prefix}-X" for prefix in SCHEMES[scheme].split()]
    content = "\n".join(f"{word}{separator}{tag}" for word, tag in zip("abcde", tags))
    record = one(write(tmp_path, content, "x.iob"))
    assert texts_of(record) == ["a b", "c", "e"]
    assert record.tags is None


def test_iob_docstart_and_columns(tmp_path):
    content = "-DOCSTART- X O\n\na DA _ O\nb DA _ O\n\n-DOCSTART- X O\n\nc DA _ O\n".replace("a DA", "a _")
    path = write(tmp_path, content, "x.conll")
    assert detect_format(path) == "iob"
    first, second = read_records(path)
    assert first.newdoc and second.newdoc
    assert first.tags == ["", "DA"] and first.entities == []
    assert next(read_records(path, tag_column=None)).tags is None
    assert next(read_records(path, tag_column=2)).tags == ["", ""]
    with pytest.raises(FormatError, match="tag_column 3"):
        list(read_records(path, tag_column=3))


@pytest.mark.parametrize(
    "content, line, words",
    [
        ("a DA O\nb O\n", 2, "2 columns, the first one had 3"),
        ("a DA O\nb DA X\n", 2, "'X' is not an entity tag"),
        ("a O\nb I-X\n\nc B-X\n", 2, "doesn't continue"),
        ("a B-X\nb I-Y\n", 2, "doesn't continue"),
        ("a B-X\nb O\nc S-X\n", 2, "isn't closed"),
        ("a U-X\n\nb B-X\n", 3, "isn't closed"),
        ("a U-X\nb S-X\n", None, "mix"),
        ("\n\n", None, "nothing"),
        ("-DOCSTART- O\n", None, "no sentence"),
    ],
)
def test_bad_iob_says_where_and_what(tmp_path, content, line, words):
    path = write(tmp_path, content, "x.iob")
    with pytest.raises(FormatError) as error:
        list(read_records(path))
    assert words in str(error.value) and error.value.line == line


def test_iob_repair_starts_an_entity(tmp_path):
    path = write(tmp_path, "a O\nb I-X\nc I-X\n\nd B-X\n", "x.iob")
    assert texts_of(next(read_records(path, repair=True))) == ["b c"]


@pytest.mark.parametrize(
    "words, text",
    [
        ("Hola , Ana .", "Hola, Ana."),
        ("¿ Qué ? ¡ No !", "¿Qué? ¡No!"),
        ("Dijo \" no \" y \" sí \" .", 'Dijo "no" y "sí".'),
        ("la ( EFE ) « aquí »", "la (EFE) «aquí»"),
        ("Buenos Aires - Lima", "Buenos Aires - Lima"),
        (". a", ". a"),
    ],
)  # fmt: skip
def test_readable_spaces(words, text):
    words = words.split()
    assert "".join(w + " " * s for w, s in zip(words, readable_spaces(words))).rstrip() == text


@needs_data
def test_conll2002_counts():
    # The official counts of sentences, tokens and entities; each official file breaks one entity at a sentence's end.
    path = SHARED / "ner" / "conll2002" / "esp.testb"
    with pytest.raises(FormatError, match="testb:9291"):
        list(read_records(path))
    records = list(read_records(path, repair=True))
    lines = path.read_text(encoding="utf8").splitlines()
    assert len(records) == 1517
    assert sum(len(r.words) for r in records) == sum(bool(line) for line in lines) == 51533
    begun = sum(line.split(" ")[-1].startswith("B-") for line in lines if line)
    assert sum(len(r.entities) for r in records) == begun + 1


# --------------------------------------------------------------------------------------------------------- brat


def brat(tmp_path, text, ann, name="d"):
    folder = tmp_path / "brat"
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".txt", text), (".ann", ann)):
        if content is not None:
            (folder / "sub" / f"{name}{suffix}").write_bytes(content.encode())
    return folder


def test_brat_folder_file_and_archive(tmp_path):
    folder = brat(
        tmp_path, "Vive en\nLima, Perú.", "T1\tLOC 8 12\tLima\nR1\tIn Arg1:T1 Arg2:T2\nT2\tLOC 14 18\tPerú\n#1\tx\n"
    )
    brat(tmp_path, "Nada.", "", "e")
    expected = [("Vive en\nLima, Perú.", [(8, 12, "LOC"), (14, 18, "LOC")]), ("Nada.", [])]
    assert detect_format(folder) == "brat"
    assert [(r.text, r.entities) for r in read_records(folder)] == expected
    assert [(r.text, r.entities) for r in read_records(folder / "sub" / "d.ann")] == expected[:1]
    assert [(r.text, r.entities) for r in read_records(folder / "sub" / "d.txt")] == expected[:1]
    for suffix, mode in ((".tar", "w"), (".tar.xz", "w:xz"), (".tar.gz", "w:gz")):
        archive = tmp_path / f"a{suffix}"
        with tarfile.open(archive, mode) as tar:
            tar.add(folder, "corpus")
            readme = tarfile.TarInfo("LICENSE")
            tar.addfile(readme, io.BytesIO(b""))
        assert detect_format(archive) == "brat"
        records = list(read_records(archive))
        assert [(r.text, r.entities) for r in records] == expected
        assert records[0].id == "corpus/sub/d"


@pytest.mark.parametrize("text", ["a\r\nLima", "\ufeffa\nLima"])
def test_brat_offsets_of_other_readers(tmp_path, text):
    # CRLF counted as one character, and a byte order mark counted as one.
    start = 3 if text.startswith("\ufeff") else 2
    folder = brat(tmp_path, text, f"T1\tLOC {start} {start + 4}\tLima\n")
    record = one(folder)
    assert texts_of(record) == ["Lima"] and record.text == "a\nLima"


def test_brat_span_in_pieces_is_reported(tmp_path):
    folder = brat(tmp_path, "norte y sur de Chile", "T1\tLOC 0 5;12 20\tnorte de Chile\n")
    problems = []
    record = one(folder, on_problem=problems.append)
    assert record.entities == [] and record.unknown == [(0, 5), (12, 20)]
    (problem,) = problems
    assert (problem.line, problem.start, problem.end, problem.label) == (1, 0, 20, "LOC")
    assert "2 pieces" in str(problem)
    with pytest.raises(FormatError, match="B160"):
        one(folder)


@pytest.mark.parametrize(
    "text, ann, line, words",
    [
        ("Lima", "T1\tLOC 0 4\tQuito\n", 1, "the text has 'Lima', the line says 'Quito'"),
        ("Lima", "\nT1\tLOC 0 9\tLima\n", 2, "the text has ''"),
        ("Lima", "T1 LOC 0 4 Lima\n", 1, "not a text-bound line"),
        ("Lima", None, None, "partner d.ann is missing"),
        (None, "T1\tLOC 0 4\tLima\n", None, "partner d.txt is missing"),
        (" ", "", None, "nothing"),
    ],
)
def test_bad_brat_says_where_and_what(tmp_path, text, ann, line, words):
    with pytest.raises(FormatError) as error:
        list(read_records(brat(tmp_path, text, ann), format="brat"))
    assert words in str(error.value) and error.value.line == line


def test_broken_archive(tmp_path):
    with pytest.raises(FormatError, match="archive can't be read"):
        list(read_records(write(tmp_path, b"nothing", "a.tar.xz")))


# --------------------------------------------------------------------------------------------------- categories

P, N = {"N": 0.0, "P": 1.0}, {"N": 1.0, "P": 0.0}


@pytest.mark.parametrize(
    "name, content",
    [
        ("tass.tsv", '7\tdijo "no" y ya \tP\n8\t"sí", dijo\tN\n'),
        ("emo.tsv", 'id\ttweet\tlabel \n7\t"dijo ""no"" y ya "\tP \n8\t"""sí"", dijo"\tN \n'),
        ("sib.tsv", 'index_id\tcategory\ttext\n7\tP\tdijo "no" y ya \n8\tN\t"sí", dijo\n'),
        ("x.csv", 'text,label,id\n"dijo ""no"" y ya ",P,7\n"""sí"", dijo",N,8\n'),
        ("y.csv", 'text;label;id\r\n"dijo ""no"" y ya ";P;7\r\n"""sí"", dijo";N;8\r\n'),
        ("x.jsonl", '{"id": 7, "text": "dijo \\"no\\" y ya ", "label": "P"}\n'
                    '{"id": 8, "text": "\\"sí\\", dijo", "labels": ["N"]}\n'),
    ],
)  # fmt: skip
def test_categories(tmp_path, name, content):
    path = write(tmp_path, content, name)
    first, second = read_records(path)
    assert (first.id, first.text, first.cats) == ("7", 'dijo "no" y ya ', P)
    assert (second.id, second.text, second.cats) == ("8", '"sí", dijo', N)
    assert second.line == (3 if content.split("\n")[0].lower().startswith(("id", "index", "text")) else 2)
    assert first.words is None and first.entities is None
    assert read_labels(path) == ["N", "P"]


def test_columns_by_name_or_index(tmp_path):
    path = write(tmp_path, "a\tb\tc\nP\tuno\tx\nN\tdos\ty\n", "x.tsv")
    by_name = list(read_records(path, text_column="b", label_column="a", id_column="c"))
    by_index = list(read_records(path, text_column="1", label_column=0, id_column=2, header="yes"))
    assert by_name == by_index and [r.text for r in by_name] == ["uno", "dos"] and by_name[0].id == "x"
    assert len(list(read_records(path, text_column=1, label_column=0, header="no"))) == 3
    with pytest.raises(FormatError, match="no column 'z'.*a, b, c"):
        list(read_records(path, text_column="z", label_column="a"))


def test_several_labels_and_missing_ones(tmp_path):
    path = write(tmp_path, "text,label\nuno,a|b\ndos,\ntres,b\n", "x.csv")
    cats = [r.cats for r in read_records(path, label_separator="|")]
    assert cats == [{"a": 1.0, "b": 1.0}, None, {"a": 0.0, "b": 1.0}]
    cats = [r.cats for r in read_records(path, label_separator="|", missing=())]
    assert cats[1] == {"a": 0.0, "b": 0.0}
    cats = [r.cats for r in read_records(path, missing=["", "b"], labels="a|b,c")]
    assert cats == [{"a|b": 1.0, "c": 0.0}, None, None]


def test_quoted_cells_may_hold_lines(tmp_path):
    path = write(tmp_path, 'text,label\n"uno\ndos",P\ntres,N\n', "x.csv")
    first, second = read_records(path)
    assert first.text == "uno\ndos" and (first.line, second.line) == (2, 4)


def test_jsonl_cats_are_taken_as_they_are(tmp_path):
    path = write(tmp_path, '{"text": "a", "cats": {"x": 1}}\n\n{"text": "b"}\n{"text": "c", "labels": []}\n', "x.jsonl")
    records = list(read_records(path))
    assert [r.cats for r in records] == [{"x": 1.0}, None, {}]
    assert [r.line for r in records] == [1, 3, 4]


def test_parallel_lines(tmp_path):
    text = write(tmp_path, "uno\ndos\n", "x_text.txt")
    labels = write(tmp_path, "0\n1", "x_labels.txt")
    for names in ({0: "N", 1: "P"}, "0=N,1=P", "N,P", ["N", "P"], ["0=N", "1=P"]):
        assert [r.cats for r in read_records(text, labels_path=labels, label_names=names)] == [N, P]
    assert next(read_records(text, labels_path=labels)).cats == {"0": 1.0, "1": 0.0}
    with pytest.raises(FormatError, match="no name for the label '1'"):
        list(read_records(text, labels_path=labels, label_names="0=N"))
    with pytest.raises(FormatError, match=":2: There are 2 texts and 1 labels"):
        list(read_records(text, labels_path=write(tmp_path, "0\n", "short.txt")))
    with pytest.raises(FormatError, match="B145"):
        list(read_records(text, format="lines"))


@pytest.mark.parametrize(
    "name, content, options, line, words",
    [
        ("x.tsv", "1\ta\tP\n2\tb\n", {}, 2, "2 cells, the first row has 3"),
        ("x.csv", 'text,label\n"a"b,P\n', {}, 2, "quote"),
        ("x.csv", 'text,label\na,P\n"b,P\n', {}, 3, "quote"),
        ("x.csv", "text,label\n ,P\n", {}, 2, "text is empty"),
        ("x.csv", "text,label\na,X\n", {"labels": ["P"]}, 2, "'X' is not one of the labels"),
        ("x.csv", "text,label\na,\n", {"missing": ()}, 2, "label is empty"),
        ("x.csv", "text,label\n", {}, None, "no texts"),
        ("x.csv", "uno\ndos\n", {}, 1, "one cell"),
        ("x.csv", "text,other\na,P\n", {"header": "yes"}, None, "which column has the label"),
        ("x.tsv", "id\ttext\tlabel\n1\ta\tP\nid\ttext\tlabel\n", {}, 3, "header stands here again"),
        ("x.tsv", "Nr\tMensaje\tClase\n1\ta b c\tP\n2\td e f\tN\n", {}, 1, "looks like a header"),
        ("x.csv", "text,label,label\na,P,N\n", {}, 1, "2 columns 'label'"),
        ("x.csv", "text,x,x\na,P,N\n", {"label_column": "x"}, 1, "2 columns 'x'"),
        ("x.jsonl", '{"text": "a"}\n{"text": \n', {}, 2, "not JSON: Expecting value at column 10"),
        ("x.jsonl", '{"text": "a"}\n{"text": "a\\ud83d"}\n', {}, 2, "half a character"),
        ("x.jsonl", '{"text": "a", "label": "\\udc00"}\n', {}, 1, "half a character"),
        ("x.jsonl", '{"label": "a"}\n', {}, 1, "no object with a text"),
        ("x.jsonl", '{"text": "a", "label": "x", "cats": {"x": 1}}\n', {}, 1, "both"),
        ("x.jsonl", '{"text": "a", "label": 3}\n', {}, 1, "not a string"),
        ("x.jsonl", '{"text": "a", "cats": {"x": 0.5}}\n', {}, 1, "0 or 1"),
        ("x.jsonl", '{"text": " ", "label": "x"}\n', {}, 1, "text is empty"),
        ("x.jsonl", '{"text": "a", "label": "y"}\n', {"labels": "x"}, 1, "'y' is not one of the labels"),
    ],
)
def test_bad_categories_say_where_and_what(tmp_path, name, content, options, line, words):
    with pytest.raises(FormatError) as error:
        list(read_records(write(tmp_path, content, name), **options))
    assert words in str(error.value) and error.value.line == line


@needs_data
def test_real_tweets_and_their_quotes():
    def read(name):
        return list(read_records(SHARED / "textcat" / name))

    tass = read("tass2020/train/mx.tsv")
    raw = (SHARED / "textcat/tass2020/train/mx.tsv").read_text(encoding="utf8").splitlines()
    assert [f"{r.id}\t{r.text}\t{max(r.cats, key=r.cats.get)}" for r in tass] == raw
    emo = read("emoevent/train.tsv")
    assert len(emo) == 5886 and not any(r.text.startswith('"') and r.text.endswith('"') and '""' in r.text for r in emo)
    assert len(emo[0].cats) == 7 and all(sum(r.cats.values()) == 1 for r in emo)
    assert emo[0].text.startswith("El Atlético")
    assert len(read("sib200/test.tsv")) == 204


# -------------------------------------------------------------------------------------------------------- SQuAD


def squad(**qa):
    qa = {"id": "q1", "question": "¿Dónde?", "answers": [{"text": "Lima", "answer_start": 8}], **qa}
    return {"data": [{"title": "T", "paragraphs": [{"context": "Vive en Lima.", "qas": [qa]}]}]}


def test_squad(tmp_path):
    path = write(tmp_path, json.dumps(squad(), indent=1, ensure_ascii=False), "x.json")
    assert detect_format(path) == "squad"
    record = one(path)
    assert (record.id, record.text, record.line) == ("T-1", "Vive en Lima.", 7)
    answers = [{"text": "Lima", "start": 8}]
    assert record.questions == [{"id": "q1", "question": "¿Dónde?", "answers": answers, "is_impossible": False}]
    path = write(tmp_path, json.dumps(squad(answers=[], is_impossible=True)), "x.json")
    assert one(path).questions[0]["is_impossible"] is True


@pytest.mark.parametrize("answer", [{"text": "Lima", "answer_start": 7}, {"text": "", "answer_start": -1}])
def test_squad_wrong_offset_is_reported(tmp_path, answer):
    path = write(tmp_path, json.dumps(squad(answers=[answer])), "x.json")
    problems = []
    record = one(path, on_problem=problems.append)
    assert record.questions[0]["answers"] == []
    assert [(p.id, p.start) for p in problems] == [("q1", answer["answer_start"])]
    with pytest.raises(FormatError, match="'q1'"):
        one(path)


@pytest.mark.parametrize(
    "content, words",
    [
        ('{"data": [\n', "not JSON"),
        ('{"x": 1}', "no list 'data'"),
        ('{"data": []}', "no paragraphs"),
        ('{"data": [{"paragraphs": [{"context": "a"}]}]}', "no list qas"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "no context"),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}', "no question"),
        (json.dumps(squad(answers=[{"text": "a"}])), "no answer_start"),
        (json.dumps(squad(answers=[{"text": "L", "answer_start": True}])), "no answer_start"),
        ('{"data": [\n{"title": "a\\ud83d"}]}', "x.json:2: The file has half a character"),
    ],
)
def test_bad_squad_says_what(tmp_path, content, words):
    with pytest.raises(FormatError) as error:
        list(read_records(write(tmp_path, content, "x.json"), format="squad"))
    assert words in str(error.value) and "x.json" in str(error.value)


# ---------------------------------------------------------------------------------------------------- detection


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.conllu", DAMELO, "conllu"),
        ("a.conll", DAMELO, "conllu"),
        ("a.conll", IOB2, "iob"),
        ("esp.testa", IOB2, "iob"),
        ("a.iob2", IOB2, "iob"),
        ("a.json", json.dumps(squad()), "squad"),
        ("a.json", json.dumps(squad())[:-5], "squad"),
        ("a.txt", DAMELO.encode("utf-16"), "conllu"),
        ("a.json", '{"text": "a", "label": "b"}\n', "jsonl"),
        ("a.csv", "text,label\na,b\n", "csv"),
    ],
)
def test_detection(tmp_path, name, content, expected):
    assert expected in FORMATS
    assert detect_format(write(tmp_path, content, name)) == expected


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.txt", "Una frase cualquiera.", "--format"),
        ("a.json", "{}", "--format"),
        ("a.json", '[{"text": "a", "label": "b"}]', "one object with a text a line"),
        ("a.bin", b"PK\x03\x04", "compressed"),
        ("a.bin", b"\x7fELF\0\0", "binary"),
        ("a.conllu", "", "nothing"),
    ],
)
def test_undecidable(tmp_path, name, content, words):
    with pytest.raises(FormatError, match=words):
        detect_format(write(tmp_path, content, name))


def test_missing_paths_formats_and_options(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        list(read_records(tmp_path / "none.conllu"))
    with pytest.raises(FormatError, match="only brat is read from a folder"):
        list(read_records(tmp_path))
    with pytest.raises(FormatError, match="no format 'xml'"):
        list(read_records(tmp_path, format="xml"))
    with pytest.raises(FormatError, match="no option colour.*merge_subtokens"):
        list(read_records(write(tmp_path, DAMELO), colour=1))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FormatError, match="can't be read"):
        list(read_records(tmp_path, format="conllu"))
