"""Models that predict masked words: loading or building them, and measuring how well they predict.

An encoder with its prediction head, of any of the families that `checkpoint.BERT_LIKE` names. The training is in
`pretrain.py`. No spaCy here.
"""

import json
import math
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy
import torch
import torch.nn.functional as F
from transformers import AutoModelForMaskedLM, BertForPreTraining, PretrainedConfig

from beto_spacy.encoders.checkpoint import (
    Checkpoint,
    Size,
    bert_config,
    check_complete,
    check_place,
    load_checkpoint,
    load_tokenizer,
    make_config,
    quiet_hub,
    resolve_encoder,
    sequence_limit,
    write_checkpoint,
)
from beto_spacy.encoders.sequences import Sequences, describe_vocabulary, open_cache
from beto_spacy.errors import EncoderError
from beto_spacy.formats.running_text import expand

#: Signs that edited text lacks and messages are full of.
EMOJI = tuple(
    "😀😁😂🤣😃😄😅😆😉😊😋😎😍😘🥰😗😙😚☺🙂🤗🤩🤔🤨😐😑😶🙄😏😣😥😮🤐😯😪😫🥱😴😌😛😜😝🤤😒😓😔😕🙃🤑😲☹🙁😖😞😟😤😢😭😦😧😨😩🤯😬😰😱🥵🥶😳🤪😵🥴😠😡🤬"
    "😷🤒🤕🤢🤮🤧😇🥳🥺🤠🤡🤥🤫🤭🧐🤓😈👿👹👻💀👽🤖💩😺😸😹😻😼🙈🙉🙊💋💌💘💝💖💗💓💞💕💔❤🧡💛💚💙💜🤎🖤🤍💯💢💥💫💦💨💬💭💤👋✋🖐👌🤏✌🤞🤟🤘🤙👈👉👆👇☝👍👎✊👊🤛🤜👏🙌"
    "👐🤲🤝🙏💪👀👅👄🧠👶👧👦👩👨👵👴👮👸🤴🤰🤷🤦🙋💁🙅🙆🙇💃🕺👯🚶🏃👫👪🌹🌷🌸🌺🌻🌼🌞🌝🌙⭐🌟✨⚡🔥💧🌈☀☁☔❄⛄🌊🍀🎉🎊🎂🎁🎈🎶🎵🎤🎧🎬📷📸📱💻📺⚽🏀🏆🥇🍺🍻🍷🥂☕🍕🍔🍫🍰🍎🍓"
    "🐶🐱🐭🐰🐻🐼🐷🐸🐵🐔🐧🐦🐤🦋🐝🐞🐢🐍🐙🐟🐬🐳🐘🐴🚗🚀✈🏠🏡⏰⌛💰💸💣🔪🔫🚫⛔✅✔❌❗❓‼⁉➡⬅⬆⬇🔝🔜🆗🆕🔴🔵⚪⚫▶♥♡★☆♪♫™®©€"
)

#: The first module of the prediction head, by model type: what it's given is all that is predicted.
_HEADS = {
    "bert": "cls.predictions",
    "roberta": "lm_head",
    "xlm-roberta": "lm_head",
    "camembert": "lm_head",
    "albert": "predictions",
    "distilbert": "vocab_transform",
    "electra": "generator_predictions",
}


class MaskedPositions:
    """Lets only the positions that are to be predicted through a prediction head, before its first module.

    model: A model for masked words of one of the families that `checkpoint.BERT_LIKE` names.
    """

    def __init__(self, model: Any):
        self.positions: Optional[torch.Tensor] = None
        head = model.get_submodule(_HEADS[model.config.model_type])
        self._handle = head.register_forward_pre_hook(self._select)

    def _select(self, module: Any, inputs: Tuple[torch.Tensor, ...]) -> Optional[Tuple[torch.Tensor, ...]]:
        if self.positions is None:
            return None
        states = inputs[0]
        return (states.reshape(-1, states.shape[-1])[self.positions], *inputs[1:])

    def remove(self) -> None:
        self._handle.remove()


