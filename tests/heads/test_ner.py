"""Entities by the conditional random field: learned, saved, kept apart from what was there, and how sure."""

import itertools
import pickle

import numpy
import pytest
import spacy
import torch
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example
from thinc.api import Adam

from beto_spacy.errors import CorpusError, EncoderError, ProjectError
from beto_spacy.evaluation.run import entity_calibration
from beto_spacy.heads.ner.component import BetoEntityRecognizer, _paragraphs, crf
from beto_spacy.pipeline.head import lowest
from beto_spacy.training.calibrate import calibrate_model

CNN = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": None,
    "width": 32,
    "depth": 2,
    "embed_size": 500,
    "window_size": 1,
    "maxout_pieces": 2,
    "subword_features": True,
}
SENTENCES = [
    ("María Gómez viajó a Buenos Aires con Pedro .", [(0, 2, "PER"), (4, 6, "LOC"), (7, 8, "PER")]),
    ("El Banco Central de Chile subió la tasa .", [(1, 5, "ORG")]),
    ("Lima Perú Bogotá son lugares .", [(0, 1, "LOC"), (1, 2, "LOC"), (2, 3, "LOC")]),
    ("Hoy no llueve en ninguna parte .", []),
    ("Pedro", [(0, 1, "PER")]),
]


def doc_of(nlp, text):
    words = text.split()
    return Doc(nlp.vocab, words=words, spaces=[True] * (len(words) - 1) + [False])


def example(nlp, text, entities, missing=False):
    gold = doc_of(nlp, text)
    spans = [Span(gold, start, end, label=label) for start, end, label in entities]
    gold.set_ents(spans, default="missing" if missing else "outside")
    return Example(doc_of(nlp, text), gold)


def examples(nlp):
    return [example(nlp, text, entities) for text, entities in SENTENCES]


def build(tok2vec=CNN, **settings):
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.CRF.v1", "tok2vec": tok2vec, "dropout": 0.0}
    nlp.add_pipe("beto_ner", name="ner", config={"model": model, **settings})
    return nlp


def train(nlp, data, steps=60, rate=0.01):
    sgd = Adam(rate, L2=0.0)
    for _ in range(steps):
        losses = nlp.update(data, sgd=sgd, drop=0.0)
    return losses["ner"]


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    nlp = build()
    nlp.initialize(lambda: examples(nlp))
    train(nlp, examples(nlp))
    return nlp


def entities(doc):
    return [(e.start, e.end, e.label_) for e in doc.ents]


def test_it_memorises_and_is_sure(trained):
    assert trained.get_pipe("ner").labels == ("LOC", "ORG", "PER")
    for text, expected in SENTENCES:
        doc = trained(doc_of(trained, text))
        assert entities(doc) == expected
        assert all(entity._.confidence > 0.9 for entity in doc.ents)
        assert doc.spans["entities"].attrs["confidences"] == [e._.confidence for e in doc.ents]
    assert trained.evaluate(examples(trained))["ents_f"] == 1.0


def test_pipe_equals_call(trained):
    texts = [text for text, _ in SENTENCES] * 3
    alone = [trained(doc_of(trained, text)) for text in texts]
    together = list(trained.pipe([doc_of(trained, text) for text in texts], batch_size=4))
    for one, other in zip(alone, together):
        assert entities(one) == entities(other)
        assert [e._.confidence for e in one.ents] == pytest.approx([e._.confidence for e in other.ents], abs=1e-5)


def test_entities_can_be_merged_where_no_spans_are_kept(trained):
    nlp = spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes())
    nlp.get_pipe("ner").settings["spans_key"] = None
    nlp.add_pipe("merge_entities")
    doc = nlp(doc_of(nlp, SENTENCES[0][0]))
    assert [token.text for token in doc if token.ent_type_] == ["María Gómez", "Buenos Aires", "Pedro"]
    assert len(doc.spans) == 0 and doc.to_bytes() and doc.ents[0]._.confidence is None


@pytest.mark.parametrize("amount", [1, 10, 1_000_000])
def test_it_is_the_same_however_much_is_worked_on_at_once(trained, monkeypatch, amount):
    docs = [doc_of(trained, text) for text, _ in SENTENCES] * 3
    expected = [entities(trained(doc.copy())) for doc in docs]
    monkeypatch.setattr("beto_spacy.heads.ner.component.at_once", lambda number, device: amount)
    assert [entities(doc) for doc in trained.pipe(docs)] == expected


