"""
Settings of Sphinx for the documentation of smtpsvc.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from measured import draw_pictures  # noqa: E402, it is found through the line above
from tables import interface_names  # noqa: E402

from smtpsvc._version import __version__  # noqa: E402

project = "smtpsvc"
author = "the smtpsvc contributors"
project_copyright = author
version = release = __version__

extensions = ["sphinx.ext.autodoc", "homes", "smtpsvc_directives"]
exclude_patterns = ["_build", "_ext", "examples"]
default_role = "code"
highlight_language = "none"
# "--port" is an option, and no dash.
smartquotes = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# An interface of zope is an object and no type: left alone, it is shown as what repr() makes of it.
autodoc_type_aliases = interface_names()
add_module_names = False
# A link to something of ours that is not there is a mistake. What is not ours, private, or an alias of types has no
# place here.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!smtpsvc\.).*"),
    (r"py:.*", r"smtpsvc\..*\.(_\w+|[PT]|AnyServer|Check|Decoder|Guard)"),
]
python_maximum_signature_line_length = 100

# The theme that Sphinx itself depends on; nothing is fetched from elsewhere.
html_theme = "alabaster"
html_theme_options = {
    "description": "A mail service for Twisted",
    "page_width": "1120px",
    "sidebar_width": "230px",
    "fixed_sidebar": True,
}
html_copy_source = False
html_show_sourcelink = False

draw_pictures(HERE / "_build" / "figures")
