"""The gateway: Envoy's configuration, and the supervisor that runs Envoy and the workers."""
