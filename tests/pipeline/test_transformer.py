"""The component: training through every head, saving, loading, long streams, and failing loudly."""

import gc
import pickle
import subprocess
import sys
import threading
import tracemalloc
import warnings
from copy import deepcopy

import numpy
import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy_transformers.data_classes import TransformerData
from thinc.api import Adam, Optimizer, fix_random_seed, get_current_ops

from beto_spacy.errors import BetoError, EncoderError
from beto_spacy.pipeline.encoder import DocGradients
from beto_spacy.pipeline.shim import TorchShim, _without_onednn

LISTENER = {"@architectures": "beto_spacy.Listener.v1", "pooling": {"@layers": "reduce_mean.v1"}, "grad_factor": 1.0}
TAGGER = {"@architectures": "spacy.Tagger.v2", "tok2vec": LISTENER}
TRANSITIONS = {
    "@architectures": "spacy.TransitionBasedParser.v2",
    "extra_state_tokens": False,
    "hidden_width": 32,
    "maxout_pieces": 2,
    "use_upper": False,
    "tok2vec": LISTENER,
}
REDUCE = {
    "@architectures": "spacy.TextCatReduce.v1",
    "use_reduce_first": False,
    "use_reduce_last": False,
    "use_reduce_max": False,
    "use_reduce_mean": True,
    "tok2vec": LISTENER,
}
HEADS = {
    "tagger": {"model": TAGGER},
    "morphologizer": {"model": TAGGER},
    "trainable_lemmatizer": {"model": TAGGER, "min_tree_freq": 1},
    "parser": {"model": {**TRANSITIONS, "state_type": "parser"}, "min_action_freq": 1},
    "ner": {"model": {**TRANSITIONS, "state_type": "ner"}},
    "beto_textcat": {"model": {"@architectures": "beto_spacy.TextCat.v1", "tok2vec": LISTENER}},
    "textcat_multilabel": {"model": {**REDUCE, "exclusive_classes": False}},
}


def make_nlp(encoder, heads=tuple(HEADS), **settings):
    fix_random_seed(0)
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": str(encoder), **settings}
    nlp.add_pipe("beto_transformer", name="transformer", config={"model": model})
    for head in heads:
        nlp.add_pipe(head, config=HEADS[head])
    return nlp


def gold_docs(vocab):
    rows = [
        ("María vive en Lima . Pedro canta", "PROPN VERB ADP PROPN PUNCT PROPN VERB",
         "María vivir en Lima . Pedro cantar", [1, 1, 3, 1, 1, 6, 6], "nsubj ROOT case obl punct nsubj ROOT",
         [(0, 1, "PER"), (3, 4, "LOC"), (5, 6, "PER")], "P"),
        ("El Banco del Sur cerró", "DET PROPN ADP PROPN VERB", "el Banco de+el Sur cerrar",
         [1, 4, 3, 1, 4], "det nsubj case nmod ROOT", [(1, 4, "ORG")], "N"),
    ]  # fmt: skip
    docs = []
    for words, pos, lemmas, heads, deps, ents, label in rows:
        pos, deps = pos.split(), deps.split()
        doc = Doc(vocab, words=words.split(), pos=pos, tags=[p[0] for p in pos], lemmas=lemmas.split(), heads=heads,
                  deps=deps, morphs=["Number=Sing" if p in ("PROPN", "VERB") else "" for p in pos])  # fmt: skip
        doc.ents = [Span(doc, a, b, label=name) for a, b, name in ents]
        doc.cats = {"P": float(label == "P"), "N": float(label == "N")}
        docs.append(doc)
    return docs


def examples_of(nlp, docs):
    return [
        Example(Doc(nlp.vocab, words=[t.text for t in doc], spaces=[bool(t.whitespace_) for t in doc]), doc)
        for doc in docs
    ]


def train(nlp, examples, steps):
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.003
    losses = []
    for _ in range(steps):
        step = {}
        nlp.update(examples, sgd=False, losses=step, drop=0.0)
        for _, pipe in nlp.pipeline:
            pipe.finish_update(optimizer)
        losses.append(step)
    return losses


