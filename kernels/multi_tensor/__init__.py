"""One launch for a list of arrays: the table of their addresses. What is computed is the families' own."""
