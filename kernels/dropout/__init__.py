"""The Philox stream of random bits, and dropout from it."""
