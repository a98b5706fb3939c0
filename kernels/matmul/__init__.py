"""Matrix products with bias and activation; on the CPU also the panels and dots they are made of."""
