"""Options of ``epic-pl fit`` and its kin: parsed, built to module, data and trainer, and run."""
