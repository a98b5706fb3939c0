"""keras.src.backend.random: random numbers as functions of a seed."""

from keras.src.random.seed_generator import SeedGenerator, draw_seed, make_default_seed

from tilegrad.keras.backend.exports import export
from tilegrad.keras.backend.random import draws, families

export(globals(), "random", draws, families)
