"""Fine-tune an encoder with a plain loop of torch and transformers, as a yardstick for the heads of the pipeline.

The loop uses nothing of the package but the reader of corpora: `AutoModelForTokenClassification` on the first wordpiece
of each token (parts of speech, entities as BIO), or `AutoModelForSequenceClassification` (categories); AdamW, a linear
warm-up and decay, shuffled batches. A head of the pipeline that is trained alone on the same corpus, with as many
words an update and as many updates, should not be worse. Not a test: run it as a script.

    python tests/bench/plain_loop.py pos corpus/train/syntax.spacy corpus/test/syntax.spacy --updates 930
"""

import argparse
import json
import random
import time

import spacy
import torch
from spacy.scorer import PRFScore
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from beto_spacy.corpora.reader import read_docs
from beto_spacy.encoders.checkpoint import resolve_encoder


def read_examples(path, layer):
    """Read (words, labels) of single sentences, or of whole documents for categories."""
    examples = []
    for doc in read_docs(path, spacy.blank("es").vocab):
        if layer == "cats":
            found = [label for label, value in doc.cats.items() if value]
            if found:
                examples.append(([token.text for token in doc], found[0]))
            continue
        for sent in doc.sents if doc.has_annotation("SENT_START") else [doc[:]]:
            words = [token for token in sent if not token.is_space]
            labels = [word.pos_ if layer == "pos" else _iob(word) for word in words]
            if words and all(labels):
                examples.append(([word.text for word in words], labels))
    return examples


def _iob(token):
    return "O" if token.ent_iob_ == "O" else f"{token.ent_iob_}-{token.ent_type_}"


def encode(tokenizer, words, length):
    """Encode words; returns the ids and where each word's first piece is (None if it was cut off)."""
    encoding = tokenizer(words, is_split_into_words=True, truncation=True, max_length=length)
    firsts = {}
    for place, word in enumerate(encoding.word_ids()):
        if word is not None:
            firsts.setdefault(word, place)
    return encoding["input_ids"], [firsts.get(i) for i in range(len(words))]


def collate(batch, pad):
    longest = max(len(ids) for ids, _, _ in batch)
    ids = torch.full((len(batch), longest), pad)
    for row, (pieces, _, _) in enumerate(batch):
        ids[row, : len(pieces)] = torch.tensor(pieces)
    mask = torch.zeros_like(ids)
    for row, (pieces, _, _) in enumerate(batch):
        mask[row, : len(pieces)] = 1
    return ids, mask


def targets(batch, numbers, shape, layer):
    if layer == "cats":
        return torch.tensor([numbers[labels] for _, _, labels in batch])
    found = torch.full(shape, -100)
    for row, (_, firsts, labels) in enumerate(batch):
        for place, label in zip(firsts, labels):
            if place is not None:
                found[row, place] = numbers.get(label, -100)
    return found


def batches(examples, words):
    batch, size = [], 0
    for example in examples:
        batch.append(example)
        size += len(example[1])
        if size >= words:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def spans(labels):
    """The entities of IOB labels; an I without its beginning begins one."""
    found, start, kind = set(), None, None
    for i, label in enumerate([*labels, "O"]):
        prefix, _, own = label.partition("-")
        if start is not None and (prefix != "I" or own != kind):
            found.add((start, i, kind))
            start = None
        if prefix == "B" or (prefix == "I" and start is None):
            start, kind = i, own
    return found


def evaluate(model, tokenizer, examples, labels, layer):
    """Score: accuracy of parts of speech, micro F1 of entities, macro F1 of categories."""
    model.eval()
    right = total = 0
    scores = {label: PRFScore() for label in labels}
    micro = PRFScore()
    with torch.inference_mode():
        for batch in batches(sorted(examples, key=lambda e: len(e[0])), 512):
            logits = model(*collate(batch, tokenizer.pad_token_id)).logits.argmax(dim=-1)
            for row, (_, firsts, gold) in zip(logits.tolist(), batch):
                if layer == "cats":
                    for label, score in scores.items():
                        score.score_set({label} & {labels[row]}, {label} & {gold})
                    continue
                guess = ["O" if place is None else labels[row[place]] for place in firsts]
                right += sum(a == b for a, b in zip(guess, gold))
                total += len(gold)
                if layer == "ner":
                    micro.score_set(spans(guess), spans(gold))
    if layer == "pos":
        return right / total
    return micro.fscore if layer == "ner" else sum(s.fscore for s in scores.values()) / len(scores)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("layer", choices=["pos", "ner", "cats"])
    parser.add_argument("train")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--encoder", default="beto-mini")
    parser.add_argument("--updates", type=int, default=465)
    parser.add_argument("--words", type=int, default=600, help="words an update")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    source = resolve_encoder(args.encoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    raw = {path: read_examples(path, args.layer) for path in [args.train, *args.tests]}
    every = (label for _, found in raw[args.train] for label in ([found] if args.layer == "cats" else found))
    labels = sorted(set(every))
    numbers = {label: i for i, label in enumerate(labels)}
    data = {
        path: [(*encode(tokenizer, words, args.length), gold) for words, gold in examples]
        for path, examples in raw.items()
    }
    kind = AutoModelForSequenceClassification if args.layer == "cats" else AutoModelForTokenClassification
    model = kind.from_pretrained(source, num_labels=len(labels), torch_dtype=torch.float32)
    plain = [p for n, p in model.named_parameters() if p.ndim < 2]
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate)
    warmup = max(1, args.updates // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / warmup, (args.updates - n) / max(1, args.updates - warmup))
    )
    start, done = time.time(), 0
    while done < args.updates:
        random.shuffle(data[args.train])
        for batch in batches(data[args.train], args.words):
            model.train()
            ids, mask = collate(batch, tokenizer.pad_token_id)
            gold = targets(batch, numbers, ids.shape, args.layer)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                logits = model(ids, mask).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, -2), gold.flatten(), ignore_index=-100)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
            if done == args.updates:
                break
    scores = {path: round(100 * evaluate(model, tokenizer, data[path], labels, args.layer), 2) for path in args.tests}
    print(json.dumps({**vars(args), "scores": scores, "seconds": round(time.time() - start)}))


if __name__ == "__main__":
    main()
