"""
Metadata and packaging of smtpsvc; pyproject.toml has the build system and the settings of tools.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """
    Read the version without importing the package, whose dependencies are not there yet.

    :raises ValueError: if ``smtpsvc/_version.py`` does not state one.
    """
    text = (HERE / "smtpsvc" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise ValueError("smtpsvc/_version.py has no line __version__ = '...'")
    return found[1]


AUTH = ["argon2-cffi>=25", "bcrypt>=4.1", "scramp>=1.5"]
OAUTH = ["PyJWT[crypto]>=2.10"]
MAILAUTH = [
    *("dkimpy>=1.1.8", "pyspf>=2.0.14", "dmarc>=1.2", "authres>=1.2"),
    *("dnspython>=2.4", "publicsuffixlist>=1.0", "pynacl>=1.5"),
]
METRICS = ["prometheus_client>=0.20"]
# For the policy hook, and for examples/webhook.py.
WEBHOOK = ["treq>=24.9"]
MILTER = ["kilter.protocol>=0.6,<0.7"]
PYTEST = ["pytest>=8"]
AIOSMTPD = ["aiosmtpd>=1.4.6"]
BENCH = [*AIOSMTPD, "aiosmtplib>=3", "matplotlib>=3.8"]
EXTRAS = [*PYTEST, *AUTH, *OAUTH, *MAILAUTH, *METRICS, *MILTER, *WEBHOOK, *AIOSMTPD]
TEST = [*EXTRAS, "build>=1.2", "hypothesis>=6.100", "pip>=23", "setuptools>=77"]
DOCS = [*MILTER, "matplotlib>=3.8", "sphinx>=8"]

setup(
    name="smtpsvc",
    version=version(),
    description="A mail service for Twisted: takes mail by SMTP and keeps it, or hands it to your Python",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="the smtpsvc contributors",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["smtp", "esmtp", "mail", "maildir", "server", "twisted"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Communications :: Email :: Mail Transport Agents",
        "Typing :: Typed",
    ],
    # Without this line an editable install maps names by an import hook, and Twisted, which looks
    # for plugins in directories, does not find ours; with it, a plain .pth file is written.
    package_dir={"": "."},
    # twisted/ and twisted/plugins/ have no __init__.py, so find_packages does not see them, and
    # must not: with one, they would hide Twisted itself.
    packages=[*find_packages(include=["smtpsvc", "smtpsvc.*"]), "twisted.plugins"],
    package_data={"smtpsvc": ["py.typed"]},
    zip_safe=False,
    python_requires=">=3.11",
    # twisted[tls] brings pyOpenSSL, service-identity and idna; 26.4 is the first Twisted with the
    # TLS interfaces that a reload of certificates needs.
    install_requires=["idna>=3.6", "twisted[tls]>=26.4", "zope.interface>=6"],
    # Fixtures for whoever has pytest; without it nobody loads this.
    entry_points={"pytest11": ["smtpsvc = smtpsvc.testing._plugin"]},
    extras_require={
        "auth": AUTH,
        "oauth": OAUTH,
        "mailauth": MAILAUTH,
        "pytest": PYTEST,
        "metrics": METRICS,
        "milter": MILTER,
        "webhook": WEBHOOK,
        "bench": BENCH,
        "test": TEST,
        "docs": DOCS,
        "dev": [*TEST, *DOCS, "mypy==2.4.*", "mypy-zope>=1.0.17", "ruff==0.17.*", "towncrier>=24.8", "tox>=4.11"],
    },
)
