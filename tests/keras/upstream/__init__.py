"""Keras' own tests on our backend: python -m tests.keras.upstream [FAMILY ...].

The installed package has them. What fails is written down with a reason, in failures.toml. A test that fails and is not
listed there is an error; so is one that is listed and passes.
"""
