"""What one access of a warp costs: sectors of global memory, and transactions with the banks of shared memory.

Global memory is moved in sectors of 32 bytes (CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory"). An
access of a warp needs each sector in which a byte is that a lane asks for.

Shared memory has 32 banks, each of which gives one word of 4 bytes a transaction (CUDA C++ Programming Guide, "Shared
Memory" of the compute capabilities). Lanes that ask for the same word are no conflict. An access of 8 bytes a lane goes
in two phases, a half of the warp each, one of 16 bytes in four, a quarter of the warp each. A phase takes as many
transactions as the busiest bank has words.
"""

from __future__ import annotations

import numpy as np

SECTOR = 32  # bytes
BANKS, WORD = 32, 4  # bytes
_ADDRESS = 48  # bits of an address
_WARP = 32


def sectors(warps: np.ndarray, addresses: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """Of an access of `size` bytes, a power of two up to 32, to aligned addresses, each by a lane of a warp.

    Gives the sectors' numbers, once for each warp that needs it, and how many bytes the warps ask for: a byte that
    several lanes of a warp ask for is one.
    """
    asked = np.unique(warps.astype(np.uint64) << np.uint64(_ADDRESS) | addresses)
    of_warps = np.unique(asked // np.uint64(SECTOR))
    return of_warps & np.uint64((1 << _ADDRESS) // SECTOR - 1), asked.size * size


def transactions(warps: np.ndarray, lanes: np.ndarray, addresses: np.ndarray, size: int) -> tuple[int, int]:
    """(transactions, the least that they could be) of an access of `size` bytes, at most 16, by lanes of warps."""
    phases = max(1, size // WORD)  # of a warp
    phase = warps * phases + lanes // (_WARP // phases)
    words = addresses[:, None] // WORD + np.arange(phases)
    distinct = np.unique(phase[:, None] << 32 | words)  # each word once a phase
    banks, counts = np.unique((distinct >> 32) * BANKS + distinct % BANKS, return_counts=True)
    starts = np.flatnonzero(np.diff(banks // BANKS, prepend=-1))
    return int(np.maximum.reduceat(counts, starts).sum()) if counts.size else 0, starts.size
