"""The encoder against Hugging Face's own, for each family; what can't be loaded; strange documents."""

import copy
import json
import random
import shutil
import unicodedata
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import spacy
import torch
from conftest import FAMILIES, SENTENCES
from spacy.tokens import Doc
from thinc.api import reduce_mean
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, GPT2Config, GPT2Model

from beto_spacy.encoders import checkpoint
from beto_spacy.encoders.checkpoint import load_checkpoint, sequence_limit
from beto_spacy.encoders.cpu_training import CpuDropout, QuickLayers
from beto_spacy.errors import BetoError, EncoderError, ProjectError
from beto_spacy.pipeline.encoder import (
    DocGradients,
    EncoderShim,
    Wordpieces,
    make_batches,
    make_encoder,
    suitable_batch,
)
from beto_spacy.pipeline.listener import make_listener
from beto_spacy.training.vocabulary import build_encoder


def make_nlp(encoder, **settings):
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": str(encoder), **settings}
    nlp.add_pipe("beto_transformer", name="transformer", config={"model": model})
    nlp.initialize()
    return nlp


def token_vectors(nlp, docs):
    """What a head gets: one vector a token."""
    listener = make_listener(reduce_mean())
    listener.get_ref("listener").set_dim("nO", nlp.get_pipe("transformer").model.get_dim("nO"))
    return listener.predict(list(docs))


@pytest.mark.parametrize("family", FAMILIES)
def test_token_vectors_are_the_means_of_hugging_faces_wordpieces(encoders, family):
    nlp = make_nlp(encoders[family])
    model = AutoModel.from_pretrained(encoders[family]).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoders[family])
    docs = list(nlp.pipe(SENTENCES))
    for doc, ours in zip(docs, token_vectors(nlp, docs)):
        encoding = tokenizer(
            doc.text, return_offsets_mapping=True, return_special_tokens_mask=True, return_tensors="pt"
        )
        offsets = encoding.pop("offset_mapping")[0].tolist()
        special = encoding.pop("special_tokens_mask")[0].tolist()
        with torch.no_grad():
            states = model(**encoding).last_hidden_state[0].numpy()
        # A wordpiece belongs to the token at its first character; a space belongs to the token that follows it.
        first = [next((k for k in range(a, len(doc.text)) if doc.text[k] != " "), -1) for a, _ in offsets]
        for token, vector in zip(doc, ours):
            rows = [i for i, k in enumerate(first) if not special[i] and token.idx <= k < token.idx + len(token)]
            numpy.testing.assert_allclose(vector, states[rows].mean(axis=0), atol=1e-5)
        assert doc._.trf_data.wordpieces.strings[0] == tokenizer.convert_ids_to_tokens(encoding["input_ids"][0])
        assert doc._.trf_data.model_output.last_hidden_state.shape == (1, *states.shape)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"window": 24, "context": 4}])
def test_the_result_does_not_depend_on_the_batch(encoders, family, settings):
    nlp = make_nlp(encoders[family], batch_wordpieces=96, **settings)
    rng = random.Random(1)
    texts = [" ".join(rng.choices(SENTENCES, k=rng.randrange(0, 6))) for _ in range(40)]
    alone = token_vectors(nlp, [nlp(text) for text in texts])
    for batch_size in (3, 40):
        together = token_vectors(nlp, nlp.pipe(texts, batch_size=batch_size))
        for text, one, other in zip(texts, alone, together):
            assert one.shape[0] == other.shape[0] == len(nlp.make_doc(text))
            numpy.testing.assert_allclose(one, other, atol=1e-5)


def test_a_long_document_is_cut_into_windows_that_equal_separate_runs(encoders):
    nlp = make_nlp(encoders["bert"], window=34)
    model, tokenizer = load_checkpoint(encoders["bert"])
    model.eval()
    doc = nlp(" ".join(SENTENCES))
    data = doc._.trf_data
    ids = data.wordpieces.input_ids[0].tolist()
    starts = [i for i, piece in enumerate(ids) if piece == tokenizer.cls_token_id] + [len(ids)]
    assert len(starts) > 4
    for start, end in zip(starts, starts[1:]):
        assert end - start <= 34
        with torch.no_grad():
            expected = model(torch.tensor([ids[start:end]])).last_hidden_state[0].numpy()
        numpy.testing.assert_allclose(data.model_output.last_hidden_state[0, start:end], expected, atol=1e-5)
    # The alignment walks over the wordpieces of each token, in order, and never over a special token.
    aligned = [ids[row] for row in data.align.dataXd]
    assert aligned == [i for token in doc for i in tokenizer.encode(token.text, add_special_tokens=False)]
    assert data.align.lengths.tolist() == [len(tokenizer.encode(t.text, add_special_tokens=False)) for t in doc]


