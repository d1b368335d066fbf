"""Triton kernels. Importing a module of this folder needs triton; the launchers beside it do so at their first call."""
