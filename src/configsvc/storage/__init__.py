"""The durable state: records and the change log. `port` is the law; the other modules are its adapters."""
