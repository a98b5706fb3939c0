"""Maximum and mean over windows, and their gradients."""
