"""Values by key and revision. `port` is the law; the other modules are its adapters."""
