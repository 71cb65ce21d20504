"""``python -m proxy`` is ``packlight``."""

from proxy.cli import main

main(prog_name="packlight")
