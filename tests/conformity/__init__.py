"""Conformity: torch's own operator samples (torch.testing's op_db), run on both sides.

    python -m tests.conformity              # counts: how many samples, how many are taken, how many agree
    python -m tests.conformity pad norm     # of these ops, with every difference

What differs stands in differences.txt, with the reason. A difference that does not stand there fails the test, and so
does a line there that agrees by now.
"""
