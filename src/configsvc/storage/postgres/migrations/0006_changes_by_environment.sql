-- For the search of an environment's changes. An older release only pays for keeping it.
CREATE INDEX changes_by_environment ON configsvc.changes (environment, revision);
