"""Smaller pipelines: layers dropped, soft labels compared, and students that annotate as their teachers do."""

import json
import random
import re
from dataclasses import replace
from itertools import islice

import numpy
import pytest
import spacy
import torch
from click.testing import CliRunner
from conftest import FAMILIES, ROOT, SENTENCES
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy_transformers.data_classes import TransformerData
from torch.distributions import Bernoulli, Categorical, kl_divergence
from transformers.modeling_outputs import ModelOutput

from beto_spacy.cli.main import main
from beto_spacy.encoders.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from beto_spacy.encoders.onnx_model import OnnxModel
from beto_spacy.encoders.shrink import build_smaller, keep_layers, spread_layers
from beto_spacy.errors import BetoError, FormatError, ProjectError
from beto_spacy.heads.parser.biaffine import Projections, score_arcs, score_labels
from beto_spacy.pipeline.divergence import binary_divergence, categorical_divergence
from beto_spacy.pipeline.layer import Outputs
from beto_spacy.training.distill import (
    Objective,
    Student,
    Training,
    _batches,
    _HiddenStates,
    _pieces,
    _put_aside,
    _tag_logits,
    _tag_loss,
    distill,
    distill_from_config,
    render_distilled,
)
from beto_spacy.training.vocabulary import build_encoder

CONFIG = ROOT / "configs" / "distill.cfg"
NAMES = {"María José": "PER", "Perú": "LOC", "Montevideo": "LOC", "Banco del Sur": "ORG", "Bogotá": "LOC"}
LISTENER = {
    "@architectures": "beto_spacy.Listener.v1",
    "grad_factor": 1.0,
    "pooling": {"@layers": "reduce_mean.v1"},
}
HEADS = ("senter", "tagger", "morphologizer", "parser", "ner", "textcat", "topics")


def gold(nlp, text):
    """Annotation that follows from the forms of words."""
    doc = nlp.make_doc(text)
    words, spaces = [t.text for t in doc], [bool(t.whitespace_) for t in doc]
    starts = [i == 0 or words[i - 1] in (".", "?", "!") for i in range(len(words))]
    firsts = [max(j for j in range(i + 1) if starts[j]) for i in range(len(words))]
    kinds = ["PUNCT" if t.is_punct else "PROPN" if t.text[0].isupper() else "NOUN" for t in doc]
    doc = Doc(
        nlp.vocab,
        words=words,
        spaces=spaces,
        tags=[kind[:2] for kind in kinds],
        pos=kinds,
        heads=firsts,
        deps=["ROOT" if i == first else kinds[i].lower() for i, first in enumerate(firsts)],
        sent_starts=starts,
    )
    found = [(text.find(name), name, label) for name, label in NAMES.items() if name in text]
    doc.set_ents([doc.char_span(at, at + len(name), label=label) for at, name, label in found])
    marked = float("¿" in text or "¡" in text)
    doc.cats = {"marked": marked, "plain": 1 - marked, "long": float(len(words) > 16)}
    return doc


def add_encoder(nlp, encoder):
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": str(encoder)}
    nlp.add_pipe("beto_transformer", name="transformer", config={"model": model})


def train(nlp, texts=SENTENCES, steps=40, **labels):
    examples = [Example(nlp.make_doc(text), gold(nlp, text)) for text in texts]
    for name, own in labels.items():
        nlp.config["initialize"]["components"][name] = {"labels": own}
    sgd = nlp.initialize(lambda: examples)
    sgd.learn_rate = 0.003
    for _ in range(steps):
        nlp.update([Example(nlp.make_doc(text), gold(nlp, text)) for text in texts], sgd=sgd)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    (folder / "text.txt").write_text("\n".join(SENTENCES * 2), encoding="utf8")
    build_encoder([folder / "text.txt"], folder / "small", vocabulary_size=400, layers=4, width=32, heads=4)
    checkpoint = load_checkpoint(folder / "small")
    for weights in checkpoint.model.encoder.parameters():
        weights.data.mul_(4.0)  # a layer that is dropped is missed
    write_checkpoint(checkpoint, folder / "e")
    return folder / "e"


