"""Contractions and enclitics: taking them apart, and writing them as multiword tokens."""

import json
import random

import pytest
import spacy
from click.testing import CliRunner
from conftest import ROOT
from spacy.tokens import Doc

from beto_spacy.cli.main import main
from beto_spacy.corpora.conllu_writer import conll18_raw_scores, doc_to_conllu
from beto_spacy.corpora.reader import load_docs
from beto_spacy.errors import CorpusError, FormatError
from beto_spacy.evaluation.run import evaluate_raw
from beto_spacy.spanish.multiwords import Word, split_token, split_verb

SAMPLE = ROOT / "corpus" / "sample"

INFINITIVES_AND_GERUNDS = """
    hablarle hablar le | quererlos querer los | olvidarnos olvidar nos | Vernos Ver nos | oírlo oír lo | reírse reír se
    construirla construir la | decírmelo decir me lo | quitárselas quitar se las | sentaros sentar os | irse ir se
    ocultándoselo ocultando se lo | siguiéndola siguiendo la | oyéndolas oyendo las | enviándonosla enviando nos la
    distribuyéndolo distribuyendo lo | averiguarlo averiguar lo | PONERSE PONER SE
"""
IMPERATIVES = """
    dámelo da me lo | dame da me | dime di me | vete ve te | ponlo pon lo | hazlo haz lo | véase vea se | Dígame Diga me
    imagínense imaginen se | vámonos vamos nos | sentémonos sentemos nos | callaos callad os | idos id os
    mándamelo manda me lo | mandámelo mandá me lo | decime decí me | ponelo poné lo | hacelo hacé lo | venite vení te
    cómetelo come te lo | métete mete te | díselo di se lo | vístelo viste lo | deme dé me | dígannos digan nos
    óyeme oye me | digámosle digamos le | démoselo demos se lo | estate está te | cuéntanoslo cuenta nos lo
    tráiganmela traigan me la | callaté callá té | CALLATÉ CALLÁ TÉ
"""


def table(text):
    return [row.split() for line in text.strip().splitlines() for row in line.split("|")]


@pytest.mark.parametrize("form, parts", [(row[0], row[1:]) for row in table(INFINITIVES_AND_GERUNDS)])
def test_infinitives_and_gerunds(form, parts):
    assert split_verb(form) == parts
    assert split_verb(form, number=len(parts) - 1) == parts


@pytest.mark.parametrize("form, parts", [(row[0], row[1:]) for row in table(IMPERATIVES)])
def test_imperatives(form, parts):
    assert split_verb(form, imperative=True) == parts
    assert split_verb(form, number=len(parts) - 1) == parts


@pytest.mark.parametrize("form", ["hablar", "haciendo", "tuvo", "parte", "le", "os", "selo", "xyz", ""])
def test_what_has_no_clitics(form):
    assert split_verb(form) is None
    assert split_verb(form, number=3) is None


def test_any_string_is_stood():
    chance = random.Random(0)
    for _ in range(5_000):
        form = "".join(chance.choice("aeiouáéíóúüyhqgnsrdlmtAÍ 1.ß") for _ in range(chance.randrange(9)))
        for options in ({}, {"imperative": True}, {"number": 1}, {"number": 2}):
            parts = split_verb(form, **options)
            assert parts is None or form.endswith("".join(parts[1:]))


NLP = spacy.blank("es")


def token(text, pos="", morph=None, lemma=None):
    values = {"pos": [pos]} if pos else {}
    if morph is not None:
        values["morphs"] = [morph]
    if lemma is not None:
        values["lemmas"] = [lemma]
    return Doc(NLP.vocab, words=[text], **values)[0]


PRON = "PrepCase=Npr|PronType=Prs"


