"""Ahead of time: every kernel that is shipped is compiled without a GPU, and told of. Nothing is launched here."""
