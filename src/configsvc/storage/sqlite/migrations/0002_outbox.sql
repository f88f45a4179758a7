-- The revision up to which the log has been published to Kafka.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    published INTEGER NOT NULL
) STRICT;
INSERT INTO outbox VALUES (1, 0);
