"""Owns the one exception that is meant for the user's eyes.

Any package raises it when the *input* is wrong (a file, a key, a value); entry points catch it, print its one
sentence without a traceback and exit with code 2. A bug in the program is never a ProjectError.
"""


class ProjectError(Exception):
    """One sentence for the user: where (file or key), what was found, what was expected, and the fix."""