@pytest.fixture(scope="module")
def trained(encoders):
    """A pipeline of all heads that has learnt two documents by heart."""
    nlp = make_nlp(encoders["bert"])
    train(nlp, examples_of(nlp, gold_docs(nlp.vocab)), 80)
    return nlp


def annotation(doc):
    return {
        "tokens": [(t.text, t.tag_, t.pos_, str(t.morph), t.lemma_, t.dep_, t.head.i, t.is_sent_start) for t in doc],
        "ents": [(e.text, e.label_) for e in doc.ents],
        "cats": {label: round(score, 4) for label, score in doc.cats.items()},
    }


def test_all_heads_learn_and_survive_saving(trained, tmp_path):
    gold = gold_docs(trained.vocab)
    texts = [doc.text for doc in gold]
    docs = [trained(text) for text in texts]
    for doc, wanted in zip(docs, gold):
        expected, seen = annotation(wanted), annotation(doc)
        assert seen["tokens"] == expected["tokens"]
        assert seen["ents"] == expected["ents"]
        assert {k for k, v in seen["cats"].items() if v > 0.5} == {k for k, v in expected["cats"].items() if v}
    assert [annotation(d) for d in trained.pipe(texts)] == [annotation(d) for d in docs]

    trained.to_disk(tmp_path / "model")
    saved = {p.name for p in (tmp_path / "model" / "transformer" / "encoder").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= saved
    assert not [name for name in saved if name.endswith((".bin", ".pt", ".pkl"))]
    for again in (
        spacy.load(tmp_path / "model"),
        spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes()),
    ):
        assert [annotation(d) for d in again.pipe(texts)] == [annotation(d) for d in docs]


def test_the_encoder_is_an_ordinary_hugging_face_folder(trained, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    trained.to_disk(tmp_path / "model")
    folder = tmp_path / "model" / "transformer" / "encoder"
    model, tokenizer = (
        AutoModel.from_pretrained(folder, add_pooling_layer=False).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.no_grad():
        expected = model(**tokenizer("María vive", return_tensors="pt")).last_hidden_state.numpy()
    numpy.testing.assert_allclose(trained("María vive")._.trf_data.model_output.last_hidden_state, expected, atol=1e-5)


def test_trained_weights_not_the_configs_encoder_are_loaded(trained, encoders, tmp_path):
    """The folder that the config names may be gone: a trained pipeline has its encoder in itself."""
    trained.to_disk(tmp_path / "model")
    config = (tmp_path / "model" / "config.cfg").read_text(encoding="utf8")
    (tmp_path / "model" / "config.cfg").write_text(config.replace(encoders["bert"], "gone/away"), encoding="utf8")
    doc = spacy.load(tmp_path / "model")("María vive en Lima.")
    numpy.testing.assert_allclose(
        doc._.trf_data.tensors[0], trained("María vive en Lima.")._.trf_data.tensors[0], atol=1e-6
    )


def test_a_missing_transformer_is_an_error_in_a_new_process(trained, tmp_path):
    """Nothing but the transformer makes `doc._.trf_data` there, and it is not even loaded."""
    trained.to_disk(tmp_path / "model")
    code = f"import spacy; spacy.load({str(tmp_path / 'model')!r}, exclude=['transformer'])('Hola')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "B321" in done.stderr


def two_transformers(encoders, order):
    nlp = spacy.blank("es")
    names = {"first": "bert", "second": "roberta"}
    for name in order:
        if name in names:
            model = {"@architectures": "beto_spacy.Encoder.v1", "name": encoders[names[name]]}
            nlp.add_pipe("beto_transformer", name=name, config={"model": model})
        else:
            upstream = "first" if name == "tagger" else "second"
            nlp.add_pipe(name, config={"model": {**TAGGER, "tok2vec": {**LISTENER, "upstream": upstream}}})
    nlp.initialize(lambda: examples_of(nlp, gold_docs(nlp.vocab)))
    return nlp


def test_features_of_two_transformers_are_not_confused(encoders):
    nlp = two_transformers(encoders, ["first", "tagger", "second", "morphologizer"])
    doc = nlp("María vive en Lima.")
    nlp(doc)  # once more over the same document
    with pytest.raises(EncoderError, match="B326.*'first' were replaced by those of 'second'"):
        two_transformers(encoders, ["first", "second", "tagger", "morphologizer"])("María vive en Lima.")


def test_tokens_that_were_merged_since_are_not_taken_for_those_that_were_read(trained):
    nlp = spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes())

    @Language.component("merge_the_first_two")
    def merge(doc):
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[:2])
        return doc

    nlp.add_pipe("merge_the_first_two", after="transformer")
    with pytest.raises(EncoderError, match="B334.*has 4 tokens, and had 5"):
        nlp("María vive en Lima.")