@pytest.fixture(scope="module")
def teacher(encoder, tmp_path_factory):
    """The folder of a trained pipeline with all heads, which is sure of its categories."""
    torch.manual_seed(7)
    nlp = spacy.blank("es")
    add_encoder(nlp, encoder)
    nlp.add_pipe("beto_senter", name="senter")
    for name in ("tagger", "morphologizer"):
        nlp.add_pipe(name, config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": LISTENER}})
    nlp.add_pipe("beto_parser", name="parser")
    nlp.add_pipe("beto_ner", name="ner")
    model = {"pooling": "attention", "learn_rate_factor": 3.0}
    nlp.add_pipe("beto_textcat", name="textcat", config={"model": model})
    nlp.add_pipe("beto_textcat", name="topics", config={"exclusive": False, "threshold": 0.4, "model": model})
    nlp.add_pipe("doc_cleaner")
    texts = SENTENCES + [" ".join(random.Random(i).sample(SENTENCES, n)) for i in range(8) for n in (2, 3)]
    train(nlp, texts, steps=200, textcat=["marked", "plain"], topics=["long"])
    nlp.get_pipe("topics").cfg.update(thresholds={"long": 0.3}, temperature=1.5)  # no text is near it
    nlp.meta["performance"] = {"tag_acc": 1.0}
    folder = tmp_path_factory.mktemp("teacher") / "model"
    nlp.to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Documents of two paragraphs of one or two sentences."""
    order, folder = random.Random(0), tmp_path_factory.mktemp("texts")
    documents = ["\n".join(" ".join(order.sample(SENTENCES, n)) for n in (1, 2)) for _ in range(60)]
    for name, part in (("a.txt", documents[:20]), ("b.txt", documents[20:])):
        (folder / name).write_text("\n\n".join(part) + "\n", encoding="utf8")
    return [folder / "a.txt", folder / "b.txt"]


QUICK = Training(steps=100, batch_words=120, piece_words=30, learn_rate=1.5e-3, held_out_words=400, eval_every=50)
UNTAUGHT = replace(QUICK, steps=1, learn_rate=1e-12, weight_decay=0.0)


def annotation(nlp, text):
    doc = nlp(text)
    tokens = [(t.tag_, t.pos_, t.dep_, t.head.i, t.is_sent_start) for t in doc]
    return tokens, [(e.text, e.label_) for e in doc.ents], doc.cats


# --- layers ----------------------------------------------------------------------------------------------------------


def test_layers_are_spread_as_those_of_distilbert():
    assert spread_layers(6, 12) == [0, 2, 4, 7, 9, 11]
    assert spread_layers(1, 12) == [0] and spread_layers(4, 4) == [0, 1, 2, 3] and spread_layers(2, 3) == [0, 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layers_give_what_they_gave(encoders, family):
    whole = load_checkpoint(encoders[family])
    small = keep_layers(whole, [0])
    ids = torch.randint(6, whole.model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        states = whole.model.eval()(ids, output_hidden_states=True).hidden_states
        found = small.model.eval()(ids).last_hidden_state
    assert torch.allclose(found, states[1], atol=1e-6) and not torch.allclose(states[1], states[2], atol=1e-2)
    assert small.model.config.num_hidden_layers == 1 and whole.model.config.num_hidden_layers == 2


def test_the_layers_that_are_named_are_kept(encoder):
    whole = load_checkpoint(encoder)
    small = keep_layers(whole, [0, 3])
    for ours, theirs in ((0, 0), (1, 3)):
        before = whole.model.encoder.layer[theirs].state_dict()
        after = small.model.encoder.layer[ours].state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(small.model.encoder.layer) == 2 and len(whole.model.encoder.layer) == 4
    small.model.embeddings.word_embeddings.weight.data.zero_()
    assert whole.model.embeddings.word_embeddings.weight.abs().sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_of_another_size_has_the_same_vocabulary(encoders, family):
    whole = load_checkpoint(encoders[family])
    small = build_smaller(whole, layers=1, width=16, heads=2, seed=0)
    ids = torch.randint(6, whole.model.config.vocab_size, (2, 9))
    assert small.model(ids).last_hidden_state.shape == (2, 9, 16)
    before, after = whole.model.config, small.model.config
    assert after.intermediate_size == before.intermediate_size / 2 and after.vocab_size == before.vocab_size
    assert small.tokenizer is whole.tokenizer and before.hidden_size == 32
    again = build_smaller(whole, layers=1, width=16, heads=2, seed=0).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in small.model.state_dict().items())


# --- soft labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergences_are_those_of_torch(temperature):
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64) * 4
    wanted, found = (Categorical(logits=x / temperature) for x in (targets, scores))
    expected = temperature**2 * kl_divergence(wanted, found)
    assert torch.allclose(categorical_divergence(scores, targets, temperature), expected)
    never = torch.tensor([float("-inf")] * 2, dtype=torch.float64).expand(5, 2)
    more = [torch.cat([x, never], dim=1) for x in (scores, targets)]
    assert torch.allclose(categorical_divergence(*more, temperature), expected)
    expected = temperature**2 * kl_divergence(*(Bernoulli(logits=x / temperature) for x in (targets, scores)))
    assert torch.allclose(binary_divergence(scores, targets, temperature), expected)
    for divergence in (categorical_divergence, binary_divergence):
        same = targets.clone().requires_grad_()
        divergence(same, targets, temperature).sum().backward()
        assert same.grad.abs().max() < 1e-12
    assert binary_divergence(torch.tensor([90.0, -300.0]), torch.tensor([-90.0, 300.0])).isfinite().all()


def moved(outputs, amount, seed=0):
    """The outputs of a worse module."""
    generator = torch.Generator().manual_seed(seed)
    noise = [t + amount * torch.randn(t.shape, generator=generator).to(t) for t in outputs.tensors]
    return Outputs(tuple(noise), outputs.lengths)


@pytest.fixture(scope="module")
def seen(teacher):
    """A pipeline, documents that it annotated, and the outputs of its own heads."""
    nlp = spacy.load(teacher, exclude=["doc_cleaner"])
    docs = list(nlp.pipe([" ".join(SENTENCES[:3]), SENTENCES[3], "Sí."]))
    names = [name for name in HEADS if hasattr(nlp.get_pipe(name), "get_soft_loss")]
    assert names == ["senter", "parser", "ner", "textcat", "topics"]
    outputs = {name: nlp.get_pipe(name).model.predict(docs) for name in names}
    for name in ("senter", "textcat", "topics"):  # so sure that a small step would change nothing
        outputs[name] = outputs[name]._replace(tensors=(outputs[name].tensors[0] / 20,))
    return nlp, docs, outputs


def independent_loss(nlp, name, docs, outputs, targets, temperature):
    """The loss in another way, a word or a document at a time; of entities see test_crf.py."""

    def of(kind, found, wanted):
        found, wanted = (kind(logits=logits.double() / temperature) for logits in (found, wanted))
        if kind is Categorical:  # torch's divergence is infinite where a probability is too small for the floats
            return float((wanted.probs * (wanted.logits - found.logits)).sum())
        return float(kl_divergence(wanted, found).sum())

    if name == "senter":
        return sum(of(Bernoulli, *pair) for pair in zip(outputs.tensors[0], targets.tensors[0]))
    if name in ("textcat", "topics"):
        kind = Categorical if name == "textcat" else Bernoulli
        return sum(of(kind, *pair) for pair in zip(outputs.tensors[0], targets.tensors[0]))
    found, wanted = Projections(*outputs.tensors), Projections(*targets.tensors)
    total, offset = 0.0, 0
    for doc in docs:
        for sentence in doc.sents:
            words = torch.tensor([[offset + token.i for token in sentence]])
            arcs = [score_arcs(p, words, torch.tensor([len(sentence)]))[0] for p in (found, wanted)]
            heads = arcs[1].argmax(dim=1)
            labels = [score_labels(p, words, heads[None])[0] for p in (found, wanted)]
            for i in range(len(sentence)):
                others = [j for j in range(len(sentence) + 1) if j != i + 1]
                total += of(Categorical, arcs[0][i, others], arcs[1][i, others])
                total += of(Categorical, labels[0][i], labels[1][i])
        offset += len(doc)
    return total


@pytest.mark.parametrize("name", ["senter", "parser", "ner", "textcat", "topics"])
def test_the_soft_loss_of_our_heads(seen, name):
    nlp, docs, outputs = seen
    pipe, targets = nlp.get_pipe(name), outputs[name]
    loss, gradients = pipe.get_soft_loss(docs, targets, targets, temperature=2.0)
    assert loss == pytest.approx(0.0, abs=1e-4)
    largest = max(float(d.abs().max()) for d in gradients.tensors)
    worse = moved(targets, 0.3)
    loss, gradients = pipe.get_soft_loss(docs, worse, targets, temperature=2.0)
    assert largest < 1e-3 * max(float(d.abs().max()) for d in gradients.tensors)
    if name != "ner":
        assert loss == pytest.approx(4.0 * independent_loss(nlp, name, docs, worse, targets, 2.0), rel=1e-4)
    else:  # documents are independent of one another
        parts, first = 0.0, 0
        for doc in docs:
            own = [
                Outputs((o.tensors[0][first : first + len(doc)], *o.tensors[1:]), [len(doc)]) for o in (worse, targets)
            ]
            parts += pipe.get_soft_loss([doc], *own, temperature=2.0)[0]
            first += len(doc)
        assert loss == pytest.approx(parts, rel=1e-6)
    assert loss > 0.01
    twice, doubled = pipe.get_soft_loss(docs, worse, targets, temperature=2.0, weight=2.0)
    assert twice == pytest.approx(2 * loss)
    assert torch.allclose(doubled.tensors[0], 2 * gradients.tensors[0], rtol=1e-4, atol=1e-6)


def test_the_soft_loss_of_the_parser_knows_nothing_of_padding(seen):
    nlp, docs, outputs = seen
    for seed in range(1, 4):  # another head for what is beyond the end of the shorter sentences, each time
        goal = moved(outputs["parser"], 1.0, seed)
        loss, _ = nlp.get_pipe("parser").get_soft_loss(docs, outputs["parser"], goal, temperature=2.0)
        expected = 4.0 * independent_loss(nlp, "parser", docs, outputs["parser"], goal, 2.0)
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["tagger", "morphologizer"])
@pytest.mark.parametrize("softmax_temperature", [1.0, 2.0])
def test_the_soft_loss_of_spacys_softmax(teacher, name, softmax_temperature):
    nlp = spacy.load(teacher, exclude=["doc_cleaner"])
    docs = list(nlp.pipe(SENTENCES[:3]))
    pipe = nlp.get_pipe(name)
    softmax = pipe.model.get_ref("softmax")
    softmax.attrs["softmax_temperature"] = softmax_temperature
    goal = _tag_logits(pipe, docs)
    softmax.attrs["softmax_normalize"] = True
    assert torch.allclose(goal.softmax(1), _tag_logits(pipe, docs).softmax(1), atol=1e-6)

    def gradient():
        """The loss, and the gradient of spaCy's weights; the documents have the features that it reads."""
        probabilities, backprop = pipe.model.begin_update(docs)
        loss, gradients = _tag_loss(pipe, probabilities, goal, 3.0, 0.5)
        softmax.set_grad("W", numpy.zeros_like(softmax.get_param("W")))
        backprop(gradients)
        return loss, softmax.get_grad("W").copy()

    loss, same = gradient()
    assert loss == pytest.approx(0.0, abs=1e-4) and abs(same).max() < 1e-3
    weights = torch.from_numpy(softmax.get_param("W").copy())
    weights = (weights + 0.3 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    softmax.set_param("W", weights.detach().numpy().copy())
    loss, found = gradient()
    vectors = torch.from_numpy(numpy.concatenate(pipe.model.get_ref("tok2vec").predict(docs)).copy())
    logits = (vectors @ weights.T + torch.from_numpy(softmax.get_param("b"))) / softmax_temperature
    expected = 0.5 * 9.0 * kl_divergence(Categorical(logits=goal / 3), Categorical(logits=logits / 3)).sum()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-3) and loss > 0.1
    # thinc's layer takes the gradient by what its softmax reads, and divides it by its own temperature.
    # It learns from the mean over the tokens.
    (by_weights,) = torch.autograd.grad(expected / len(vectors), weights)
    assert numpy.allclose(found, by_weights.numpy(), rtol=1e-2, atol=2e-5)


# --- students --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(teacher, texts, tmp_path_factory):
    """The folder of a student with half the layers, what was found, and the lines on the way."""
    folder, lines = tmp_path_factory.mktemp("student"), []
    nlp = spacy.load(teacher)
    DocBin(docs=[gold(nlp, text) for text in SENTENCES]).to_disk(folder / "gold.spacy")
    result = distill(
        teacher,
        folder / "model",
        texts,
        student=Student(layers="1,4"),
        training=QUICK,
        corpora=[folder / "gold.spacy"],
        say=lines.append,
    )
    return folder / "model", result, lines


@pytest.fixture(scope="module")
def untouched(teacher, texts, tmp_path_factory):
    """The folder of a student with the same layers that learned next to nothing, and what was found."""
    folder = tmp_path_factory.mktemp("untouched") / "model"
    return folder, distill(teacher, folder, texts, student=Student(layers="2"), training=UNTAUGHT)


def apart(teacher, student, texts):
    """How far the categories of two pipelines are apart, 0 to 1, for each text that was put aside and label."""
    aside, _ = _put_aside(texts, QUICK)
    cats = [[doc.cats for doc in spacy.load(folder).pipe(aside)] for folder in (teacher, student)]
    return [abs(ours[label] - theirs[label]) for ours, theirs in zip(*cats) for label in ("marked", "plain", "long")]


def test_a_student_learns(student, untouched, teacher, texts):
    before, after = untouched[1]["losses"], student[1]["losses"]
    assert set(before) == set(after) == {"hidden states", *HEADS}
    assert after["hidden states"] < 0.7 * before["hidden states"] and sum(after.values()) < 0.7 * sum(before.values())
    assert min(student[1]["agreement"].values()) > 80 and len(student[1]["agreement"]) >= 8
    assert numpy.mean(apart(teacher, student[0], texts)) < 0.05
    assert student[1]["learned"] == dict.fromkeys(HEADS, "probabilities")


def test_a_student_with_all_layers_is_the_teacher(teacher, texts, tmp_path):
    same = distill(teacher, tmp_path / "m", texts, student=Student(layers="1,2,3,4"), training=UNTAUGHT)
    assert set(same["agreement"].values()) == {100.0}
    assert max(apart(teacher, tmp_path / "m", texts)) < 1e-3


def test_it_starts_from_the_teachers_layers(teacher, untouched):
    before = load_checkpoint(teacher / "transformer" / "encoder").model
    after = load_checkpoint(untouched[0] / "transformer" / "encoder").model
    for ours, theirs in ((0, 0), (1, 3)):
        for one, other in zip(before.encoder.layer[theirs].parameters(), after.encoder.layer[ours].parameters()):
            assert torch.allclose(one, other, atol=1e-9)


def test_what_is_said_of_it(student):
    folder, result, lines = student
    assert "agreement: " in lines[1] and "100 of 100" in lines[-2]
    assert result["teacher"]["layers"] == 4 and result["student"]["layers"] == 2
    n_layer = sum(
        p.numel() for p in load_checkpoint(folder / "transformer" / "encoder").model.encoder.layer.parameters()
    )
    assert result["teacher"]["parameters"] - result["student"]["parameters"] == n_layer  # two went, two are there
    assert result["student"]["megabytes"] < result["teacher"]["megabytes"]
    (scores,) = result["scores"].values()
    table = render_distilled(result)
    for measure, value in scores[1].items():
        assert f"gold.spacy: {measure} | {scores[0][measure]:.2f} | {value:.2f} |" in table
    assert "Learned from" not in table and "| layers | 4 | 2 | -50% |" in table
    json.dumps(result)


def test_a_student_is_a_pipeline_as_any_other(student, teacher, tmp_path):
    folder, result, _ = student
    nlp, before = spacy.load(folder), spacy.load(teacher)
    assert nlp.pipe_names == before.pipe_names and not nlp.meta["performance"]
    config = json.loads((folder / "transformer" / "encoder" / "config.json").read_text(encoding="utf8"))
    assert config["num_hidden_layers"] == 2 and config["hidden_dropout_prob"] == 0.1
    nlp.to_disk(tmp_path / "again")
    again = spacy.load(tmp_path / "again")
    for text in SENTENCES:
        assert annotation(nlp, text) == annotation(again, text)
    assert nlp.get_pipe("topics").thresholds == before.get_pipe("topics").thresholds == {"long": pytest.approx(0.3)}
    assert nlp.get_pipe("topics").cfg["temperature"] == 1.5
    # It can be trained on, with annotation.
    sgd = nlp.resume_training()
    nlp.update([Example(nlp.make_doc(text), gold(nlp, text)) for text in SENTENCES], sgd=sgd)


def test_a_student_of_another_width(teacher, texts, tmp_path):
    lines = []
    result = distill(
        teacher,
        tmp_path / "x",
        texts,
        student=Student(layers="1", width=16, heads=2),
        objective=Objective(hidden="mse", weights={"tagger": 2.0, "textcat": 0.0}),
        training=Training(steps=40, batch_words=160, learn_rate=1e-2, held_out_words=60, eval_every=10),
        say=lines.append,
    )
    first, *_, last = [
        dict(re.findall(r"  ([a-z]+(?: [a-z]+)?) (\d+\.\d{4})", line)) for line in lines if line.startswith("step")
    ]
    assert first.keys() == {"hidden states", *HEADS} - {"textcat"}
    assert float(last["hidden states"]) < 0.7 * float(first["hidden states"])
    assert sum(map(float, last.values())) < 0.4 * sum(map(float, first.values()))
    assert result["student"]["width"] == 16 and result["agreement"]["Tag (accuracy)"] > 90
    nlp, before = spacy.load(tmp_path / "x"), spacy.load(teacher)
    for name in HEADS:
        assert tuple(nlp.get_pipe(name).labels) == tuple(before.get_pipe(name).labels)
    assert nlp.get_pipe("topics").thresholds == before.get_pipe("topics").thresholds
    nlp.to_disk(tmp_path / "again")
    again = spacy.load(tmp_path / "again")
    assert all(annotation(nlp, text) == annotation(again, text) for text in SENTENCES)


@pytest.mark.parametrize("kind", ["cosine", "mse"])
@pytest.mark.parametrize("width", [6, 4])
def test_hidden_states_go_back_to_the_student(kind, width):
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(1, n, width, generator=generator) for n in (3, 2)]
    goal = torch.randn(5, 6, generator=generator)
    mapping = None if width == 6 else torch.nn.Linear(width, 6)
    hidden, sent = _HiddenStates(kind, mapping), []
    data = [TransformerData(None, ModelOutput(last_hidden_state=x.numpy()), None) for x in features]
    hidden.receive(0, [data[0], TransformerData.empty(), data[1]], sent.extend)
    loss = hidden.learn(goal, 3.0)
    rows = torch.cat(features, dim=1)[0].requires_grad_()
    found = rows if mapping is None else rows @ mapping.weight.detach().T + mapping.bias.detach()
    if kind == "mse":
        expected = 3.0 * ((found - goal) ** 2).sum() / 6
    else:
        cosines = (found * goal).sum(1) / ((found**2).sum(1) * (goal**2).sum(1)).sqrt()
        expected = 3.0 * (5 - cosines.sum())
    (expected / len(rows)).backward()  # the encoder learns from the mean over the tokens
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert [d.model_output.last_hidden_state.shape for d in sent] == [(1, 3, width), (1, 2, width)]
    gradients = numpy.concatenate([d.model_output.last_hidden_state[0] for d in sent])
    assert numpy.allclose(gradients, rows.grad.numpy(), atol=1e-6)
    assert mapping is None or mapping.weight.grad.abs().max() > 0


