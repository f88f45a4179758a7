-- Up to where the log has left for the outside (Kafka), in the order of revisions.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    published INTEGER NOT NULL
) STRICT;
INSERT INTO outbox VALUES (1, 0);
