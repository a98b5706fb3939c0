"""What the lanes of a row know together: sums and maxima of their values, in one order of additions."""

from __future__ import annotations

from tilegrad.kernels.launch.numba_target import cuda, device


@device
def larger(a, b):
    """The maximum; NaN where one of them is."""
    return a if a > b or a != a else b


@device
def add(a, b):
    return a + b


def _tree(join):
    """A function that joins the values of a row's lanes, always in the same order; each lane gets the result."""

    @device
    def joined(value, shared, lane, lanes, step):
        """shared: one element a thread, which nobody else uses. All threads of the block must call this."""
        if lanes == 1:
            return value
        i = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        shared[i] = value
        cuda.syncthreads()
        half = lanes // 2
        while half > 0:
            if lane < half:
                shared[i] = join(shared[i], shared[i + half * step])
            cuda.syncthreads()
            half //= 2
        value = shared[i - lane * step]
        cuda.syncthreads()  # shared is free again
        return value

    return joined


tree_max = _tree(larger)
tree_sum = _tree(add)
