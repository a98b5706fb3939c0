"""The families of Keras' tests: folders and files of keras/src."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "ops": ("ops", "random"),
    "layers": ("layers",),
    "losses": ("losses",),
    "metrics": ("metrics",),
    "optimizers": ("optimizers",),
    "trainers": ("trainers",),
    "models": ("models",),
    "callbacks": ("callbacks",),
    "saving": ("saving", "legacy/saving"),
    "common": ("activations", "backend/common", "backend/tests", "constraints", "dtype_policies", "initializers",
               "regularizers", "testing", "tree", "utils"),
    "wrappers": ("wrappers",),
}  # fmt: skip
ALONE = "wrappers"  # in one process: names of tests have addresses in them, which workers do not agree on
"""Left out: other backends' tests, applications (they load weights), export, quantizers, distribution, distillation."""

# What runs with our own tests, where there is no TensorFlow, JAX or SciPy: half a minute of one core in two processes.
PART: dict[str, tuple[str, ...]] = {
    "layers": (
        *("layers/core/dense_test.py", "layers/core/embedding_test.py", "layers/convolutional/conv_test.py"),
        *("layers/pooling/average_pooling_test.py", "layers/pooling/max_pooling_test.py"),
        *("layers/pooling/global_average_pooling_test.py", "layers/pooling/global_max_pooling_test.py"),
        *("layers/normalization/batch_normalization_test.py", "layers/normalization/layer_normalization_test.py"),
        *("layers/regularization/dropout_test.py", "layers/attention/multi_head_attention_test.py"),
        *("layers/rnn/lstm_test.py", "layers/rnn/gru_test.py"),
    ),
    "training": ("losses", *(f"metrics/{name}_metrics_test.py" for name in (
        "accuracy", "confusion", "f_score", "hinge", "iou", "probabilistic", "reduction", "regression",
    )), "metrics/metric_test.py", "optimizers"),
}  # fmt: skip
WITHOUT_TENSORFLOW = "not tensorboard"
