"""Everything static is in pyproject.toml; native extensions (csrc/) are declared here."""

from setuptools import setup

setup()
