"""Networks: diffusion transformers, autoencoders, diffusion maths, classifiers, features."""
