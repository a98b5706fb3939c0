"""The contract between the engine and its kernels: what every backend exports, and what it serves.

A *primitive* is a function of arrays, written by hand in every kernel language. A *backend* is a module that exports
every primitive under the same name with the same signature:

    reference   NumPy, the specification: plain, float64 stays float64, every other backend is tested against it
    cpu         NumPy arrays again, with what small nets spend their time on compiled by Numba
    triton      CuPy arrays, on an NVIDIA GPU; with TRITON_INTERPRET=1 arrays of a simulated one
                (kernels/simulate/arrays.py)
    numba       the same arrays; with NUMBA_ENABLE_CUDASIM=1 simulated ones

A family of primitives has a folder of its own, kernels/<family>, and in it a file for each backend. A line below is all
that a primitive needs to be exported: kernels/backends takes it from these files. kernels/README.md adds one step by
step.

Shared conventions: arrays may have any strides and are never written to unless the name of the primitive ends in
`_step`; a gradient primitive `f_grad` takes the incoming gradient first; images are logically (N, C, H, W) in whatever
memory order; every primitive checks shapes and dtypes before any arithmetic and says op, expectation and actual.
float16 and bfloat16 are accumulated in float32. Where a step is captured, an optimizer's numbers may be arrays, which
each launch reads (kernels/optimizer/moving.py).
"""

from __future__ import annotations

FAMILIES: dict[str, dict[str, str]] = {  # folder -> primitive -> what it computes
    "matmul": {
        "matmul": "batched a @ b, with bias and activation in the epilogue",
        "matmul_kept": "the same, and beside it what the activation was applied to, kept for its gradient",
        "linear_grad": "gradients of relu(x W^T + b), or without relu: to x, W and b together",
    },
    "activations": {
        "relu": "max(x, 0)",
        "relu_grad": "dy where y > 0",
        "leaky_relu": "x where x > 0, else negative_slope * x",
        "leaky_relu_grad": "its gradient, from x",
        "gelu": "x * Phi(x), exactly (erf) or by the tanh formula",
        "gelu_grad": "its gradient, from x",
        "silu": "x * sigmoid(x)",
        "silu_grad": "its gradient, from x",
        "tanh": "hyperbolic tangent",
        "tanh_grad": "its gradient, from y",
        "sigmoid": "1 / (1 + exp(-x))",
        "sigmoid_grad": "its gradient, from y",
        "erf": "the error function",
        "erf_grad": "its gradient, from x",
    },
    "softmax": {
        "softmax": "exp(x - m) / sum exp(x - m) along an axis",
        "softmax_grad": "its gradient, from y",
        "log_softmax": "(x - m) - log sum exp(x - m) along an axis",
        "log_softmax_grad": "its gradient, from y",
    },
    "softmax_xent": {
        "softmax_xent": "cross-entropy of softmax(z) against class indices, with (m, s) kept for the gradient",
        "softmax_xent_grad": "its gradient with respect to z",
    },
    "losses": {
        "elementwise_loss": "squares, absolute values, Huber's and binary cross-entropy's losses, or their sum or mean",
        "elementwise_loss_grad": "its gradients: to input and target together",
    },
    "attention": {
        "attention": "softmax(q k^T * scale + mask) v in blocks, with dropout; and log sum exp of each row's scores",
        "attention_grad": "its gradients with respect to q, k and v, from that",
    },
    "recurrent": {
        "lstm": "an LSTM layer over the steps of a batch or of packed sequences, and what its gradient needs",
        "lstm_grad": "its gradients: to the inputs' part and the first states",
        "gru": "a GRU layer, as lstm",
        "gru_grad": "its gradients: to the inputs' part, the states' part and the first state",
        "rnn": "a recurrent layer with tanh or relu, as lstm",
        "rnn_grad": "its gradients: to the inputs' part and the first state",
    },
    "layer_norm": {
        "layer_norm": "(x - mean) / sqrt(var + eps) of x or x + residual over the last axes, and (mean, 1 / sqrt)",
        "layer_norm_grad": "its gradients: to x, weight and bias together",
        "rms_norm": "x / sqrt(mean(x^2) + eps) of x or x + residual over the last axes, and 1 / sqrt",
        "rms_norm_grad": "its gradients: to x and weight together",
    },
    "batch_norm": {
        "batch_moments": "mean and variance of each channel over N and space, or of each group of an image's channels",
        "batch_norm": "(x - mean) / sqrt(var + eps) by channel, with weight, bias, residual and relu",
        "batch_norm_grad": "its gradients: to x, weight, bias and residual together",
        "batch_moments_step": "running mean and variance moved towards a batch's, in place",
    },
    "conv2d": {
        "conv2d": "2-D cross-correlation, with bias and activation in the epilogue",
        "conv2d_grad_input": "gradient of conv2d with respect to its input (a transposed convolution)",
        "conv2d_grad_weight": "gradient of conv2d with respect to its weight",
        "conv2d_grad_bias": "gradient of conv2d with respect to its bias: the sum over N, H, W",
        "conv2d_grad": "gradients of conv2d, or of relu of it: to input, weight and bias together",
    },
    "pool": {
        "max_pool2d": "maximum over windows, with relu in the epilogue, and which tap of the window it was",
        "max_pool2d_grad": "its gradient: dy scattered to the taps",
        "avg_pool2d": "mean over windows",
        "avg_pool2d_grad": "its gradient",
    },
    "sum": {
        "sum": "sum over any axes",
    },
    "take_rows": {
        "take_rows": "rows of a table by their index; of uint8 images as floats, scale x + shift",
        "take_rows_grad": "its gradient with respect to the table: rows of dy added by their index, in their order",
    },
    "bags": {
        "sum_bags": "sums or means of bags of rows of a table, which lie one behind the other in an index",
        "sum_bags_grad": "its gradient with respect to the table",
        "max_bags": "the largest elements of bags of rows, element by element, and their rows",
    },
    "dropout": {
        "random_bits": "n 32-bit words of the Philox4x32-10 stream (seed, offset)",
        "dropout": "x / (1 - p) where the Philox stream keeps it, else 0; its own gradient",
    },
    "clip_norm": {
        "clip_norm_step": "a list of arrays scaled, in place, to a joint norm of at most max_norm",
    },
    "optimizer": {
        "adam_step": "Adam or AdamW over a list of parameters, in place",
        "sgd_step": "SGD with momentum over a list of parameters, in place",
    },
}
PRIMITIVES: dict[str, str] = {name: does for family in FAMILIES.values() for name, does in family.items()}

