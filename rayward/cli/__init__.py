"""The ``rayward`` command: what people type, and what they read back. Holds no rule of its own."""
