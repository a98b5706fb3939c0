"""Recurrent layers over whole sequences: LSTM, GRU and the plain one, with their gradients."""