def test_threads_may_annotate_at_once(trained):
    """Prediction leaves modules in evaluation: dropout set in one thread would be in the middle of another's."""
    docs = [trained.make_doc("María vive en Lima."), trained.make_doc("El sol sale.")]
    expected = [annotation(trained(doc.copy())) for doc in docs]
    shims = [shim for _, pipe in trained.pipeline for node in pipe.model.walk() for shim in node.shims]
    modules = [shim._model for shim in shims if isinstance(shim, TorchShim)]
    assert modules and not any(module.training for module in modules)
    found = {}

    def work(number):
        found[number] = [annotation(trained(doc.copy())) for doc in docs * 5]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(3)] == [expected * 5] * 3
    before = torch.backends.mkldnn.enabled
    _without_onednn.__enter__()  # one thread goes in, another one too, and the first one comes out
    _without_onednn.__enter__()
    _without_onednn.__exit__()
    assert not torch.backends.mkldnn.enabled
    _without_onednn.__exit__()
    assert torch.backends.mkldnn.enabled == before


def test_a_stock_listener_reads_it_beside_another_layer(encoders):
    """The ensemble of spaCy adds up what its two halves send back."""
    listener = {**LISTENER, "@architectures": "spacy-transformers.TransformerListener.v1"}
    bow = {"@architectures": "spacy.TextCatBOW.v3", "exclusive_classes": True, "ngram_size": 1, "length": 64,
           "no_output_layer": False}  # fmt: skip
    nlp = make_nlp(encoders["bert"], heads=[])
    ensemble = {"@architectures": "spacy.TextCatEnsemble.v2", "tok2vec": listener, "linear_model": bow}
    nlp.add_pipe("textcat", config={"model": ensemble})
    nlp.add_pipe("tagger", config={"model": {**TAGGER, "tok2vec": listener}})
    losses = train(nlp, examples_of(nlp, gold_docs(nlp.vocab)), 20)
    assert losses[-1]["textcat"] < losses[0]["textcat"]
    assert [len(doc.cats) for doc in nlp.pipe(["", "Hola", " \n"])] == [2, 2, 2]


def test_extra_annotation_sees_the_whole_batch(encoders):
    nlp = make_nlp(encoders["bert"], heads=[])
    nlp.initialize()
    seen = []

    def annotate(docs, batch):
        assert [id(data) for data in batch.doc_data] == [id(doc._.trf_data) for doc in docs]
        if "last_hidden_state" not in batch.model_output:
            assert not any(len(doc) for doc in docs)
            return
        assert list(map(id, batch.split_by_doc())) == list(map(id, batch.doc_data))
        states = batch.model_output.last_hidden_state.numpy()[0]
        assert batch.wordpieces.input_ids.shape[1] == len(batch.wordpieces.strings[0]) == len(states)
        ends = numpy.cumsum(batch.align.lengths)
        rows = [batch.align.dataXd[end - n : end] for n, end in zip(batch.align.lengths, ends)]
        for doc in docs:
            for token in doc:
                own = doc._.trf_data
                expected = own.model_output.last_hidden_state[0][own.align[token.i].dataXd.ravel()]
                numpy.testing.assert_array_equal(states[rows.pop(0).ravel()], expected)
        assert not rows
        seen.extend(docs)

    nlp.get_pipe("transformer").set_extra_annotations = annotate
    list(nlp.pipe(["María vive en Lima.", "", " \n", "sol " * 600]))
    assert len(seen) == 4
    assert list(nlp.pipe(["", ""])) and len(seen) == 4


