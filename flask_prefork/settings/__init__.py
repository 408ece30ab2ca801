"""All settings: one table, and how each is written as option, variable and key.

All processes run it. The package imports ``system``. It must not act on a setting; it
checks the values that were given, and adds the defaults.
"""
