"""The four backends, each a table of contents: what it exports, and from which family's file. No kernel is here."""
