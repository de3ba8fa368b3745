"""`python -m daemon` is the command `suno-videod`."""

from daemon.cli import main

main()
