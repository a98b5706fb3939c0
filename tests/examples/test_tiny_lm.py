"""The language model of examples/tiny_lm.py: it learns, goes on where it was, and its cache changes no character."""

from __future__ import annotations

import json
import re
import signal
import sys

import numpy as np
import pytest
import tiny_lm

import tilegrad as tg
from tests.examples.programs import run
from tilegrad.nn import functional as F

SMALL = ("--layers", 1, "--width", 32, "--heads", 2, "--context", 16, "--batch-size", 8, "--lr", 0.01, "--warmup", 5)
SENTENCES = "the cat sees a dog. ", "a dog sees the cat. ", "the dog runs. ", "a cat runs to the dog. "


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("story") / "story.txt"
    path.write_text("".join(rng.choice(SENTENCES, 300)))
    return path


def train(monkeypatch, tmp_path, *flags):
    """The program with these flags, in this process; the figures of --json."""
    path = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["tiny_lm.py", *map(str, (*SMALL, *flags)), "--json", str(path)])
    tiny_lm.main()
    return json.loads(path.read_text())


def net_of(kinds=11, context=12, device="cpu"):
    """A net that tells tokens and places apart: with the initialisation's weights all logits are near 0."""
    tg.manual_seed(3)
    net = tiny_lm.Decoder(kinds, layers=2, width=16, heads=2, context=context)
    with tg.no_grad():
        for name, p in net.named_parameters():
            if p.ndim == 2:
                p.copy_(tg.randn(*p.shape) * (1.0 if name.startswith(("tokens", "places")) else 0.7))
    return net.to(device).eval()


# --- training


def test_learns_to_write_as_a_user_runs_it(story, tmp_path):
    figures = tmp_path / "figures.json"
    flags = ("--text", story, *SMALL, "--steps", 150, "--generate", 100, "--prompt", "the ", "--temperature", 0)
    done = run("tiny_lm.py", *flags, "--json", figures)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(figures.read_text())["validation_loss"] < 0.6  # 2.9 is a guess among its characters
    assert f"{len(story.read_text()):,} characters of 14 kinds" in done.stdout
    assert re.search(r"150 steps in \d+ s: [\d.]+ steps/s, [\d,]+ tokens/s", done.stdout)
    nats, bits = map(float, re.search(r"validation loss ([\d.]+) nats, ([\d.]+) bits", done.stdout).groups())
    assert nats == pytest.approx(bits * np.log(2), abs=1e-3)
    written = done.stdout.split("\n\n")[1]
    assert len(written) == 104 and written.startswith("the ")
    words = {word for sentence in SENTENCES for word in sentence.split()}
    assert np.mean([word in words for word in written.split()[:-1]]) > 0.9


def test_a_broken_off_training_ends_as_an_unbroken_one(story, tmp_path, monkeypatch, capsys):
    flags = ("--text", story, "--steps", 20, "--generate", 30)
    whole = train(monkeypatch, tmp_path, *flags, "--save", tmp_path / "whole")
    told = capsys.readouterr().out
    drawn = tiny_lm.drawn

    def interrupted(seed, step, batch, most):
        if step == 7:
            signal.raise_signal(signal.SIGINT)
        return drawn(seed, step, batch, most)

    there = ("--save", tmp_path / "parts")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(tiny_lm, "drawn", interrupted)
        train(patch, tmp_path, *flags, *there)
    assert ended.value.code == 130
    assert "has all up to step 8; --resume goes on" in capsys.readouterr().out
    parts = train(monkeypatch, tmp_path, *flags, *there, "--resume")
    told_again = capsys.readouterr().out
    assert f"going on after step 8, from {tmp_path / 'parts'}" in told_again
    assert parts["validation_loss"] == whole["validation_loss"]
    assert told.split("\n\n")[1] == told_again.split("\n\n")[1]  # what it writes
    a, b = (tg.load(sorted((tmp_path / name).glob("step-*"))[-1])["parts"]["model"] for name in ("whole", "parts"))
    for name in a:
        np.testing.assert_array_equal(a[name].numpy(), b[name].numpy(), strict=True)


