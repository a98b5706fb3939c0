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
