"""One look at whether an instance is healthy. `port` is the law; the other modules are its adapters."""
