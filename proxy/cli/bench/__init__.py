"""``packlight bench``: what it saves."""