def test_context_changes_the_edges_of_windows_but_not_the_alignment(encoders):
    text = " ".join(SENTENCES)
    plain, with_context = (make_nlp(encoders["bert"], window=34, context=c) for c in (0, 8))
    a, b = plain(text)._.trf_data, with_context(text)._.trf_data
    assert b.wordpieces.input_ids.shape[1] > a.wordpieces.input_ids.shape[1]
    assert [b.wordpieces.input_ids[0, r] for r in b.align.dataXd] == [
        a.wordpieces.input_ids[0, r] for r in a.align.dataXd
    ]


STRANGE = {
    "empty": "",
    "white space": " \n\t  ",
    "line ends": "uno\r\n\r\n\r\ndos\r\n",
    "joined emoji": "Mi familia 👨‍👩‍👧‍👦 y yo 👍🏽!",
    "combining accents": unicodedata.normalize("NFD", "El pingüino comió jalapeños en Perú."),
    "controls": "a\u200b\u00ad b\u0000c \ufeffd",
    "special tokens": "[MASK] <s> </s> [SEP] <mask>",
    "no spaces": "." * 700 + "ñ" * 300,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", list(STRANGE))
def test_strange_texts_have_a_vector_for_every_token(encoders, family, name):
    nlp = make_nlp(encoders[family])
    docs = list(nlp.pipe([STRANGE[name], SENTENCES[0], ""]))
    for doc, vectors in zip(docs, token_vectors(nlp, docs)):
        assert vectors.shape[0] == len(doc)
        assert numpy.isfinite(vectors).all()
        for token, vector in zip(doc, vectors):
            if token.is_space:
                assert not vector.any()
    # The ordinary neighbour is not touched by the company.
    numpy.testing.assert_allclose(token_vectors(nlp, docs)[1], token_vectors(nlp, [nlp(SENTENCES[0])])[0], atol=1e-5)


def test_combining_accents_are_normalized(encoders):
    nlp = make_nlp(encoders["bert"])
    composed, decomposed = nlp("Perú"), nlp(unicodedata.normalize("NFD", "Perú"))
    assert composed._.trf_data.wordpieces.strings == decomposed._.trf_data.wordpieces.strings


@pytest.mark.parametrize("family", FAMILIES)
def test_a_giant_token_is_not_truncated(encoders, family):
    nlp = make_nlp(encoders[family])
    word = "".join(random.Random(0).choices("abcdeñ", k=100_000))
    doc = nlp.get_pipe("transformer")(Doc(nlp.vocab, words=["Hola", word, "adiós"]))
    tokenizer = AutoTokenizer.from_pretrained(encoders[family])
    if family != "roberta":  # its tokenizer wants to know about the space before each word
        words = tokenizer([["Hola", word, "adiós"]], is_split_into_words=True, add_special_tokens=False).word_ids()
        assert doc._.trf_data.align.lengths.tolist() == [words.count(i) for i in range(3)]
    if family != "bert":  # WordPiece knows no words of over a hundred characters
        assert doc._.trf_data.align.lengths[1] > 10_000
    assert token_vectors(nlp, [doc])[0].shape == (3, 32)


def test_a_tokenizer_of_no_particular_class_frames_sequences_too(encoders, tmp_path):
    shutil.copytree(encoders["bert"], tmp_path / "bert")
    settings = json.loads((tmp_path / "bert" / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (tmp_path / "bert" / "tokenizer_config.json").write_text(json.dumps(settings))
    seen = make_nlp(tmp_path / "bert")("El Perú")._.trf_data.wordpieces.strings
    assert seen == make_nlp(encoders["bert"])("El Perú")._.trf_data.wordpieces.strings
    assert (seen[0][0], seen[0][-1]) == ("[CLS]", "[SEP]")


def test_spaces_reach_the_tokenizers_that_care(encoders):
    nlp = make_nlp(encoders["roberta"])
    spaced = nlp.get_pipe("transformer")(Doc(nlp.vocab, words=["la", "plaza"], spaces=[True, False]))
    joined = nlp.get_pipe("transformer")(Doc(nlp.vocab, words=["la", "plaza"], spaces=[False, False]))
    tokenizer = AutoTokenizer.from_pretrained(encoders["roberta"])
    assert spaced._.trf_data.wordpieces.strings[0][1:-1] == tokenizer.tokenize("la plaza")
    assert joined._.trf_data.wordpieces.strings[0][1:-1] == tokenizer.tokenize("la") + tokenizer.tokenize("plaza")


def test_sequence_limits(encoders):
    limits = {family: sequence_limit(load_checkpoint(encoders[family]).model) for family in FAMILIES}
    assert limits == {"bert": 512, "roberta": 512, "xlm-roberta": 512, "albert": 512}
    for family in FAMILIES:  # the longest window really runs
        nlp = make_nlp(encoders[family])
        assert len(nlp("sol " * 1_500)) == 1_500


# --- loading ---------------------------------------------------------------------------------------------------------


def old_bert(folder, *, vocab, layers, width=32):
    """A checkpoint as they were in 2019: pytorch_model.bin with prefix and head, a config that says little."""
    folder.mkdir()
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 8 if width < 768 else 12,
        intermediate_size=4 * width,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    model = BertForMaskedLM(config)
    state = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
             for k, v in model.state_dict().items()}  # fmt: skip
    torch.save(state, folder / "pytorch_model.bin")
    kept = ("attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
            "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
            "type_vocab_size", "vocab_size")  # fmt: skip
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.to_dict().items() if k in kept}))
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf8")
    return model