@pytest.mark.parametrize("how", ["exclude", "disable", "order", "select"])
def test_a_missing_transformer_is_an_error(trained, tmp_path, how):
    trained.to_disk(tmp_path / "model")
    if how == "order":
        config = {"nlp.pipeline": ["tagger", "transformer"]}
        nlp = spacy.load(tmp_path / "model", config=config)
    elif how == "select":
        nlp = spacy.load(tmp_path / "model")
        nlp.disable_pipe("transformer")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nlp = spacy.load(tmp_path / "model", **{how: ["transformer"]})
    with pytest.raises(EncoderError, match="B321.*did not run"):
        nlp("María vive en Lima.")
    with pytest.raises(EncoderError, match="B321"):
        list(nlp.pipe(["María vive en Lima."]))


def test_features_are_dropped_when_asked(trained, tmp_path):
    assert isinstance(trained("Hola")._.trf_data, TransformerData)
    trained.to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    nlp.add_pipe("beto_doc_cleaner")
    doc = nlp("María vive en Lima.")
    assert doc._.trf_data is None
    assert not doc.has_vector and doc[:2].as_doc().text == "María vive "
    assert annotation(doc) == annotation(trained("María vive en Lima."))


# --- training --------------------------------------------------------------------------------------------------------


def encoder_weights(nlp):
    return {n: p.detach().clone() for n, p in nlp.get_pipe("transformer").model.shims[0].encoder.named_parameters()}


def head_weights(nlp, name):
    nodes = [node for node in nlp.get_pipe(name).model.walk() if node.name != "beto-encoder"]
    weights = [node.get_param(param).copy() for node in nodes for param in node.param_names if node.has_param(param)]
    return weights + [
        p.detach().numpy().copy() for node in nodes for shim in node.shims for p in shim._model.parameters()
    ]


@pytest.mark.parametrize("layer", ["tags", "deps", "ents", "cats"])
def test_the_encoder_learns_from_any_layer_alone(encoders, layer):
    """Heads without annotation stay silent, wherever they stand in the pipeline, and the others still teach."""
    nlp = make_nlp(encoders["bert"])
    full = gold_docs(nlp.vocab)
    nlp.initialize(lambda: examples_of(nlp, full))
    docs = []
    for doc in full:
        values = {"words": [t.text for t in doc], "spaces": [bool(t.whitespace_) for t in doc]}
        if layer == "tags":
            values["tags"] = [t.tag_ for t in doc]
        if layer == "deps":
            values.update(heads=[t.head.i for t in doc], deps=[t.dep_ for t in doc])
        docs.append(Doc(nlp.vocab, **values))
        if layer == "ents":
            docs[-1].set_ents([Span(docs[-1], e.start, e.end, label=e.label) for e in doc.ents])
        if layer == "cats":
            docs[-1].cats = doc.cats
    before = encoder_weights(nlp)
    optimizer = nlp.create_optimizer()
    optimizer.L2 = 0.0  # weights that get no gradient would still decay
    heads_before = {name: head_weights(nlp, name) for name in HEADS}
    for _ in range(2):  # an output layer that starts at zero has nothing to send back in the first step
        nlp.update(examples_of(nlp, docs), sgd=False, drop=0.0)
        for _, pipe in nlp.pipeline:
            pipe.finish_update(optimizer)
    after = encoder_weights(nlp)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    taught = {"tags": ["tagger"], "deps": ["parser"], "ents": ["ner"], "cats": ["beto_textcat", "textcat_multilabel"]}
    for name, weights in heads_before.items():
        same = all(map(numpy.array_equal, weights, head_weights(nlp, name)))
        assert same == (name not in taught[layer]), name


