"""Fine-tune a pretrained encoder (MiniLM-L6, 22.7 million parameters) to tell what a bank's customer asks about.

    python examples/finetune_encoder.py                  # a new head; the body is frozen, its vectors computed once
    python examples/finetune_encoder.py --train 2        # the head and the last two layers
    python examples/finetune_encoder.py --train all
    python examples/finetune_encoder.py --task binary    # one pair of intents, with a loss for yes or no
    python examples/finetune_encoder.py --save runs/a --report runs/a/report    # Ctrl-C saves, --resume goes on
    python examples/finetune_encoder.py --save runs/a --predict "Where is my card?"

Model and texts (Banking77, 77 intents) are fetched on first use, or lie in the folders --model and --data.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from typing import Any

import numpy as np
from training import flags as command_line
from training.interrupt import Interrupt
from training.progress import Progress
from training.run_folder import RunFolder

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
SHOWN = 5  # intents of a prediction, pairs of a report
# What the losses depend on: a run that goes on has these flags as they were.
DECISIVE = ("train", "task", "epochs", "batch_size", "lr", "weight_decay", "warmup", "clip", "seed", "limit")
_REPORT = """write loss curves, precision, recall and F1 of each intent,
the pairs most often confused and the worst mistakes there"""
Batch = tuple[np.ndarray, int]  # the numbers of its texts, and a length for all of them


class Texts:
    """A split: rows of tokens, labels (N,), and the intents' names. --task binary has the texts of PAIR alone."""

    def __init__(self, split: str, flags: argparse.Namespace, tokenizer: Tokenizer) -> None:
        texts, labels, self.names = banking77(flags.data, split)
        if flags.task == "binary":
            absent = [name for name in PAIR if name not in self.names]
            if absent:
                raise ValueError(f"--task binary: the texts have no intent {absent[0]}; expected {' and '.join(PAIR)}")
            pair = [self.names.index(name) for name in PAIR]
            kept = np.flatnonzero(np.isin(labels, pair))
            texts, labels, self.names = [texts[i] for i in kept], (labels[kept] == pair[1]).astype(np.int64), list(PAIR)
        if split == "train" and flags.limit is not None:
            kept = np.random.default_rng(flags.seed).permutation(len(texts))[: flags.limit]
            texts, labels = [texts[i] for i in kept], labels[kept]
        self.texts, self.labels, self.device = texts, labels, flags.device
        self.rows = tokenizer.encode(texts, LONGEST)

    def __len__(self) -> int:
        return len(self.rows)

    def order(self, size: int, rng: np.random.Generator | None = None) -> list[Batch]:
        """All batches of an epoch: texts of one are about as long."""
        return list(batches_by_length([len(row) for row in self.rows], size, rng=rng))

    def batch(self, index: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and mask (N, length) of these texts."""
        tokens, mask = padded([self.rows[i] for i in index], length)
        return tg.tensor(tokens, device=self.device), tg.tensor(mask, device=self.device)


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


class Trained:
    """What a checkpoint keeps of a model: the parameters that are trained."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """By name."""
        return {name: p.detach() for name, p in self.parameters.items()}

    @tg.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Give the parameters their values."""
        for name, p in self.parameters.items():
            p.copy_(state[name])


def main() -> None:
    """Read the flags, train, print accuracy and macro F1 on the test texts. After Ctrl-C the exit status is 130."""
    begin = time.perf_counter()
    flags = parse()
    tg.manual_seed(flags.seed)
    try:
        if flags.predict is not None:
            tell_intents(flags)
            return
        folder = RunFolder(flags, DECISIVE)
        try:
            train(flags, folder, begin)
        except KeyboardInterrupt:
            print(folder.farewell(), file=sys.stderr)
            raise SystemExit(130) from None
        finally:
            folder.close()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise SystemExit(str(error)) from None


def loaded(flags: argparse.Namespace) -> tuple[Tokenizer, bert.BertModel]:
    """The tokenizer and the encoder. Raises ValueError where they do not fit each other."""
    folder = minilm() if flags.model is None else flags.model
    tokenizer, body = Tokenizer(folder), bert.from_pretrained(folder, device=flags.device)
    if tokenizer.vocab_size > body.config.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, the model {body.config.vocab_size}; "
            "expected as many at most"
        )
    if body.config.max_position_embeddings < LONGEST:
        raise ValueError(
            f"{folder}: the model takes {body.config.max_position_embeddings} tokens; expected at least {LONGEST}"
        )
    return tokenizer, body


