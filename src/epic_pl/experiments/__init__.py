"""Many runs of ``fit``: ``epic-pl compare`` and ``epic-pl tune``."""
