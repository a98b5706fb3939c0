"""Train a small transformer to write text, a character at a time, and let it write.

    python examples/tiny_lm.py                           # 3 minutes on Python's own reference manual
    python examples/tiny_lm.py --text FILE --steps 2000 --save runs/lm
    python examples/tiny_lm.py --text FILE --steps 2000 --save runs/lm --resume --generate 1000 --prompt "The "

The manual is that of the Python that runs this (pydoc_data.topics), so its size differs between versions. A paragraph
that stands in several topics is kept once: otherwise much of the held-out text would be in the training text too.
With --steps a run gives the same losses each time; with --minutes it depends on the machine how many steps there are.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from training.interrupt import Interrupt

import tilegrad as tg
from tilegrad import Tensor, nn, optim
from tilegrad.kernels.system.files import write_whole
from tilegrad.kernels.system.paths import user_path
from tilegrad.nn import functional as F

HELD_OUT = 0.1  # of the text, its end: what the validation loss is measured on
REPORTS = 10  # in a training
INIT = 0.06  # of weights. GPT-2's 0.02 suits wider nets: after 700 steps the loss was 2.02 nats, with this 1.70
SETTINGS = (  # what a run that goes on must have as it was
    *("layers", "width", "heads", "context", "dropout", "batch_size"),
    *("lr", "warmup", "weight_decay", "clip", "seed"),
)


# --- the text


class Text:
    """A text in two parts, `train` and `held_out`, and its alphabet: a character's number is its place there."""

    def __init__(self, characters: str) -> None:
        self.alphabet = "".join(sorted(set(characters)))
        self.sha256 = hashlib.sha256(characters.encode()).hexdigest()
        held_out = round(HELD_OUT * len(characters))
        self.train, self.held_out = characters[: len(characters) - held_out], characters[len(characters) - held_out :]

    def encode(self, characters: str) -> np.ndarray:
        """(N,) int64. Raises ValueError for characters that the text does not have."""
        unknown = sorted(set(characters) - set(self.alphabet))
        if unknown:
            raise ValueError(f"{''.join(unknown)!r}: the text has no such characters; it has {self.alphabet!r}")
        return np.array([self.alphabet.index(character) for character in characters], np.int64)

    def decode(self, numbers: np.ndarray) -> str:
        """The characters of (N,) integers."""
        return "".join(self.alphabet[number] for number in numbers)


def manual() -> str:
    """Python's reference manual, each paragraph once."""
    from pydoc_data.topics import topics

    return "\n\n".join(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))


# --- the net


class Past(NamedTuple):
    """What a layer keeps of the characters before, and where the new ones stand."""

    keys: Tensor  # (N, heads, context, width of a head)
    values: Tensor
    places: Tensor  # (T,), of the new characters
    seen: Tensor  # (T, context): which places each of them attends to


class Attention(nn.Module):
    """Each character attends to itself and to those before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """(N, T, width). With a past, keys and values of x are written there, and x attends to what is there."""
        n, length, width = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        if past is None:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0, is_causal=True)
        else:
            past.keys[:, :, past.places] = k
            past.values[:, :, past.places] = v
            y = F.scaled_dot_product_attention(q, past.keys, past.values, past.seen)
        return self.dropout(self.out(y.transpose(1, 2).reshape(n, length, width)))


class Block(nn.Module):
    """Attention and a feed-forward net, each normalised first and added to its input (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.norm2, self.mlp = (
            nn.LayerNorm(width),
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)),
        )

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """(N, T, width)."""
        x = x + self.attention(self.norm1(x), past)
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """The transformer of GPT-2 (Radford et al. 2019), small: tokens (N, T) -> logits (N, T, kinds)."""

    def __init__(self, kinds: int, layers: int, width: int, heads: int, context: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.context, self.heads = context, heads
        self.tokens, self.places = nn.Embedding(kinds, width), nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, kinds, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:  # what is added to the sum of all layers starts smaller
                is_added = name.endswith(("out.weight", "mlp.2.weight"))
                nn.init.normal_(p, std=INIT / math.sqrt(2 * layers) if is_added else INIT)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor, cache: Cache | None = None, places: Tensor | None = None) -> Tensor:
        """Logits of the character after each. With a cache the tokens stand at `places` (T,), and those before them
        are not computed again: what the layers need of them is in the cache, to which the new ones are added."""
        places = tg.arange(tokens.shape[1], device=tokens.device) if places is None else places
        x = self.dropout(self.tokens(tokens) + self.places(places))
        pasts = [None] * len(self.blocks) if cache is None else cache.pasts(places)
        for block, past in zip(self.blocks, pasts, strict=True):
            x = block(x, past)
        return self.head(self.norm(x))


