"""The trainer's small photographs and small run."""

from tests.trainer.conftest import config, photographs, tree

__all__ = ["config", "photographs", "tree"]
