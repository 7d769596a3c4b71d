"""The Spanish tokenizer on the cases that it exists for."""

import pickle

import pytest
import spacy

from beto_spacy.spanish.tokenizer import SpanishTokenizer, blank_pipeline

CONFIG = {"nlp": {"tokenizer": {"@tokenizers": "beto_spacy.SpanishTokenizer.v1"}}}
CASES = [
    "el|art.|5|y|los|arts.|6|,|Tel.|91|,|los|Sres.|de|cap.|3",
    "(|JJ.|OO.|)|Bs.|As.|y|RR.|HH.",
    "12|h|.",
    "180|ºC|.",
    "el|5º|.",
    "15,5%",
    "a|las|10:30|h|.",
    "y/o|c/u",
    "bien|,|—|dijo|extranjero|,|—|el",
    "municipales|(|8|de|mayo|)",
    "1995/2007|.",
    "PSE/EE|y|Reynard/Honda",
    "12/05/2015",
    "hola|😀|👍🏽|👨‍👩‍👧|🇪🇸|🇲🇽|1️⃣|❤️|❤️‍🔥|!",
    "#YoSoy|,|@ana_b|:",
    "https://www.a.es/b?c=d|,|a@b.es",
]


def text_of(tokens):
    """The tokens with spaces between them."""
    return " ".join(tokens)


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("es", config=CONFIG)


@pytest.mark.parametrize("case", CASES)
def test_tokens_stay_whole(nlp, case):
    tokens = case.split("|")
    assert [token.text for token in nlp(text_of(tokens))] == tokens


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("12 h.", "12|h|."),
        ("180 ºC.", "180|ºC|."),
        ("5º.", "5º|."),
        ("10:30h", "10:30|h"),
        ("bien,—dijo", "bien|,|—|dijo"),
        ("¿Sí?¡Ya!¿Eh?", "¿|Sí|?|¡|Ya|!|¿|Eh|?"),
        ("¿Sí?No", "¿|Sí|?|No"),
        ("extranjero,—el", "extranjero|,|—|el"),
        ("municipales(8", "municipales|(|8"),
        ("1995/2007.", "1995/2007|."),
        ("(ver 8):", "(|ver|8|)|:"),
        ("nhc-1178965.", "nhc|-|1178965|."),
        ("8, 3ºD. Lima", "8|,|3ºD|.|Lima"),
        ("24, 7B.", "24|,|7B|."),
        ("a las 12 h. Después", "a|las|12|h|.|Después"),
        ("a las 12 h. de ayer", "a|las|12|h.|de|ayer"),
        ("CP:28029.", "CP|:|28029|."),
        ("Sexo: H.\nFecha", "Sexo|:|H|.|\n|Fecha"),
        ("Sexo: H. \nFecha", "Sexo|:|H|.|\n|Fecha"),
        ("J. A. Pérez y A.\tGarcía", "J.|A.|Pérez|y|A.|\t|García"),
        ("de J.A.\nLima", "de|J.A.|\n|Lima"),
        ("hola😀👍🏽🇪🇸🇲🇽", "hola|😀|👍🏽|🇪🇸|🇲🇽"),
        ("(arts. 5)", "(|arts.|5|)"),
        ("#YoSoy,", "#YoSoy|,"),
    ],
)
def test_marks_without_spaces(nlp, text, tokens):
    assert [token.text for token in nlp(text)] == tokens.split("|")


@pytest.mark.parametrize(
    "text",
    ["", "  \n\tLima,—dijo  ", "❤️‍🔥" * 3, ",,(a)b[c]:1—", "EE. UU.  n.º 5", "H. \n M.\r\nUds. pal A.  ", "A.", "\nA. "],
)
def test_text_is_kept(nlp, text):
    assert nlp(text).text == text


def test_a_stop_split_off_keeps_norms_of_other_tokens(nlp):
    norms = [token.norm_ for token in nlp("Ud. dijo H.")]
    assert norms == ["usted", "dijo", "h", "."]


@pytest.mark.parametrize("text", ["J. Pérez, Sexo: H.\nUds. 12 h.", "(1995/2007)."])
def test_explain_tells_the_same_tokens(nlp, text):
    assert [word for _, word in nlp.tokenizer.explain(text)] == [
        token.text for token in nlp(text) if not token.is_space
    ]


def test_pickled(nlp):
    again = pickle.loads(pickle.dumps(nlp.tokenizer))
    assert [token.text for token in again("Sexo: H.\n")] == ["Sexo", ":", "H", ".", "\n"]


def test_saved_and_loaded(nlp, tmp_path):
    nlp.to_disk(tmp_path / "ours")
    again = spacy.load(tmp_path / "ours")
    assert again.config["nlp"]["tokenizer"] == CONFIG["nlp"]["tokenizer"]
    for case in CASES:
        text = text_of(case.split("|"))
        assert [t.text for t in again(text)] == [t.text for t in nlp(text)]
    assert [token.text for token in again("#YoSoy,")] == ["#YoSoy", ","]
    assert [token.text for token in again("Sexo: H.\n")] == ["Sexo", ":", "H", ".", "\n"]


def test_other_languages_keep_their_tokenizer():
    assert isinstance(blank_pipeline("es").tokenizer, SpanishTokenizer)
    assert not isinstance(blank_pipeline("pt").tokenizer, SpanishTokenizer)


def test_a_saved_pipeline_keeps_spacys_tokenizer(tmp_path):
    spacy.blank("es").to_disk(tmp_path / "theirs")
    nlp = spacy.load(tmp_path / "theirs")
    assert nlp.config["nlp"]["tokenizer"] == {"@tokenizers": "spacy.Tokenizer.v1"}
    assert "extranjero,—el" in [token.text for token in nlp("extranjero,—el")]
