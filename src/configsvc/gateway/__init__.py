"""The gateway beside the server: Envoy's configuration, and the process that runs both."""
