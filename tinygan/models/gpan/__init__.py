"""The GPAN: its nets, the losses, the views of an image that the classifier gets, one training step."""
