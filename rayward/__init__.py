"""rayward keeps Ray clusters alive when their control plane is not."""

__version__ = "0.1.0"
