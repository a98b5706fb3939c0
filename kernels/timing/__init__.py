"""Where the time of a running program goes: each call of a primitive timed as it is made.

watch.py     the calls of a thread, eager and captured, told to whoever listens
clocks.py    the clock of the host, and of a GPU
work.py      the bytes that a call moves and the FLOP that it does, by its shapes
ceilings.py  what this machine can do at most, measured
"""
