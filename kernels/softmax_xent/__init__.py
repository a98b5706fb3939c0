"""Cross-entropy of a softmax against class indices, and its gradient."""
