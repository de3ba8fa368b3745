"""The dashboard: what the owner sees in a browser.

Rule: everything can be read without JavaScript, and every word of a stranger is text. jinja2 and
the pages are loaded when somebody looks for the first time, and not by a daemon that nobody looks
at.
"""
