"""The trainer, its checkpoints, and the train stage."""
