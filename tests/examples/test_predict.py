"""examples/predict.py: pictures of digits, however they are drawn, become what the net has learned from."""

from __future__ import annotations

import re
import sys

import mnist_mlp
import numpy as np
import predict
import pytest
from PIL import Image, ImageDraw, ImageOps
from sklearn.datasets import load_digits
from training.digit import as_mnist

import tilegrad as tg
from tests.examples.programs import run, train
from tilegrad.data import write_idx

LEARNED = 1500


@pytest.fixture(scope="module")
def pictures():
    """1,797 handwritten digits, 160 pixels large, white on black, and what they are."""
    images, labels = (x[np.random.default_rng(0).permutation(1797)] for x in load_digits(return_X_y=True))
    large = [
        Image.fromarray((x.reshape(8, 8) * (255 / 16)).astype(np.uint8)).resize((160, 160), Image.Resampling.BICUBIC)
        for x in images
    ]
    return large, labels.astype(np.uint8)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """The model file of a net that has learned most of them, in MNIST's form."""
    folder = tmp_path_factory.mktemp("trained")
    images, labels = np.stack([as_mnist(x) for x in pictures[0]]), pictures[1]
    for part, some in (("train", slice(LEARNED)), ("t10k", slice(LEARNED, None))):
        write_idx(folder / f"{part}-images-idx3-ubyte", images[some])
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels[some])
    figures = train("--data", folder, "--epochs", 20, "--save", folder / "run", net=mnist_mlp.net)
    assert figures["test_accuracy"] > 0.93
    return folder / "run" / "model.safetensors"


def with_margin(picture):
    wide = Image.new("L", (260, 330), 0)
    wide.paste(picture, (30, 150))
    return wide


def in_frame(picture):
    framed = ImageOps.invert(with_margin(picture))
    ImageDraw.Draw(framed).rectangle((8, 10, 250, 320), outline=0, width=5)
    return framed


def on_paper(picture):
    """Dark grey on light grey, with a little noise."""
    grey = 220 - np.asarray(with_margin(picture), np.float32) * 0.7
    return Image.fromarray((grey + np.random.default_rng(0).normal(0, 4, grey.shape)).clip(0, 255).astype(np.uint8))


def transparent(picture, ink):
    """The digit in black or white, and nothing around it."""
    drawn = Image.new("RGBA", (260, 330), (ink, ink, ink, 0))
    drawn.putalpha(with_margin(picture))
    return drawn


def of_16_bits(picture):
    return Image.fromarray(np.asarray(with_margin(picture)).astype(np.uint16) * 257)


DRAWN = {
    "white on black": lambda x: x,
    "black on white": ImageOps.invert,
    "with a margin": with_margin,
    "black on white with a margin": lambda x: ImageOps.invert(with_margin(x)),
    "in a frame": in_frame,
    "on paper": on_paper,
    "colour": lambda x: ImageOps.colorize(with_margin(x), "darkblue", "yellow"),
    "palette": lambda x: with_margin(x).convert("P"),
    "one bit": lambda x: with_margin(x).point(lambda v: 255 * (v > 100)).convert("1"),
    "black on nothing": lambda x: transparent(x, 0),
    "white on nothing": lambda x: transparent(x, 255),
    "16 bits": of_16_bits,
    "small": lambda x: x.resize((40, 40)),
}
LOSSY = ("on paper", "one bit", "small")


@pytest.mark.parametrize("drawn", DRAWN)
def test_a_digit_is_the_same_however_it_is_drawn(drawn, pictures, trained, tmp_path):
    """Through PNG files: the net says what it says of the digit as it learned it, unless drawing it has changed it."""
    some = range(LEARNED, LEARNED + 60)
    model = predict.load(trained)
    images = []
    for i in some:
        DRAWN[drawn](pictures[0][i]).save(tmp_path / f"{i}.png")
        images.append(predict.read(tmp_path / f"{i}.png"))
    plain = predict.probabilities(model, np.stack([as_mnist(pictures[0][i]) for i in some])).argmax(1)
    found = predict.probabilities(model, np.stack(images)).argmax(1)
    assert (found == plain).mean() >= (0.9 if drawn in LOSSY else 1)
    assert (found == pictures[1][LEARNED : LEARNED + 60]).mean() > 0.9


