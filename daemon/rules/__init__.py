"""What is true and what happens next, decided without touching the world.

Rule: nothing here performs I/O, reads a clock, draws a random number or writes a log. Time and
luck are arguments.
"""
