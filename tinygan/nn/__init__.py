"""Neural networks: modules and their parameters, the paper's layers, losses of a GAN, optimisers."""

from tinygan.nn.layers import Conv2d, ConvTranspose2d, Linear, PReLU, StochasticConvTranspose2d, TPReLU, normalized
from tinygan.nn.losses import cross_entropy, discriminator_loss, generator_loss
from tinygan.nn.module import Module, Parameter, Sequential
from tinygan.nn.optim import EMA, Adam, RMSprop

__all__ = ["Adam", "Conv2d", "ConvTranspose2d", "EMA", "Linear", "Module", "PReLU", "Parameter", "RMSprop",
           "Sequential", "StochasticConvTranspose2d", "TPReLU", "cross_entropy", "discriminator_loss",
           "generator_loss", "normalized"]
