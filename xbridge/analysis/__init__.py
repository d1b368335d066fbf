"""Stages that read activations, weights and predictions, and the statistics they share."""
