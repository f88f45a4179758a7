-- Heartbeats, one row an instance, and the lease clock (`heard_seconds`): see storage/port/heartbeats.py.
CREATE TABLE listening (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    heard_seconds REAL NOT NULL
) STRICT;
INSERT INTO listening VALUES (1, 0);

CREATE TABLE lives (
    service TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    seen_at REAL NOT NULL,
    granted_at REAL NOT NULL,
    PRIMARY KEY (service, instance_id)
) STRICT, WITHOUT ROWID;
