"""--augment: images shifted and turned by the amounts that were drawn, and the captured step that does it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from training.augment import DEGREES, PIXELS, Augment
from training.images import DATASETS, Images

import tilegrad as tg


def by_hand(image, angle, right, down):
    """One image (H, W), pixel by pixel in float64: each comes from between four of the image, which is 0 outside."""
    height, width = image.shape
    moved = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, (height - 1) / 2 - row  # seen from the centre, y upwards
            x, y = math.cos(-angle) * x - math.sin(-angle) * y, math.sin(-angle) * x + math.cos(-angle) * y
            x, y = x + (width - 1) / 2 - right, (height - 1) / 2 - y - down
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        moved[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return moved


def pictures(n, height, width):
    return np.random.default_rng(0).integers(0, 256, (n, 1, height, width)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(28, 28), (5, 9)])
def test_images_are_shifted_and_turned_about_the_centre(shape):
    images = pictures(6, *shape)
    amounts = [[0, 0, 0], [0.17, 0, 0], [0, 1.25, 0], [0, 0, -2], [-0.1, 0.4, 1.7], [math.pi / 2, 0, 0]]
    moved = Augment(*shape, "cpu")(tg.tensor(images), tg.tensor(amounts)).numpy()
    assert moved.shape == images.shape and moved.dtype == np.float32
    for image, found, amount in zip(images, moved, amounts):
        np.testing.assert_allclose(found[0], by_hand(image[0], *amount), atol=0.05)  # of 255
    np.testing.assert_array_equal(moved[0], images[0])


def test_the_directions():
    """A dot moves to the right and down; turned by a quarter, what was on the right is at the top."""
    images = np.zeros((3, 1, 5, 5), np.uint8)
    images[:, 0, 2, 3] = 200
    moved = Augment(5, 5, "cpu")(tg.tensor(images), tg.tensor([[0, 1, 0], [0, 0, 1], [math.pi / 2, 0, 0]])).numpy()
    assert [np.unravel_index(x[0].argmax(), (5, 5)) for x in moved] == [(2, 4), (3, 3), (1, 2)]


def test_amounts_are_within_their_limits_and_of_the_seed():
    augment = Augment(28, 28, "cpu")
    tg.manual_seed(5)
    amounts = augment.draw(5000).numpy()
    limits = np.array([math.radians(DEGREES), PIXELS, PIXELS], np.float32)
    assert (np.abs(amounts) <= limits).all()
    np.testing.assert_allclose(amounts.std(0), limits / math.sqrt(3), rtol=0.05)  # as uniform ones have
    np.testing.assert_allclose(amounts.mean(0) / limits, 0, atol=0.04)
    np.testing.assert_allclose(np.corrcoef(amounts.T), np.eye(3), atol=0.05)
    tg.manual_seed(5)
    np.testing.assert_array_equal(augment.draw(5000).numpy(), amounts)
    assert (augment.draw(5000).numpy() != amounts).all()


def data(augment):
    images, labels = pictures(20, 8, 8), np.arange(20) % 10
    return Images(tg.tensor(images), tg.tensor(labels), DATASETS["mnist"], augment)


def test_a_batch_has_the_images_that_it_names_normalised():
    plain, augmented = data(None), data(Augment(8, 8, "cpu"))
    index = tg.tensor([3, 0, 19])
    images, labels = augmented.batch(index, tg.zeros(3, 3))
    np.testing.assert_allclose(images.numpy(), plain.batch(index)[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels.numpy(), [3, 0, 9])


def test_a_captured_batch_is_the_plain_one():
    """Without a warning, which would be an error here: nothing runs plainly."""
    tg.manual_seed(1)
    augmented = data(Augment(8, 8, "cpu"))

    @tg.capture
    def captured(*batch):
        return augmented.batch(*batch)[0]

    batches = augmented.epoch(4)
    assert [len(index) for index, _ in batches] == [4] * 5
    assert sorted(np.concatenate([index.numpy() for index, _ in batches])) == list(range(20))
    for batch in batches:
        np.testing.assert_array_equal(captured(*batch).numpy(), augmented.batch(*batch)[0].numpy())
    assert captured.summary().startswith("captured(int64[4], float32[4, 3]): ")


def test_held_out_images_are_the_others_and_of_the_seed():
    whole = data(None)
    kept, held_out = whole.split(0.25, seed=3)
    assert (len(kept), len(held_out)) == (15, 5)
    rows = [x.numpy().tobytes() for part in (kept, held_out) for x in part.images]
    assert sorted(rows) == sorted(x.numpy().tobytes() for x in whole.images)
    for part in (kept, held_out):
        for image, label in zip(part.images, part.labels):
            number = next(i for i in range(20) if (whole.images[i] == image).all().item())
            assert whole.labels[number].item() == label.item()
    np.testing.assert_array_equal(whole.split(0.25, 3)[1].images.numpy(), held_out.images.numpy())
    assert (whole.split(0.25, 4)[1].images.numpy() != held_out.images.numpy()).any()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_none(share):
    with pytest.raises(SystemExit, match=r"--validation: 0\.\d+ of 20 images are (0|20); expected some, and not all"):
        data(None).split(share, 0)
