"""A scaling preforking server for Flask: ``flask prefork-run``."""