def test_a_finished_run_writes_without_training(story, tmp_path, monkeypatch, capsys):
    flags = ("--text", story, "--steps", 4, "--save", tmp_path)
    first = train(monkeypatch, tmp_path, *flags)
    capsys.readouterr()
    again = train(monkeypatch, tmp_path, *flags, "--resume", "--generate", 7)
    assert again["validation_loss"] == first["validation_loss"]
    told = capsys.readouterr().out
    assert "steps/s" not in told
    held_out = story.read_text()[-round(0.1 * len(story.read_text())) :]
    assert len(told.split("\n\n")[1]) == 16 + 7 and told.split("\n\n")[1].startswith(held_out.strip()[:16])


def test_the_minutes_end_it(story, tmp_path, monkeypatch):
    figures = train(monkeypatch, tmp_path, "--text", story, "--minutes", 0.02, "--generate", 0)
    assert figures["steps"] > 3 and 1.2 <= figures["seconds"] < 6


def test_dropout_draws_and_seeds_repeat(story, tmp_path, monkeypatch):
    flags = ("--text", story, "--steps", 5, "--generate", 0)
    one, same, other, without = (
        train(monkeypatch, tmp_path, *flags, *more)["validation_loss"]
        for more in ((), (), ("--seed", 1), ("--dropout", 0))
    )
    assert one == same != other and one != without


def test_the_rate_rises_and_falls():
    rates = [tiny_lm.rate(3.0, step, 10, step / 100) for step in range(101)]
    assert np.argmax(rates) == 9
    assert [rates[0], rates[50], rates[100]] == pytest.approx([0.3, 1.5, 0.0])


def test_a_step_clips_the_gradient():
    net, tokens = net_of(), tg.tensor(np.random.default_rng(1).integers(0, 11, 100))
    tiny_lm.training_step(net, tokens, tiny_lm.optimizer_of(net, 1e-3, 0.1), clip=1e-3)(tg.tensor([0, 40, 87]))
    assert np.sqrt(sum((p.grad**2).sum().item() for p in net.parameters())) == pytest.approx(1e-3, rel=1e-3)