def test_gradients_equal_torchs_own(encoders):
    """The gradient that a listener sends back reaches the weights as one backward pass would take it there."""
    nlp = make_nlp(encoders["bert"], heads=["tagger"], window=20, context=2, batch_wordpieces=64)
    nlp.initialize(lambda: examples_of(nlp, gold_docs(nlp.vocab)))
    model = nlp.get_pipe("transformer").model
    encoder = model.shims[0].encoder
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in encoder.encoder.layer:
        layer.attention.self.dropout_prob = 0.0
    docs = [nlp.make_doc(text) for text in ("María vive en Lima . " * 6, "", "Hola", "   ")]
    batch, backprop = model.begin_update(docs)
    rng = numpy.random.default_rng(0)
    states = [d.model_output.last_hidden_state for d in batch.doc_data if "last_hidden_state" in d.model_output]
    gradients = [rng.normal(size=s.shape).astype("f") for s in states]
    encoder.zero_grad()
    backprop(DocGradients(gradients))
    ours = {n: p.grad.clone() for n, p in encoder.named_parameters()}
    encoder.zero_grad()
    for data, gradient in zip((d for d in batch.doc_data if "last_hidden_state" in d.model_output), gradients):
        ids = data.wordpieces.input_ids[0].tolist()
        starts = [i for i, piece in enumerate(ids) if piece == model.shims[0].tokenizer.cls_token_id] + [len(ids)]
        for start, end in zip(starts, starts[1:]):
            state = encoder(input_ids=torch.tensor([ids[start:end]])).last_hidden_state
            state.backward(torch.tensor(gradient[:, start:end]))
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_training_lowers_every_loss_with_the_plain_api_too(encoders):
    nlp = make_nlp(encoders["roberta"])
    examples = examples_of(nlp, gold_docs(nlp.vocab))
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.003
    history = [nlp.update(examples, sgd=optimizer, losses={}) for _ in range(45)]
    for head in HEADS:
        assert history[-1][head] < 0.8 * history[0][head], head


def test_a_pipeline_that_was_in_use_can_be_initialized_again(trained, encoders):
    nlp = make_nlp(encoders["bert"], heads=["tagger"])
    nlp.add_pipe("ner", source=deepcopy(trained))  # trained itself is not to change
    examples = examples_of(nlp, gold_docs(nlp.vocab))
    for _ in range(2):
        nlp.update(examples, sgd=nlp.initialize(lambda: examples_of(nlp, gold_docs(nlp.vocab))))
        assert nlp("María vive en Lima .")
    nlp.disable_pipe("transformer")
    with pytest.raises(EncoderError, match="B321"):
        nlp("María vive en Lima .")


def test_a_head_starts_with_an_encoder_of_its_own(encoders):
    tok2vec = {
        "@architectures": "beto_spacy.EncoderTok2Vec.v1",
        "name": encoders["bert"],
        "pooling": LISTENER["pooling"],
    }
    nlp = spacy.blank("es")
    nlp.add_pipe("tagger", config={"model": {**TAGGER, "tok2vec": tok2vec}})
    losses = train(nlp, examples_of(nlp, gold_docs(nlp.vocab)), 20)
    assert losses[-1]["tagger"] < 0.8 * losses[0]["tagger"]


def test_half_precision_is_no_matter_on_the_cpu(encoders):
    nlp = make_nlp(encoders["bert"], heads=["tagger"], precision="fp16")
    losses = train(nlp, examples_of(nlp, gold_docs(nlp.vocab)), 3)
    assert losses[-1]["tagger"] < losses[0]["tagger"]


class Scaler:
    """A gradient scaler that works on the CPU, where torch's does not."""

    factor, found_inf = 1024.0, False

    def scale(self, gradients, inplace):
        return [gradient.mul_(self.factor) for gradient in gradients]

    def unscale(self, gradients):
        for gradient in gradients:
            gradient.div_(self.factor)
            self.found_inf |= not bool(torch.isfinite(gradient).all())
        return self.found_inf

    def update(self):
        self.found_inf = False


