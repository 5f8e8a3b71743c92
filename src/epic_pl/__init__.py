"""EPIC: efficient prompt interaction for text-image classification on PyTorch Lightning.

Import what you need from its own module, so that importing the package stays cheap::

    from epic_pl.module import EPICModule
    from epic_pl.data import OpenMojiDataModule
"""

__version__ = "0.1.0.dev0"
