"""The GPU as a device: whether there is one, its memory, addresses and numbers in it.

Launching is launch/'s.
"""
