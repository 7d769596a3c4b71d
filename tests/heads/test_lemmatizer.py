"""Lemmas from the corpus and from tables: what is remembered, what is derived, and what users have complained of."""

import pickle
import random

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from beto_spacy.corpora.reader import load_docs
from beto_spacy.errors import ProjectError
from beto_spacy.heads.lemmatizer.component import BetoLemmatizer
from beto_spacy.spanish.multiwords import split_token

PRON = "PrepCase=Npr|PronType=Prs"
FUTURE = "Mood=Ind|Tense=Fut|VerbForm=Fin"
PARTICIPLE = "Gender=Masc|Number=Sing|Tense=Past|VerbForm=Part"
PAST = "Mood=Ind|Tense=Past|VerbForm=Fin"
VOS = "Mood=Ind|Number=Sing|Person=2|Tense=Pres|VerbForm=Fin"
IMPERATIVE = "Mood=Imp|Number=Sing|Person=2|VerbForm=Fin"
PRESENT = "Mood=Ind|Number=Sing|Person=3|Tense=Pres|VerbForm=Fin"

#: What users of Spanish pipelines have complained of, and what the tables get wrong.
REGRESSIONS = [
    ("👍🏽", "NOUN", "Gender=Fem|Number=Plur", "👍🏽"),
    ("👩‍🚀", "VERB", PRESENT, "👩‍🚀"),
    ("1️⃣", "NUM", "", "1️⃣"),
    ("oído", "VERB", PARTICIPLE, "oír"),
    ("leído", "VERB", PARTICIPLE, "leer"),
    ("oído", "NOUN", "Gender=Masc|Number=Sing", "oído"),
    ("actúa", "VERB", PRESENT, "actuar"),
    ("continúan", "VERB", PRESENT.replace("Sing", "Plur"), "continuar"),
    ("oye", "VERB", PRESENT, "oír"),
    ("fuimos", "VERB", PAST, "ir"),
    ("fuimos", "AUX", PAST, "ser"),
    ("hay", "VERB", PRESENT, "haber"),
    ("vendrán", "VERB", FUTURE, "venir"),
    ("dirá", "VERB", FUTURE, "decir"),
    ("refinanciarán", "VERB", FUTURE, "refinanciar"),
    ("oirá", "VERB", FUTURE, "oír"),
    ("hablaremos", "VERB", FUTURE, "hablar"),
    ("podría", "VERB", "Mood=Cnd|Number=Sing|Person=3|VerbForm=Fin", "poder"),
    ("universalicemos", "VERB", "Mood=Sub|Number=Plur|Person=1|Tense=Pres|VerbForm=Fin", "universalizar"),
    ("tosiendo", "VERB", "VerbForm=Ger", "toser"),
    ("googleando", "VERB", "VerbForm=Ger", "googlear"),
    ("retuiteó", "VERB", PAST, "retuitear"),
    ("trolearon", "VERB", PAST, "trolear"),
    ("dámelo", "VERB", f"Case=Acc,Dat|Mood=Imp|{PRON}|VerbForm=Fin", "dar yo él"),
    ("díselo", "VERB", f"Case=Acc,Dat|Mood=Imp|{PRON}|VerbForm=Fin", "decir él él"),
    ("decirnos", "VERB", f"Case=Dat|{PRON}|VerbForm=Inf", "decir yo"),
    ("oírla", "VERB", f"Case=Acc|{PRON}|VerbForm=Inf", "oír él"),
    ("buscándolos", "VERB", f"Case=Acc|{PRON}|VerbForm=Ger", "buscar él"),
    ("véase", "VERB", f"Case=Acc|Mood=Imp|Number=Sing|Person=3|{PRON}|Reflex=Yes|VerbForm=Fin", "ver él"),
    ("caciques", "NOUN", "Gender=Masc|Number=Plur", "cacique"),
    ("practicantes", "NOUN", "Gender=Masc|Number=Plur", "practicante"),
    ("relojes", "NOUN", "Gender=Masc|Number=Plur", "reloj"),
    ("lápices", "NOUN", "Gender=Masc|Number=Plur", "lápiz"),
    ("ONG", "NOUN", "", "ONG"),
    ("CO2", "NOUN", "", "CO2"),
    ("largas", "ADJ", "Gender=Fem|Number=Plur", "largo"),
    ("españolas", "ADJ", "Gender=Fem|Number=Plur", "español"),
    ("tractora", "ADJ", "Gender=Fem|Number=Sing", "tractor"),
    ("inhabitables", "ADJ", "Number=Plur", "inhabitable"),
    ("francesas", "ADJ", "Gender=Fem|Number=Plur", "francés"),
    ("sencillísima", "ADJ", "Degree=Abs|Gender=Fem|Number=Sing", "sencillo"),
    ("pobrísimas", "ADJ", "Degree=Abs|Gender=Fem|Number=Plur", "pobre"),
    ("virus", "NOUN", "Gender=Masc|Number=Plur", "virus"),
    # As said with vos:
    ("tenés", "VERB", VOS, "tener"),
    ("podés", "AUX", VOS, "poder"),
    ("sos", "AUX", VOS, "ser"),
    ("oís", "VERB", VOS, "oír"),
    ("reís", "VERB", VOS, "reír"),
    ("decí", "VERB", IMPERATIVE, "decir"),
    ("tomá", "VERB", IMPERATIVE, "tomar"),
    ("comé", "VERB", f"Case=Acc|{IMPERATIVE}|{PRON}", "comer"),
    ("mandámelo", "VERB", f"Case=Acc,Dat|{IMPERATIVE}|{PRON}", "mandar yo él"),
    ("contame", "VERB", f"Case=Dat|{IMPERATIVE}|{PRON}", "contar yo"),
    ("sentate", "VERB", IMPERATIVE, "sentar tú"),
    ("vestite", "VERB", PRESENT, "vestir tú"),
    ("vos", "PRON", "Case=Nom|Number=Sing|Person=2|PronType=Prs", "tú"),
    ("callaté", "VERB", f"Case=Acc|{IMPERATIVE}|{PRON}", "callar tú"),
    ("divertirté", "VERB", f"Case=Acc|{PRON}|VerbForm=Inf", "divertir tú"),
    # A tagger overlooks a feature:
    ("someterse", "VERB", "VerbForm=Inf", "someter él"),
    ("viéndola", "VERB", "VerbForm=Ger", "ver él"),
    ("véase", "VERB", "Mood=Sub|VerbForm=Fin", "ver él"),
    ("existir", "VERB", f"Case=Acc|{PRON}|VerbForm=Inf", "existir"),
    ("escocés", "ADJ", "Number=Plur", "escocés"),
    ("sobredosis", "NOUN", "Number=Plur", "sobredosis"),
    ("norteafricana", "ADJ", "Number=Sing", "norteafricano"),
    ("desleales", "ADJ", "", "desleal"),
    ("dignas", "ADJ", "", "digno"),
    ("habladoras", "ADJ", "Gender=Fem", "hablador"),
    ("centroamericanos", "NOUN", "Gender=Masc", "centroamericano"),
    ("clasista", "ADJ", "Number=Sing", "clasista"),
    ("indígenas", "ADJ", "Number=Plur", "indígena"),
    # A tagger takes a form for another part of speech:
    ("sufría", "NOUN", "Gender=Fem|Number=Sing", "sufrir"),
    ("hinchándose", "NOUN", "Number=Sing", "hinchar él"),
    ("incluyendo", "ADV", "", "incluir"),
    ("mantuve", "ADJ", "Number=Sing", "mantener"),
    ("discutibles", "VERB", PRESENT, "discutible"),
    ("élite", "VERB", PRESENT, "élite"),
    ("prestigiosa", "NOUN", "Gender=Fem|Number=Sing", "prestigioso"),
    ("anticuerpos", "PROPN", "", "anticuerpo"),
    ("olímpica", "PROPN", "", "olímpico"),
    # And what it takes rightly stays:
    ("toldo", "NOUN", "Gender=Masc|Number=Sing", "toldo"),
    ("enfrente", "ADV", "", "enfrente"),
    ("alicatada", "ADJ", "Gender=Fem|Number=Sing", "alicatado"),
    ("ginecóloga", "NOUN", "Gender=Fem|Number=Sing", "ginecóloga"),
    ("van", "PROPN", "", "van"),
    ("Rosas", "PROPN", "", "Rosas"),
    ("24.000", "NUM", "NumForm=Digit|NumType=Card", "24000"),
    ("Buenos", "PROPN", "", "Buenos"),
]