def train(flags: argparse.Namespace, folder: RunFolder, begin: float) -> None:
    """All of a run: texts, training, figures."""
    tokenizer, body = loaded(flags)
    train_set, test_set = (Texts(split, flags, tokenizer) for split in ("train", "test"))
    model = Classifier(body, 1 if flags.task == "binary" else len(train_set.names)).to(flags.device)
    freeze(model, flags.train)
    folder.require_same_run(model, intents=train_set.names, texts=len(train_set))
    progress = Progress(begin)

    if flags.train == "head":
        # Nothing of the body changes: one pass through it serves all epochs.
        data, test_data = vectors(model, train_set), vectors(model, test_set)
        train_head(model.head, data, train_set.labels, flags, folder, progress)
        with tg.no_grad():
            logits = model.head(test_data).cpu().numpy()
    else:
        finetune(model, train_set, flags, folder, progress)
        logits = predict(model, test_set)
    folder.finish(model)

    p = probabilities(logits)
    accuracy, f1 = scores(p, test_set.labels)
    seconds = time.perf_counter() - begin
    print(f"test accuracy {100 * accuracy:.2f} %, macro F1 {100 * f1:.2f} %, {seconds:.0f} s in all")
    if flags.json is not None:
        figures = {"train": flags.train, "task": flags.task, "accuracy": accuracy, "macro_f1": f1, "seconds": seconds}
        write_whole(flags.json, json.dumps(figures | {"losses": progress.losses}, indent=1))
    if flags.report is not None:
        from training.report import write_text_report  # matplotlib and scikit-learn

        found = write_text_report(flags.report, progress, p, test_set.labels, test_set.names, test_set.texts)
        for pair in found["confused"][:SHOWN]:
            print(f"{pair['count']} times {pair['is']} was taken for {pair['predicted']}")
        print(f"wrote {flags.report}")


@tg.no_grad()
def tell_intents(flags: argparse.Namespace) -> None:
    """Print the likeliest intents of --predict, by the net in the folder --save."""
    run_file, file = flags.save / "run.json", flags.save / "model.safetensors"
    if not run_file.exists():
        raise ValueError(f"--predict: {flags.save} has no run.json; expected the folder of a run")
    if not file.exists():
        raise ValueError(f"--predict: {file} is not there: the run has not ended; --resume goes on with it")
    tokenizer, body = loaded(flags)
    try:
        run = json.loads(run_file.read_text())
        names, state = run["intents"], tg.load(file)
        model = Classifier(body, state["head.weight"].shape[0])
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"--predict: {flags.save} is not a run of this program and model: {error}") from None
    rows = tokenizer.encode([flags.predict], LONGEST)
    tokens, mask = (tg.tensor(x, device=flags.device) for x in padded(rows))
    (p,) = probabilities(model.to(flags.device).eval()(tokens, mask).cpu().numpy())
    for i in np.argsort(-p, kind="stable")[:SHOWN]:
        print(f"{100 * p[i]:5.1f} %  {names[i]}")


def freeze(model: Classifier, trained: str) -> None:
    """Train the head, and `trained` of the body: what is frozen has no gradient, no record and no dropout."""
    model.body.requires_grad_(False).eval()
    if trained == "all":
        model.body.requires_grad_(True).train()
    elif trained != "head":
        layers = list(model.body.encoder.layer)
        if int(trained) > len(layers):
            raise ValueError(f"--train: {trained} layers; the model has {len(layers)}")
        for layer in layers[-int(trained) :]:
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
    for index, length in data.order(64):
        found[tg.tensor(index, device=data.device)] = step(*data.batch(index, length))
    return found