def test_the_analysis_decides():
    def forms(*args, **kwargs):
        return [word.form for word in split_token(token(*args, **kwargs))]

    assert forms("del") == forms("del", "ADP") == forms("del", "DET") == ["de", "el"]
    assert forms("Al", "ADP") == ["A", "el"] and forms("DEL", "ADP") == ["DE", "EL"]
    assert forms("Al", "PROPN") == []
    assert forms("verlo", "VERB") == ["ver", "lo"], "nothing more is known of it"
    assert forms("verlo") == forms("verlo", "NOUN") == [] and forms("verlo", "VERB", "VerbForm=Inf") == []
    assert forms("verlo", "VERB", f"Case=Acc|{PRON}|VerbForm=Inf") == ["ver", "lo"]
    assert forms("pase", "VERB", "Mood=Imp|VerbForm=Fin") == []
    assert forms("dame", "VERB", f"Case=Dat|Mood=Imp|{PRON}|VerbForm=Fin") == ["da", "me"]
    assert forms("dámelo", "VERB", "Mood=Imp|VerbForm=Fin", "dar yo él") == ["da", "me", "lo"]


def test_the_words_have_analyses():
    merged = f"Case=Acc,Dat|Gender=Masc|Mood=Imp|Number=Sing|Person=1,2,3|{PRON}|VerbForm=Fin"
    assert split_token(token("dámelo", "VERB", merged, "dar yo él")) == [
        Word("da", "dar", "VERB", "Mood=Imp|Number=Sing|Person=2|VerbForm=Fin", ""),
        Word("me", "yo", "PRON", f"Case=Dat|Number=Sing|Person=1|{PRON}", "iobj"),
        Word("lo", "él", "PRON", f"Case=Acc|Gender=Masc|Number=Sing|Person=3|{PRON}", "obj"),
    ]
    _, se, _ = split_token(token("dárselo", "VERB", f"Case=Acc,Dat|{PRON}|VerbForm=Inf", "dar él él"))
    assert se.morph == f"Case=Dat|Person=3|{PRON}", "it stands for le, and is no reflexive"
    _, se = split_token(token("irse", "VERB", f"Case=Acc|{PRON}|Reflex=Yes|VerbForm=Inf", "ir él"))
    assert se.morph.endswith("Reflex=Yes") and se.dep == "expl:pv"


def test_the_component():
    nlp = spacy.blank("es")
    nlp.add_pipe("beto_multiwords")
    nlp.add_pipe("attribute_ruler", first=True).add([[{"LOWER": "verlo"}]], {"POS": "VERB"})
    doc = nlp("Voy al cine a verlo.")
    assert [[word.form for word in token._.words] for token in doc] == [
        ["Voy"], ["a", "el"], ["cine"], ["a"], ["ver", "lo"], ["."],
    ]  # fmt: skip
    assert [token.text for token in doc] == ["Voy", "al", "cine", "a", "verlo", "."], "tokens stay as they are"
    again = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert again[4]._.words == doc[4]._.words
    assert doc[2]._.words == [Word("cine", "", "", "", "")]


def test_conllu_with_multiword_tokens():
    heads, deps = [0, 2, 0, 2], ["ROOT", "case", "obl", "punct"]
    doc = Doc(
        NLP.vocab, words=["Voy", "al", "cine", "."], spaces=[True, True, False, False], heads=heads, deps=deps,
        pos=["VERB", "ADP", "NOUN", "PUNCT"], lemmas=["ir", "a el", "cine", "."], tags=["V", "SP_DA", "N", "F"],
    )  # fmt: skip
    assert doc_to_conllu(doc, expand=True).splitlines()[2:] == [
        "1\tVoy\tir\tVERB\tV\t_\t0\troot\t_\t_",
        "2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_",
        "2\ta\ta\tADP\tSP\t_\t4\tcase\t_\t_",
        "3\tel\tel\tDET\tDA\tDefinite=Def|Gender=Masc|Number=Sing|PronType=Art\t4\tdet\t_\t_",
        "4\tcine\tcine\tNOUN\tN\t_\t1\tobl\t_\tSpaceAfter=No",
        "5\t.\t.\tPUNCT\tF\t_\t4\tpunct\t_\t_",
        "",
    ]
    assert "2-3" not in doc_to_conllu(doc)


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_the_sample_is_taken_apart_as_its_treebank_has_it(part):
    path = SAMPLE / f"{part}.conllu"
    scores = conll18_raw_scores(path.read_text(encoding="utf8"), load_docs(path, NLP))
    for metric in ("Tokens", "Sentences", "Words", "UPOS", "XPOS", "Lemmas"):
        assert scores[metric]["f1"] == 1.0, metric
    assert scores["UFeats"]["f1"] > 0.998 and scores["LAS"]["f1"] > 0.99


