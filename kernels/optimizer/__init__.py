"""Adam, AdamW and SGD over a list of parameters, in place."""
