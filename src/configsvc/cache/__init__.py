"""A cache whose entries carry revisions. `port` states the law; the other modules are its adapters."""