def test_it_is_the_same_after_saving(trained, tmp_path):
    trained.to_disk(tmp_path / "model")
    assert {p.name for p in (tmp_path / "model" / "ner").iterdir()} == {"cfg", "model.safetensors", "tok2vec"}
    others = [spacy.load(tmp_path / "model"), pickle.loads(pickle.dumps(trained))]
    others.append(spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes()))
    for other in others:
        for text, _ in SENTENCES:
            one, two = trained(doc_of(trained, text)), other(doc_of(other, text))
            assert entities(one) == entities(two)
            assert [e._.confidence for e in one.ents] == [e._.confidence for e in two.ents]
    strict = spacy.load(tmp_path / "model", config={"components.ner.min_confidence": 1.0})
    assert not strict(doc_of(strict, SENTENCES[0][0])).ents
    cfg = tmp_path / "model" / "ner" / "cfg"
    cfg.write_text(cfg.read_text().replace('"PER"', '"PER","MISC"'))
    with pytest.raises(EncoderError, match="B340"):
        spacy.load(tmp_path / "model")


def test_empty_short_and_long_documents(trained):
    docs = [Doc(trained.vocab), doc_of(trained, "Pedro"), doc_of(trained, " ".join([SENTENCES[0][0]] * 700))]
    empty, short, long = trained.pipe(docs)
    assert not empty.ents and entities(short) == [(0, 1, "PER")]
    assert len(long) == 6300 and len(long.ents) == 2100
    assert not list(trained.pipe([]))


def test_less_probable_entities_are_found_but_not_set(trained):
    nlp = spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes())
    pipe = nlp.get_pipe("ner")
    pipe.cfg["temperature"] = 12.0  # less sure of everything
    first = nlp(doc_of(nlp, SENTENCES[0][0])).spans["entities"]
    confidences = first.attrs["confidences"]
    assert len(confidences) == 3 and max(confidences) < 0.9 and min(confidences) < max(confidences)
    pipe.settings["min_confidence"] = least = (min(confidences) + max(confidences)) / 2
    doc = nlp(doc_of(nlp, SENTENCES[0][0]))
    assert doc.spans["entities"].attrs["confidences"] == confidences
    kept = [span for span, confidence in zip(doc.spans["entities"], confidences) if confidence >= least]
    assert entities(doc) == [(span.start, span.end, span.label_) for span in kept] and 0 < len(kept) < 3


def test_entities_that_are_there_are_kept(trained):
    text = SENTENCES[0][0]
    doc = doc_of(trained, text)
    doc.set_ents([Span(doc, 3, 5, label="EVENT"), Span(doc, 7, 8, label="ORG")], default="missing")
    trained(doc)
    assert {(3, 5, "EVENT"), (7, 8, "ORG"), (0, 2, "PER")} <= set(entities(doc))
    assert all(not (e.start < 5 and e.end > 5) for e in doc.ents)
    doc = doc_of(trained, text)
    doc.set_ents([Span(doc, 0, 1, label="PER")], default="missing")  # what is there doesn't grow
    trained(doc)
    assert (0, 1, "PER") in entities(doc)
    doc = doc_of(trained, text)
    doc.set_ents([], blocked=[doc[0:2]], default="missing")
    trained(doc)
    assert entities(doc) == [(4, 6, "LOC"), (7, 8, "PER")]


def test_white_space_neither_begins_nor_ends_an_entity(trained):
    words = ["\n", "María", "\n", "Gómez", "\n\n", "Pedro", " "]
    assert not trained(Doc(trained.vocab, words=["\n", " "])).ents
    (doc,) = trained.pipe([Doc(trained.vocab, words=words)])
    assert not any(doc[e.start].is_space or doc[e.end - 1].is_space for e in doc.ents)
    gold = Doc(trained.vocab, words=words)  # annotation that does: it means its words
    gold.set_ents([Span(gold, 0, 5, label="PER")], default="outside")
    possible = trained.get_pipe("ner").gold(Example(Doc(trained.vocab, words=words), gold))
    begin, inside = crf.begin_tag(2), crf.inside_tag(2)
    assert [numpy.flatnonzero(possible[i]).tolist() for i in (1, 3, 5)] == [[begin], [inside], [0]]
    gold = Doc(trained.vocab, words=["\n", " "], ents=["O", "O"])
    assert trained.update([Example(Doc(trained.vocab, words=["\n", " "]), gold)], sgd=None)["ner"] == 0.0
    doc = Doc(trained.vocab, words=words)
    doc.set_ents([Span(doc, 0, 3, label="PER")], default="missing")
    assert (0, 3, "PER") in entities(trained(doc)) and all(e.start >= 3 for e in doc.ents[1:])


