"""Sums and maxima of bags: each is of some rows of a table, which lie one behind the other in an index."""
