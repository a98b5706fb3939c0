"""The training program that the MNIST examples share: what is done in which order. Its parts are in training/."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable

from training import flags as command_line
from training.augment import Augment
from training.best import Best
from training.evaluation import Evaluation
from training.images import Images
from training.interrupt import Interrupt
from training.progress import Progress
from training.progress_bar import shown
from training.run_folder import RunFolder

import tilegrad as tg
from tilegrad import Tensor, kernels, nn, optim
from tilegrad.kernels.system.files import write_whole
from tilegrad.nn import functional as F


def main(net: Callable[[], nn.Module], description: str | None) -> None:
    """Read the flags, train net(), print the accuracy on the test images. After Ctrl-C the exit status is 130."""
    begin = time.perf_counter()
    flags = command_line.parse(description)
    folder = RunFolder(flags)
    try:
        tg.manual_seed(flags.seed)
        data, held_out = training_images(flags)
        test_set = Images.read(flags.dataset, "test", flags.data, flags.device)
        model = net().to(flags.device)
        folder.require_same_run(model, images=len(data))

        progress = train(model, data, held_out, flags, folder, begin)
        folder.finish(model)
        tell(model, test_set, progress, len(data), flags)
    except KeyboardInterrupt:
        print(folder.farewell(), file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        folder.close()


def training_images(flags: argparse.Namespace) -> tuple[Images, Images | None]:
    """The images to train on, and those held out for --validation."""
    data, held_out = Images.read(flags.dataset, "train", flags.data, flags.device, flags.limit), None
    if flags.validation:
        data, held_out = data.split(flags.validation, flags.seed)
    if flags.augment:
        height, width = data.images.shape[2:]
        data.augment = Augment(height, width, flags.device)
    return data, held_out


def train(
    model: nn.Module, data: Images, held_out: Images | None, flags: argparse.Namespace, folder: RunFolder, begin: float
) -> Progress:
    """Adam or AdamW under a one-cycle schedule. A step is one CUDA graph or CPU program (tilegrad.capture)."""
    steps = math.ceil(len(data) / flags.batch_size)  # of an epoch
    if flags.weight_decay:
        optimizer = optim.AdamW(model.parameters(), lr=flags.lr, weight_decay=flags.weight_decay)
    else:
        optimizer = optim.Adam(model.parameters(), lr=flags.lr)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=flags.lr, total_steps=flags.epochs * steps)
    progress, best = Progress(begin), Best(model)
    validation = Evaluation(model, held_out) if held_out else None
    counts_right = flags.report is not None or flags.save is not None  # a run that goes on may ask for a report

    @tg.capture
    def step(*batch: Tensor) -> tuple[Tensor, ...]:
        images, labels = data.batch(*batch)
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return (loss, (logits.argmax(1) == labels).sum()) if counts_right else (loss,)

    folder.begin(progress, model=model, optimizer=optimizer, schedule=schedule, best_epoch=best)
    with Interrupt() as interrupt:
        while len(progress.epochs) < flags.epochs and not (flags.patience and best.epochs_ago >= flags.patience):
            title = f"epoch {len(progress.epochs) + 1}/{flags.epochs}"
            model.train()
            batches = progress.drawn(lambda: data.epoch(flags.batch_size))
            for batch in shown(batches[progress.steps_of_epoch :], title, len(data), progress):
                progress.add(*step(*batch))
                if progress.steps_of_epoch < steps:  # after the last one the epoch is not over yet
                    folder.look(interrupt, epoch_ended=False)
            figures = progress.end_epoch(len(data))
            line = f"{title}  loss {figures['loss']:.4f}  {figures['seconds']:.1f} s"
            if validation:
                measured = validation.figures(validation.logits())
                figures |= {f"validation_{name}": value for name, value in measured.items()}
                line += f"  validation loss {measured['loss']:.4f}, accuracy {100 * measured['accuracy']:.2f} %"
                if flags.patience:
                    best.see(measured["accuracy"])
            print(line, flush=True)
            folder.look(interrupt, epoch_ended=True)
    folder.save()
    if flags.patience:
        best.bring_back()
    if flags.device == "cuda":
        print("\n".join(line for line in step.summary().splitlines() if not line.startswith(" ")))
    return progress


def tell(model: nn.Module, test_set: Images, progress: Progress, images: int, flags: argparse.Namespace) -> None:
    """Measure on the test images; print and write the figures."""
    evaluation = Evaluation(model, test_set)
    logits = evaluation.logits()
    accuracy = evaluation.figures(logits)["accuracy"]
    epoch_seconds = [figures["seconds"] for figures in progress.epochs]
    train_seconds = sum(epoch_seconds)
    images_per_second = len(epoch_seconds) * images / train_seconds
    print(f"trained {len(epoch_seconds)} epochs in {train_seconds:.1f} s ({images_per_second:,.0f} images/s)")
    print(f"test accuracy {100 * accuracy:.2f} %")
    if flags.json:
        report = {
            "device": flags.device,
            "kernels": kernels.name(flags.device),
            "epochs": len(epoch_seconds),
            "batch_size": flags.batch_size,
            "seed": flags.seed,
            "first_step_seconds": progress.first_step_seconds,
            "epoch_seconds": epoch_seconds,
            "train_seconds": train_seconds,
            "images_per_second": images_per_second,
            "losses": progress.losses,
            "test_accuracy": accuracy,
        }
        write_whole(flags.json, json.dumps(report, indent=1))
    if flags.report:
        from training.report import write_report  # matplotlib and scikit-learn

        write_report(flags.report, progress, logits.softmax(1).cpu().numpy(), test_set)
        print(f"wrote {flags.report}")