@pytest.mark.parametrize("seed", range(5))
def test_no_entity_crosses_a_line_break_or_a_tab(seed):
    """Whatever the weights are; and the probabilities are those of what is left, by trying all tags."""
    torch.manual_seed(seed)
    nlp = build()
    nlp.initialize(lambda: examples(nlp))
    pipe = nlp.get_pipe("ner")
    module = pipe.model.get_ref("output_layer").shims[0]._model
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        module.linear.bias[2::2] += 4.0
    for sign in ("\n", "\t", " \r\n", "\u2028"):
        words = ["Ana", "Ruiz", sign, "Juan", " ", "Gil"]
        pipe.settings["cross_lines"] = False
        doc = nlp(Doc(nlp.vocab, words=words))
        assert not any(e.start < 2 < e.end or doc[e.start].is_space for e in doc.ents)
        outputs = pipe.model.predict([Doc(nlp.vocab, words=words)])
        emissions, starts, transitions = (t.double() for t in outputs.tensors)
        emissions = emissions[[0, 1, 3, 5]]
        n_tags, may_start, may_follow = len(starts), crf.allowed_starts(3), crf.allowed_transitions(3)
        weights = {}
        for tags in itertools.product(range(n_tags), repeat=4):
            follows = zip(tags, tags[1:])
            if may_start[tags[0]] and may_start[tags[2]] and all(may_follow[a, b] for a, b in follows):
                score = starts[tags[0]] + sum(emissions[i, tag] for i, tag in enumerate(tags))
                weights[tags] = float(score + sum(transitions[a, b] for a, b in zip(tags, tags[1:])))
        best = max(weights, key=weights.get)
        chances = torch.tensor(list(weights.values()), dtype=torch.float64).softmax(0).tolist()

        def spans(tags):
            found = crf.tags_to_spans(torch.tensor([tags]), torch.tensor([4])).tolist()
            places = [0, 1, 3, 5]
            return [(places[a], places[b] + 1, pipe.labels[label]) for _, a, b, label in found]

        assert entities(doc) == spans(best)
        for entity, found in zip(doc.ents, spans(best)):
            chance = sum(p for p, tags in zip(chances, weights) if found in spans(tags))
            assert entity._.confidence == pytest.approx(chance, abs=1e-4)


def test_an_entity_crosses_lines_where_it_may_or_is_there(trained):
    words = ["María", "\n", "Gómez", "viajó"]
    pipe = trained.get_pipe("ner")
    module = pipe.model.get_ref("output_layer").shims[0]._model
    saved = module.linear.bias.detach().clone()
    with torch.no_grad():
        module.linear.bias[crf.inside_tag(2)] += 1000.0
    try:
        assert all(
            e.end - e.start == 1 or 1 not in range(e.start, e.end) for e in trained(Doc(trained.vocab, words)).ents
        )
        pipe.settings["cross_lines"] = True
        assert (0, 4, "PER") in entities(trained(Doc(trained.vocab, words)))
    finally:
        pipe.settings["cross_lines"] = False
        with torch.no_grad():
            module.linear.bias.copy_(saved)
    doc = Doc(trained.vocab, words)
    doc.set_ents([Span(doc, 0, 3, label="PER")], default="missing")
    assert (0, 3, "PER") in entities(trained(doc))


