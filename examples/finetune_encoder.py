"""Fine-tune a pretrained encoder (MiniLM-L6, 22.7 million parameters) to tell what a bank's customer asks about.

    python examples/finetune_encoder.py                  # a new head; the body is frozen, its vectors computed once
    python examples/finetune_encoder.py --train 2        # the head and the last two layers
    python examples/finetune_encoder.py --train all
    python examples/finetune_encoder.py --task binary    # one pair of intents, with a loss for yes or no

Model and texts (Banking77, 77 intents) are fetched on first use, or lie in the folders --model and --data.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import Tensor, nn, optim
from tilegrad.data import banking77, minilm
from tilegrad.kernels.system.files import write_whole
from tilegrad.kernels.system.paths import user_path
from tilegrad.models import bert
from tilegrad.models.text import Tokenizer, batches_by_length, padded
from tilegrad.nn import functional as F

PAIR = "card_arrival", "card_delivery_estimate"  # of --task binary: they share most of their words
LONGEST = 64  # tokens of a text; the mean is 16


class Texts:
    """A split: rows of tokens, labels (N,), and the intents' names. --task binary has the texts of PAIR alone."""

    def __init__(self, split: str, flags: argparse.Namespace, tokenizer: Tokenizer) -> None:
        texts, labels, self.names = banking77(flags.data, split)
        if flags.task == "binary":
            pair = [self.names.index(name) for name in PAIR]
            kept = np.flatnonzero(np.isin(labels, pair))
            texts, labels, self.names = [texts[i] for i in kept], (labels[kept] == pair[1]).astype(np.int64), list(PAIR)
        if split == "train" and flags.limit is not None:
            kept = np.random.default_rng(flags.seed).permutation(len(texts))[: flags.limit]
            texts, labels = [texts[i] for i in kept], labels[kept]
        self.rows, self.labels, self.device = tokenizer.encode(texts, LONGEST), labels, flags.device

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """(numbers of texts, their tokens, mask): texts of a batch are about as long."""
        for index, length in batches_by_length([len(row) for row in self.rows], size, rng=rng):
            tokens, mask = padded([self.rows[i] for i in index], length)
            yield index, tg.tensor(tokens, device=self.device), tg.tensor(mask, device=self.device)