BACKENDS: dict[str, str] = {
    "reference": "NumPy, the specification",
    "cpu": "NumPy, with the slow primitives compiled by Numba",
    "triton": "NVIDIA GPUs, in Triton",
    "numba": "NVIDIA GPUs, in Numba-CUDA",
}
DEVICES = {"reference": "cpu", "cpu": "cpu", "triton": "cuda", "numba": "cuda"}  # whose arrays a backend serves
DTYPES = {  # the floating types that it serves
    "reference": ("float16", "bfloat16", "float32", "float64"),
    "cpu": ("float16", "bfloat16", "float32", "float64"),
    "triton": ("float16", "bfloat16", "float32"),
    "numba": ("float16", "float32"),
}

_FILES = {"reference": "reference", "cpu": "cpu", "triton": "gpu_triton", "numba": "gpu_numba"}  # in a family's folder
_ELSEWHERE = {  # the files of a GPU's kernels that are not in their family's {gpu_triton, gpu_numba}.py
    "conv2d_grad_input": "conv2d.{}_grad_input",
    "conv2d_grad_weight": "conv2d.{}_grad_weight",
    "conv2d_grad_bias": "sum.{}",
    "conv2d_grad": "conv2d.{}_grad",
    "attention_grad": "attention.{}_grad",
}


def module_of(primitive: str, backend: str) -> str:
    """The name of the module that has a backend's function of that primitive."""
    family = next(folder for folder, primitives in FAMILIES.items() if primitive in primitives)
    place = _ELSEWHERE.get(primitive, "") if DEVICES[backend] == "cuda" else ""
    return "tilegrad.kernels." + (place or f"{family}.{{}}").format(_FILES[backend])