def test_a_pipeline_that_was_saved_without_the_setting_has_its_default(trained, tmp_path):
    trained.to_disk(tmp_path)
    config = (tmp_path / "config.cfg").read_text(encoding="utf8")
    assert config.count("cross_lines = false\n") == 1
    (tmp_path / "config.cfg").write_text(config.replace("cross_lines = false\n", ""), encoding="utf8")
    assert spacy.load(tmp_path).get_pipe("ner").settings["cross_lines"] is False
    other = spacy.load(tmp_path, config={"components.ner.cross_lines": True})
    assert other.get_pipe("ner").settings["cross_lines"] is True
    text = SENTENCES[0][0]
    assert entities(other(doc_of(other, text))) == entities(trained(doc_of(trained, text)))


def test_an_emoji_is_in_no_entity_that_is_found(trained):
    words = ["María", "👍🏽", "Gómez", "❤", "Pedro", "\n", "1️⃣", "Lima"]
    pipe = trained.get_pipe("ner")
    module = pipe.model.get_ref("output_layer").shims[0]._model
    saved = module.linear.bias.detach().clone()
    with torch.no_grad():
        module.linear.bias[0] -= 1000.0  # no word would be outside
    try:
        doc = trained(Doc(trained.vocab, words))
        assert [t.ent_iob_ == "O" for t in doc] == [t.text in ("👍🏽", "❤", "1️⃣", "\n") for t in doc]
        doc = Doc(trained.vocab, words)
        doc.set_ents([Span(doc, 0, 3, label="PER")], default="missing")  # what is there is kept
        doc = trained(doc)
        assert [t.ent_iob_ == "O" for t in doc] == [False] * 3 + [True, False, True, True, False]
    finally:
        with torch.no_grad():
            module.linear.bias.copy_(saved)


def test_entities_end_with_their_paragraph(trained):
    for separator, pieces in (("\n", [4]), ("\n\n", [2, 2]), ("\n \n", [2, 2])):
        doc = Doc(trained.vocab, words=["María", "Gómez", separator, "Pedro", "Gómez"])
        assert [len(words) for words in _paragraphs(doc)] == pieces
    doc = Doc(trained.vocab, words=["\n", "\n", "María", "\n", "\n", "Pedro", "\n\n"])
    assert [words.tolist() for words in _paragraphs(doc)] == [[2], [5]]


def test_missing_annotation_teaches_nothing_wrong(trained):
    nlp = build()
    nlp.initialize(lambda: examples(nlp))
    pipe = nlp.get_pipe("ner")
    unannotated = Example(doc_of(nlp, SENTENCES[0][0]), doc_of(nlp, SENTENCES[0][0]))
    assert nlp.update([unannotated], sgd=None)["ner"] == 0.0
    assert nlp.update([], sgd=None).get("ner", 0.0) == 0.0
    partly = example(nlp, *SENTENCES[0], missing=True)  # only the entities are known; nothing is said to be outside
    scores = pipe.model.predict([partly.predicted, unannotated.predicted])
    loss, gradients = pipe.get_loss([partly, unannotated], scores)
    n = len(partly.predicted)
    assert loss > 0 and gradients.tensors[0][:n].abs().sum() > 0
    assert gradients.tensors[0][n:].abs().max() < 1e-12
    whole, _ = pipe.get_loss([example(nlp, *SENTENCES[0]), unannotated], scores)
    assert whole > loss


def test_the_loss_is_that_of_the_field(trained):
    """Computed again: the score of the gold tags less the total."""
    pipe = trained.get_pipe("ner")
    gold = example(trained, *SENTENCES[0])
    scores = pipe.model.predict([gold.predicted])
    loss, gradients = pipe.get_loss([gold], scores)
    tags = [5, 6, 0, 0, 1, 2, 0, 5, 0]  # LOC 1 2, ORG 3 4, PER 5 6
    emissions, starts, transitions = (t.double() for t in scores.tensors)
    score = starts[tags[0]] + sum(emissions[i, t] for i, t in enumerate(tags))
    score = score + sum(transitions[a, b] for a, b in zip(tags, tags[1:]))
    lengths = torch.tensor([len(tags)])
    total = crf.log_partition(crf.Potentials(emissions[None], starts, transitions, lengths))
    assert loss == pytest.approx(float(total - score), abs=1e-8)
    marginals = crf.tag_marginals(crf.forward_backward(crf.Potentials(emissions[None], starts, transitions, lengths)))
    expected = marginals[0] - torch.nn.functional.one_hot(torch.tensor(tags), 7)
    mean = expected / len(tags)  # the gradient is that of the mean over tokens
    assert torch.allclose(gradients.tensors[0].double(), mean, atol=1e-7)


