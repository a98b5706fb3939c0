"""What the MNIST programs and finetune_encoder.py are made of, one idea a file."""