class Classifier(nn.Module):
    """A linear head on the mean of a text's vectors, all of one length as the encoder was trained for."""

    def __init__(self, body: bert.BertModel, classes: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(body.config.hidden_size, classes)

    def vectors(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(N, hidden_size); 1 is the root mean square of each, which suits a head's first weights."""
        pooled = bert.mean_pooled(self.body(tokens, mask), mask)
        return F.normalize(pooled, dim=1) * math.sqrt(pooled.shape[1])

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.head(self.vectors(tokens, mask))


def main() -> None:
    """Read the flags, train, print accuracy and macro F1 on the test texts."""
    begin = time.perf_counter()
    flags = parse()
    tg.manual_seed(flags.seed)
    try:
        folder = minilm() if flags.model is None else flags.model
        tokenizer = Tokenizer(folder)
        train_set, test_set = (Texts(split, flags, tokenizer) for split in ("train", "test"))
        body = bert.from_pretrained(folder, device=flags.device)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise SystemExit(str(error)) from None
    classes = 1 if flags.task == "binary" else len(train_set.names)
    model = Classifier(body, classes).to(flags.device)
    freeze(model, flags.train)

    if flags.train == "head":
        # Nothing of the body changes: one pass through it serves all epochs.
        data, test_data = vectors(model, train_set), vectors(model, test_set)
        train_head(model.head, data, train_set.labels, flags)
        with tg.no_grad():
            logits = model.head(test_data).numpy()
    else:
        finetune(model, train_set, flags)
        logits = predict(model, test_set)

    accuracy, f1 = scores(logits, test_set.labels, classes)
    seconds = time.perf_counter() - begin
    print(f"test accuracy {100 * accuracy:.2f} %, macro F1 {100 * f1:.2f} %, {seconds:.0f} s in all")
    if flags.json is not None:
        figures = {"train": flags.train, "task": flags.task, "accuracy": accuracy, "macro_f1": f1, "seconds": seconds}
        write_whole(flags.json, json.dumps(figures, indent=1))
    if flags.save is not None:
        tg.save(model.state_dict(), flags.save)


def freeze(model: Classifier, trained: str) -> None:
    """Train the head, and `trained` of the body: what is frozen has no gradient, no record and no dropout."""
    model.body.requires_grad_(False).eval()
    if trained == "all":
        model.body.requires_grad_(True).train()
    elif trained != "head":
        for layer in list(model.body.encoder.layer)[-int(trained) :]:
            layer.requires_grad_(True).train()


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, or that of yes or no."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def optimizer_of(model: nn.Module, flags: argparse.Namespace, steps: int) -> tuple[Any, Any]:
    """AdamW, whose decay leaves biases and norms alone (Devlin et al. 2019), under a warm-up and a cosine."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if p.ndim < 2]
    matrices = [p for name, p in named if p.ndim >= 2]
    groups = [{"params": matrices}, {"params": plain, "weight_decay": 0.0}]
    optimizer = optim.AdamW(groups, lr=flags.lr, weight_decay=flags.weight_decay)
    schedule = optim.lr_scheduler.OneCycleLR(
        optimizer, flags.lr, total_steps=steps, pct_start=flags.warmup, cycle_momentum=False
    )
    return optimizer, schedule


@tg.no_grad()
def vectors(model: Classifier, data: Texts) -> Tensor:
    """(N, hidden_size), in the order of the texts."""
    found = tg.zeros(len(data), model.body.config.hidden_size, device=data.device)
    step = tg.capture(model.vectors)
    for index, tokens, mask in data.batches(64):
        found[tg.tensor(index, device=data.device)] = step(tokens, mask)
    return found


@tg.no_grad()
def predict(model: Classifier, data: Texts) -> np.ndarray:
    """Logits (N, classes), in the order of the texts."""
    model.eval()
    found = np.zeros((len(data), model.head.out_features), np.float32)
    step = tg.capture(model)
    for index, tokens, mask in data.batches(64):
        found[index] = step(tokens, mask).cpu().numpy()
    return found


def train_head(head: nn.Linear, data: Tensor, labels: np.ndarray, flags: argparse.Namespace) -> None:
    """The head alone, on vectors that are there."""
    t = tg.tensor(labels, device=data.device)
    size = min(flags.batch_size, len(t))
    steps = len(t) // size  # an epoch leaves out what does not fill a batch, each time something else
    optimizer, schedule = optimizer_of(head, flags, flags.epochs * steps)

    @tg.capture
    def step(index: Tensor) -> Tensor:
        loss = loss_of(head(data[index]), t[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss

    for epoch in range(1, flags.epochs + 1):
        order = tg.randperm(len(t), device=data.device)
        losses = [step(index) for index in order[: steps * size].split(size)]
        if epoch % max(1, flags.epochs // 5) == 0:
            print(f"epoch {epoch}/{flags.epochs}  loss {tg.stack(losses).mean().item():.4f}", flush=True)


def finetune(model: Classifier, data: Texts, flags: argparse.Namespace) -> None:
    """Head and body together. A step of each shape is captured once."""
    steps = flags.epochs * -(-len(data) // flags.batch_size)
    optimizer, schedule = optimizer_of(model, flags, steps)
    trained = [p for p in model.parameters() if p.requires_grad]
    rng = np.random.default_rng(flags.seed)

    @tg.capture
    def step(tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        loss = loss_of(model(tokens, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, flags.clip)
        optimizer.step()
        schedule.step()
        return loss

    for epoch in range(1, flags.epochs + 1):
        start = time.perf_counter()
        losses = []
        for index, tokens, mask in data.batches(flags.batch_size, rng):
            losses.append(step(tokens, mask, tg.tensor(data.labels[index], device=data.device)))
        mean = tg.stack(losses).mean().item()
        print(f"epoch {epoch}/{flags.epochs}  loss {mean:.4f}  {time.perf_counter() - start:.0f} s", flush=True)


def scores(logits: np.ndarray, labels: np.ndarray, classes: int) -> tuple[float, float]:
    """(accuracy, the mean over the classes of 2 tp / (2 tp + fp + fn))."""
    found = (logits[:, 0] > 0).astype(np.int64) if classes == 1 else logits.argmax(1)
    counts = np.zeros((max(classes, 2),) * 2, np.int64)
    np.add.at(counts, (labels, found), 1)
    right = np.diag(counts)
    f1 = 2 * right / np.maximum(counts.sum(0) + counts.sum(1), 1)
    return float(right.sum() / len(labels)), float(f1[counts.sum(1) > 0].mean())


def parse() -> argparse.Namespace:
    """The flags, checked, with the defaults that fit what is trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--train", default="head", metavar="head|N|all", help="with the head: the last N layers, or all"
    )
    parser.add_argument("--task", choices=("intents", "binary"), default="intents")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu or cuda")
    parser.add_argument("--epochs", type=int, help="default: 60 for the head, else 5")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, help="peak of the schedule; default: 2.5e-3 for the head, else 2e-4")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the steps in which the rate rises")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of a step's gradient")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, metavar="N", help="train on N texts only")
    parser.add_argument("--model", type=user_path, metavar="DIR", help="folder of a BERT encoder")
    parser.add_argument("--data", type=user_path, metavar="DIR", help="folder with train.csv and test.csv")
    parser.add_argument("--save", type=user_path, metavar="PATH", help="write the trained weights there")
    parser.add_argument("--json", type=user_path, metavar="PATH", help="write the figures there")
    flags = parser.parse_args()
    if not (flags.train in ("head", "all") or flags.train.isdecimal() and int(flags.train) > 0):
        parser.error(f"--train: {flags.train!r}; expected head, all, or a number of layers above 0")
    head = flags.train == "head"
    flags.epochs = (60 if head else 5) if flags.epochs is None else flags.epochs
    flags.lr = (2.5e-3 if head else 2e-4) if flags.lr is None else flags.lr
    for name in ("epochs", "batch_size", "lr", "clip", "limit"):
        value = getattr(flags, name)
        if value is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')}: {value}; expected a number above 0")
    if not 0 < flags.warmup < 1:
        parser.error(f"--warmup: {flags.warmup}; expected a share between 0 and 1")
    for path in (flags.save, flags.json):
        if path is not None and not Path(path).parent.is_dir():
            parser.error(f"{path}: there is no folder {Path(path).parent}")
    try:
        flags.device = tg.device.as_device(flags.device)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    return flags


if __name__ == "__main__":
    main()