@tg.no_grad()
def predict(model: Classifier, data: Texts) -> np.ndarray:
    """Logits (N, classes), in the order of the texts."""
    model.eval()
    found = np.zeros((len(data), model.head.out_features), np.float32)
    step = tg.capture(model)
    for index, length in data.order(64):
        found[index] = step(*data.batch(index, length)).cpu().numpy()
    return found


def train_head(
    head: nn.Linear, data: Tensor, labels: np.ndarray, flags: argparse.Namespace, folder: RunFolder, progress: Progress
) -> None:
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

    folder.begin(progress, model=Trained(head), optimizer=optimizer, schedule=schedule)
    with Interrupt() as interrupt:
        while len(progress.epochs) < flags.epochs:
            order = progress.drawn(lambda: tg.randperm(len(t), device=data.device))
            for index in order[: steps * size].split(size)[progress.steps_of_epoch :]:
                progress.add(step(index))
                if progress.steps_of_epoch < steps:
                    folder.look(interrupt, epoch_ended=False)
            end_epoch(progress, flags, max(1, flags.epochs // 5))
            folder.look(interrupt, epoch_ended=True)
    folder.save()


def finetune(model: Classifier, data: Texts, flags: argparse.Namespace, folder: RunFolder, progress: Progress) -> None:
    """Head and body together. A step of each shape is captured once."""
    steps = -(-len(data) // flags.batch_size)  # of an epoch
    optimizer, schedule = optimizer_of(model, flags, flags.epochs * steps)
    trained = [p for p in model.parameters() if p.requires_grad]

    @tg.capture
    def step(tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        loss = loss_of(model(tokens, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, flags.clip)
        optimizer.step()
        schedule.step()
        return loss

    folder.begin(progress, model=Trained(model), optimizer=optimizer, schedule=schedule)
    rng = np.random.default_rng(flags.seed)
    for _ in progress.epochs:  # those of a run that goes on: the next one has the order that it would have had
        data.order(flags.batch_size, rng)
    with Interrupt() as interrupt:
        while len(progress.epochs) < flags.epochs:
            batches = progress.drawn(lambda: data.order(flags.batch_size, rng))
            for index, length in batches[progress.steps_of_epoch :]:
                labels = tg.tensor(data.labels[index], device=data.device)
                progress.add(step(*data.batch(index, length), labels))
                if progress.steps_of_epoch < steps:
                    folder.look(interrupt, epoch_ended=False)
            end_epoch(progress, flags)
            folder.look(interrupt, epoch_ended=True)
    folder.save()


def end_epoch(progress: Progress, flags: argparse.Namespace, told_every: int = 1) -> None:
    """Note an epoch's figures; print those of one in so many."""
    figures, epoch = progress.end_epoch(0), len(progress.epochs)
    if epoch % told_every == 0:
        print(f"epoch {epoch}/{flags.epochs}  loss {figures['loss']:.4f}  {figures['seconds']:.1f} s", flush=True)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """(N, classes), of no and yes where there is one logit."""
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], 1)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def scores(p: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(accuracy, the mean over the classes of 2 tp / (2 tp + fp + fn))."""
    counts = np.zeros((p.shape[1],) * 2, np.int64)
    np.add.at(counts, (labels, p.argmax(1)), 1)
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
    parser.add_argument("--predict", metavar="TEXT", help="no training: the text's intents, by the net in --save DIR")
    command_line.add_saving(parser)
    command_line.add_results(parser, _REPORT)
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
    if flags.predict is not None and flags.save is None:
        parser.error("--predict: needs --save DIR, the folder of a run that has ended")
    try:
        command_line.require_results(flags)
        flags.device = tg.device.as_device(flags.device)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        parser.error(str(error))
    return flags


if __name__ == "__main__":
    main()
