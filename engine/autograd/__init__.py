"""Gradients: what an op leaves behind to be differentiated, and the walk back through it."""
