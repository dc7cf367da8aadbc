"""Methods that Diffused Heads is compared with."""