class Cache:
    """Memory for the keys and values of one text, for all places and layers."""

    def __init__(self, net: Decoder) -> None:
        width, device = net.places.weight.shape[1], net.places.weight.device
        shape = 1, net.heads, net.context, width // net.heads
        self.keys = [tg.zeros(*shape, device=device) for _ in net.blocks]
        self.values = [tg.zeros(*shape, device=device) for _ in net.blocks]
        self.places = tg.arange(net.context, device=device)

    def pasts(self, places: Tensor) -> list[Past]:
        """What each layer has, for characters at these places."""
        seen = self.places <= places.unsqueeze(1)
        return [Past(keys, values, places, seen) for keys, values in zip(self.keys, self.values, strict=True)]


# --- training


def training_step(net: Decoder, tokens: Tensor, optimizer: optim.AdamW, clip: float) -> Callable[[Tensor], Tensor]:
    """step(starts) -> the loss of the windows of `tokens` that start there. Captured: one launch a step."""
    window = tg.arange(net.context + 1, device=tokens.device)
    parameters = list(net.parameters())

    @tg.capture
    def step(starts: Tensor) -> Tensor:
        windows = tokens[starts.unsqueeze(1) + window]
        logits = net(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        return loss

    return step


def optimizer_of(net: nn.Module, lr: float, weight_decay: float) -> optim.AdamW:
    """AdamW, whose decay leaves biases, norms and embeddings alone."""
    named = list(net.named_parameters())
    decays = [p for name, p in named if p.ndim == 2 and not name.startswith(("tokens", "places"))]
    others = [p for name, p in named if p.ndim != 2 or name.startswith(("tokens", "places"))]
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))


def rate(peak: float, step: int, warmup: int, share: float) -> float:
    """The learning rate: it rises for `warmup` steps, and falls as a cosine to 0 at the end, where share is 1."""
    return peak * min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def drawn(seed: int, step: int, batch: int, most: int) -> np.ndarray:
    """The starts of a batch's windows: they depend on seed and step alone, so a run that goes on draws the same."""
    return np.random.default_rng((seed, step)).integers(0, most, batch)


