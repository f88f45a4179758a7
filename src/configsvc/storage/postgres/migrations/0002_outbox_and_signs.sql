-- Up to where the log has left for the outside (Kafka), in the order of revisions.
CREATE TABLE configsvc.outbox (
    id smallint PRIMARY KEY CHECK (id = 1),
    published bigint NOT NULL
);
INSERT INTO configsvc.outbox VALUES (1, 0);

-- Signs of life that reached a replica which does not own the instance, on this server's clock. Not logged: after a
-- crash each owner grants fresh leases anyway.
CREATE UNLOGGED TABLE configsvc.signs (
    service text COLLATE "C" NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (service, instance_id)
);
