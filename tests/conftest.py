"""Parts that several levels of tests share, one for a whole run."""

pytest_plugins = ["support.postgres"]