def test_scaled_gradients_of_several_runs_add_up(encoders):
    """Accumulated gradients in half precision: each run counts the same, and an overflow changes nothing."""
    nlp = make_nlp(encoders["bert"], heads=[])
    nlp.initialize()
    model = nlp.get_pipe("transformer").model
    shim = model.shims[0]
    shim._grad_scaler = Scaler()
    taken = {}

    def optimizer(key, weights, gradient, *, lr_scale=1.0):
        taken[key[1]] = gradient.copy()
        return weights, gradient

    sums = []
    for n_runs in (1, 2):
        for _ in range(n_runs):
            torch.manual_seed(0)  # the same dropout
            batch, backprop = model.begin_update([nlp.make_doc("María vive en Lima.")])
            state = batch.doc_data[0].model_output.last_hidden_state
            backprop(DocGradients([numpy.linspace(-1, 1, state.size, dtype="f").reshape(state.shape)]))
        shim.finish_update(optimizer)
        sums.append(dict(taken))
    for name, gradient in sums[0].items():
        numpy.testing.assert_allclose(2 * gradient, sums[1][name], atol=1e-4)
    assert any(gradient.any() for gradient in sums[0].values())
    taken.clear()
    batch, backprop = model.begin_update([nlp.make_doc("María vive en Lima.")])
    backprop(DocGradients([numpy.full(state.shape, numpy.inf, dtype="f")]))
    shim.finish_update(optimizer)
    assert not taken
    assert not any(p.grad.any() for p in shim.encoder.parameters() if p.grad is not None)


def test_averages_hold_the_encoder_too(encoders):
    nlp = make_nlp(encoders["bert"], heads=["tagger"])
    examples = examples_of(nlp, gold_docs(nlp.vocab))
    nlp.initialize(lambda: examples)
    optimizer = Adam(0.01, use_averages=True)
    for _ in range(4):
        nlp.update(examples, sgd=optimizer)
    before, shim = encoder_weights(nlp), nlp.get_pipe("transformer").model.shims[0]
    with nlp.use_params(optimizer.averages):
        during = encoder_weights(nlp)
    assert any(not torch.equal(before[name], during[name]) for name in before)
    for name, weights in during.items():
        numpy.testing.assert_array_equal(weights.numpy(), optimizer.averages.get((shim.id, name), before[name].numpy()))
    after = encoder_weights(nlp)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_stay_where_they_are_when_they_are_updated(encoders):
    nlp = make_nlp(encoders["bert"], heads=["tagger"])
    examples = examples_of(nlp, gold_docs(nlp.vocab))
    nlp.initialize(lambda: examples)
    shim = nlp.get_pipe("transformer").model.shims[0]

    def places():
        return {name: p.data_ptr() for name, p in shim.named_parameters()}

    def n_tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    optimizer = Adam(0.01)
    for _ in range(2):
        nlp.update(examples, sgd=optimizer)
    where, weights, n = places(), encoder_weights(nlp), n_tensors()
    for _ in range(3):
        nlp.update(examples, sgd=optimizer)
    assert places() == where and n_tensors() <= n
    assert any(not torch.equal(weights[name], now) for name, now in encoder_weights(nlp).items())
    # an optimizer that gives other arrays is believed all the same
    nlp.update(examples, sgd=lambda key, weights, gradient, lr_scale=1.0: (weights * 0.0 + 0.5, gradient))
    assert places() == where
    assert {float(w.min()) for w in encoder_weights(nlp).values()} == {0.5}


def test_a_copy_of_the_encoder_is_another_to_the_optimizer(trained):
    model = trained.get_pipe("transformer").model
    copied = model.copy()
    assert copied.shims[0].id != model.shims[0].id
    doc = trained.make_doc("María vive en Lima.")
    states = [m.predict([doc]).doc_data[0].model_output.last_hidden_state for m in (model, copied)]
    numpy.testing.assert_array_equal(*states)


def test_a_pipeline_can_be_pickled_while_a_head_is_silent(encoders):
    nlp = make_nlp(encoders["bert"], heads=["tagger", "ner"])
    examples = examples_of(nlp, gold_docs(nlp.vocab))
    nlp.update(examples, sgd=nlp.initialize(lambda: examples), exclude=["ner"])
    again = pickle.loads(pickle.dumps(nlp))
    assert annotation(again("María vive en Lima .")) == annotation(nlp("María vive en Lima ."))
    optimizer = again.resume_training()
    again.update(examples_of(again, gold_docs(again.vocab)), sgd=optimizer)


