"""The live side of the service registry. `port` is the law; the other modules are its adapters."""
