"""Clipping a list of arrays by their joint norm. The table that finds the arrays is multi_tensor's."""