def test_an_answer_that_comes_too_late_is_an_error(encoders):
    nlp = make_nlp(encoders["bert"], heads=["tagger", "ner"])
    examples = examples_of(nlp, gold_docs(nlp.vocab))
    optimizer = nlp.initialize(lambda: examples)
    transformer = nlp.get_pipe("transformer")
    transformer.update(examples)
    nlp.get_pipe("tagger").update(examples)
    transformer.finish_update(optimizer)
    with pytest.raises(BetoError, match="B322"):
        nlp.get_pipe("ner").update(examples)


def test_a_head_can_have_an_encoder_of_its_own(trained, tmp_path):
    trained.to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    nlp.replace_listeners("transformer", "ner", ["model.tok2vec"])
    assert nlp.config["components"]["ner"]["model"]["tok2vec"]["@architectures"] == "beto_spacy.EncoderTok2Vec.v1"
    nlp.to_disk(tmp_path / "replaced")
    again = spacy.load(tmp_path / "replaced")
    text = gold_docs(trained.vocab)[0].text
    assert annotation(again(text)) == annotation(trained(text))
    again.remove_pipe("transformer")
    alone = spacy.load(tmp_path / "replaced", exclude=[n for n in again.pipe_names if n != "ner"] + ["transformer"])
    assert [e.text for e in alone(text).ents] == ["María", "Lima", "Pedro"]


# --- size ------------------------------------------------------------------------------------------------------------


def test_a_document_of_a_million_characters(encoders):
    """No truncation, no crash; beyond the features themselves, memory is bounded by the batch."""
    nlp = make_nlp(encoders["bert"], heads=[])
    nlp.initialize()
    transformer = nlp.get_pipe("transformer")
    words = ("la plaza del Perú " * 56_000).split()
    doc = Doc(nlp.vocab, words=words)
    assert len(doc.text) > 1_000_000
    transformer(doc)
    data = doc._.trf_data
    assert len(data.align.lengths) == len(doc)
    assert data.align.lengths.min() >= 1
    assert data.align.dataXd.max() < data.wordpieces.input_ids.shape[1]


def test_memory_of_words_without_spaces_is_bounded_by_batches(encoders):
    nlp = make_nlp(encoders["bert"], heads=[])
    nlp.initialize()
    shim = nlp.get_pipe("transformer").model.shims[0]
    shapes = []
    forward = shim._forward
    shim._forward = lambda ids, mask: shapes.append(ids.shape) or forward(ids, mask)
    doc = Doc(nlp.vocab, words=["plaza"] * 30_000, spaces=[False] * 30_000)
    nlp.get_pipe("transformer")(doc)
    assert max(rows * length for rows, length in shapes) <= 512
    assert len(doc._.trf_data.align.lengths) == 30_000
    assert (
        doc._.trf_data.model_output.last_hidden_state.nbytes < 1.1 * 4 * 32 * 30_000 * doc._.trf_data.align.lengths[0]
    )


def test_a_long_stream_keeps_memory_flat(trained, tmp_path):
    trained.to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    nlp.add_pipe("doc_cleaner", config={"attrs": {"_.trf_data": None}})
    texts = ("María vive en Lima. " * 5 for _ in range(600))
    tracemalloc.start()
    try:
        for i, _ in enumerate(nlp.pipe(texts, batch_size=16)):
            if i == 200:
                early = tracemalloc.get_traced_memory()[0]
        late = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert late < early + 500_000


def test_processes(trained):
    text = "María vive en Lima."
    nlp = spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes())
    nlp.add_pipe("doc_cleaner", config={"attrs": {"_.trf_data": None}})
    docs = list(nlp.pipe([text] * 6, n_process=2, batch_size=2))
    assert [annotation(d) for d in docs] == [annotation(trained(text))] * 6


