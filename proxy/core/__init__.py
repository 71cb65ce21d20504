"""Conversations as data: values in, values out, no I/O."""
