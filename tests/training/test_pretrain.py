"""Pretraining, on encoders so small that a test learns something in seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy
import pytest
import torch
from conftest import ROOT, SENTENCES, run
from transformers import AutoModel, AutoTokenizer, pipeline

from beto_spacy.encoders.checkpoint import Size, load_checkpoint
from beto_spacy.encoders.masked import (
    MaskedPositions,
    add_wordpieces,
    evaluate_encoder,
    load_masked_model,
    predict_masked,
    render_evaluation,
    score_masked,
)
from beto_spacy.encoders.sequences import Sequences, describe_vocabulary, open_cache
from beto_spacy.errors import EncoderError, FormatError, ProjectError
from beto_spacy.training.pretrain import (
    Objective,
    Training,
    last_checkpoint,
    make_plan,
    measure_throughput,
    pretrain,
    pretrain_from_config,
    render_throughput,
)
from beto_spacy.training.vocabulary import Texts, train_vocabulary

TINY = Size(layers=1, width=32, heads=2, max_length=64)
QUICK = Training(steps=12, batch_wordpieces=256, lengths="32", eval_every=6, save_every=6, log_every=4, cpu=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Ten sentences, in documents of two."""
    file = tmp_path_factory.mktemp("pretrain") / "text.txt"
    ten = [*SENTENCES, "María vive en Lima desde 1999.", "¿Dónde está el cine de la plaza?"]
    file.write_text("\n\n".join("\n".join(ten[i : i + 2]) for i in range(0, 10, 2)) + "\n", encoding="utf8")
    return file


@pytest.fixture(scope="module")
def tokenizer(text):
    return train_vocabulary(Texts([text] * 3), size=400)


def weights(folder):
    return {name: value.clone() for name, value in load_masked_model(folder).model.state_dict().items()}


