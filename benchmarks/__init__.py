"""Every figure that the README quotes, one command each. See README.md in this folder."""
