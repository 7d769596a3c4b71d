"""Pipelines whose encoder computes in 8-bit integers."""

import json
import warnings

import numpy
import pytest
import spacy
import torch
from conftest import FAMILIES, SENTENCES
from spacy.tokens import Doc
from spacy.training import Example

from beto_spacy.deploy.quantize import quantize_model, render_quantized
from beto_spacy.encoders import onnx_model
from beto_spacy.encoders.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from beto_spacy.encoders.onnx_model import Int8Exporter, OnnxModel
from beto_spacy.errors import EncoderError, FormatError, ProjectError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NAMES = {"María José": "PER", "Lima": "LOC", "Perú": "LOC", "Montevideo": "LOC", "Banco del Sur": "ORG"}


def gold(nlp):
    docs = []
    for text in [*SENTENCES, "Lima es la capital del Perú."]:
        doc = nlp.make_doc(text)
        spans = [doc.char_span(text.index(n), text.index(n) + len(n), label=t) for n, t in NAMES.items() if n in text]
        tags = ["P" if t.is_punct else "M" if t.text[0].isupper() else "W" for t in doc]
        words, spaces = [t.text for t in doc], [bool(t.whitespace_) for t in doc]
        docs.append(Doc(nlp.vocab, words=words, spaces=spaces, tags=tags))
        docs[-1].set_ents([docs[-1].char_span(s.start_char, s.end_char, label=s.label_) for s in spans if s])
    return docs