def same(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    return all(torch.allclose(first[name].float(), second[name].float(), atol=tolerance, rtol=0) for name in first)


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("next_sentence", [0.0, 0.5])
def test_a_tiny_model_overfits_ten_sentences(text, tokenizer, tmp_path, next_sentence):
    training = replace(
        QUICK, steps=400, batch_wordpieces=384, lengths="48", learn_rate=5e-3, eval_every=10**6, save_every=10**6
    )
    report = pretrain(
        [text],
        tmp_path / "e",
        held_out=[text],
        tokenizer=tokenizer,
        size=Size(layers=2, width=64, heads=4, max_length=64),
        objective=Objective(next_sentence=next_sentence),
        training=training,
    )
    assert report["accuracy"] > 0.9 and report["loss"] < 0.7
    if next_sentence:
        assert report["next_sentence_accuracy"] > 0.8


def test_the_encoder_is_an_ordinary_folder_that_all_load(text, tokenizer, tmp_path):
    import spacy

    report = pretrain([text], tmp_path / "e", tokenizer=tokenizer, size=TINY, training=QUICK, half=True)
    assert report["steps"] == 12 and report["n_tokens"] > 0
    names = {file.name for file in (tmp_path / "e").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names and not any(
        n.endswith(".bin") for n in names
    )
    assert json.loads((tmp_path / "e" / "config.json").read_text())["hidden_dropout_prob"] == 0.1
    from safetensors import safe_open

    with safe_open(tmp_path / "e" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    guesses = pipeline("fill-mask", str(tmp_path / "e"))("María vive en [MASK].")
    assert len(guesses) == 5 and guesses[0]["score"] >= guesses[4]["score"] > 0
    config = AutoModel.from_pretrained(tmp_path / "e").config
    assert config.hidden_size == 32 and config.max_position_embeddings == 32  # as long as what it was trained on
    assert AutoTokenizer.from_pretrained(tmp_path / "e").model_max_length == 32
    assert load_checkpoint(tmp_path / "e").model.config.num_hidden_layers == 1
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": str(tmp_path / "e")}
    nlp = spacy.blank("es")
    nlp.add_pipe("beto_transformer", config={"model": model})
    nlp.initialize()
    assert nlp("María vive en Lima.")._.trf_data.model_output.last_hidden_state.shape[-1] == 32


def test_it_goes_on_with_an_encoder(text, tokenizer, tmp_path):
    pretrain([text], tmp_path / "a", tokenizer=tokenizer, size=TINY, training=QUICK)
    before = weights(tmp_path / "a")
    pretrain([text], tmp_path / "b", start=tmp_path / "a", training=replace(QUICK, learn_rate=1e-9))
    assert same(before, weights(tmp_path / "b"), tolerance=1e-6)
    pretrain([text], tmp_path / "c", start=tmp_path / "a", training=QUICK)
    assert not same(before, weights(tmp_path / "c"), tolerance=1e-3)
    assert (tmp_path / "c" / "vocab.txt").read_bytes() == (tmp_path / "a" / "vocab.txt").read_bytes()


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "albert"])
def test_it_goes_on_with_an_encoder_of_each_family(encoders, text, tmp_path, family):
    """These have no prediction head: it's new."""
    training = replace(QUICK, steps=3, dropout=None)
    report = pretrain([text], tmp_path / "e", held_out=[text], start=encoders[family], training=training)
    assert report["steps"] == 3 and numpy.isfinite(report["loss"])
    assert load_masked_model(tmp_path / "e").model.config.model_type == family
    if family != "bert":
        with pytest.raises(EncoderError, match="no head for next sentences"):
            pretrain(
                [text],
                tmp_path / "f",
                start=encoders[family],
                objective=Objective(next_sentence=1.0),
                training=training,
            )


def test_only_the_masked_positions_go_through_the_head(text, tokenizer, tmp_path):
    """The loss is that of the model of transformers itself, on all positions."""
    pretrain([text], tmp_path / "e", tokenizer=tokenizer, size=TINY, training=QUICK)
    model = load_masked_model(tmp_path / "e").model.eval()
    sequences = Sequences(
        open_cache([text], tokenizer, tmp_path),
        describe_vocabulary(tokenizer),
        length=32,
        batch_size=64,
        shuffled=False,
    )
    batch = {name: torch.from_numpy(value) for name, value in sequences.batch(range(len(sequences))).items()}
    labels = torch.full(batch["input_ids"].shape, -100).reshape(-1)
    labels[batch["positions"]] = batch["labels"]
    with torch.inference_mode():
        expected = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels.reshape(batch["input_ids"].shape),
        )
        masked = MaskedPositions(model)
        scores, _ = predict_masked(model, masked, batch)
        assert scores.shape == (len(batch["labels"]), model.config.vocab_size)
        ours = score_masked(model, masked, sequences)
    assert ours["loss"] == pytest.approx(expected.loss.item(), abs=1e-5)
    rows = expected.logits.reshape(-1, model.config.vocab_size)[batch["positions"]]
    assert torch.allclose(rows, scores, atol=1e-5)
    assert ours["accuracy"] == pytest.approx((rows.argmax(1) == batch["labels"]).float().mean().item())


# --- stopping and going on -------------------------------------------------------------------------------------------


class _Stop(Exception):
    pass


def stop_at(monkeypatch, step):
    """Have a training end at once when it has made some updates."""
    from beto_spacy.training import pretrain as module

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise _Stop

    monkeypatch.setattr(module._Progress, "on_step_end", on_step_end)


