"""Sphinx settings: MyST pages, furo, the API read from docstrings, and notebooks that are run."""

import os
import re
from functools import partial
from pathlib import Path

import nbformat
from docutils import nodes
from jupyter_cache.executors import utils as executors
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.writers.html5 import HTML5Translator

from epic_pl import __version__

project = "epic_pl"
author = "The epic_pl authors"
copyright = "2026, The epic_pl authors"
release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# pages with a kernelspec are run, each in an empty folder, and an error in one fails the build
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell; they take up to a minute on an idle machine
# a stream arrives in pieces: myst_nb's own option would join them by line breaks
executors.executenb = partial(executors.executenb, coalesce_streams=True)
os.environ |= {"NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
os.environ["PYTHONWARNINGS"] = "ignore"  # among them that ipywidgets are missing

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
viewcode_follow_imported_members = False

# Nitpicky about this package's public names only: others would need their inventories from the
# network, and private names and type variables are not documented.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!epic_pl\.).*|.*\._.*|epic_pl\.nn\.(towers\.State|pair\.T)"),
    (r"py:.*", r"epic_pl\.inference\.item_classifier\.(Scores|Answer)"),
    (r"py:.*", r"epic_pl\.module\.postprocess\.Array"),
    (r"py:.*", r"epic_pl\.(module\.config\.Config|utils\.plugins\.Kind)"),
]

# tables of names only; autodoc writes the pages
autosummary_generate = False

# commands without their prompts, code without the outputs below it
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
copybutton_selector = "div.highlight:not(.cell_output div) pre"

html_theme = "furo"
html_title = "epic_pl"
html_static_path = ["_static"]
html_css_files = ["epic.css"]

html_math_renderer = "mathml"


def _math(self: HTML5Translator, node: nodes.Element) -> None:
    """A formula as MathML, which browsers draw without any script from the network."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def _finish_notebooks(app: Sphinx, env: BuildEnvironment) -> None:
    """Leave links to other pages, and messages about this machine, out of the downloads."""
    for path in Path(env.mystnb_config.output_folder).glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.source = re.sub(r"\[([^]]+)\]\([\w#-]+\.md[\w#-]*\)", r"\1", cell.source)
            cell.source = re.sub(r"\n*\{nb-download\}.*", "", cell.source)
            if cell.cell_type == "code":
                cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        nbformat.write(notebook, path)


def setup(app: Sphinx) -> None:
    """Register how formulas are written, and what is done to notebooks before they are copied."""
    app.add_html_math_renderer("mathml", (_math, None), (_math, None))
    app.connect("env-updated", _finish_notebooks)
