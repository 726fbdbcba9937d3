"""The engine: tensors and gradients (tensor.py), anomaly and profile (debug.py), check_grads (gradcheck.py)."""