def test_calibration_finds_the_temperature(trained):
    """Gold that is drawn from the model's own distribution at a temperature of 3 is best explained by about 3."""
    nlp = spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes())
    pipe = nlp.get_pipe("ner")
    doc = doc_of(nlp, " ".join([SENTENCES[0][0], SENTENCES[3][0], SENTENCES[2][0]]))
    scores = pipe.model.predict([doc])
    emissions, starts, transitions = scores.tensors
    potentials = crf.Potentials(emissions[None], starts, transitions, torch.tensor([len(doc)]))
    drawn = []
    chance = numpy.random.default_rng(0)
    for _ in range(40):  # token by token, given those before
        possible = torch.ones(emissions.shape, dtype=torch.bool)
        hot = potentials.scaled(3.0)
        for i in range(len(doc)):
            bound = hot._replace(emissions=hot.emissions.masked_fill(~possible[None], crf.FORBIDDEN))
            p = crf.tag_marginals(crf.forward_backward(bound))[0, i].numpy()
            tag = int(chance.choice(len(p), p=p / p.sum()))
            possible[i] = False
            possible[i, tag] = True
        tags = possible.int().argmax(dim=1)
        spans = crf.tags_to_spans(tags[None], torch.tensor([len(doc)]))
        gold = doc.copy()
        gold.set_ents([Span(gold, a, b + 1, label=pipe.labels[n]) for _, a, b, n in spans.tolist()], default="outside")
        drawn.append(Example(doc.copy(), gold))
    assert pipe.calibrate(drawn)["temperature"] == pytest.approx(3.0, rel=0.35)
    assert pipe.calibrate(drawn) == {"temperature": pipe.cfg["temperature"]}
    with pytest.raises(CorpusError, match="B244"):
        pipe.calibrate([Example(doc.copy(), doc.copy())])


def test_the_lowest_point_is_found():
    assert lowest(lambda x: (x - 0.7) ** 2, -1.5, 2.5) == pytest.approx(0.7, abs=1e-6)


def test_it_learns_with_the_shared_encoder(encoders, tmp_path):
    torch.manual_seed(0)
    nlp = spacy.blank("es")
    nlp.add_pipe(
        "beto_transformer",
        name="transformer",
        config={"model": {"@architectures": "beto_spacy.Encoder.v1", "name": encoders["bert"]}},
    )
    nlp.add_pipe("beto_ner", name="ner")
    nlp.initialize(lambda: examples(nlp))
    train(nlp, examples(nlp), steps=80, rate=0.005)
    nlp.to_disk(tmp_path / "model")
    other = spacy.load(tmp_path / "model")
    for text, expected in SENTENCES[:3]:
        assert entities(nlp(doc_of(nlp, text))) == expected
        assert entities(other(doc_of(other, text))) == expected
    nlp.replace_listeners("transformer", "ner", ["model.tok2vec"])
    alone = (
        spacy.blank("es")
        .from_config(nlp.config, exclude=["transformer"])
        .from_bytes(nlp.to_bytes(exclude=["transformer"]))
    )
    assert entities(nlp(doc_of(nlp, SENTENCES[0][0]))) == SENTENCES[0][1]
    # white space has no vector: it is passed over
    text = SENTENCES[0][0]
    nlp.get_pipe("ner").settings["cross_lines"] = True
    for separator in ("\n", " \n ", "\t"):
        doc = nlp("\n" + text.replace(" ", separator) + "\n")
        assert [(e.text.split(), e.label_) for e in doc.ents] == [
            (["María", "Gómez"], "PER"),
            (["Buenos", "Aires"], "LOC"),
            (["Pedro"], "PER"),
        ]
        confidences = [e._.confidence for e in nlp(text).ents]
        assert [e._.confidence for e in doc.ents] == pytest.approx(confidences, abs=1e-5)
    assert isinstance(alone.get_pipe("ner"), BetoEntityRecognizer)


