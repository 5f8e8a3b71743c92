"""``epic-pl explain``: figures of the prompts' attention in single samples."""
