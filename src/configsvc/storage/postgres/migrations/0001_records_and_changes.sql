-- Text has COLLATE "C": compared byte by byte, which for UTF-8 is by code point, whatever the database's locale.
-- Times are microseconds since 1970 in UTC. Bodies are JSON in text columns: `jsonb` would turn 1.0e3 into 1000.0,
-- lose -0.0 and the order of members; `json` keeps the text, but parses each value without need. In psql,
-- `body::json ->> 'value'` works.

-- The revision counter, one row. Each writing transaction locks it first, which orders the commits.
CREATE TABLE configsvc.counter (
    id smallint PRIMARY KEY CHECK (id = 1),
    head bigint NOT NULL,
    compacted bigint NOT NULL
);
INSERT INTO configsvc.counter VALUES (1, 0, 0);

-- The current state of each record. A row without a body is a removed record; it keeps the version.
CREATE TABLE configsvc.records (
    kind text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    service text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    revision bigint NOT NULL,
    body text COLLATE "C",
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    updated_by text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, environment, key, service)
);

-- So that a page does not read removed records: the registry leaves many.
CREATE INDEX records_live ON configsvc.records (kind, environment, key, service) WHERE body IS NOT NULL;

-- The change log.
CREATE TABLE configsvc.changes (
    revision bigint NOT NULL,
    ordinal integer NOT NULL,
    kind text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    service text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    before text COLLATE "C",
    after text COLLATE "C",
    before_revision bigint NOT NULL,
    created_at bigint NOT NULL,
    actor text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (revision, ordinal)
);
CREATE UNIQUE INDEX changes_by_record ON configsvc.changes (kind, environment, key, service, version);
CREATE INDEX changes_by_actor ON configsvc.changes (actor, revision);
CREATE INDEX changes_by_time ON configsvc.changes (at);

-- Request ids, so that a retry gets the outcome of the first attempt: the changes of that revision with that request id.
-- A write that changed nothing has no changes, and the revision at which it was planned.
CREATE TABLE configsvc.requests (
    request_id text COLLATE "C" PRIMARY KEY,
    fingerprint text COLLATE "C" NOT NULL,
    revision bigint NOT NULL
);
CREATE INDEX requests_by_revision ON configsvc.requests (revision);