def test_decay_leaves_norms_biases_and_embeddings_alone():
    net = net_of()
    decays, others = tiny_lm.optimizer_of(net, 1.0, 0.5).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    assert (decays["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    layers = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    assert {names[id(p)] for p in decays["params"]} == {
        "head.weight", *(f"blocks.{i}.{layer}.weight" for i in range(2) for layer in layers)
    }  # fmt: skip
    assert len(decays["params"]) + len(others["params"]) == len(names)


def test_the_validation_loss_is_of_all_whole_windows():
    net, tokens = net_of(), tg.tensor(np.random.default_rng(1).integers(0, 11, 12 * 7 + 5))
    losses = [
        F.cross_entropy(net(tokens[None, at : at + 12])[0], tokens[at + 1 : at + 13]).item() for at in range(0, 84, 12)
    ]
    assert tiny_lm.loss_meter(net, tokens, batch=3)() == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_manual_has_each_paragraph_once():
    text = tiny_lm.Text(tiny_lm.manual())
    paragraphs = (text.train + text.held_out).split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 1000
    assert len(text.held_out) == round(0.1 * len(text.train + text.held_out))
    assert text.decode(text.encode(text.held_out)) == text.held_out


# --- writing


@pytest.mark.parametrize("how", ["cpu", "cpu, captured", "cuda"])
def test_the_cache_gives_the_logits_of_the_whole_window(how):
    device, context = ("cuda", 6) if how == "cuda" else ("cpu", 12)
    net, first = net_of(context=context, device=device), context // 3
    tokens = tg.tensor(np.random.default_rng(0).integers(0, 11, (1, context)), device=device)
    cache = tiny_lm.Cache(net)
    for kept in (*cache.keys, *cache.values):
        kept.fill_(1e4)  # of another text: places that come later are not looked at
    step = tg.no_grad()(lambda tokens, places: net(tokens, cache, places))
    step = tg.capture(step) if "captured" in how else step
    found = [step(tokens[:, :first], cache.places[:first])]
    found += [step(tokens[:, at : at + 1], cache.places[at : at + 1]) for at in range(first, context)]
    want = net(tokens).detach().cpu().numpy()
    np.testing.assert_allclose(tg.cat(found, 1).cpu().numpy(), want, rtol=1e-4, atol=1e-5 * abs(want).max())


def greedily(net, prompt, count):
    """What `write` documents, with all of the window computed for each character."""
    text, window = list(prompt), list(prompt)[-net.context :]
    for _ in range(count):
        if len(window) > net.context:
            window = text[-(net.context // 2) :]
        text.append(int(net(tg.tensor([window]))[0, -1].argmax().item()))
        window.append(text[-1])
    return text


@pytest.mark.parametrize("length", [1, 5, 12, 17])  # a character, some, a whole window, more than one
def test_greedy_text_is_that_without_a_cache(length):
    net = net_of()
    prompt = np.random.default_rng(length).integers(0, 11, length)
    found = tiny_lm.write(net, tg.tensor(prompt), 40, tiny_lm.picker(0, None))
    assert found.tolist() == greedily(net, prompt, 40)
    assert len(set(found.tolist())) > 3


def test_draws_follow_the_temperature_and_the_largest():
    tg.manual_seed(0)
    logits = np.array([1.0, 2.0, 0.0, 3.0, -1.0], np.float32)
    rows = tg.tensor(np.broadcast_to(logits, (20000, 5)).copy())

    def shares(temperature, top_k):
        found = tiny_lm.picker(temperature, top_k)(rows)
        assert found.shape == (20000,)
        return np.bincount(found.numpy(), minlength=5) / 20000

    for temperature, top_k in ((1.0, None), (0.5, None), (2.0, 3), (1.0, 9)):
        p = np.exp(logits / temperature)
        p[np.argsort(-logits)[top_k or 5 :]] = 0
        np.testing.assert_allclose(shares(temperature, top_k), p / p.sum(), atol=0.015)  # 4 standard deviations
    assert shares(0, None)[3] == shares(1.0, 1)[3] == 1


def test_a_captured_step_draws_anew():
    """Else a text of one character in a row would come out."""
    net = net_of()
    tg.manual_seed(0)
    found = tiny_lm.write(net, tg.tensor([1]), 60, tiny_lm.picker(100.0, None)).tolist()
    assert len(set(found)) > 8 and len({tuple(found[i : i + 3]) for i in range(58)}) > 50


# --- what is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--prompt", "the Ж%"), "--prompt: '%Ж': the text has no such characters; it has ' .acdeghnorstu'"),
        (("--context", 700), "has 5257 characters to train on and 584 held out; expected more than --context 700 each"),
        (("--text", "/nowhere"), "/nowhere"),
        (("--text", sys.executable), f"--text: {sys.executable} is not UTF-8: "),
        (("--width", 30, "--heads", 4), "--width: 30; expected a multiple of --heads 4"),
        (("--context", 1), "--context: 1; expected 2 or more"),
        (("--steps", 0), "--steps: 0; expected a number above 0"),
        (("--dropout", 1), "--dropout: 1.0; expected 0 or more, below 1"),
        (("--temperature", -1), "--temperature: -1.0; expected 0 or more"),
        (("--top-k", 0), "--top-k: 0; expected a number above 0"),
        (("--prompt", ""), "--prompt: it is empty"),
        (("--resume",), "--resume: needs --save DIR"),
    ],
)
def test_bad_flags(flags, message, story, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tiny_lm, "train", None)  # nothing is computed
    with pytest.raises(SystemExit) as ended:
        train(monkeypatch, tmp_path, "--text", story, *flags)
    assert message in capsys.readouterr().err + str(ended.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--resume", "--width", 64), "--width 32, here it is 64"),
        (("--resume", "--lr", 0.5), "--lr 0.01, here it is 0.5"),
        (("--resume", "--text", __file__), "--text [0-9a-f]{64}, here it is [0-9a-f]{64}"),
        ((), "has a run's checkpoints; expected --resume, or another folder"),
    ],
)
def test_another_run_does_not_go_on(flags, message, story, monkeypatch, tmp_path, capsys):
    common = ("--text", story, "--save", tmp_path / "run", "--steps", 2, "--generate", 0)
    train(monkeypatch, tmp_path, *common)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(SystemExit) as ended:
        train(monkeypatch, tmp_path, *common, *flags)
    assert re.search(message, capsys.readouterr().err + str(ended.value))
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