#: The beginning of BETO's vocabulary, and some words.
BETO_SPECIALS = ["[MASK]", "[PAD]", "[EOS]", "[UNK]", "[CLS]", "[SEP]"]


def check_old_bert(folder, model):
    nlp = make_nlp(folder)
    shim = nlp.get_pipe("transformer").model.shims[0]
    assert shim.tokenizer.pad_token_id == shim.encoder.config.pad_token_id == 1
    assert shim.encoder.embeddings.word_embeddings.padding_idx == 1
    assert nlp("El Perú")._.trf_data.wordpieces.strings[0] == ["[CLS]", "El", "Perú", "[SEP]"]  # cased, accents kept
    loaded = shim.encoder.state_dict()
    wanted = {k[len("bert.") :]: v for k, v in model.state_dict().items() if k.startswith("bert.")}
    assert set(loaded) == set(wanted)
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)
    return nlp


def test_a_checkpoint_of_betos_age_loads(tmp_path):
    vocab = [*BETO_SPECIALS, "El", "el", "Perú", "##s", "plaza", ".", "ñ"]
    model = old_bert(tmp_path / "beto", vocab=vocab, layers=2)
    nlp = check_old_bert(tmp_path / "beto", model)
    nlp.to_disk(tmp_path / "pipeline")
    again = spacy.load(tmp_path / "pipeline")
    assert again.get_pipe("transformer").model.shims[0].tokenizer.pad_token_id == 1
    assert again("El Perú")._.trf_data.wordpieces.strings[0][1:-1] == ["El", "Perú"]


def test_a_stand_in_of_betos_exact_shape_loads(shared, tmp_path):
    vocab = (shared / "beto" / "vocab.txt").read_text(encoding="utf8").splitlines()
    model = old_bert(tmp_path / "beto", vocab=vocab, layers=12, width=768)
    shutil.copy(shared / "beto" / "config.json", tmp_path / "beto" / "config.json")
    nlp = check_old_bert(tmp_path / "beto", model)
    assert nlp.get_pipe("transformer").model.get_dim("nO") == 768
    assert [i for i in nlp("¿Qué tal?")._.trf_data.wordpieces.input_ids[0][[0, -1]]] == [4, 5]


def test_a_checkpoint_that_leaves_a_weight_unset_is_refused(encoders, tmp_path):
    shutil.copytree(encoders["bert"], tmp_path / "bert")
    model = AutoModel.from_pretrained(encoders["bert"], add_pooling_layer=False)
    state = model.state_dict()
    del state["encoder.layer.1.output.dense.weight"]
    model.save_pretrained(tmp_path / "bert", state_dict=state)
    with pytest.raises(EncoderError, match=r"B311.*1 weights.*encoder\.layer\.1\.output\.dense\.weight"):
        make_nlp(tmp_path / "bert")


def test_weights_of_another_shape_are_refused(encoders, tmp_path):
    shutil.copytree(encoders["bert"], tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    config["intermediate_size"] = 48
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="B307|B311"):
        make_nlp(tmp_path / "bert")