def test_other_heads_learn_the_teachers_annotation(encoder, texts, tmp_path):
    torch.manual_seed(0)
    nlp = spacy.blank("es")
    nlp.add_pipe("sentencizer")
    add_encoder(nlp, encoder)
    model = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 32,
        "maxout_pieces": 2,
        "use_upper": False,
        "tok2vec": LISTENER,
    }
    nlp.add_pipe("ner", config={"model": model})
    train(nlp, steps=25)
    nlp.to_disk(tmp_path / "teacher")
    training = Training(steps=15, batch_words=160, learn_rate=3e-3, held_out_words=120, eval_every=15)
    result = distill(tmp_path / "teacher", tmp_path / "x", texts, student=Student(layers="2"), training=training)
    assert result["learned"] == {"ner": "annotation"} and result["losses"].keys() == {"hidden states", "ner"}
    assert result["agreement"]["Entities (micro F1)"] > 50
    assert render_distilled(result).endswith("not its probabilities: ner.")
    # Built anew, it has the labels.
    student, training = Student(layers="2", width=16, heads=2), replace(training, steps=1)
    distill(tmp_path / "teacher", tmp_path / "y", texts, student=student, training=training)
    assert spacy.load(tmp_path / "y").get_pipe("ner").labels == nlp.get_pipe("ner").labels