def load_masked_model(name: Union[str, Path], *, next_sentence: bool = False, new_head: bool = False) -> Checkpoint:
    """Load an encoder with its prediction head, by folder, embedded name or hub name.

    next_sentence: With the head for pairs, which only the type ``bert`` has.
    new_head: Take a prediction head with random weights if the checkpoint has none.
    Raises EncoderError as `load_checkpoint` does, and for a head that is missing or can't be had.
    """
    source = resolve_encoder(name)
    try:
        with quiet_hub():
            config_dict, _ = PretrainedConfig.get_config_dict(source)
            config = make_config(source, config_dict)
            tokenizer = load_tokenizer(source, config)
            config.pad_token_id = tokenizer.pad_token_id
            model_class = _model_class(config, next_sentence)
            model, loading = model_class.from_pretrained(source, config=config, output_loading_info=True)
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            "B621",
            f"The encoder '{name}' could not be loaded ({str(error).strip().splitlines()[0]}).",
            "Check the name, the files and the network.",
        ) from error
    base = model.base_model_prefix + "."
    missing = [key for key in loading["missing_keys"] if ".pooler." not in key]
    check_complete(name, [key for key in missing if key.startswith(base)])
    missing = [key for key in missing if "seq_relationship" not in key]
    if missing and not new_head:
        raise EncoderError(
            "B622",
            f"The encoder '{name}' can't predict words: its prediction head is missing ({missing[0]}).",
            "Pretrain it first, or take a checkpoint of a masked language model.",
        )
    return Checkpoint(model.float(), tokenizer)


def _model_class(config: PretrainedConfig, next_sentence: bool) -> Any:
    if not next_sentence:
        return AutoModelForMaskedLM
    if config.model_type != "bert":
        raise EncoderError(
            "B623",
            f"An encoder of type '{config.model_type}' has no head for next sentences.",
            "Give none of the loss to them (next_sentence = 0), or take one of type 'bert'.",
        )
    return BertForPreTraining