def test_weights_of_another_architecture_are_refused(encoders, tmp_path):
    GPT2Model(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt")
    with pytest.raises(EncoderError, match="B308.*gpt2"):
        make_nlp(tmp_path / "gpt")
    for file in Path(encoders["bert"]).iterdir():  # a BERT by its config, something else by its weights
        if file.name != "model.safetensors":
            shutil.copy(file, tmp_path / "gpt" / file.name)
    with pytest.raises(EncoderError, match="B311"):
        make_nlp(tmp_path / "gpt")


@pytest.mark.parametrize(
    "prepare, code",
    [
        (lambda folder: (folder / "config.json").unlink(), "B303"),
        (lambda folder: shutil.rmtree(folder), "B304"),
        (lambda folder: (folder / "config.json").write_text("{"), "B307"),
        (lambda folder: (folder / "model.safetensors").unlink(), "B307"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"not weights"), "B307"),
    ],
    ids=["no config", "no folder", "broken config", "no weights", "broken weights"],
)
def test_a_broken_folder_gets_a_clear_message(encoders, tmp_path, prepare, code):
    folder = tmp_path / "encoder"
    shutil.copytree(encoders["bert"], folder)
    prepare(folder)
    with pytest.raises(EncoderError, match=code) as caught:
        make_nlp(folder)
    assert str(folder) in str(caught.value)


def test_a_hub_that_cannot_be_reached_gets_a_clear_message():
    with pytest.raises(EncoderError, match="B306.*nobody/no-such-encoder"):
        make_nlp("nobody/no-such-encoder")


def test_settings_are_checked(encoders):
    with pytest.raises(EncoderError, match="B301"):
        make_nlp(encoders["bert"], window=1_000)
    with pytest.raises(EncoderError, match="B312"):
        make_encoder("x", precision="fp8")
    with pytest.raises(EncoderError, match="B314"):
        make_encoder("x", batch_wordpieces=0)


