"""News that the change log has grown. `port` is the law; the other modules are its adapters."""
