"""The GPU as a device: whether there is one, its memory, numbers on it. Launching is launch/'s."""
