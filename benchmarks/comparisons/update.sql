-- What PostgreSQL does for one update of one configuration with 500 characters: the counter, the change, the record, the
-- notification. In one round trip, which a decision of the service between reading and writing does not allow.
\startpipeline
BEGIN;
UPDATE configsvc.counter SET head = head + 1;
SELECT version, body FROM configsvc.records
  WHERE kind = 'config' AND environment = 'bench' AND key = 'app/limits' AND service = '';
INSERT INTO configsvc.changes
  (revision, ordinal, kind, environment, service, key, action, version, before, after, before_revision, created_at,
   actor, reason, request_id, at, digest)
  SELECT head, 0, 'config', 'bench', '', 'app/limits', 'UPDATE', head, repeat('v', 500), repeat('v', 500), head - 1, 0,
   'bench', '', '', 0, md5(head::text) FROM configsvc.counter;
INSERT INTO configsvc.records
  (kind, environment, service, key, version, revision, body, created_at, updated_at, updated_by)
  SELECT 'config', 'bench', '', 'app/limits', head, head, repeat('v', 500), 0, 0, 'bench' FROM configsvc.counter
  ON CONFLICT (kind, environment, key, service) DO UPDATE SET
    version = excluded.version, revision = excluded.revision, body = excluded.body, updated_at = excluded.updated_at;
SELECT pg_notify('configsvc_changes', head::text) FROM configsvc.counter;
COMMIT;
\endpipeline
