-- The log's history id (domain/lineage.py), the revision at which the history began, and the digest of all changes. An
-- older release writes changes without a digest and does not update this one; the chain continues after them.
ALTER TABLE configsvc.counter
    ADD COLUMN history text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN since bigint NOT NULL DEFAULT 0,
    ADD COLUMN digest text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE configsvc.changes ADD COLUMN digest text COLLATE "C";

-- Every history that this database has had, with its reason, for people.
CREATE TABLE configsvc.histories (
    history text COLLATE "C" PRIMARY KEY,
    since bigint NOT NULL,
    reason text NOT NULL,
    made_at bigint NOT NULL
);