@pytest.mark.parametrize("next_sentence", [0.0, 1.0])
def test_a_resumed_training_ends_like_one_that_was_not_stopped(text, tokenizer, tmp_path, monkeypatch, next_sentence):
    options = dict(
        held_out=[text],
        tokenizer=tokenizer,
        size=TINY,
        objective=Objective(next_sentence=next_sentence),
        # Two lengths, parts of batches, and chance inside the model.
        training=replace(QUICK, steps=20, lengths="32*0.7,64*0.3", accumulate=2, dropout=0.1),
    )
    whole = pretrain([text], tmp_path / "a", **options)
    with monkeypatch.context() as patched:
        stop_at(patched, 15)
        with pytest.raises(_Stop):
            pretrain([text], tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()
    assert last_checkpoint(tmp_path / "b.run").name == "checkpoint-12"
    # A checkpoint that was being written when the power went.
    (tmp_path / "b.run" / "checkpoint-14").mkdir()
    (tmp_path / "b.run" / "checkpoint-14" / "trainer_state.json").write_text('{"global_st')
    resumed = pretrain([text], tmp_path / "b", **options)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert resumed["loss"] == whole["loss"] and resumed["n_tokens"] == whole["n_tokens"]
    logs = [json.loads((tmp_path / f"{n}.run" / "checkpoint-20" / "trainer_state.json").read_text()) for n in "ab"]
    losses = [{entry["step"]: entry["loss"] for entry in log["log_history"] if "loss" in entry} for log in logs]
    assert losses[0] == pytest.approx(losses[1]) and max(losses[0]) == 20


def test_a_training_that_is_over_is_not_done_again(text, tokenizer, tmp_path):
    options = dict(held_out=[text], tokenizer=tokenizer, size=TINY, training=QUICK)
    first = pretrain([text], tmp_path / "e", **options)
    again = pretrain([text], tmp_path / "e", **options)
    assert again["loss"] == first["loss"] and again["steps"] == first["steps"]


def test_another_training_does_not_go_on_with_these_checkpoints(text, tokenizer, tmp_path):
    options = dict(tokenizer=tokenizer, size=TINY)
    pretrain([text], tmp_path / "e", training=QUICK, **options)
    with pytest.raises(ProjectError, match="other settings .*training.*--restart"):
        pretrain([text], tmp_path / "e", training=replace(QUICK, learn_rate=1e-4), **options)
    pretrain([text], tmp_path / "e", training=replace(QUICK, learn_rate=1e-4), restart=True, **options)


def test_early_stopping_keeps_the_best_state(text, tokenizer, tmp_path):
    """With a rate that destroys what was learned, the held-out loss only rises."""
    training = replace(QUICK, steps=60, eval_every=2, patience=2, learn_rate=0.5, warmup=0.0, grad_clip=100.0)
    report = pretrain([text], tmp_path / "e", held_out=[text], tokenizer=tokenizer, size=TINY, training=training)
    assert report["steps"] < 60
    history = json.loads((last_checkpoint(tmp_path / "e.run") / "trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert report["loss"] == pytest.approx(min(losses), abs=1e-4)


COMMAND = """
import sys
from dataclasses import replace
from transformers import AutoTokenizer
from beto_spacy.encoders.checkpoint import Size
from beto_spacy.training.pretrain import *
text, dest, tokenizer, steps, save_every, accumulate, next_sentence = sys.argv[1:]
pretrain(
    [text], dest, held_out=[text], tokenizer=AutoTokenizer.from_pretrained(tokenizer),
    size=Size(layers=1, width=32, heads=2, max_length=64), objective=Objective(next_sentence=float(next_sentence)),
    training=Training(
        steps=int(steps),
        batch_wordpieces=256, lengths="32", log_every=1, save_every=int(save_every), eval_every=10**6, cpu=True,
        accumulate=int(accumulate),
    ),
)
"""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}


def test_a_killed_process_loses_nothing(text, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "command.py").write_text(COMMAND)

    def command(name):
        words = ["command.py", str(text), str(tmp_path / name), str(tmp_path / "tokenizer"), "60", "10", "1", "0"]
        return [sys.executable, *words]

    environment = {**os.environ, **ONE_THREAD}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command("killed"), cwd=tmp_path, env=environment, stderr=log, stdout=log)
        end = time.monotonic() + 60
        while last_checkpoint(tmp_path / "killed.run") is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    for name in ("killed", "whole"):
        done = run(*command(name), cwd=tmp_path, env=ONE_THREAD)
        assert done.returncode == 0, done.stderr[-3000:]
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("accumulate, next_sentence", [(1, 0.0), (2, 1.0)])
def test_two_processes_learn_what_one_does(text, tokenizer, tmp_path, accumulate, next_sentence):
    """The same batches, shared: the same losses and weights, but for the order of sums."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "command.py").write_text(COMMAND)
    runs = {}
    for name, launcher in (
        ("one", []),
        (
            "two",
            ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(29_000 + os.getpid() % 900)],
        ),
    ):
        words = [
            str(text),
            str(tmp_path / name),
            str(tmp_path / "tokenizer"),
            "8",
            "8",
            str(accumulate),
            str(next_sentence),
        ]
        done = run(sys.executable, *launcher, "command.py", *words, cwd=tmp_path, env=ONE_THREAD)
        assert done.returncode == 0, done.stderr[-3000:]
        state = json.loads((tmp_path / f"{name}.run" / "checkpoint-8" / "trainer_state.json").read_text())
        runs[name] = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(runs["one"]) == 8
    assert runs["one"] == pytest.approx(runs["two"], abs=2e-3)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"), tolerance=2e-3)


# --- plans -----------------------------------------------------------------------------------------------------------


def test_processes_and_parts_share_each_update(text, tokenizer, tmp_path):
    cache, vocabulary = open_cache([text], tokenizer, tmp_path), describe_vocabulary(tokenizer)
    training = replace(QUICK, steps=10, batch_wordpieces=512, lengths="32*0.8,64*0.2")
    plan = make_plan(cache, vocabulary, Objective(), training, seed=0)
    alone = list(plan.batches(0, 1, 0, 1))
    assert [len(batch) for batch in alone] == [16] * 8 + [8] * 2
    for n_parts, n_processes in ((1, 2), (2, 2), (4, 1)):
        shares = [list(plan.batches(0, n_parts, part, n_processes)) for part in range(n_processes)]
        for step in range(10):
            parts = [shares[p][step * n_parts + a] for a in range(n_parts) for p in range(n_processes)]
            assert [key for part in parts for key in part] == alone[step]
    assert list(plan.batches(7, 1, 0, 1)) == alone[7:]
    batches = [plan.__getitems__(keys) for keys in alone]
    assert plan.n_tokens(0, 10) == sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert plan.n_tokens(7, 9) == sum(int(batch["attention_mask"].sum()) for batch in batches[7:9])


def test_epochs_give_the_steps(text, tokenizer, tmp_path):
    cache, vocabulary = open_cache([text], tokenizer, tmp_path), describe_vocabulary(tokenizer)
    plan = make_plan(cache, vocabulary, Objective(), replace(QUICK, steps=0, epochs=2.5, batch_wordpieces=128), seed=0)
    assert plan.steps == -(-len(plan.phases[0].sequences) * 5 // 8)


# --- measuring -------------------------------------------------------------------------------------------------------


def test_evaluation_by_register(text, tokenizer, tmp_path):
    training = replace(QUICK, steps=300, learn_rate=5e-3, eval_every=10**6, save_every=10**6)
    pretrain([text], tmp_path / "e", tokenizer=tokenizer, size=TINY, training=training)
    other = tmp_path / "other.txt"
    other.write_text("La junta de acreedores emitió pagarés.\nZarpó la goleta.\n", encoding="utf8")
    scores = evaluate_encoder(tmp_path / "e", [text, other], length=32)
    assert list(scores) == ["text", "other", "all"]
    assert scores["text"]["accuracy"] > scores["other"]["accuracy"]
    assert scores["text"]["pseudo_perplexity"] < scores["all"]["pseudo_perplexity"]
    assert scores["text"]["pseudo_perplexity"] < scores["other"]["pseudo_perplexity"]
    assert "| other |" in render_evaluation(scores)


def test_the_pseudo_perplexity_is_that_of_hiding_each_wordpiece(text, tokenizer, tmp_path):
    """Computed again, a wordpiece at a time."""
    pretrain([text], tmp_path / "e", tokenizer=tokenizer, size=TINY, training=QUICK)
    one = tmp_path / "one.txt"
    one.write_text("La Universidad de Salamanca firmaría acuerdos.\n", encoding="utf8")
    scores = evaluate_encoder(tmp_path / "e", [one], length=32)["one"]
    model = load_masked_model(tmp_path / "e").model.eval()
    ids = tokenizer(one.read_text(encoding="utf8").strip())["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    total, words = 0.0, 0
    for i in range(1, len(ids) - 1):
        hidden, j = list(ids), i
        while j == i or pieces[j].startswith("##"):
            hidden[j] = tokenizer.mask_token_id
            j += 1
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([hidden])).logits[0, i]
        total -= torch.log_softmax(logits, dim=0)[ids[i]].item()
        words += not pieces[i].startswith("##")
    assert any(piece.startswith("##") for piece in pieces)
    assert scores["wordpieces"] == len(ids) - 2 and scores["words"] == words
    assert scores["pseudo_perplexity"] == pytest.approx(numpy.exp(total / (len(ids) - 2)), rel=1e-4)
    assert scores["word_pseudo_perplexity"] == pytest.approx(numpy.exp(total / words), rel=1e-4)


@pytest.mark.parametrize("next_sentence", [0.0, 1.0])
def test_wordpieces_are_added(text, tokenizer, tmp_path, next_sentence):
    objective = Objective(next_sentence=next_sentence)
    pretrain([text], tmp_path / "e", tokenizer=tokenizer, size=TINY, training=QUICK, objective=objective, half=True)
    known = max(tokenizer.get_vocab(), key=lambda piece: len(piece) * piece.isalpha())
    assert add_wordpieces(tmp_path / "e", tmp_path / "f", ["😊", "Güimar", "😊", known]) == 3  # Güimar and ##Güimar
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name) for name in "ef")
    unchanged = "María vive en Lima."
    assert before(unchanged) == after(unchanged)
    assert after.tokenize("Güimar😊") == ["Güimar", "😊"] and before.tokenize("😊") == ["[UNK]"]
    old, new = weights(tmp_path / "e"), weights(tmp_path / "f")
    key = "bert.embeddings.word_embeddings.weight"
    assert len(new[key]) == len(old[key]) + 3 and (new[key][: len(old[key])] == old[key]).all()
    assert (new[key][-3:] == old[key][before.unk_token_id]).all()
    with torch.inference_mode():
        ids = torch.tensor([before(unchanged)["input_ids"]])
        logits = [load_masked_model(tmp_path / name).model.eval()(input_ids=ids).logits for name in "ef"]
    assert torch.allclose(logits[0], logits[1][..., : logits[0].shape[-1]], atol=1e-5)
    pretrain([text], tmp_path / "g", start=tmp_path / "f", training=QUICK, objective=objective)
    with pytest.raises(EncoderError, match="not one word"):
        add_wordpieces(tmp_path / "e", tmp_path / "h", ["dos palabras"])


def test_an_encoder_without_a_head_cannot_predict(encoders, text):
    with pytest.raises(EncoderError, match="prediction head is missing"):
        evaluate_encoder(encoders["bert"], [text])


# --- configs and errors ----------------------------------------------------------------------------------------------

CONFIG = ROOT / "configs" / "pretrain.cfg"


def overrides(text, **more):
    return {
        "paths.texts": [str(text)],
        "vocabulary.size": 400,
        "encoder.layers": 1,
        "encoder.width": 32,
        "encoder.heads": 2,
        "training.steps": 4,
        "training.lengths": 32,
        "training.batch_wordpieces": 128,
        "training.cpu": True,
        **more,
    }


def test_half_precision_on_a_processor_that_has_it(text, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    settings = overrides(text, **{"training.precision": "bf16"})
    with pytest.raises(EncoderError, match="wants a GPU, or a processor"):
        pretrain_from_config(CONFIG, tmp_path / "e", overrides=settings)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    types = set()
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, *more, **named: types.add(query.dtype) or attend(query, *more, **named),
    )
    assert pretrain_from_config(CONFIG, tmp_path / "e", overrides=settings)["steps"] == 4
    assert torch.bfloat16 in types
    weights = load_checkpoint(tmp_path / "e").model.state_dict().values()
    assert all(bool(torch.isfinite(weight).all()) for weight in weights)
    for left in (None, "bf16"):  # by another training in this process
        if left:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", left)
        types.clear()
        pretrain_from_config(CONFIG, tmp_path / f"after {left}", overrides=overrides(text))
        assert types == {torch.float32} and os.environ.get("ACCELERATE_MIXED_PRECISION") == left


def test_a_config_trains_vocabulary_and_encoder(text, tmp_path):
    pattern = str(text.parent / "*.txt")
    report = pretrain_from_config(CONFIG, tmp_path / "e", overrides=overrides(pattern))
    assert report["steps"] == 4 and report["texts"] == [str(text)]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "e")) <= 400
    for vocabulary in (tmp_path / "e", tmp_path / "e" / "vocab.txt"):
        more = {"paths.vocabulary": str(vocabulary), "paths.run": str(tmp_path / f"run-{vocabulary.name}")}
        pretrain_from_config(CONFIG, tmp_path / "f", overrides=overrides(text, **more))
        assert (tmp_path / "f" / "vocab.txt").read_bytes() == (tmp_path / "e" / "vocab.txt").read_bytes()
    report = pretrain_from_config(
        CONFIG, tmp_path / "g", overrides=overrides(text, **{"paths.start": str(tmp_path / "e")})
    )
    assert report["start"] == str(tmp_path / "e")


@pytest.mark.parametrize(
    "more, error, match",
    [
        ({"paths.texts": []}, FormatError, "no text"),
        ({"paths.texts": ["/nowhere/*.txt"]}, FormatError, "No file is called"),
        ({"paths.vocabulary": "/nowhere/x"}, EncoderError, "no encoder '/nowhere/x'"),
        ({"paths.start": "/nowhere/x"}, EncoderError, "no encoder '/nowhere/x'"),
        ({"training.steps": "many"}, ProjectError, "not of its kind"),
        ({"training.steps": True}, ProjectError, "not of its kind"),
        ({"training.lengths": True}, ProjectError, "not of its kind"),
        ({"training.stepps": 3}, ProjectError, "can't be read|has 'stepps'"),
        ({"training.batch_wordpieces": 160, "training.accumulate": 2}, EncoderError, "can't share"),
        ({"training.accumulate": 4, "training.lengths": "32*0.5,64*0.5"}, EncoderError, "can't share"),
        ({"training.lengths": "32*0.5,64*0.4"}, EncoderError, "are no lengths"),
        ({"training.lengths": "short"}, EncoderError, "are no lengths"),
        ({"training.report_to": "paper"}, ProjectError, "tracking"),
        ({"training.precision": "fp8"}, EncoderError, "no precision"),
        ({"training.precision": "fp16"}, EncoderError, "wants a GPU, and"),
        ({"training.lengths": "1024", "training.batch_wordpieces": 1024}, EncoderError, "don't fit"),
        ({"encoder.width": 30, "encoder.heads": 4}, EncoderError, "attention heads"),
        ({"objective.mask_rate": 2.0}, EncoderError, "mask rate"),
    ],
)
def test_settings_that_cannot_be(text, tmp_path, more, error, match):
    with pytest.raises(error, match=match):
        pretrain_from_config(CONFIG, tmp_path / "e", overrides=overrides(text, **more))
    assert not (tmp_path / "e").exists()


def test_a_folder_in_the_way(text, tmp_path):
    (tmp_path / "e").mkdir()
    with pytest.raises(ProjectError, match="is no encoder"):
        pretrain_from_config(CONFIG, tmp_path / "e", overrides=overrides(text))


def test_accelerate_that_is_missing_names_the_extra(text, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ProjectError, match="beto-spacy\\[pretrain\\]"):
        pretrain([text], tmp_path / "e", tokenizer=tokenizer, size=TINY, training=QUICK)


def test_throughput_is_measured_beside_a_bare_loop(text, tokenizer):
    for next_sentence in (0.0, 1.0):
        result = measure_throughput(
            [text],
            tokenizer,
            size=TINY,
            objective=Objective(next_sentence=next_sentence),
            training=QUICK,
            steps=6,
            runs=2,
        )
        assert all(speed > 0 for speeds in result["tokens_per_second"].values() for speed in speeds)
        assert len(result["ratios"]) == 2 and f"{result['ratio']:.2f}." in render_throughput(result)


def test_pretraining_needs_no_spacy(text, tmp_path):
    code = "import sys; sys.modules['spacy'] = None; import beto_spacy.training.pretrain"
    assert run(sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}).returncode == 0


def test_the_command(text, tmp_path):
    words = [f"--{name}={json.dumps(value)}" for name, value in overrides(text).items()]
    done = run(sys.executable, "-m", "beto_spacy", "pretrain", str(CONFIG), str(tmp_path / "e"), *words, cwd=ROOT)
    assert done.returncode == 0 and "4 steps" in done.stdout, done.stderr
    words = ["--evaluate", str(tmp_path / "e"), str(text), "--output", str(tmp_path / "scores.json")]
    done = run(sys.executable, "-m", "beto_spacy", "pretrain", *words, cwd=ROOT)
    assert done.returncode == 0 and "| all |" in done.stdout, done.stderr
    assert set(json.loads((tmp_path / "scores.json").read_text())) == {"text", "all"}
    done = run(
        sys.executable, "-m", "beto_spacy", "pretrain", str(CONFIG), str(tmp_path / "e"), "--steps", "4", cwd=ROOT
    )
    assert done.returncode == 2 and "--section.field" in done.stderr