def doc_of(nlp, *rows):
    words, pos, morphs, *lemmas = zip(*rows)
    return Doc(nlp.vocab, words=words, pos=pos, morphs=morphs, **({"lemmas": lemmas[0]} if lemmas else {}))


def build(examples=(), **settings):
    nlp = spacy.blank("es")
    pipe = nlp.add_pipe("beto_lemmatizer", config=settings)
    docs = [doc_of(nlp, *rows) for rows in examples]
    pipe.initialize(lambda: [Example(doc, doc) for doc in docs], nlp=nlp)
    return nlp, pipe


@pytest.fixture(scope="module")
def bare():
    """A lemmatizer that has seen nothing, and knows the tables."""
    return build()


@pytest.mark.parametrize("form, pos, morph, lemma", REGRESSIONS)
def test_what_users_complain_of(bare, form, pos, morph, lemma):
    nlp, pipe = bare
    assert pipe(doc_of(nlp, (form, pos, morph)))[0].lemma_ == lemma


def test_any_form_has_a_lemma(bare):
    nlp, pipe = bare
    chance = random.Random(0)
    pieces = "me te té SE lo las nos ar ír ndo ás ísima es ces ó 1 - ß".split() + ["\n", " "]
    analyses = [("VERB", f"Case=Acc|{IMPERATIVE}|{PRON}"), ("VERB", f"Case=Acc|{PRON}|VerbForm=Inf"), ("VERB", FUTURE)]
    analyses += [("AUX", PARTICIPLE), ("ADJ", "Degree=Abs|Gender=Fem|Number=Plur"), ("NOUN", "Number=Plur"), ("", "")]
    analyses += [(pos, "") for pos in ("ADV", "PRON", "DET", "PROPN", "NUM", "PUNCT", "SPACE", "VERB", "ADJ", "NOUN")]
    for _ in range(300):
        letters = "".join(chance.choice("aeiouáéíóúüyhqgnsrdlmtAÍñ.") for _ in range(chance.randrange(6)))
        form = letters + "".join(chance.choice(pieces) for _ in range(chance.randrange(0 if letters else 1, 4)))
        for pos, morph in analyses:
            doc = Doc(nlp.vocab, words=[form], pos=[pos], morphs=[morph])
            assert pipe(doc)[0].lemma_, form
            assert all(word.form for word in split_token(doc[0])), form


