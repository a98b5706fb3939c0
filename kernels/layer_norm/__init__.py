"""Layer and RMS normalisation over the last axes, with their gradients."""
