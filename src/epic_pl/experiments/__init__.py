"""Many runs of ``fit``: ``epic-pl compare`` and ``epic-pl tune``.

``options`` parses and builds a ``fit``, ``runs`` does each run of a list once, and ``training``
trains and tests one of them.
"""
