"""Sphinx settings: MyST pages, furo, and the API read from the docstrings."""

from epic_pl import __version__

project = "epic_pl"
author = "The epic_pl authors"
copyright = "2026, The epic_pl authors"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False

# Nitpicky about this package's public names only: others would need their inventories from the
# network, and private names and type variables are not documented.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!epic_pl\.).*|.*\._.*|epic_pl\.nn\.(towers\.State|pair\.T)"),
]

html_theme = "furo"
html_title = "epic_pl"
