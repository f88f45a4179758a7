-- Text is compared byte by byte (BINARY, the default): for UTF-8 that is by code point.
-- Times are microseconds since 1970 in UTC. Bodies are JSON text.

-- The revision counter, one row. Each write updates it.
CREATE TABLE counter (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    head INTEGER NOT NULL,
    compacted INTEGER NOT NULL
);
INSERT INTO counter VALUES (1, 0, 0);

-- The current state of each record. A row without a body is a removed record; it keeps the version.
CREATE TABLE records (
    kind TEXT NOT NULL,
    environment TEXT NOT NULL,
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT NOT NULL,
    PRIMARY KEY (kind, environment, key, service)
);

-- So that a page does not read removed records: the registry leaves many.
CREATE INDEX records_live ON records (kind, environment, key, service) WHERE body IS NOT NULL;

-- The change log.
CREATE TABLE changes (
    revision INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    kind TEXT NOT NULL,
    environment TEXT NOT NULL,
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    action TEXT NOT NULL,
    version INTEGER NOT NULL,
    before TEXT,
    after TEXT,
    before_revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    request_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (revision, ordinal)
);
CREATE UNIQUE INDEX changes_by_record ON changes (kind, environment, key, service, version);
CREATE INDEX changes_by_actor ON changes (actor, revision);
CREATE INDEX changes_by_time ON changes (at);

-- Request ids, so that a retry gets the outcome of the first attempt: the changes of that revision with that request id.
-- A write that changed nothing has no changes, and the revision at which it was planned.
CREATE TABLE requests (
    request_id TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX requests_by_revision ON requests (revision);
