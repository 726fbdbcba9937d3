"""The GAN, the SGAN and the tied ensemble (nets.py), and one training step of each of their nets (game.py)."""