def test_the_program(pictures, trained, tmp_path):
    names = []
    for i in range(5):
        names.append(tmp_path / f"number {i}.png")
        DRAWN["in a frame"](pictures[0][i]).save(names[-1])
    done = run("predict.py", trained, *names)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert lines[0::2] == [f"{name}: {label}" for name, label in zip(names, pictures[1])]  # of those it learned
    want = predict.probabilities(predict.load(trained), np.stack([predict.read(name) for name in names]))
    for line, label, probabilities in zip(lines[1::2], pictures[1], want):
        found = re.findall(r"(\d): ([\d.]+) %", line)
        assert [int(digit) for digit, _ in found] == list(range(10))
        values = [float(value) for _, value in found]
        assert int(np.argmax(values)) == label and sum(values) == pytest.approx(100, abs=0.5)
        np.testing.assert_allclose(values, 100 * probabilities, atol=0.06)


def test_mnists_form():
    """20 pixels large in 28 x 28, its centre of mass in the middle, its proportions kept, full ink."""
    picture = Image.new("L", (300, 200), 0)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((40, 20, 99, 159), fill=180)  # a body of 60 x 140, with a foot of 30 x 20 on the right
    draw.rectangle((100, 140, 129, 159), fill=180)
    digit = as_mnist(picture)
    assert digit.shape == (28, 28) and digit.dtype == np.uint8 and digit.max() == 255
    rows, columns = np.flatnonzero(digit.max(1)), np.flatnonzero(digit.max(0))
    assert rows[-1] - rows[0] + 1 == 20
    assert columns[-1] - columns[0] + 1 == pytest.approx(20 * 90 / 140, abs=1)
    mass = digit / digit.sum()
    assert (mass.sum(1) * np.arange(28)).sum() == pytest.approx(14, abs=0.51)
    assert (mass.sum(0) * np.arange(28)).sum() == pytest.approx(14, abs=0.51)


def test_a_box_is_a_digit_not_a_frame_around_nothing():
    picture = Image.new("L", (100, 100), 255)
    ImageDraw.Draw(picture).rectangle((30, 10, 70, 90), outline=0, width=6)
    assert as_mnist(picture).astype(bool).sum() > 80


def test_an_empty_picture(trained, tmp_path):
    Image.new("L", (50, 50), 255).save(tmp_path / "white.png")
    with pytest.raises(ValueError, match=r"white.png: nothing is drawn on it; expected a digit"):
        predict.read(tmp_path / "white.png")


def fails(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        predict.main()
    return str(ended.value.code)


def test_bad_files_are_one_clear_line(pictures, trained, tmp_path, monkeypatch):
    good, text, torn = (tmp_path / name for name in ("good.png", "text.png", "torn.png"))
    pictures[0][0].save(good)
    text.write_text("no picture")
    torn.write_bytes(good.read_bytes()[:-400])
    tg.save({"weight": tg.ones(3)}, tmp_path / "other.safetensors")
    assert "none.png" in fails(monkeypatch, trained, tmp_path / "none.png")
    assert "text.png: cannot identify image file" in fails(monkeypatch, trained, text)
    assert fails(monkeypatch, trained, good, torn).startswith(f"predict.py: {torn}: ")
    assert "none.safetensors" in fails(monkeypatch, tmp_path / "none.safetensors", good)
    assert "text.png cannot be read" in fails(monkeypatch, text, good)
    message = fails(monkeypatch, tmp_path / "other.safetensors", good)
    assert "other.safetensors has other parameters than the nets of mnist_cnn.py and mnist_mlp.py" in message
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert 'pip install ".[report]" brings Pillow' in fails(monkeypatch, trained, good)
