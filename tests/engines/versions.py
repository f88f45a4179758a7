"""The version that each service reports, as a pattern."""

VERSIONS = {
    "postgres": r"PostgreSQL \d+\.\d+",
    "valkey": r"(Valkey|Redis) \d+\.\d+\.\d+",
    "kafka": r"Apache Kafka \d+\.\d+\.\d+|Tansu \d+\.\d+\.\d+ \(fallback: .+\)",
    "zookeeper": r"Apache ZooKeeper \d+\.\d+\.\d+",
    "envoy": r"Envoy \d+\.\d+\.\d+",
}
