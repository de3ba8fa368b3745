"""The provider's troubleshooting list as checks: what was measured, and how to mend it.

Rule: nothing is changed, stored or paid for. What only the running daemon knows is asked of it
(`daemon.diagnosis`); what only the outside can see is tried from here.
"""