# --- text, configs and errors ----------------------------------------------------------------------------------------


def test_what_is_put_aside_is_never_learned(texts):
    training = Training(batch_words=60, piece_words=1, held_out_words=100)
    aside, n_documents = _put_aside(texts, training)
    assert sum(len(text.split()) for text in aside) >= 100 and len(aside) == 2 * n_documents
    first, second = (path.read_text(encoding="utf8").split("\n\n")[0].splitlines() for path in texts)
    assert aside[:4] == [*first, *second]  # one file after the other
    rest = [line for path in texts for line in path.read_text(encoding="utf8").splitlines() if line]
    for text in aside:
        rest.remove(text)
    batches = _batches(texts, n_documents, training, random.Random(0))
    found, sizes = [], []
    while len(found) < 2 * len(rest):  # the texts are gone through again
        batch = next(batches)
        assert 0 < sum(len(text.split()) for text in batch) <= 60
        found += batch
        sizes.append(len(batch))
    assert sorted(found[: len(rest)]) == sorted(found[len(rest) : 2 * len(rest)]) == sorted(rest)
    assert found[: len(rest)] != rest
    again = _batches(texts, n_documents, training, random.Random(0))
    assert [text for batch in islice(again, 5) for text in batch] == found[: sum(sizes[:5])]