def test_labels_are_settled_by_initialization():
    nlp = build()
    pipe = nlp.get_pipe("ner")
    assert pipe.add_label("PER") == 1 and pipe.add_label("PER") == 0
    with pytest.raises(CorpusError, match="B241"):
        pipe.add_label(3)
    nlp.initialize(lambda: examples(nlp))
    assert pipe.label_data == ["LOC", "ORG", "PER"]
    with pytest.raises(CorpusError, match="B242"):
        pipe.add_label("MISC")
    with pytest.raises(CorpusError, match="B243"):
        other = build()
        other.initialize(lambda: [example(other, "Nada de nada .", [])])
    with pytest.raises(CorpusError, match="B240"):
        build(min_confidence=2.0)


def test_a_pipeline_is_calibrated_in_its_place(trained, tmp_path):
    trained.to_disk(tmp_path / "model")
    (tmp_path / "dev.iob").write_text("Pedro B-PER\nviaja O\na O\nLima B-PER\n. O\n\nHoy O\nno O\n", encoding="utf8")
    chosen = calibrate_model(tmp_path / "model", [tmp_path / "dev.iob"])
    assert chosen["ner"]["temperature"] > 1.0  # it was too sure of Lima
    other = spacy.load(tmp_path / "model")
    assert other.get_pipe("ner").cfg["temperature"] == pytest.approx(chosen["ner"]["temperature"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dev.iob", "model"]
    (tmp_path / "model" / "notes.md").write_text("mine", encoding="utf8")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    calibrate_model(tmp_path / "link", [tmp_path / "dev.iob"])
    assert (tmp_path / "link").is_symlink() and (tmp_path / "model" / "notes.md").read_text(encoding="utf8") == "mine"
    with pytest.raises(ProjectError, match="B550"):
        calibrate_model(tmp_path, [tmp_path / "dev.iob"])
    spacy.blank("es").to_disk(tmp_path / "blank")
    with pytest.raises(ProjectError, match="B551"):
        calibrate_model(tmp_path / "blank", [tmp_path / "dev.iob"])


def test_a_pipeline_is_calibrated_in_another_place(trained, tmp_path):
    trained.to_disk(tmp_path / "model")
    (tmp_path / "dev.iob").write_text("Pedro B-PER\nviaja O\na O\nLima B-PER\n. O\n", encoding="utf8")
    chosen = calibrate_model(tmp_path / "model", [tmp_path / "dev.iob"], output=tmp_path / "calibrated")
    temperatures = [spacy.load(tmp_path / name).get_pipe("ner").cfg["temperature"] for name in ("model", "calibrated")]
    assert temperatures == [1.0, pytest.approx(chosen["ner"]["temperature"])] and temperatures[1] != 1.0
    spacy.blank("es").to_disk(tmp_path / "blank")
    assert calibrate_model(tmp_path / "blank", [tmp_path / "dev.iob"], output=tmp_path / "copy") == {}
    assert spacy.load(tmp_path / "copy").pipe_names == []


def test_the_calibration_error_by_hand():
    nlp = spacy.blank("es")
    gold = doc_of(nlp, "a b c d e f")
    gold.set_ents([Span(gold, 0, 1, label="X"), Span(gold, 2, 3, label="X")], default="outside")
    predicted = doc_of(nlp, "a b c d e f")
    group = SpanGroup(predicted, name="entities", attrs={"confidences": [0.95, 0.92, 0.55, 0.41]})
    group.extend([Span(predicted, i, i + 1, label="X") for i in (0, 1, 2, 3)])
    predicted.spans["entities"] = group
    found = entity_calibration([Example(predicted, gold)])
    # Bins: 0.9 to 1 has 0.95 (right) and 0.92 (wrong), 0.5 to 0.6 one that is right, 0.4 to 0.5 one that is wrong.
    expected = (2 * abs(0.935 - 0.5) + abs(0.55 - 1.0) + abs(0.41 - 0.0)) / 4
    assert found["expected_calibration_error"] == pytest.approx(expected)
    assert [b["entities"] for b in found["bins"]] == [1, 1, 2]
    assert entity_calibration([Example(doc_of(nlp, "a"), doc_of(nlp, "a"))]) is None


def test_no_documents_have_no_entities(trained):
    pipe = trained.get_pipe("ner")
    assert pipe.predict([]) == []
    assert [len(found.starts) for found in pipe.predict([trained.make_doc("")] * 2)] == [0, 0]
