"""The sections of a profile, with types and meanings of all keys."""
