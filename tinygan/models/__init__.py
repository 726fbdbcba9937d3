"""The models: the paper's two systems, and the classifiers that train the one and measure the other.

    gan/           GAN, SGAN and the tied ensemble, and one training step of each net
    gpan/          the GPAN: its nets, its losses, the views of an image, one training step
    classifiers/   the digit classifier and VGG16, their files, Grad-CAM
"""

from tinygan.models.classifiers.base import Classifier
from tinygan.models.classifiers.digits import DigitNet
from tinygan.models.classifiers.gradcam import grad_cam
from tinygan.models.classifiers.load import find_classifier, load_classifier
from tinygan.models.classifiers.vgg16 import VGG16, load_vgg16
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import Discriminator, GANConfig, Generator, draw_routes
from tinygan.models.gpan.losses import LossSettings
from tinygan.models.gpan.nets import Batch, GPANConfig, GPANGenerator, PatchDiscriminator
from tinygan.models.gpan.step import learn_discriminator, learn_generator, loss_gradients
from tinygan.models.gpan.views import ViewSettings, apply_views, draw_views

__all__ = ["Batch", "Classifier", "DigitNet", "Discriminator", "GANConfig", "GPANConfig", "GPANGenerator",
           "Generator", "LossSettings", "PatchDiscriminator", "VGG16", "ViewSettings", "apply_views", "draw_routes",
           "draw_views", "find_classifier", "grad_cam", "learn_discriminator", "learn_generator", "load_classifier",
           "load_vgg16", "loss_gradients", "turn_of_d", "turn_of_g"]