def test_processes_do_not_wait_for_threads_of_their_parent(encoders):
    script = (
        "import spacy, torch\n"
        "torch.set_num_threads(2)\n"
        "nlp = spacy.blank('es')\n"
        f"model = {{'@architectures': 'beto_spacy.Encoder.v1', 'name': {str(encoders['bert'])!r}}}\n"
        "nlp.add_pipe('beto_transformer', config={'model': model})\n"
        "nlp.add_pipe('beto_doc_cleaner')\n"
        "nlp.initialize()\n"
        "texts = ['El presidente viajó ayer a Montevideo. ' * 40] * 4\n"
        "list(nlp.pipe(texts)), torch.ones(2000, 2000) @ torch.ones(2000, 2000)\n"
        "print(sum(len(doc) for doc in nlp.pipe(texts, n_process=2, batch_size=1)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["1120"] and "forked" not in done.stderr, done.stderr


def test_no_import_of_ours_is_needed(trained, tmp_path):
    trained.to_disk(tmp_path / "model")
    code = (
        "import spacy, sys; assert 'beto_spacy' not in sys.modules; "
        f"nlp = spacy.load({str(tmp_path / 'model')!r}); print([e.text for e in nlp('María vive en Lima .').ents])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "'María'" in done.stdout, done.stderr
    assert get_current_ops().name == "numpy"


@pytest.mark.parametrize("pooling", ["reduce_mean.v1", "reduce_sum.v1"])
def test_token_vectors_are_pooled_once_and_as_before(encoders, pooling):
    listener = {**LISTENER, "pooling": {"@layers": pooling}}
    nlp = spacy.blank("es")
    architecture = {"@architectures": "beto_spacy.Encoder.v1", "name": encoders["bert"], "window": 20, "context": 2}
    transformer = nlp.add_pipe("beto_transformer", name="transformer", config={"model": architecture})
    for name in ("tagger", "morphologizer"):
        nlp.add_pipe(name, config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    nlp.initialize(lambda: examples_of(nlp, gold_docs(nlp.vocab)))
    batches = [["María vive en Lima . " * 6, "", "Hola"], ["   ", "¿Extraordinariamente?", "El Banco del Sur cerró"]]
    docs = []
    for texts in batches:
        some = [nlp.make_doc(text) for text in texts]
        transformer.set_annotations(some, transformer.predict(some))
        docs += some
    docs.insert(1, docs.pop())  # documents of two runs of the encoder, in another order
    first, second = (nlp.get_pipe(name).model.get_ref("tok2vec") for name in ("tagger", "morphologizer"))
    once = first.predict(docs)
    assert all(x is y or numpy.shares_memory(x, y) for x, y in zip(once, second.predict(docs)) if x.size)
    assert len({doc._.trf_data.shared[0] for doc in docs if len(doc)}) == 2
    for doc in docs:
        if len(doc):
            del doc._.trf_data.shared
    for ours, theirs in zip(once, first.predict(docs)):
        assert len(ours) == len(theirs)
        if len(ours):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-5, rtol=1e-5)


def test_gradients_are_clipped_together():
    """Their directions stay, and their common norm is at most the optimizer's limit."""
    shim = TorchShim(torch.nn.Linear(3, 2))
    before = {name: p.detach().clone() for name, p in shim.named_parameters()}
    gradients = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([10.0, -20.0])}
    for limit, factor in ((1.0, 1 / sum(g.square().sum() for g in gradients.values()).sqrt()), (0.0, 1.0), (1e3, 1.0)):
        for name, parameter in shim.named_parameters():
            parameter.data.copy_(before[name])
            parameter.grad = gradients[name].clone()
        optimizer = Optimizer(1.0, grad_clip=limit, beta1=0.0, beta2=0.0, L2=0.0)
        shim.finish_update(optimizer)
        assert optimizer.grad_clip == limit
        for name, parameter in shim.named_parameters():
            assert torch.allclose(before[name] - parameter, factor * gradients[name], rtol=1e-4)
            assert not parameter.grad.any()