def loss_meter(net: Decoder, tokens: Tensor, batch: int = 32) -> Callable[[], float]:
    """A function that gives the mean loss on all of `tokens`, in windows one behind the other."""
    count = (len(tokens) - 1) // net.context
    x = tokens[: count * net.context].reshape(count, net.context)
    t = tokens[1 : count * net.context + 1].reshape(count, net.context)

    @tg.capture
    @tg.no_grad()
    def sum_of_losses(x: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(net(x).flatten(0, 1), t.flatten(), reduction="sum")

    def measure() -> float:
        net.eval()
        total = sum(sum_of_losses(*part).item() for part in zip(x.split(batch), t.split(batch), strict=True))
        net.train()
        return total / (count * net.context)

    return measure


def train(net: Decoder, text: Text, flags: argparse.Namespace) -> dict[str, Any]:
    """Train for --steps or --minutes; the figures. After Ctrl-C the exit status is 130."""
    tokens, held_out = (tg.tensor(text.encode(part), device=flags.device) for part in (text.train, text.held_out))
    optimizer = optimizer_of(net, flags.lr, flags.weight_decay)
    step, validation = training_step(net, tokens, optimizer, flags.clip), loss_meter(net, held_out)
    settings = {"text": text.sha256} | {name: getattr(flags, name) for name in SETTINGS}
    progress: dict[str, Any] = {"seconds": 0.0}
    checkpoint = tg.checkpoint.Checkpoint(settings=settings, model=net, optimizer=optimizer, progress=progress)
    done = go_on(checkpoint, settings, flags) if flags.resume else 0

    before, began = progress["seconds"], time.perf_counter()
    first, losses, held_out_loss = done, [], None

    def share() -> float:
        """How much of the training is over. Notes the seconds."""
        progress["seconds"] = before + time.perf_counter() - began
        return done / flags.steps if flags.steps else progress["seconds"] / (60 * flags.minutes)

    with contextlib.closing(checkpoint), Interrupt() as interrupt:
        part = share()
        while part < 1 and not interrupt.asked:
            for group in optimizer.param_groups:
                group["lr"] = rate(flags.lr, done, flags.warmup, part)
            starts = drawn(flags.seed, done, flags.batch_size, len(tokens) - flags.context)
            losses.append(step(tg.tensor(starts, device=flags.device)))
            done += 1
            now = share()
            if int(REPORTS * now) > int(REPORTS * part):
                held_out_loss = report(done, losses, validation(), progress["seconds"])
                losses.clear()
                if flags.save:
                    checkpoint.save(flags.save, done)
            part = now
        if interrupt.asked:
            if flags.save:
                checkpoint.save(flags.save, done)
            kept = f"--save {flags.save} has all up to step {done}; --resume goes on"
            print(f"interrupted: {kept if flags.save else 'nothing is saved'}")
            raise SystemExit(130)
    seconds = time.perf_counter() - began
    if done > first:
        rates = (done - first) / seconds
        tokens_a_step = flags.batch_size * flags.context
        print(f"{done - first} steps in {seconds:.0f} s: {rates:.1f} steps/s, {rates * tokens_a_step:,.0f} tokens/s")
    held_out_loss = validation() if held_out_loss is None else held_out_loss
    print(f"validation loss {held_out_loss:.4f} nats, {held_out_loss / math.log(2):.4f} bits per character")
    return {"steps": done, "seconds": progress["seconds"], "validation_loss": held_out_loss}


def report(done: int, losses: list[Tensor], held_out_loss: float, seconds: float) -> float:
    """Print where the training is."""
    mean = tg.stack(losses).mean().item()
    print(f"step {done:5}  loss {mean:.4f}  validation {held_out_loss:.4f}  {seconds:.0f} s", flush=True)
    return held_out_loss


def go_on(checkpoint: Any, settings: dict[str, Any], flags: argparse.Namespace) -> int:
    """Load the last checkpoint of --save, if there is one; its step. Another run's ends the program."""
    files = sorted(flags.save.glob("step-*.safetensors"))
    if not files:
        return 0
    there = tg.load(files[-1])["parts"].get("settings", {})
    for name, value in settings.items():
        if there.get(name) != value:
            name = name.replace("_", "-")
            raise ValueError(f"--resume: the run in {flags.save} has --{name} {there.get(name)}, here it is {value}")
    step = checkpoint.restore(flags.save)
    print(f"going on after step {step}, from {flags.save}")
    return step


# --- writing


def picker(temperature: float, top_k: int | None) -> Callable[[Tensor], Tensor]:
    """A function that draws from softmax(logits / temperature) of the top_k largest logits; at 0 it takes the largest.

    logits (T, kinds) -> (T,). The largest of logits plus Gumbel noise is a draw from their softmax.
    """

    def pick(logits: Tensor) -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        values, kinds = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]))
        noise = -(-tg.rand_like(values).log()).log()
        return kinds.take_along_dim((values / temperature + noise).argmax(-1, keepdim=True), -1).squeeze(-1)

    return pick


