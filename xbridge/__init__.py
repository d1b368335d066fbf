"""xbridge: does machine translation, as continued training, help or hurt cross-lingual transfer, and why?"""

__version__ = "0.1.0"