def build_masked_model(tokenizer: Any, size: Size, *, next_sentence: bool, seed: int) -> Any:
    """Build a BERT with random weights and its heads."""
    config = bert_config(tokenizer, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForPreTraining(config) if next_sentence else AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        positions = model.get_submodule("bert.embeddings.position_embeddings").weight
        positions.copy_(sinusoids(*positions.shape) * size.initializer_range * math.sqrt(2))
    return model


def sinusoids(n_positions: int, width: int) -> torch.Tensor:
    """Waves of all lengths, by which neighbours are known from their positions (Vaswani et al. 2017).

    Learned positions that start from them make a model attend to neighbours sooner than random ones do.

    Returns numbers from -1 to 1. *Shape:* (n_positions, width)
    """
    angles = torch.arange(n_positions)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    waves = torch.stack([angles.sin(), angles.cos()], dim=2).reshape(n_positions, -1)
    return waves[:, :width]


def to_tensors(batch: Dict[str, numpy.ndarray]) -> Dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def cut_positions(model: Any, length: int) -> None:
    """Have a BERT take sequences of a length at most: positions beyond that know nothing if it never saw them."""
    embeddings = model.get_submodule("bert.embeddings")
    weight = embeddings.position_embeddings.weight[:length].detach().clone()
    embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(weight, freeze=False)
    model.config.max_position_embeddings = length


def predict_masked(
    model: Any, masked: MaskedPositions, inputs: Dict[str, torch.Tensor]
) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
    """Score all wordpieces for the positions to predict, and whether the pairs follow.

    inputs: What `Sequences.batch` gives, as tensors, without the answers.
    Returns scores by wordpiece, *shape:* (n_masked, vocabulary), and by pair, *shape:* (n_sequences, 2) or None.
    """
    masked.positions = inputs["positions"]
    names = ["input_ids", "attention_mask"]
    config = model.module.config if hasattr(model, "module") else model.config
    pairs = "BertForPreTraining" in type(getattr(model, "module", model)).__name__
    if pairs and getattr(config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    try:
        outputs = model(**{name: inputs[name] for name in names})
    finally:
        masked.positions = None
    if pairs:
        return outputs.prediction_logits, outputs.seq_relationship_logits
    return outputs.logits, None


def score_masked(
    model: Any, masked: MaskedPositions, sequences: Sequences, *, limit: Optional[int] = None
) -> Dict[str, float]:
    """Measure how well a model predicts the masked words of sequences, all of them or the first ones.

    Returns ``loss``, in nats a wordpiece; ``accuracy``, the part of the wordpieces that are right; ``word_accuracy``,
    of the words all of whose wordpieces are; with pairs, ``next_sentence_loss`` and ``next_sentence_accuracy``.
    """
    n = len(sequences) if limit is None else min(limit, len(sequences))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    sums = dict.fromkeys(("loss", "right", "pieces", "words", "right_words", "pair_loss", "right_pairs"), 0.0)
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
        for first in range(0, n, sequences.batch_size):
            arrays = sequences.batch(range(first, min(n, first + sequences.batch_size)))
            batch = {name: tensor.to(device) for name, tensor in to_tensors(arrays).items()}
            scores, pair_scores = predict_masked(model, masked, batch)
            labels = batch["labels"]
            sums["loss"] += F.cross_entropy(scores.float(), labels, reduction="sum").item()
            right = (scores.argmax(dim=1) == labels).cpu().numpy()
            # Neighbours that go on with a word are of the same word: words are masked as a whole.
            word = numpy.cumsum(~sequences.vocabulary.continues[arrays["labels"]]) if len(right) else right.astype(int)
            n_wrong = numpy.bincount(word, weights=~right, minlength=1)
            sums["words"] += len(numpy.unique(word))
            sums["right_words"] += int((n_wrong[numpy.unique(word)] == 0).sum()) if len(right) else 0
            sums["right"] += int(right.sum())
            sums["pieces"] += len(right)
            if pair_scores is not None:
                follows = batch["next_sentence_label"]
                sums["pair_loss"] += F.cross_entropy(pair_scores.float(), follows, reduction="sum").item()
                sums["right_pairs"] += int((pair_scores.argmax(dim=1) == follows).sum())
    model.train(was_training)
    pieces, words = max(1.0, sums["pieces"]), max(1.0, sums["words"])
    out = {
        "loss": sums["loss"] / pieces,
        "accuracy": sums["right"] / pieces,
        "word_accuracy": sums["right_words"] / words,
    }
    if sequences.pairs:
        out.update(next_sentence_loss=sums["pair_loss"] / n, next_sentence_accuracy=sums["right_pairs"] / n)
    return out


def evaluate_encoder(
    name: Union[str, Path],
    texts: Sequence[Union[str, Path]],
    *,
    length: Optional[int] = None,
    mask_rate: float = 0.15,
    perplexity_sequences: int = 16,
    batch_size: int = 32,
    seed: int = 0,
) -> Dict[str, Dict[str, float]]:
    """Measure how well an encoder predicts the words of held-out texts.

    name: An encoder with its prediction head: a folder, an embedded name or a hub name.
    texts: Held-out texts, a file a register; names or patterns.
    length: Wordpieces a sequence, special tokens included; by default 128, or fewer if the encoder takes no more.
    mask_rate: Part of the wordpieces that are masked at once for the accuracies.
    perplexity_sequences: Sequences of each text that the pseudo-perplexity is measured on, evenly spread.
    seed: Of the masks.
    Returns for each text, by the name of its file, and for ``all``: what `score_masked` gives; ``pseudo_perplexity``,
    the exponential of the mean negative log-probability of a wordpiece given the others (Salazar et al. 2020), where
    the later wordpieces of its own word are hidden too (Kauf and Ivanova 2023); ``word_pseudo_perplexity``, the same by
    word, which can be compared between vocabularies; and the number of ``wordpieces`` and ``words`` it's measured on.
    Raises EncoderError for an encoder that can't be had or predict, FormatError for texts.
    """
    model, tokenizer = load_masked_model(name)
    vocabulary = describe_vocabulary(tokenizer)
    if length is None:
        length = min(128, sequence_limit(model))
    if length > sequence_limit(model):
        raise EncoderError(
            "B632", f"Sequences of {length} don't fit the encoder.", f"Give {sequence_limit(model)} or fewer."
        )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    masked = MaskedPositions(model)
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        named = {_register(path): [path] for path in expand(texts)}
        named["all"] = [path for paths in named.values() for path in paths]
        for register, paths in named.items():
            sequences = Sequences(
                open_cache(paths, tokenizer, folder),
                vocabulary,
                length=length,
                batch_size=batch_size,
                mask_rate=mask_rate,
                seed=seed,
                shuffled=False,
            )
            out[register] = score_masked(model, masked, sequences)
            out[register].update(_pseudo_perplexity(model, masked, sequences, perplexity_sequences))
    masked.remove()
    return out


def _register(path: Path) -> str:
    return path.name.split(".")[0]


def _pseudo_perplexity(model: Any, masked: MaskedPositions, sequences: Sequences, limit: int) -> Dict[str, float]:
    """Hide each wordpiece in turn, and those after it in its word, and ask for it."""
    voc = sequences.vocabulary
    device = next(model.parameters()).device
    places = numpy.unique(numpy.linspace(0, len(sequences) - 1, min(limit, len(sequences))).astype(int))
    total, n_pieces, n_words = 0.0, 0, 0
    with torch.inference_mode():
        for place in places.tolist():
            ids = sequences.plain(place)
            asked = numpy.flatnonzero(~voc.special[ids])
            starts = ~voc.continues[ids]
            word = numpy.cumsum(starts)
            columns = numpy.arange(len(ids))
            hidden = (word[None, :] == word[asked][:, None]) & (columns[None, :] >= asked[:, None])
            rows = numpy.where(hidden, voc.mask, ids[None, :])
            for first in range(0, len(asked), sequences.batch_size):
                part = slice(first, first + sequences.batch_size)
                inputs = {
                    "input_ids": torch.from_numpy(rows[part]).to(device),
                    "attention_mask": torch.ones(rows[part].shape, dtype=torch.long, device=device),
                    "positions": torch.from_numpy(numpy.arange(len(asked[part])) * len(ids) + asked[part]).to(device),
                }
                scores, _ = predict_masked(model, masked, inputs)
                labels = torch.from_numpy(ids[asked[part]]).to(device)
                total += F.cross_entropy(scores.float(), labels, reduction="sum").item()
            n_pieces += len(asked)
            n_words += int(starts[asked].sum())
    return {
        "pseudo_perplexity": math.exp(total / max(1, n_pieces)),
        "word_pseudo_perplexity": math.exp(min(700.0, total / max(1, n_words))),
        "wordpieces": n_pieces,
        "words": n_words,
    }


def render_evaluation(scores: Dict[str, Dict[str, float]]) -> str:
    """A Markdown table of what `evaluate_encoder` measured."""
    lines = [
        "| register | masked words | masked wordpieces | loss | pseudo-perplexity | by word |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for register, s in scores.items():
        lines.append(
            f"| {register} | {s['word_accuracy']:.1%} | {s['accuracy']:.1%} | {s['loss']:.3f} | "
            f"{s['pseudo_perplexity']:.1f} | {s['word_pseudo_perplexity']:.1f} |"
        )
    return "\n".join(lines)


def add_wordpieces(
    name: Union[str, Path], dest: Union[str, Path], pieces: Sequence[str] = EMOJI, *, like_others: bool = False
) -> int:
    """Give an encoder wordpieces for words or signs that it has none for, as a start for further training.

    Until then the new ones mean what unknown words mean: they have the vector of [UNK].

    name: An encoder with a WordPiece vocabulary, such as BETO; its prediction head is kept, if it has one.
    dest: The folder to write.
    pieces: What to add; what the vocabulary has already is left out. By default signs that messages are full of.
    like_others: Start new signs from the mean of all signs in the vocabulary, and new letters and words from that of
        all letters, instead of [UNK].
    Returns how many were added. Raises EncoderError for another kind of vocabulary, or for a piece that the tokenizer
    takes apart; ProjectError if the folder can't be written.
    """
    source = resolve_encoder(name)
    check_place(Path(dest))
    with quiet_hub():
        stated, _ = PretrainedConfig.get_config_dict(source)
    pairs = "BertForPreTraining" in (stated.get("architectures") or [])
    try:
        model, tokenizer = load_masked_model(name, next_sentence=pairs)
    except EncoderError as error:
        if error.code != "B622":
            raise
        model, tokenizer = load_checkpoint(name)
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    if state["model"]["type"] != "WordPiece":
        raise EncoderError(
            "B641", f"The vocabulary of '{name}' is of another kind than WordPiece.", "Use an encoder like BETO."
        )
    vocabulary = state["model"]["vocab"]
    before = len(model.get_input_embeddings().weight)
    number = before
    for piece in pieces:
        text = backend.normalizer.normalize_str(piece) if backend.normalizer else piece
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        if len(words) != 1:
            raise EncoderError("B642", f"'{piece}' is not one word to the tokenizer ({words}).", "Leave it out.")
        if words[0] in vocabulary and len(words[0]) > 1:
            continue
        alone = len(backend.pre_tokenizer.pre_tokenize_str("a" + words[0])) > 1
        for form in (words[0],) if alone else (words[0], "##" + words[0]):
            if form not in vocabulary:
                vocabulary[form] = number
                number += 1
    known, added = {form: n for form, n in vocabulary.items() if n < before}, {}
    for form, n in vocabulary.items():
        if n >= before:
            added[n] = _peers(form, known) if like_others else []
    model.resize_token_embeddings(number, mean_resizing=False)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        bias = getattr(model.get_output_embeddings(), "bias", None)
        for weights in (embeddings,) if bias is None else (embeddings, bias):
            for n, peers in added.items():
                weights[n] = weights[peers or [tokenizer.unk_token_id]].mean(dim=0)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf8")
        tokenizer = load_tokenizer(folder, model.config)
    half = "float16" in str(stated.get("torch_dtype", stated.get("dtype", "")))
    write_checkpoint(Checkpoint(model.half() if half else model, tokenizer), Path(dest))
    return number - before


def _peers(form: str, vocabulary: Dict[str, int]) -> List[int]:
    """The numbers of the single signs in a vocabulary, for a sign; of the single letters, for another wordpiece."""
    inside, core = form.startswith("##"), form[2:] if form.startswith("##") else form
    return [
        n
        for other, n in vocabulary.items()
        if other.startswith("##") == inside
        and len(other) == 1 + 2 * inside
        and other[-1].isalnum() == any(map(str.isalnum, core))
    ]
