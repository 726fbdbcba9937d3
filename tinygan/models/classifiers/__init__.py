"""Classifiers: what every one offers (base.py), the digit classifier, VGG16, their stored answers, Grad-CAM."""