@pytest.fixture(scope="module")
def trained(encoders, tmp_path_factory):
    """The folder of a small pipeline that knows the sentences, and that of their annotation."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("quantize")
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": encoders["bert"]}
    nlp.add_pipe("beto_transformer", name="transformer", config={"model": model})
    listener = {
        "@architectures": "beto_spacy.Listener.v1",
        "grad_factor": 1.0,
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    nlp.add_pipe("beto_ner", name="ner")
    docs = gold(nlp)
    examples = [Example(nlp.make_doc(doc.text), doc) for doc in docs]
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.003
    for _ in range(160):
        nlp.update([Example(nlp.make_doc(doc.text), doc) for doc in docs], sgd=optimizer)
    nlp.to_disk(folder / "model")
    spacy.tokens.DocBin(docs=docs).to_disk(folder / "gold.spacy")
    return folder


@pytest.fixture(scope="module")
def quantized(trained):
    result = quantize_model(trained / "model", trained / "int8", [trained / "gold.spacy"], max_loss=10.0)
    return trained / "int8", result


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_quantized(encoders, family, tmp_path):
    checkpoint = load_checkpoint(encoders[family])
    before = checkpoint.model.eval()
    ids = torch.randint(6, before.config.vocab_size, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    exporter = Int8Exporter(before)
    assert len(exporter.matrices()) >= 8
    small = exporter.quantized()
    with torch.inference_mode():
        expected = before(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    found = small(ids, mask).last_hidden_state[mask.bool()]
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.97
    write_checkpoint(Checkpoint(small, checkpoint.tokenizer), tmp_path / "int8")
    files = {file.name for file in (tmp_path / "int8").iterdir()}
    assert "model.onnx" in files and "model.safetensors" not in files
    again = load_checkpoint(tmp_path / "int8").model
    assert torch.equal(again(ids, mask).last_hidden_state, small(ids, mask).last_hidden_state)
    assert not before.training and before.config._attn_implementation != "eager"


def test_batches_run_side_by_side_give_the_same_with_any_number_of_threads(encoders):
    small = Int8Exporter(load_checkpoint(encoders["bert"]).model).quantized()
    chance = numpy.random.default_rng(0)
    batches = [(chance.integers(6, 60, size), numpy.ones(size, dtype="i8")) for size in ((40, 24), (3, 100), (1, 7))]
    threads, found = torch.get_num_threads(), []
    try:
        for torch_threads in (1, 2, 3, 100):
            torch.set_num_threads(torch_threads)
            found.append(small.predict(batches))
    finally:
        torch.set_num_threads(threads)
    assert [tuple(out.shape[:2]) for out in found[0]] == [(40, 24), (3, 100), (1, 7)]
    for other in found[1:]:
        for one, out in zip(found[0], other):
            assert torch.allclose(one, out, atol=1e-5)
    ids, mask = batches[0]
    last = small(torch.from_numpy(ids[30:]), torch.from_numpy(mask[30:])).last_hidden_state  # the fourth piece
    assert torch.allclose(found[0][0][30:], last, atol=1e-5)
    assert small.predict([]) == []


def test_layer_norms_are_spelled_out(encoders):
    graph = onnx.load_model_from_string(Int8Exporter(load_checkpoint(encoders["bert"]).model).quantized().graph).graph
    kinds = {node.op_type for node in graph.node}
    assert "InstanceNormalization" in kinds and not kinds & {"SkipLayerNormalization", "LayerNormalization"}


def test_a_pipeline_annotates_as_before(trained, quantized):
    folder, result = quantized
    before, after = spacy.load(trained / "model"), spacy.load(folder)
    assert after.config["components"]["transformer"]["model"]["precision"] == "int8"
    texts = [*SENTENCES, "", "Lima es la capital del Perú."]
    for one, other in zip(before.pipe(texts), after.pipe(texts)):
        assert numpy.mean([a.tag_ == b.tag_ for a, b in zip(one, other)] or [1]) > 0.9
    assert [e.text for e in after(texts[-1]).ents] == ["Lima", "Perú"]
    (measures,) = result["scores"].values()
    assert "Tag (accuracy)" in measures and "Entities (micro F1)" in measures
    assert result["loss"] == max(0.0, *(one - other for one, other in measures.values()))
    assert 0 < result["vectors"]["mean_error"] < 0.1 * result["vectors"]["mean_size"]
    assert "| Tag (accuracy) |" in render_quantized(result)
    json.dumps(result)


def test_its_copies_work_too(quantized):
    nlp = spacy.load(quantized[0])
    texts = SENTENCES[:4]
    expected = [[(e.text, e.label_) for e in doc.ents] for doc in nlp.pipe(texts)]
    again = spacy.blank("es").from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert [[(e.text, e.label_) for e in doc.ents] for doc in again.pipe(texts)] == expected
    found = [[(e.text, e.label_) for e in doc.ents] for doc in nlp.pipe(texts, n_process=2, batch_size=2)]
    assert found == expected


def test_it_cannot_be_trained_unless_it_is_frozen(quantized):
    nlp = spacy.load(quantized[0])
    examples = [Example(nlp.make_doc(doc.text), doc) for doc in gold(nlp)]
    optimizer = nlp.resume_training()
    with pytest.raises(EncoderError, match="B346"):
        nlp.update(examples, sgd=optimizer)
    nlp = spacy.load(quantized[0])
    losses = nlp.update(examples, sgd=nlp.resume_training(), exclude=["transformer"], annotates=["transformer"])
    assert losses["ner"] >= 0 and losses["tagger"] > 0


def test_matrices_that_cost_too_much_stay(trained, quantized, tmp_path, monkeypatch):
    lines = []
    with pytest.raises(ProjectError, match="B557"):
        quantize_model(trained / "model", tmp_path / "no", [trained / "gold.spacy"], max_loss=-1.0, say=lines.append)
    assert not (tmp_path / "no").exists() and not list(tmp_path.iterdir())
    total = quantized[1]["matrices"]
    assert lines[0].startswith(f"{total} of {total} ") and lines[-1].startswith(f"0 of {total} ")
    assert len(lines) == total + 1


def test_running_text_is_measured_by_agreement(trained, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES), encoding="utf8")
    result = quantize_model(trained / "model", tmp_path / "int8", [tmp_path / "a.txt"], max_loss=20.0)
    (agreement,) = result["agreement"].values()
    assert result["loss"] == pytest.approx(100 - min(agreement.values())) and not any(result["scores"].values())


def test_what_cannot_be_quantized(trained, quantized, tmp_path, encoders, monkeypatch):
    corpus = trained / "gold.spacy"
    with pytest.raises(ProjectError, match="B556"):
        quantize_model(quantized[0], tmp_path / "x", [corpus])
    spacy.blank("es").to_disk(tmp_path / "blank")
    with pytest.raises(ProjectError, match="B555"):
        quantize_model(tmp_path / "blank", tmp_path / "x", [corpus])
    for place, what in (
        (trained, "has it in it"),
        (trained / "model", "is the pipeline"),
        (tmp_path, "is no pipeline"),
    ):
        with pytest.raises(ProjectError, match=f"B566.*{what}"):
            quantize_model(trained / "model", place, [corpus])
    (tmp_path / "a.txt").write_text("\n", encoding="utf8")
    with pytest.raises(FormatError, match="B603"):
        quantize_model(trained / "model", tmp_path / "x", [tmp_path / "a.txt"])
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": encoders["bert"], "precision": "int8"}
    nlp.add_pipe("beto_transformer", config={"model": model})
    with pytest.raises(EncoderError, match="B328"):
        nlp.initialize()
    small = load_checkpoint(quantized[0] / "transformer" / "encoder").model
    with pytest.raises(EncoderError, match="B347"):
        small.to("cuda")
    with pytest.raises(EncoderError, match="B345"):
        OnnxModel(small.config, b"nothing")(torch.ones((1, 2), dtype=torch.int64), torch.ones((1, 2)))
    monkeypatch.setattr(onnx_model, "_import", real_import_without("onnxruntime"))
    with pytest.raises(EncoderError, match=r"B348.*beto-spacy\[onnx\]"):
        Int8Exporter(load_checkpoint(encoders["bert"]).model)


def real_import_without(missing):
    before = onnx_model._import

    def find(name):
        if name.startswith(missing):
            name = name.replace(missing, "there_is_no_such_package")
        return before(name)

    return find


def test_nothing_warns(quantized):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spacy.load(quantized[0])("Lima.").text == "Lima."