def test_paragraphs_are_put_together():
    assert _pieces(["a b", "c d", "e f g h i j", "k", "l"], 5) == ["a b c d", "e f g h i j", "k l"]


@pytest.mark.parametrize(
    "more, code",
    [
        ({"training.stepps": 3}, "B633|B634"),
        ({"training.steps": "many"}, "B636"),
        ({"student.width": 16.5}, "B636"),
        ({"objective.weights": 2}, "B636"),
        ({"objective.weights": {"nobody": 1.0}}, "B564"),
        ({"objective.weights": {"tagger": -1.0}}, "B563"),
        ({"objective.weights": dict.fromkeys(HEADS, 0), "objective.hidden_weight": 0}, "B563"),
        ({"objective.hidden": "manhattan"}, "B563"),
        ({"objective.temperature": 0}, "B563"),
        ({"training.steps": 0}, "B563"),
        ({"training.dropout": 1.0}, "B563"),
        ({"student.layers": 5}, "B562"),
        ({"student.layers": 0}, "B562"),
        ({"student.layers": "3,1"}, "B562"),
        ({"student.layers": "1,5"}, "B562"),
        ({"student.layers": "some"}, "B562"),
        ({"student.width": 30, "student.heads": 4}, "B318"),
        ({"paths.texts": []}, "B565"),
        ({"paths.texts": ["/nowhere/*.txt"]}, "B637"),
        ({"paths.texts": ["/nowhere.txt"]}, "B602"),
        ({"training.held_out_words": 10**6}, "B565"),
        ({"training.batch_words": 3}, "B565"),
    ],
)
def test_settings_that_cannot_be(teacher, texts, tmp_path, more, code):
    overrides = {"paths.texts": [str(text) for text in texts], "student.layers": 2, "training.steps": 1, **more}
    with pytest.raises(BetoError, match=code):
        distill_from_config(teacher, CONFIG, tmp_path / "x", overrides=overrides)
    assert not list(tmp_path.iterdir())


