"""Which asynchronous products may still be running, and which registers are theirs until they are waited for.

Source: PTX ISA, "Asynchronous wgmma Proxy Operations" (9.7.15.7): wgmma.fence, wgmma.commit_group, wgmma.wait_group.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

Names = Iterable[Hashable]

_INPUT = object()  # a register of A
_OTHER = object()  # a register that another instruction used


class _Product(NamedTuple):
    shape: Hashable
    accumulators: frozenset[Hashable]
    inputs: frozenset[Hashable]
    work: Any


class Pending:
    """The products of one warpgroup, or of several that run in step. Registers are known by any hashable name.

    What the manual calls undefined raises ValueError: a product without a fence where one is needed, and any other use
    of a register of a product that has not been waited for. The memory that a product reads, too, is its own until
    then: `work` can carry it.
    """

    def __init__(self) -> None:
        self._uncommitted: list[_Product] = []
        self._groups: list[list[_Product]] = []
        self.fenced = False  # whether there was a fence: before it no product can be
        self._used: dict[Hashable, Hashable] = {}  # since the last fence: a shape for an accumulator, or as above
        self._results: set[Hashable] = set()  # the accumulators of what runs
        self._inputs: set[Hashable] = set()

    @property
    def running(self) -> bool:
        """Whether any product has not been waited for."""
        return bool(self._results)

    def copy(self) -> Pending:
        """The same products, of others that go their own way from now on."""
        other = Pending()
        other._uncommitted, other._groups = list(self._uncommitted), [list(group) for group in self._groups]
        other.fenced, other._used = self.fenced, dict(self._used)
        other._results, other._inputs = set(self._results), set(self._inputs)
        return other

    def fence(self) -> None:
        """`wgmma.fence`: what registers were used for until now comes before their use by later products."""
        self.fenced = True
        self._used.clear()

    def use(self, registers: Names) -> None:
        """Another instruction reads or writes those registers."""
        self.copied(registers)
        for register in registers:
            self._used[register] = _OTHER

    def copied(self, registers: Names) -> None:
        """A mov reads or writes those registers, which needs no fence behind it (warpgroups.py)."""
        for register in registers:
            if register in self._results or register in self._inputs:
                raise ValueError(f"{register} is a wgmma.mma_async's until a wgmma.wait_group has waited for it")

    def issue(self, shape: Hashable, accumulators: Names, inputs: Names, work: Any) -> None:
        """`wgmma.mma_async` of that shape (.m64nNkK); `inputs` are the registers of A, if it is in registers.

        `wait` gives `work` back. Products of one shape may share accumulators without a fence in between.
        """
        if not self.fenced:
            raise ValueError("wgmma.mma_async without a wgmma.fence before it")
        product = _Product(shape, frozenset(accumulators), frozenset(inputs), work)
        for registers, role in ((product.accumulators, shape), (product.inputs, _INPUT)):
            for register in registers:
                if self._used.get(register, role) != role:
                    raise ValueError(f"{register} was used since the last wgmma.fence; wgmma.mma_async needs one more")
                if role is _INPUT and register in self._results:
                    raise ValueError(f"{register} is the result of a wgmma.mma_async that was not waited for")
                self._used[register] = role
        self._uncommitted.append(product)
        self._results |= product.accumulators
        self._inputs |= product.inputs

    def commit(self) -> None:
        """`wgmma.commit_group`: what is in no group becomes one, an empty one if need be."""
        self._groups.append(self._uncommitted)
        self._uncommitted = []

    def wait(self, newest: int) -> list[Any]:
        """`wgmma.wait_group`: the work of all groups but so many of the newest, in order. It is done now."""
        count = max(0, len(self._groups) - newest)
        done = [product.work for group in self._groups[:count] for product in group]
        del self._groups[:count]
        left = [product for group in (*self._groups, self._uncommitted) for product in group]
        self._results = {register for product in left for register in product.accumulators}
        self._inputs = {register for product in left for register in product.inputs}
        return done