@pytest.mark.parametrize("gigabytes, suits", [(0.5, 512), (4, 2_048), (11.7, 5_632), (24, 12_288), (80, 16_384)])
def test_batches_suit_the_card(monkeypatch, gigabytes, suits):
    card = SimpleNamespace(total_memory=int(gigabytes * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert suitable_batch(torch.device("cuda", 0)) == suits
    assert suitable_batch(torch.device("cpu")) == 512


def test_batches_of_a_pipeline_suit_the_device(encoders, monkeypatch):
    docs = [spacy.blank("es")(SENTENCES[0])] * 40
    by_default, set_to_so = make_encoder(encoders["bert"]), make_encoder(encoders["bert"], batch_wordpieces=512)
    sizes = []
    for model in (by_default, set_to_so):
        model.initialize()
        sizes.append([len(ids) for ids, _ in make_batches(model, docs).padded])
    assert sizes[0] == sizes[1] and len(sizes[0]) > 1
    monkeypatch.setattr("beto_spacy.pipeline.encoder.suitable_batch", lambda device: 16_384)
    assert [len(ids) for ids, _ in make_batches(by_default, docs).padded] == [40]


def test_build_encoder_is_deterministic_and_replaces_only_an_encoder(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES * 2), encoding="utf8")
    first, second = (build_encoder([text], tmp_path / name, vocabulary_size=300, width=16, layers=1) for name in "ab")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    build_encoder([text], first, vocabulary_size=200, width=16, layers=1, seed=1)
    assert (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary").write_text("")
    with pytest.raises(ValueError, match="B319"):
        build_encoder([text], tmp_path / "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "mine", "text.txt"]


def test_vocabulary_round_trips_spanish(tmp_path):
    texts = ["El pingüino ñandú ¿qué? ¡oh! corazón 😊 😊 €"] * 3
    text = tmp_path / "text.txt"
    text.write_text("\n".join(texts), encoding="utf8")
    tokenizer = load_checkpoint(
        build_encoder([text], tmp_path / "e", vocabulary_size=300, width=16, layers=1)
    ).tokenizer
    pieces = tokenizer.tokenize(texts[0])
    assert tokenizer.unk_token not in pieces
    assert "".join(p.removeprefix("##") for p in pieces) == texts[0].replace(" ", "")


def test_a_vocabulary_that_has_a_word_twice(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "la", "la", "el", "sol"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf8")
    build_encoder([], tmp_path / "e", vocabulary=tmp_path / "vocab.txt", width=16, layers=1)
    assert make_nlp(tmp_path / "e")("el sol la")._.trf_data.wordpieces.strings[0][1:-1] == ["el", "sol", "la"]
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    (tmp_path / "e" / "config.json").write_text(json.dumps({**config, "vocab_size": 8}))
    with pytest.raises(EncoderError, match="B305"):  # eight different pieces, but their numbers go up to 8
        make_nlp(tmp_path / "e")


def test_sizes_that_cannot_be(tmp_path):
    for size in ({"heads": 0}, {"layers": 0}, {"width": 0}, {"heads": -2}, {"max_length": 2}):
        with pytest.raises(EncoderError, match="B327"):
            build_encoder([], tmp_path / "e", vocabulary="unread", **size)


def test_texts_that_are_broken_archives(tmp_path):
    for name, content in (("a.txt.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\3garbage garbage"), ("b.txt.xz", b"garbage")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BetoError, match="B602"):
            build_encoder([tmp_path / name], tmp_path / "e")


@pytest.mark.parametrize(
    "failure",
    [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("I/O error, as of safetensors")],
)
@pytest.mark.parametrize("moment", ["writing", "taking the place"])
def test_an_encoder_that_is_not_finished_leaves_the_old_one(tmp_path, monkeypatch, failure, moment):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES * 2), encoding="utf8")
    sizes = {"vocabulary_size": 300, "width": 16, "layers": 1}
    dest = build_encoder([text], tmp_path / "e", **sizes)
    before = {file.name: file.read_bytes() for file in dest.iterdir()}
    rename = Path.rename

    def fail(path, *args):
        if moment == "taking the place" and path.name != "new":
            return rename(path, *args)
        raise failure

    where = (checkpoint, "save_checkpoint") if moment == "writing" else (Path, "rename")
    monkeypatch.setattr(*where, fail)
    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else ProjectError):
        build_encoder([text], dest, seed=1, **sizes)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in dest.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e", "text.txt"]


def test_the_words_that_are_kept_are_bounded_and_come_to_the_same(encoders, monkeypatch):
    nlp = spacy.blank("es")
    text = " ".join(SENTENCES * 3)
    tokenizer = load_checkpoint(encoders["bert"]).tokenizer
    expected = Wordpieces(tokenizer)([nlp(text)])
    monkeypatch.setattr("beto_spacy.pipeline.encoder._CACHE_SIZE", 5)
    few = Wordpieces(tokenizer)
    for _ in range(2):
        ids, lengths = few([nlp(text)])
        assert ids.tolist() == expected[0].tolist() and lengths.tolist() == expected[1].tolist()
    assert 0 < len(few._cache) <= 5 and len(few._older) == 5


def test_an_encoder_like_one_that_cannot_be_fetched(tmp_path, monkeypatch):
    def fail(source):
        raise OSError("No network.\nTry again.")

    monkeypatch.setattr("transformers.PretrainedConfig.get_config_dict", fail)
    with pytest.raises(
        EncoderError, match=r"B306.*'somebodys-encoder' could not be fetched from the hub \(No network\)"
    ):
        build_encoder([], tmp_path / "e", like="somebodys-encoder")
    (tmp_path / "config.json").write_text("{", encoding="utf8")
    with pytest.raises(EncoderError, match="B307"):
        build_encoder([], tmp_path / "e", like=tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_has_a_dropout_of_its_own(encoders, family):
    nlp = spacy.blank("es")
    docs = [nlp(text) for text in SENTENCES]
    apart = {}
    for dropout in (0.0, 0.5):
        model = make_encoder(encoders[family], attention_dropout=dropout)
        model.initialize()
        before = model.predict(docs).model_output.last_hidden_state
        torch_model = model.shims[0].encoder
        for module in torch_model.modules():
            if isinstance(module, torch.nn.Dropout) and module.p == torch_model.config.hidden_dropout_prob:
                module.p = 0.0
        torch.manual_seed(0)
        after = model(docs, is_train=True)[0].model_output.last_hidden_state
        apart[dropout] = (after - before).abs().max().item()
    assert apart[0.0] < 1e-4 < apart[0.5]


def test_attention_dropout_that_cannot_be(encoders):
    with pytest.raises(EncoderError, match="B330"):
        make_encoder("x", attention_dropout=1.0)
    with pytest.raises(EncoderError, match="B329"):
        checkpoint.set_attention_dropout(torch.nn.Sequential(torch.nn.Dropout(0.1)), 0.0)


def test_masks_stand_for_wordpieces_in_training_only(encoders):
    nlp = spacy.blank("es")
    docs = [nlp(" ".join(SENTENCES)) for _ in range(20)]
    seen = {}
    for rate in (0.0, 0.3):
        model = make_encoder(encoders["bert"], mask_rate=rate)
        model.initialize()
        shim = model.shims[0]
        runs = []
        shim._forward = lambda ids, mask, runs=runs, run=shim._forward: runs.append((ids, mask)) or run(ids, mask)
        torch.manual_seed(0)
        model(docs, is_train=True)
        seen[rate], runs[:] = list(runs), []
        model.predict(docs)
        for (ids, _), (plain, _) in zip(runs, seen[0.0]):
            assert (ids == plain).all()
    tokenizer = shim.tokenizer
    ids, plain = (numpy.concatenate([ids.ravel() for ids, _ in seen[rate]]) for rate in (0.3, 0.0))
    masked, special = ids == tokenizer.mask_token_id, numpy.isin(plain, tokenizer.all_special_ids)
    assert (ids[~masked] == plain[~masked]).all() and special.any() and not masked[special].any()
    assert masked[~special].mean() == pytest.approx(0.3, abs=0.05)


def test_masks_that_cannot_be(encoders):
    with pytest.raises(EncoderError, match="B332"):
        make_encoder("x", mask_rate=1.0)
    model = make_encoder(encoders["bert"])
    model.initialize()
    shim = EncoderShim(mask_rate=0.1)
    tokenizer = copy.deepcopy(model.shims[0].tokenizer)
    tokenizer.mask_token = None
    with pytest.raises(EncoderError, match="B333"):
        shim.set_checkpoint(checkpoint.Checkpoint(model.shims[0].encoder, tokenizer))


def test_dropout_by_bits_is_dropout():
    torch.manual_seed(0)
    layer, values = CpuDropout(0.1), torch.ones(30, 1001, requires_grad=True)
    out = layer(values)
    assert sorted(out.unique().tolist()) == pytest.approx([0.0, 1 / 0.9], rel=1e-4)
    assert (out == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (out == 0).float().mean(0).std() < 0.08  # everywhere
    out.sum().backward()
    assert torch.equal(values.grad, out.detach())
    assert not torch.equal(layer(values), out)
    torch.manual_seed(0)
    assert torch.equal(layer(values), out)
    assert torch.equal(layer.eval()(values), values)
    for p in (0.0, 1.0):
        assert torch.equal(CpuDropout(p)(values), (1 - p) * values)


def attention_by_hand(query, key, value, mask, kept, p):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) * kept / (1 - p)) @ value


@pytest.mark.parametrize("kind", ["bool", "float", "each"])
def test_attention_with_dropout_and_its_gradients_are_those_of_the_formula(kind):
    torch.manual_seed(0)
    p, identity = 0.25, torch.eye(7, dtype=torch.double).expand(3, 2, 7, 7)
    query, key, value = (torch.randn(3, 2, 7, 5, dtype=torch.double, requires_grad=True) for _ in range(3))
    mask = (torch.arange(7) < torch.tensor([[7], [4], [1]]))[:, None, None].expand(3, 1, 7, 7)
    if kind == "each":
        mask = mask & (torch.rand(3, 1, 7, 7) < 0.7) | torch.eye(7, dtype=torch.bool)
    if kind == "float":
        mask = torch.zeros(3, 1, 7, 7, dtype=torch.double).masked_fill(~mask, -1e9)
    attend = torch.nn.functional.scaled_dot_product_attention

    def ours(query, key, value):
        torch.manual_seed(1)
        with QuickLayers():
            return attend(query, key, value, attn_mask=mask, dropout_p=p)

    with torch.no_grad():  # what was dropped is seen where the values are a unit matrix
        kept = ours(query, key, identity) > 0
    allowed = mask if kind != "float" else mask > -1
    assert 0.1 < 1 - kept[allowed.expand_as(kept)].double().mean() < 0.4
    found, expected = ours(query, key, value), attention_by_hand(query, key, value, mask, kept, p)
    assert torch.allclose(found, expected)
    weights = torch.randn_like(found)
    by_hand = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    for one, other in zip(torch.autograd.grad((found * weights).sum(), (query, key, value)), by_hand):
        assert torch.allclose(one, other)
    assert torch.autograd.gradcheck(ours, (query, key, value))


def test_attention_that_is_not_known_stays_as_it_is():
    torch.manual_seed(0)
    query = torch.randn(2, 1, 6, 4)
    bias = torch.zeros(2, 1, 6, 6, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    for settings in ({}, {"dropout_p": 0.3, "is_causal": True}, {"dropout_p": 0.3, "attn_mask": bias}):
        torch.manual_seed(1)
        expected = attend(query, query, query, **settings)
        torch.manual_seed(1)
        with QuickLayers():
            assert torch.equal(attend(query, query, query, **settings), expected)


@pytest.mark.parametrize("kind", ["none", "bool", "float", "each"])
@pytest.mark.parametrize("length", [20, 150])
def test_attention_in_bf16_is_that_of_the_formula(kind, length):
    torch.manual_seed(0)
    p, shape = 0.25, (3, 2, length)
    query, key, value = (torch.randn(*shape, 8).bfloat16().requires_grad_() for _ in range(3))
    mask = (torch.arange(length) < torch.tensor([[length], [length - 9], [1]]))[:, None, None]
    mask = mask.expand(3, 1, length, length)
    if kind == "none":
        mask = torch.ones_like(mask)
    if kind == "each":
        mask = mask & (torch.rand(mask.shape) < 0.7) | torch.eye(length, dtype=torch.bool)
    given = {"none": None, "float": torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)}.get(kind, mask)

    def ours(value):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16), QuickLayers():
            return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=given, dropout_p=p)

    kept = ours(torch.eye(length).bfloat16().expand(*shape, length)).detach() > 0
    found, expected = ours(value), attention_by_hand(query.float(), key.float(), value.float(), mask, kept, p)
    assert found.shape == expected.shape and torch.allclose(found.float(), expected, atol=0.1)
    weights = torch.randn_like(expected)
    by_hand = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    for one, other in zip(torch.autograd.grad((found * weights).sum(), (query, key, value)), by_hand):
        assert (one - other).norm() < 0.02 * other.norm()


