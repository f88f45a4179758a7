-- The revision up to which the log has been published to Kafka.
CREATE TABLE configsvc.outbox (
    id smallint PRIMARY KEY CHECK (id = 1),
    published bigint NOT NULL
);
INSERT INTO configsvc.outbox VALUES (1, 0);

-- Heartbeats that a replica received which does not own the instance, by this server's clock. Unlogged: after a crash each
-- owner grants new leases anyway.
CREATE UNLOGGED TABLE configsvc.signs (
    service text COLLATE "C" NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (service, instance_id)
);
