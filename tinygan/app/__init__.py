"""What the scripts run on: command line, training loop, run folders, checkpoints, pictures and reports."""
