"""The gRPC server: the only part of the service that knows gRPC."""