SEEN = [
    [("Fue", "AUX", "Person=3", "ser"), ("fue", "VERB", "Person=3", "ir"), ("fue", "AUX", "Person=3", "ser")],
    [("la", "DET", "Gender=Fem", "el"), ("la", "PRON", "Gender=Fem", "él"), ("Lunes", "NOUN", "", "Lunes")],
    [("vino", "NOUN", "", "vino"), ("vino", "VERB", "Tense=Past", "venir"), ("De", "PROPN", "", "De")],
    [
        ("para", "VERB", "Mood=Ind", "parar"),
        ("para", "VERB", "Mood=Sub", "parir"),
        ("para", "VERB", "Mood=Ind", "parar"),
    ],
]


@pytest.mark.parametrize("tables", [True, False])
def test_what_the_corpus_says_goes_first(tables):
    nlp, pipe = build(SEEN, tables=tables)
    rows = [
        ("FUE", "AUX", "", "ser"), ("fue", "VERB", "Person=1", "ir"), ("la", "PRON", "", "él"), ("La", "DET", "", "el"),
        ("lunes", "NOUN", "", "lunes"), ("vino", "VERB", "", "venir"), ("De", "PROPN", "", "De"),
        ("para", "VERB", "Mood=Sub", "parir"), ("para", "VERB", "Mood=Imp", "parar"),
    ]  # fmt: skip
    doc = pipe(doc_of(nlp, *[row[:3] for row in rows]))
    assert [token.lemma_ for token in doc] == [row[3] for row in rows]


