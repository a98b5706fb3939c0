"""Ahead of time: every kernel that is shipped is compiled without a GPU, and a row says what became of it."""