def test_teachers_and_places_that_cannot_be(teacher, texts, tmp_path):
    nlp = spacy.load(teacher)
    shim = nlp.get_pipe("transformer").model.shims[0]
    shim.set_checkpoint(Checkpoint(OnnxModel(shim.encoder.config, b"graph"), shim.tokenizer))
    nlp.config["components"]["transformer"]["model"]["precision"] = "int8"
    nlp.to_disk(tmp_path / "int8")
    with pytest.raises(ProjectError, match="B561"):
        distill(tmp_path / "int8", tmp_path / "x", texts)
    spacy.blank("es").to_disk(tmp_path / "blank")
    with pytest.raises(ProjectError, match="B560"):
        distill(tmp_path / "blank", tmp_path / "x", texts)
    with pytest.raises(ProjectError, match="B513"):
        distill(tmp_path / "nothing", tmp_path / "x", texts)
    (tmp_path / "full").mkdir()
    for place, what in ((tmp_path / "full", "is no pipeline"), (teacher, "is the pipeline that is read")):
        with pytest.raises(ProjectError, match=f"B566.*{what}"):
            distill(teacher, place, texts)
    (tmp_path / "bad.iob").write_text("a B-X\n", encoding="utf8")
    with pytest.raises(BetoError):
        distill(teacher, tmp_path / "x", texts, corpora=[tmp_path / "none.spacy"])
    with pytest.raises(FormatError, match="B601"):
        distill(teacher, tmp_path / "x", [tmp_path / "bad.iob"])
    assert not (tmp_path / "x").exists()


def test_a_stopped_run_leaves_nothing(teacher, texts, tmp_path):
    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(teacher, tmp_path / "x", texts, student=Student("2"), training=replace(QUICK, eval_every=1), say=stop)
    assert not list(tmp_path.iterdir())


def test_the_command(teacher, texts, student, tmp_path):
    corpus = student[0].parent / "gold.spacy"
    arguments = [
        "distill", str(teacher), str(CONFIG), str(tmp_path / "x"), "--corpus", str(corpus),
        "--paths.texts", json.dumps([str(text.parent / "*.txt") for text in texts[:1]]), "--student.layers", "2",
        "--training.steps=2", "--training.held_out_words=60", "--output", str(tmp_path / "x.json"),
    ]  # fmt: skip
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "step 2 of 2" in done.stderr and "| gold.spacy: Tag (accuracy) |" in done.stdout
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf8"))["student"]["layers"] == 2
    assert spacy.load(tmp_path / "x")("Lima.").text == "Lima."
    done = CliRunner().invoke(main, [*arguments, "--student.layers", "9"])
    assert done.exit_code == 1 and "[B562]" in done.stderr and "Traceback" not in done.output
    assert CliRunner().invoke(main, [*arguments[:3], "a", "b"]).exit_code == 2
