"""Ctrl-C at any moment of a block: nothing stays replaced."""

from __future__ import annotations

from tests.kernels.system.test_modes import pytestmark as pytestmark
from tests.kernels.system.test_modes import run


def test_a_profile():
    code = """
        import tilegrad as tg
        from tilegrad.kernels.capture.program import Program
        from tilegrad.kernels.timing import watch

        kernels.use("cpu")
        others = state

        def state():
            return others() | dict(functions=(kernels.of, threads.share, Program.launch), listening=watch._listening[:])

        x = tg.ones(4, 4)
        step = tg.capture(lambda x: x.relu())
        for _ in range(3):
            step(x)

        def work():
            with tg.profile():
                x.relu()
                step(x)

        storm(work, 300)
    """
    assert run(code) == []


def test_detect_anomaly():
    code = """
        import tilegrad as tg
        from tilegrad.autograd import anomaly, backward
        from tilegrad.autograd.record import Node

        kernels.use("cpu")
        others = state
        x = tg.ones(3, requires_grad=True)

        def state():
            x.sum().backward()  # the first op after a block puts everything back
            functions = Node.__init__, backward._apply, tg.CapturedStep.__call__
            return others() | dict(functions=functions, entered=anomaly._entered[:])

        def work():
            with tg.autograd.detect_anomaly():
                (x * x).sum().backward()

        storm(work, 300)
    """
    assert run(code) == []
