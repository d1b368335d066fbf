"""The operators' Triton kernels. `<op>.py` launches what `kernels/` holds; triton is imported at the first launch."""
