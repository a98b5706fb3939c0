"""What the MNIST programs are made of, one idea a file. mnist_training.py puts it together."""