def test_ancora_is_taken_apart_as_it_has_it(shared):
    path = shared / "ud" / "ancora" / "es_ancora-ud-test.conllu"
    scores = conll18_raw_scores(path.read_text(encoding="utf8"), load_docs(path, NLP))
    assert scores["Words"]["f1"] > 0.9995 and scores["UFeats"]["f1"] > 0.9995 and scores["LAS"]["f1"] > 0.998


def test_a_treebank_is_scored_with_a_byte_order_mark_and_nothing_else_is_taken_for_one(tmp_path, monkeypatch):
    path = tmp_path / "dev.conllu"
    path.write_text("\ufeff" + (SAMPLE / "dev.conllu").read_text(encoding="utf8"), encoding="utf8")
    nlp = spacy.blank("es")
    monkeypatch.setattr(nlp, "pipe", lambda texts: load_docs(path, nlp))
    monkeypatch.setattr("beto_spacy.evaluation.run.load_pipeline", lambda *_, **settings: nlp)
    assert evaluate_raw("model", path)["Words"]["f1"] == 1.0
    (tmp_path / "a.spacy").write_bytes(b"")
    (tmp_path / "a.iob").write_text("a O\n", encoding="utf8")
    for other in (tmp_path, tmp_path / "a.spacy", tmp_path / "a.iob"):
        with pytest.raises(FormatError, match="B256"):
            evaluate_raw("model", other)


def test_other_text_is_an_error():
    doc = NLP("Otro texto.")
    gold = (SAMPLE / "dev.conllu").read_text(encoding="utf8")
    with pytest.raises(CorpusError, match="B255"):
        conll18_raw_scores(gold, [doc])
    with pytest.raises(CorpusError, match="B255"):
        conll18_raw_scores("1\tuna\n", [doc])


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    """A pipeline on disk that knows sentences only."""
    folder = tmp_path_factory.mktemp("rules") / "model"
    nlp = spacy.blank("es")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(folder)
    return folder


def beto(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command_annotates(rules, tmp_path):
    (tmp_path / "a.txt").write_text("Voy al cine. Hola.\nOtro párrafo.\n\nOtro documento.\n", encoding="utf8")
    printed = beto("annotate", rules, tmp_path / "a.txt")
    assert printed.exit_code == 0, printed.output
    ids = [line.split()[-1] for line in printed.output.splitlines() if line.startswith("# sent_id")]
    assert ids == ["1.1.1", "1.1.2", "1.2.1", "2.1.1"]
    assert "2-3\tal\t" in printed.output
    assert "2-3\tal\t" not in beto("annotate", rules, tmp_path / "a.txt", "--merged").output
    assert beto("annotate", rules, tmp_path / "a.txt", "--output", tmp_path / "a.conllu").exit_code == 0
    assert (tmp_path / "a.conllu").read_text(encoding="utf8") == printed.output
    failed = beto("annotate", rules, tmp_path / "none.txt", "--output", tmp_path / "b.conllu")
    assert failed.exit_code and not (tmp_path / "b.conllu").exists()


def test_the_command_scores_raw_text(rules, tmp_path):
    done = beto("conll18", rules, SAMPLE / "test.conllu", "--output", tmp_path / "s.json")
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "s.json").read_text(encoding="utf8"))
    assert scores["Tokens"]["f1"] > 0.98 and scores["Words"]["f1"] > 0.97 and scores["LAS"]["f1"] < 0.5
    assert "| Words |" in done.output
