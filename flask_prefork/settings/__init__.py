"""All settings: one table, and how they are spelled."""
