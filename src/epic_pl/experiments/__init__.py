"""Commands that train many times: ``epic-pl compare`` and ``epic-pl tune``.

``options`` parses and builds a ``fit``, ``runs`` executes a list of runs, and ``training`` trains
and tests one of them.
"""