def test_a_form_of_a_closed_class_keeps_its_lemma_whatever_its_tag():
    nlp, pipe = build(
        [[("ellos", "PRON", "", "él"), ("incluyendo", "VERB", "", "incluir"), ("espera", "VERB", "", "esperar")]]
    )
    rows = [
        ("Ellos", "DET", "", "él"), ("ellos", "NOUN", "", "él"), ("Ellos", "PROPN", "", "Ellos"),
        ("incluyendo", "CCONJ", "", "incluir"), ("espera", "NOUN", "Number=Sing", "espera"),
    ]  # fmt: skip
    doc = pipe(doc_of(nlp, *[row[:3] for row in rows]))
    assert [token.lemma_ for token in doc] == [row[3] for row in rows]


def test_without_tables_an_earlier_lemma_stays():
    nlp, pipe = build(SEEN, tables=False)
    doc = pipe(doc_of(nlp, ("vino", "NOUN", "", "otro"), ("gatos", "NOUN", "", "gato"), ("Gatos", "NOUN", "", "")))
    assert [token.lemma_ for token in doc] == ["vino", "gato", "gatos"]
    nlp, pipe = build(SEEN, tables=False, overwrite=False)
    assert pipe(doc_of(nlp, ("vino", "NOUN", "", "otro")))[0].lemma_ == "otro"


@pytest.mark.parametrize("tables", [True, False])
def test_saved_and_loaded(tmp_path, tables):
    nlp, pipe = build(SEEN, tables=tables)
    rows = [("fue", "VERB", ""), ("caciques", "NOUN", "Number=Plur"), ("actúa", "VERB", PRESENT)]
    before = [token.lemma_ for token in pipe(doc_of(nlp, *rows))]
    nlp.to_disk(tmp_path / "model")
    again = spacy.load(tmp_path / "model").get_pipe("beto_lemmatizer")
    assert isinstance(again, BetoLemmatizer)
    same = spacy.blank("es").add_pipe("beto_lemmatizer", config={"tables": tables}).from_bytes(pipe.to_bytes())
    for other in (again, same, pickle.loads(pickle.dumps(pipe))):
        assert [token.lemma_ for token in other(doc_of(nlp, *rows))] == before


def test_tables_that_are_missing_name_the_extra(monkeypatch):
    monkeypatch.setattr(
        "beto_spacy.heads.lemmatizer.component.load_lookups", lambda *a, **k: (_ for _ in ()).throw(ValueError("E955"))
    )
    with pytest.raises(ProjectError, match="beto-spacy\\[lookups\\]"):
        build()


def test_lemmas_of_ancora_from_its_tags(shared):
    """Trained on AnCora dev, tested on AnCora test with the treebank's own parts of speech and features."""
    nlp = spacy.blank("es")
    pipe = nlp.add_pipe("beto_lemmatizer")
    train, test = (load_docs(shared / "ud" / "ancora" / f"es_ancora-ud-{part}.conllu", nlp) for part in ("dev", "test"))
    pipe.initialize(lambda: [Example(doc, doc) for doc in train], nlp=nlp)
    tokens = [token for doc in test for token in doc if not token.is_space]
    right = sum(pipe.lemmatize(token) == token.lemma_ for token in tokens)
    assert right / len(tokens) > 0.995