def test_linear_layers_in_bf16_are_the_same():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(12, 5), torch.nn.Linear(12, 7, bias=False), torch.nn.Linear(5, 3)]
    values = torch.randn(3, 30, 12, requires_grad=True)
    found = []
    for context in (nullcontext(), QuickLayers()):
        with torch.autocast("cpu", torch.bfloat16), context:
            one, other = layers[0](values), layers[1](values)
            changed = one.detach().float()
            first = layers[2](changed)
            changed += 1  # in its place
            outputs = [one, other, layers[0](values[0, 0]), first, layers[2](changed), layers[2](changed[:, :0])]
        loss = sum((output.float() ** 2).sum() for output in outputs)
        weights = [weight for layer in layers for weight in layer.parameters()]
        found.append([*outputs, *torch.autograd.grad(loss, [values, *weights])])
    assert [one.shape for one in found[0]] == [other.shape for other in found[1]]
    for one, other in zip(*found):
        assert (one - other).norm() <= 0.01 * one.norm()
    assert not torch.equal(found[1][3], found[1][4])


class Products(TorchDispatchMode):
    """Notes the sizes of the matrices that are multiplied in bf16."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ("aten::mm", "aten::addmm", "aten::bmm") and args[-1].dtype == torch.bfloat16:
            self.sizes.update((*args[-2].shape[-2:], args[-1].shape[-1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("again", [False, True])
def test_training_in_bf16_has_matrices_of_few_shapes(encoders, monkeypatch, again):
    monkeypatch.setattr("beto_spacy.pipeline.encoder.cpu_has_bf16", lambda: True)
    nlp, strange = spacy.blank("es"), []
    for quick in (True, False):
        if not quick:
            monkeypatch.setattr("beto_spacy.pipeline.encoder.QuickLayers", nullcontext)
        model = make_encoder(encoders["bert"], precision="bf16", gradient_checkpointing=again, batch_wordpieces=512)
        model.initialize()
        weights = {size for weight in model.shims[0].encoder.parameters() for size in weight.shape}
        config = model.shims[0].encoder.config
        weights.add(config.hidden_size // config.num_attention_heads)
        with Products() as products:
            for length in (3, 11, 30, 61, 70, 90, 101):
                batch, backprop = model([nlp(" ".join(["casa"] * length))], is_train=True)
                features = [data.model_output.last_hidden_state for data in batch.doc_data]
                backprop(DocGradients([numpy.ones_like(x) for x in features]))
        assert products.sizes
        strange.append({size for size in products.sizes if size % 32 and size not in weights})
    assert not strange[0] and len(strange[1]) > 3


def test_training_keeps_little_of_the_attention_over_a_long_document(encoders):
    model = make_encoder(encoders["bert"], batch_wordpieces=512)
    model.initialize()
    doc, sizes = spacy.blank("es")(" ".join(["casa"] * 100)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append((*x.shape, x.element_size())) or x, id):
        model([doc], is_train=True)
    config = model.shims[0].encoder.config
    squares = [(heads, one, size) for _, heads, one, other, size in (s for s in sizes if len(s) == 5) if one == other]
    assert len(squares) == 2 * config.num_hidden_layers and squares[0][1] > 300
    kept = sum(heads * length**2 * size for heads, length, size in squares)
    assert kept == 5 * config.num_hidden_layers * config.num_attention_heads * squares[0][1] ** 2


def test_dropout_is_quick_everywhere_in_an_encoder(encoders):
    model = make_encoder(encoders["bert"])
    model.initialize()
    layers = [m for m in model.shims[0].encoder.modules() if isinstance(m, torch.nn.Dropout)]
    assert layers and all(type(m) is CpuDropout for m in layers)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "albert"])
def test_layers_computed_again_give_the_same_gradients(encoders, family):
    nlp = spacy.blank("es")
    docs = [nlp(text) for text in SENTENCES]
    gradients, kept = [], []
    for again in (False, True):
        model = make_encoder(encoders[family], gradient_checkpointing=again, batch_wordpieces=40)
        model.initialize()
        torch_model = model.shims[0].encoder
        torch.manual_seed(1)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, n=sizes: n.append(x.numel()) or x, lambda x: x):
            batch, backprop = model(docs, is_train=True)
        features = [data.model_output.last_hidden_state for data in batch.doc_data]
        backprop(DocGradients([numpy.ones_like(x) for x in features]))
        gradients.append({name: p.grad for name, p in torch_model.named_parameters() if p.grad is not None})
        kept.append(sum(sizes))
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-4), name
    assert kept[1] < kept[0] / 2


def directions(gradients, others):
    """The cosine between gradients of the same weights, by weight, where they are of some size."""
    largest = max(gradient.norm() for gradient in others.values())
    return {
        name: torch.cosine_similarity(gradients[name].flatten(), other.flatten(), dim=0).item()
        for name, other in others.items()
        if other.norm() > 1e-4 * largest
    }


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_in_bf16_on_a_processor_that_has_it(encoders, family, again, monkeypatch):
    """Matrix products are in bf16 where the processor has it, with fp32's gradients; prediction is in fp32."""
    docs = [spacy.blank("es")(text) for text in SENTENCES]
    gradients = {}
    for precision, capable in (("fp32", True), ("bf16", True), ("bf16", False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=capable: {"avx512_bf16": has}, raising=False)
        settings = {"precision": precision, "gradient_checkpointing": again and family != "albert"}
        model = make_encoder(encoders[family], batch_wordpieces=40, **settings)
        model.initialize()
        torch_model = model.shims[0].encoder
        seen = []
        for module in torch_model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda module, inputs, found, seen=seen: seen.append(found.dtype))
        torch.manual_seed(1)
        batch, backprop = model(docs, is_train=True)
        features = [data.model_output.last_hidden_state for data in batch.doc_data]
        assert all(array.dtype == "float32" for array in features)
        made = numpy.random.default_rng(0)
        backprop(DocGradients([made.normal(size=array.shape).astype("f") for array in features]))
        gradients[precision, capable] = {n: p.grad for n, p in torch_model.named_parameters() if p.grad is not None}
        n_training = len(seen)
        model.predict(docs)
        assert set(seen[:n_training]) == {torch.bfloat16 if (precision, capable) == ("bf16", True) else torch.float32}
        assert set(seen[n_training:]) <= {torch.float32} and (len(seen) > n_training)
    expected = gradients["fp32", True]
    assert all(gradient.dtype == torch.float32 for gradient in gradients["bf16", True].values())
    assert min(directions(gradients["bf16", True], expected).values()) > 0.95
    for name, gradient in gradients["bf16", False].items():
        assert torch.equal(gradient, expected[name]), name


def test_an_encoder_whose_layers_cannot_be_computed_again(encoders):
    model = make_encoder(encoders["albert"], gradient_checkpointing=True)
    with pytest.raises(EncoderError, match="B331"):
        model.initialize()


def test_prediction_goes_without_onednn(encoders):
    model = make_encoder(encoders["bert"])
    model.initialize()
    seen = []
    for layer in model.shims[0].encoder.encoder.layer:
        layer.register_forward_hook(lambda *found: seen.append(torch.backends.mkldnn.enabled))
    before = torch.backends.mkldnn.enabled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict([spacy.blank("es")(text) for text in SENTENCES])
    assert seen and not any(seen) and torch.backends.mkldnn.enabled == before
    model.shims[0].encoder.register_forward_pre_hook(lambda *found: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.predict([spacy.blank("es")("Lima")])
    assert torch.backends.mkldnn.enabled == before
