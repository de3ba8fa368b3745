"""The provider in a box: a program of its own that knows nothing of the daemon.

Rule: it imports the rules and nothing else of ours. It serves the demo, the tests, and people who
try an integration without credits.
"""