@tg.no_grad()
def write(net: Decoder, prompt: Tensor, count: int, pick: Callable[[Tensor], Tensor]) -> Tensor:
    """prompt (T,) and `count` tokens behind it. Of a long prompt the last `context` tokens are read.

    A token costs one row of the net, as the cache has what the layers need of those before. When all places are taken,
    the last half of the window is read anew, from place 0. The step of one token is captured: its place is an argument.
    On a GPU it is not: there a write at places that a tensor names waits, to see whether they exist.
    """
    net.eval()
    cache = Cache(net)

    @tg.no_grad()
    def step(tokens: Tensor, places: Tensor) -> Tensor:
        return pick(net(tokens.unsqueeze(0), cache, places)[0, -1:])

    next_step = step if prompt.is_cuda else tg.capture(step)
    text, new, place = [prompt], prompt[-net.context :], 0
    for _ in range(count):
        if place + len(new) > net.context:
            text = [tg.cat(text)]
            new, place = text[0][-(net.context // 2) :], 0
        read = next_step if len(new) == 1 else step
        text.append(read(new, cache.places[place : place + len(new)]))
        new, place = text[-1], place + len(new)
    return tg.cat(text)


# --- the program


def main() -> None:
    """Read the flags, train, print the losses and what the net writes."""
    flags = parse()
    try:
        text, prompt = read(flags)
        tg.manual_seed(flags.seed)
        shape = flags.layers, flags.width, flags.heads, flags.context, flags.dropout
        net = Decoder(len(text.alphabet), *shape).to(flags.device)
        count = sum(p.numel() for p in net.parameters())
        print(f"{flags.layers} layers of width {flags.width}, {flags.heads} heads, {count:,} parameters")
        figures = train(net, text, flags)
    except (OSError, ValueError, RuntimeError, ImportError) as error:  # some systems leave pydoc_data out
        raise SystemExit(str(error)) from None

    if flags.generate:
        began = time.perf_counter()
        written = write(net, prompt, flags.generate, picker(flags.temperature, flags.top_k)).cpu().numpy()
        figures["generated_per_second"] = flags.generate / (time.perf_counter() - began)
        print(f"\n{text.decode(written)}\n\n{figures['generated_per_second']:,.0f} characters/s, with the cache")
    if flags.json is not None:
        write_whole(flags.json, json.dumps(figures, indent=1))


def read(flags: argparse.Namespace) -> tuple[Text, Tensor]:
    """The text, and the prompt as numbers. Raises ValueError where they do not fit the flags."""
    source, characters = f"Python {platform.python_version()}'s manual", ""
    if flags.text is None:
        characters = manual()
    else:
        source = str(flags.text)
        try:
            characters = flags.text.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"--text: {source} is not UTF-8: {error}") from None
    text = Text(characters)
    if min(len(text.train), len(text.held_out)) <= flags.context:
        raise ValueError(
            f"--text: {source} has {len(text.train)} characters to train on and {len(text.held_out)} held out; "
            f"expected more than --context {flags.context} each"
        )
    print(f"{source}: {len(characters):,} characters of {len(text.alphabet)} kinds, sha256 {text.sha256[:12]}")
    first_line = (text.held_out.strip().splitlines() or [text.held_out])[0][: flags.context]
    try:
        return text, tg.tensor(text.encode(flags.prompt or first_line), device=flags.device)
    except ValueError as error:
        raise ValueError(f"--prompt: {error}") from None


def parse() -> argparse.Namespace:
    """The flags, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--text", type=user_path, metavar="FILE", help="learn from this UTF-8 file, instead of Python's manual")
    add("--minutes", type=float, default=3.0, help="how long to train (3)")
    add("--steps", type=int, help="how many steps to train, instead")
    add("--layers", type=int, default=4)
    add("--width", type=int, default=128)
    add("--heads", type=int, default=4)
    add("--context", type=int, default=128, help="characters that the net sees at once (128)")
    add("--dropout", type=float, default=0.1)
    add("--batch-size", type=int, default=16)
    add("--lr", type=float, default=4e-3, help="peak of the learning rate (4e-3)")
    add("--warmup", type=int, default=100, metavar="N", help="steps in which the rate rises (100)")
    add("--weight-decay", type=float, default=0.1)
    add("--clip", type=float, default=1.0, help="largest norm of a step's gradient (1)")
    add("--seed", type=int, default=0)
    add("--save", type=user_path, metavar="DIR", help="keep checkpoints there")
    add("--resume", action="store_true", help="go on with the run in --save; --steps and --minutes may be others")
    add("--generate", type=int, default=500, metavar="N", help="characters to write after training (500)")
    add("--prompt", metavar="TEXT", help="what they follow; default: the first line of the held-out text")
    add("--temperature", type=float, default=0.8, help="0 takes the likeliest character each time (0.8)")
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest characters only")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu or cuda")
    add("--json", type=user_path, metavar="PATH", help="write the figures there")
    flags = parser.parse_args()
    for name in (
        *("minutes", "steps", "layers", "width", "heads", "context", "batch_size", "lr", "warmup", "clip", "top_k"),
    ):
        value = getattr(flags, name)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')}: {value}; expected a number above 0")
    for name in ("weight_decay", "generate", "temperature", "seed"):
        if not 0 <= getattr(flags, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')}: {getattr(flags, name)}; expected 0 or more")
    if not 0 <= flags.dropout < 1:
        parser.error(f"--dropout: {flags.dropout}; expected 0 or more, below 1")
    if flags.context < 2:
        parser.error(f"--context: {flags.context}; expected 2 or more")
    if flags.width % flags.heads:
        parser.error(f"--width: {flags.width}; expected a multiple of --heads {flags.heads}")
    if flags.prompt == "":
        parser.error("--prompt: it is empty; expected a character at least")
    if flags.resume and flags.save is None:
        parser.error("--resume: needs --save DIR, the folder of the run")
    if flags.save is not None and not flags.resume and any(flags.save.glob("step-*.safetensors")):
        parser.error(f"--save: {flags.save} has a run's checkpoints; expected --resume, or another folder")
    if flags.json is not None and not Path(flags.json).parent.is_dir():
        parser.error(f"{flags.json}: there is no folder {Path(flags.json).parent}")
    try:
        flags.device = tg.device.as_device(flags.device)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    return flags


if __name__ == "__main__":
    main()
